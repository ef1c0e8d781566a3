"""The absl flags that every trainer has, and the options that they make."""

import dataclasses

from absl import flags

from pax_haiku.training.trainer import Options

flags.disclaim_key_flags()  # so that --help lists the flags with those of the trainer


def define(
  *,
  steps: int | None,
  batch_size: int | None,
  learning_rate: float | None,
  log_dir: str,
  eval_interval: int,
) -> None:
  """Defines the flags with the defaults of one trainer.

  A default that is None depends on other flags: give it by `flags.FLAGS.set_default`
  before `options` is called.
  """
  flags.DEFINE_integer('steps', steps, 'Updates to do, in all.', lower_bound=0)
  flags.DEFINE_integer('batch_size', batch_size, 'Examples per update.', lower_bound=1)
  flags.DEFINE_float(
    'learning_rate', learning_rate, 'Learning rate after warm-up.', lower_bound=0.0
  )
  flags.DEFINE_integer(
    'seed', 0, 'Determines weights, order of examples and dropout.', lower_bound=0
  )
  flags.DEFINE_string(
    'log_dir',
    log_dir,
    'Where checkpoints, TensorBoard files and curves go.',
    allow_override=True,  # absl.logging has a flag of that name for log files
  )
  flags.DEFINE_integer(
    'log_interval', 10, 'Updates between two losses in the log.', lower_bound=1
  )
  flags.DEFINE_integer(
    'eval_interval',
    eval_interval,
    'Updates between two evaluations; summaries are written with them. 0: at the end.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'checkpoint_interval',
    0,
    'Updates between two checkpoints. 0: as often as evaluations.',
    lower_bound=0,
  )
  flags.DEFINE_bool(
    'resume', False, 'Go on from the newest checkpoint in log_dir, if there is one.'
  )
  flags.DEFINE_bool('overwrite', False, 'Remove the run that is in log_dir and start.')


def options(settings: dict[str, str] | None = None, **fields) -> Options:
  """Returns the options that the parsed flags describe.

  Args:
    settings: What else determines the numbers of a run, such as the config.
    **fields: Of `Options`, in place of those of the flags.
  """
  values = flags.FLAGS
  result = Options(
    log_dir=values.log_dir,
    steps=values.steps,
    batch_size=values.batch_size,
    seed=values.seed,
    log_interval=values.log_interval,
    eval_interval=values.eval_interval,
    checkpoint_interval=values.checkpoint_interval or values.eval_interval,
    resume=values.resume,
    overwrite=values.overwrite,
    settings={
      'seed': str(values.seed),
      'batch_size': str(values.batch_size),
      'learning_rate': str(values.learning_rate),
      **(settings or {}),
    },
  )
  return dataclasses.replace(result, **fields)
