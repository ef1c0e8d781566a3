"""The training loop: batches in, hooks called, and a way to stop between two steps."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from pax_haiku.training.learner import Batch, TrainStep
from pax_haiku.training.train_state import TrainState


class StepResult(NamedTuple):
  """What a hook is given after a step.

  Attributes:
    step: Number of updates done, a Python int.
    state: The train state. The next step reuses its memory: copy what should be kept.
    metrics: Values of this step, on the device: reading one waits for the step.
  """

  step: int
  state: TrainState
  metrics: dict[str, jax.Array]


Hook = Callable[[StepResult], Any]


def every(interval: int, hook: Hook) -> Hook:
  """Returns a hook that calls `hook` at each step that `interval` divides.

  An interval of 0 means never.
  """

  def maybe(result: StepResult):
    if interval and result.step % interval == 0:
      hook(result)

  return maybe


def run(
  state: TrainState,
  train_step: TrainStep,
  batch_at: Callable[[int], Batch],
  *,
  num_steps: int,
  hooks: Iterable[Hook] = (),
  should_stop: Callable[[], bool] = lambda: False,
) -> TrainState:
  """Trains until `num_steps` updates are done, counted from the start of the run.

  Args:
    state: Where to go on; its memory is reused.
    train_step: As of `learner.make_train_step`.
    batch_at: Gives the batch of a step, counted from 0. A run can be resumed exactly
      when it depends on nothing else.
    num_steps: Value of `state.step` at which to end; nothing happens when it is there.
    hooks: Called in order after each step.
    should_stop: Asked before each step; True ends the loop.

  Returns:
    The state after the last step.
  """
  hooks = tuple(hooks)
  step = int(state.step)
  while step < num_steps and not should_stop():
    state, metrics = train_step(state, batch_at(step))
    step += 1
    for hook in hooks:
      hook(StepResult(step, state, metrics))
  return state
