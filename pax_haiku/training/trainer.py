"""One training run from start to end: begun or resumed, shown, saved, interruptible."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import haiku as hk
import jax
import optax

from pax_haiku.training import devices, learner, loop, plots, summaries, train_state
from pax_haiku.training.checkpoint import Checkpointer
from pax_haiku.training.cli import UserError
from pax_haiku.training.history import History
from pax_haiku.training.interrupt import Interrupt
from pax_haiku.training.log_dir import LogDir
from pax_haiku.training.progress import Progress
from pax_haiku.training.tensorboard import Writer


@dataclasses.dataclass(frozen=True)
class Task:
  """What is trained, and on what.

  Attributes:
    forward: The model: a batch in, weighted scalars out; see `learner`.
    optimizer: optax transformation.
    batch_at: The training batch of a step, as a function of the step alone.
    eval_sets: For each name, a function that gives the batches to evaluate on.
    curves: Which weighted scalars the PNG shows.
    learning_rate: Schedule, for TensorBoard; None leaves it out.
    loss_name: Which weighted scalar is minimised.
    accumulate: Into how many parts a batch is cut; see `learner.make_train_step`.
    eval_state: Changes the state that is evaluated, such as to averaged weights.
    unit: What the speed counts: 'examples' or 'tokens'.
    flops_per_unit: Floating point operations of training on one unit; with it and the
      device's peak TensorBoard shows the model's utilization, `mfu`.
    show: Called after each evaluation with the state (that of `eval_state`), a
      TensorBoard writer and the step, for more summaries. Returns lines to print, or
      None.
  """

  forward: hk.TransformedWithState
  optimizer: optax.GradientTransformation
  batch_at: Callable[[int], learner.Batch]
  eval_sets: Mapping[str, Callable[[], Iterable[learner.Batch]]]
  curves: tuple[str, ...] = ('loss',)
  learning_rate: Callable[[int], float] | None = None
  loss_name: str = 'loss'
  accumulate: int = 1
  eval_state: Callable[[train_state.TrainState], train_state.TrainState] = (
    lambda state: state
  )
  unit: str = 'examples'
  flops_per_unit: float | None = None
  show: Callable[[train_state.TrainState, Writer, int], str | None] | None = None


@dataclasses.dataclass(frozen=True)
class Options:
  """How a run is done; intervals are in updates, and 0 means only at the end.

  Attributes:
    log_dir: Where everything goes; see `LogDir`.
    steps: Updates to do, in all.
    batch_size: Examples (or tokens, the task's unit) of an update, for the speed that
      is shown.
    seed: Of weights and randomness.
    log_interval: Between two records of the loss.
    eval_interval: Between two evaluations, with summaries.
    checkpoint_interval: Between two checkpoints.
    resume: Go on from the newest checkpoint, if there is one.
    overwrite: Remove a run that is in `log_dir`.
    settings: What determines the numbers; a run resumed with others says so.
    checkpoints_in_background: Go on training while a checkpoint is being written.
  """

  log_dir: str
  steps: int
  batch_size: int
  seed: int = 0
  log_interval: int = 10
  eval_interval: int = 100
  checkpoint_interval: int = 100
  resume: bool = False
  overwrite: bool = False
  settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
  checkpoints_in_background: bool = False


class Result(NamedTuple):
  """How a run ended.

  Attributes:
    step: Updates done.
    metrics: For each evaluation set the means of its weighted scalars; empty after an
      interrupt.
    exit_code: 0, or after an interrupt 130 (ctrl-C) or 143 (SIGTERM).
  """

  step: int
  metrics: dict[str, dict[str, float]]
  exit_code: int


def train(task: Task, options: Options) -> Result:
  """Trains, evaluates and saves until all steps are done or a signal comes.

  The first ctrl-C or SIGTERM ends the run after the current update with a checkpoint.

  Raises:
    UserError: The log dir cannot be used, its checkpoint is of another model, or the
      loss is not finite any more.
  """
  with Interrupt() as interrupt, contextlib.ExitStack() as stack:
    run = _Run(task, options, stack)
    state = loop.run(
      run.state,
      _train_step(task),
      task.batch_at,
      num_steps=options.steps,
      hooks=(
        loop.every(options.log_interval, run.log),
        loop.every(options.eval_interval, run.evaluate),
        loop.every(options.checkpoint_interval, run.save),
      ),
      should_stop=lambda: bool(interrupt),
    )
    end = loop.StepResult(int(state.step), state, {})
    if interrupt:
      run.save(end)
      run.progress.line(
        f'interrupted after step {end.step} and saved; --resume goes on from there'
      )
      return Result(end.step, {}, interrupt.exit_code)
    run.evaluate(end)
    run.save(end)
    return Result(end.step, run.metrics, 0)


def check(task: Task) -> None:
  """Traces one update without computing it; raises what is wrong with the task."""

  def update(batch):
    with learner.pax_context(do_eval=False):
      state = train_state.init(task.forward, task.optimizer, 0, batch)
    return _train_step(task)(state, batch)

  jax.eval_shape(update, task.batch_at(0))


def _train_step(task: Task) -> learner.TrainStep:
  return learner.make_train_step(
    task.forward, task.optimizer, task.loss_name, task.accumulate
  )


class _Run:
  """The hooks of a run and what they write to.

  Attributes:
    state: The train state to begin with.
    metrics: Of the last evaluation.
    progress: What is shown.
  """

  def __init__(self, task: Task, options: Options, stack: contextlib.ExitStack):
    self.task, self.options = task, options
    self.log_dir = LogDir(options.log_dir)
    self.log_dir.begin(options.resume, options.overwrite)
    self.checkpoints = stack.enter_context(
      Checkpointer(
        self.log_dir.checkpoints, in_background=options.checkpoints_in_background
      )
    )
    self.history = History(self.log_dir.history)
    self.state = self._begin()
    self._first = first = int(self.state.step)
    self.log_dir.note_settings(options.settings, resumed=first > 0)
    self.writers = {
      name: stack.enter_context(
        Writer(self.log_dir.tensorboard / name, purge_step=first + 1 if first else None)
      )
      for name in ('batch', *task.eval_sets)
    }
    self.eval_step = learner.make_eval_step(task.forward)
    self.metrics: dict[str, dict[str, float]] = {}
    self._evaluated: int | None = None
    self.progress = stack.enter_context(
      Progress(first, options.steps, options.batch_size, unit=task.unit)
    )

  def _begin(self) -> train_state.TrainState:
    task, options = self.task, self.options

    def init(batch):
      with learner.pax_context(do_eval=False):
        return train_state.init(task.forward, task.optimizer, options.seed, batch)

    batch = task.batch_at(0)
    step = self.checkpoints.latest_step()
    if not options.resume or step is None:
      return jax.jit(init)(batch)
    state = self.checkpoints.restore(jax.eval_shape(init, batch), step)
    self.history.load(step)
    print(f'resumed {self.log_dir.path} after step {step}')
    return state

  def log(self, result: loop.StepResult) -> None:
    """Records the numbers of one update; UserError if its loss is not finite."""
    numbers = {name: float(value) for name, value in result.metrics.items()}
    loss = numbers[self.task.loss_name]
    if not math.isfinite(loss):
      raise UserError(
        f'the loss is {loss} after step {result.step}: the run diverged; '
        'try a lower --learning_rate'
      )
    self.progress.update(result.step, loss)
    if self.task.learning_rate is not None:
      numbers['learning_rate'] = float(self.task.learning_rate(result.step - 1))
    self.history.add(result.step, 'batch', numbers)
    if speed := self.progress.examples_per_second:
      numbers[f'{self.task.unit}_per_second'] = speed
      peak = devices.peak_flops()
      if self.task.flops_per_unit and peak:
        numbers['mfu'] = speed * self.task.flops_per_unit / peak
    for name, value in numbers.items():
      self.writers['batch'].scalar(name, value, result.step)

  def evaluate(self, result: loop.StepResult) -> None:
    """Evaluates on all sets and writes summaries; once for a step."""
    if result.step == self._evaluated:
      return
    self._evaluated = result.step
    columns = [f'step {result.step:>5}']
    state = self.task.eval_state(result.state)
    for name, batches in self.task.eval_sets.items():
      self.metrics[name] = learner.evaluate(self.eval_step, state, batches())
      columns.append(f'{name.replace("_", " ")}: {describe(self.metrics[name])}')
    if self.progress.examples_per_second:
      columns.append(f'{self.progress.examples_per_second:,.0f} {self.task.unit}/s')
    self.progress.line(' | '.join(columns))
    if result.step > self._first:
      self._record(result)
      if self.task.show is not None:
        shown = self.task.show(state, self.writers['batch'], result.step)
        if shown:
          self.progress.line(shown)
    self.progress.pause()

  def _record(self, result: loop.StepResult) -> None:
    for name, metrics in self.metrics.items():
      self.history.add(result.step, name, metrics)
      for key, value in metrics.items():
        self.writers[name].scalar(key, value, result.step)
    writer = self.writers['batch']
    summaries.write_state(writer, result.state.state, result.step)
    for module, entries in result.state.params.items():
      for name, value in entries.items():
        summaries.write_array(writer, f'params/{module}/{name}', value, result.step)

  def save(self, result: loop.StepResult) -> None:
    """Writes everything to disk; the checkpoint last, as it confirms the rest."""
    for writer in self.writers.values():
      writer.flush()
    self.history.save()
    plots.save_curves(self.log_dir.curves, self.history, self.task.curves)
    self.checkpoints.save(result.state)
    self.progress.pause()


def describe(metrics: Mapping[str, float]) -> str:
  """Returns `accuracy 98.1 %, loss 0.0712`: accuracies first, as percentages."""
  names = sorted(metrics, key=lambda name: ('accuracy' not in name, name))
  return ', '.join(
    f'{name} {100 * metrics[name]:.1f} %'
    if 'accuracy' in name
    else f'{name} {metrics[name]:.4f}'
    for name in names
  )
