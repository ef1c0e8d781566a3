"""Trains a Pax-style language model inside Haiku, on any text.

    python examples/train_lm.py --log_dir=runs/lm

Without more flags that is `tiny`, over the bytes of Python's own standard library:
about two minutes on two cores, to under 2.6 bits per byte of held-out text. To try:

    --sample='def '                   continue a text with the model in log_dir
    --data='books/*.txt'              other text: files and patterns, again and again
    --model=126m --tokenizer=FILE     a larger model, over a tokenizer's ids; FILE is a
                                      SentencePiece *.model or a Hugging Face *.json
                                      (pip install 'pax-haiku[tokenizers]')
    --resume                          go on after ctrl-C, as if nothing had happened
    --num_layers=6 --ema_decay=0.99   see --help
    --config=model.lm_tpl.softmax_tpl.label_smoothing_prob=0.1
                                      anything in the config; --show_config lists it
    tensorboard --logdir=runs/lm      curves, histograms, samples of text

ctrl-C or SIGTERM saves a checkpoint and ends the run with exit code 130 or 143. Wrong
flags, files that are no text, an unusable log_dir and a checkpoint of another model end
it with one line and exit code 2.
"""

if __name__ == '__main__':
  import signal

  # While modules load there is nothing to save: ctrl-C just ends the program.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

import dataclasses
import pathlib
import sys
from typing import Any

import fiddle as fdl
import haiku as hk
import jax
from absl import flags

from pax_haiku.training import (
  checkpoint,
  cli,
  config_flag,
  learner,
  lm,
  lm_sample,
  lm_shapes,
  log_dir,
  optimizers,
  packing,
  run_flags,
  text_data,
  tokenizers,
  train_state,
  trainer,
)

run_flags.define(
  steps=None, batch_size=None, learning_rate=None, log_dir='runs/lm', eval_interval=200
)
flags.DEFINE_enum('model', 'tiny', list(lm_shapes.SHAPES), 'Which model to train.')
flags.DEFINE_multi_string(
  'data', [], "Text files and patterns; the standard library's .py files by default."
)
flags.DEFINE_multi_string(
  'held_out_data', [], 'Text to evaluate on; by default a twentieth of the files.'
)
flags.DEFINE_string(
  'tokenizer',
  '',
  'SentencePiece file *.model or Hugging Face tokenizers file *.json. Without: bytes.',
)
SIZES = {
  'num_layers': 'Blocks of the model; as the other sizes, by default those of --model.',
  'model_dims': 'Size of activations.',
  'num_heads': 'Heads of attention.',
  'hidden_dims': 'Hidden values of the feed-forward layers.',
  'vocab_size': 'Token ids that the model knows.',
  'length': 'Tokens of a row.',
}
for _name, _help in SIZES.items():
  flags.DEFINE_integer(_name, None, _help, lower_bound=1)
flags.DEFINE_bool('bfloat16', None, 'Compute in bfloat16; weights stay float32.')
flags.DEFINE_bool('repeat', None, 'Scan over the blocks instead of unrolling them.')
flags.DEFINE_string(
  'remat', None, "What of a block to keep for gradients, such as 'save_nothing'."
)
flags.DEFINE_integer(
  'accumulate', 1, 'Parts of a batch, computed one after the other.', lower_bound=1
)
flags.DEFINE_integer('warm_up', None, 'Updates of the warm-up.', lower_bound=0)
flags.DEFINE_float('weight_decay', 0.1, 'Of AdamW; norms have none.', lower_bound=0.0)
flags.DEFINE_float('clip_norm', 1.0, 'Largest norm of a gradient; 0: any.', 0.0)
flags.DEFINE_float(
  'ema_decay', 0.0, 'Of the averaged weights that are evaluated; 0: none.', 0.0, 0.99999
)
flags.DEFINE_integer(
  'eval_batches', 16, 'Batches to evaluate on; 0: all held-out text.', lower_bound=0
)
flags.DEFINE_string(
  'sample', None, 'Print how the model in log_dir continues this text, and exit.'
)
flags.DEFINE_integer('sample_tokens', 200, 'Tokens of a sample.', lower_bound=1)
flags.DEFINE_float(
  'temperature', 0.8, 'Of samples; 0: the most probable tokens.', lower_bound=0.0
)
flags.DEFINE_integer(
  'top_k', 40, 'Sample among so many tokens; 0: among all.', lower_bound=0
)
config_flag.define('config')
FLAGS = flags.FLAGS


@dataclasses.dataclass
class Experiment:
  """What --config changes: a Pax config, and a config of an optax optimizer."""

  model: Any
  optimizer: Any


def shape() -> lm_shapes.LmShape:
  """Returns the model's shape; gives flags that depend on it their defaults."""
  result = lm_shapes.shape(
    FLAGS.model,
    bfloat16=FLAGS.bfloat16,
    repeat=FLAGS.repeat,
    **{name: FLAGS[name].value for name in SIZES},
  )
  for name in ('steps', 'batch_size', 'learning_rate', 'warm_up'):
    FLAGS.set_default(name, getattr(result, name))
  return result


def base() -> fdl.Config:
  """Returns the config that the other flags describe."""
  schedule = fdl.Config(
    optimizers.warm_up_cosine,
    peak=FLAGS.learning_rate,
    warm_up=FLAGS.warm_up,
    steps=max(FLAGS.steps, 1),
  )
  optimizer = fdl.Config(
    optimizers.adamw,
    learning_rate=schedule,
    weight_decay=FLAGS.weight_decay,
    clip_norm=FLAGS.clip_norm,
    ema_decay=FLAGS.ema_decay,
  )
  model = lm.language_model(shape(), remat=FLAGS.remat)
  # Bits per byte of held-out text are of its own tokens, however they are smoothed.
  model.lm_tpl.softmax_tpl.label_smoothing_apply_for_eval = False
  return fdl.Config(Experiment, model=model, optimizer=optimizer)


def make_optimizer(config: fdl.Config, batch: packing.Batch):
  """Returns the optimizer; weights that layers mark are spared from decay."""
  optimizer = fdl.deepcopy_with(config.optimizer)
  if fdl.get_callable(optimizer) is optimizers.adamw:
    inputs = lm.inputs(batch)
    optimizer.decay_mask = optimizers.decay_mask(config.model, inputs)
  return fdl.build(optimizer)


def make_task(config: fdl.Config, text: text_data.TextData) -> trainer.Task:
  """Returns the model, its optimizer and its data."""
  batch_at = packing.batch_at(text.train, FLAGS.batch_size, FLAGS.seed)
  rate = config.optimizer.learning_rate
  rate = fdl.build(rate) if isinstance(rate, fdl.Buildable) else rate
  return trainer.Task(
    forward=hk.transform_with_state(lm.weighted_scalars(config.model)),
    optimizer=make_optimizer(config, batch_at(0)),
    batch_at=batch_at,
    eval_sets={
      'held_out': lambda: packing.sample(
        text.held_out, FLAGS.batch_size, FLAGS.eval_batches
      )
    },
    curves=('loss', 'bits_per_byte', 'accuracy'),
    learning_rate=rate if callable(rate) else lambda step: rate,
    accumulate=FLAGS.accumulate,
    eval_state=optimizers.averaged,
    unit='tokens',
    flops_per_unit=shape().flops_per_token(),
    show=show_text(config, text),
  )


def show_text(config: fdl.Config, text: text_data.TextData):
  """Returns a hook that lets the model go on with the first held-out text."""
  write = sampler(config, text.tokenizer)
  prompt = text.tokenizer.decode(text.held_out.tokens[1:33])

  def show(state, writer, step):
    key = jax.random.fold_in(state.rng, step)
    (continuation,) = write(state, [prompt], key)
    shown = '\n'.join(f'    {line}' for line in (prompt + continuation).splitlines())
    writer.text('sample', shown, step)  # TensorBoard takes it for Markdown: as code

  return show


def sampler(config: fdl.Config, tokenizer) -> lm_sample.Sampler:
  """Returns what continues texts, as the flags say."""
  return lm_sample.make_sampler(
    config.model, tokenizer, FLAGS.sample_tokens, FLAGS.temperature, FLAGS.top_k
  )


def check_tokenizer() -> None:
  """Makes sure that --tokenizer is what the model in log_dir was trained with."""
  former = log_dir.settings_in(FLAGS.log_dir).get('tokenizer')
  tokenizers.check_same(former, FLAGS.tokenizer, f'--log_dir {FLAGS.log_dir!r}')


def sample(config: fdl.Config) -> int:
  """Continues the text of --sample with the newest checkpoint."""
  directory = pathlib.Path(FLAGS.log_dir).expanduser() / 'checkpoints'
  if not directory.is_dir():
    raise cli.UserError(f'--log_dir {FLAGS.log_dir!r} holds no checkpoint; train first')
  check_tokenizer()
  tokenizer = text_data.load_tokenizer(FLAGS.tokenizer, shape().vocab_size)
  batch = packing.blank(shape().length)
  forward = hk.transform_with_state(lm.weighted_scalars(config.model))
  optimizer = make_optimizer(config, batch)

  def init(batch):
    with learner.pax_context(do_eval=False):
      return train_state.init(forward, optimizer, FLAGS.seed, batch)

  with checkpoint.Checkpointer(directory) as checkpoints:
    state = checkpoints.restore(jax.eval_shape(init, batch))
  write = sampler(config, tokenizer)
  key = jax.random.PRNGKey(FLAGS.seed)
  print(FLAGS.sample + write(optimizers.averaged(state), [FLAGS.sample], key)[0])
  return 0


def main() -> int:
  sizes = shape()
  if FLAGS.batch_size % FLAGS.accumulate:
    raise cli.UserError(
      f'--accumulate={FLAGS.accumulate} does not divide --batch_size={FLAGS.batch_size}'
    )
  config = config_flag.build(FLAGS.config, sys.modules[__name__])
  if FLAGS.show_config:
    print(config_flag.show(config))
    return 0
  if FLAGS.sample is not None:
    return sample(config)
  if FLAGS.resume:
    check_tokenizer()
  text = text_data.load(
    FLAGS.data, FLAGS.tokenizer, sizes.length, sizes.vocab_size, FLAGS.held_out_data
  )
  with config_flag.blaming(FLAGS.config):
    task = make_task(config, text)
    if FLAGS.config:
      trainer.check(task)
  options = run_flags.options(
    {
      'config': config_flag.show(config),
      'text': text.describe(),
      'tokenizer': tokenizers.fingerprint(FLAGS.tokenizer),
      'length': str(sizes.length),
      'accumulate': str(FLAGS.accumulate),
    },
    batch_size=FLAGS.batch_size * sizes.length,
    checkpoints_in_background=True,
  )
  print(text.describe(), flush=True)
  result = trainer.train(task, options)
  if result.exit_code:
    return result.exit_code
  held_out = trainer.describe(result.metrics['held_out'])
  print(
    f'\nHeld-out text after {result.step} steps: {held_out}'
    f'\nCurves:      {options.log_dir}/curves.png (numbers: history.jsonl)'
    f'\nTensorBoard: pip install tensorboard; tensorboard --logdir={options.log_dir}'
    "\nSample:      the same flags and --sample='def '"
  )
  return 0


if __name__ == '__main__':
  cli.run(main)
