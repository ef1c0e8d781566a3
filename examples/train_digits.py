"""Trains a Pax-style classifier on scikit-learn's handwritten digits, inside Haiku.

    python examples/train_digits.py --log_dir=runs/digits

1797 real images of 8 x 8 pixels, a fifth of them held out: about 98 % of those are read
right after a minute or less on two cores. What to try:

    --steps=2000 --resume                 go on; equal to a run that was never stopped
    --config=model.hidden_dims=256        change anything in the config; repeat at will
    --config=model.norm_tpl.decay=0.9     templates of the layers too
    --show_config                         list what can be changed
    tensorboard --logdir=runs/digits      curves, histograms, images

ctrl-C or SIGTERM saves a checkpoint and ends the run with exit code 130 or 143. Wrong
flags, an unusable log_dir and a checkpoint of another model end it with one line and
exit code 2.
"""

if __name__ == '__main__':
  import signal

  # While modules load there is nothing to save: ctrl-C just ends the program.
  signal.signal(signal.SIGINT, signal.SIG_DFL)

import dataclasses
import sys
from typing import Any

import fiddle as fdl
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import embedding_softmax, linears, normalizations, stochastics
from pax_haiku.training import cli, config_flag, data, run_flags, trainer

LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SummaryType = base_layer.SummaryType

SPLIT_SEED = 0  # the held-out images are the same for every --seed

run_flags.define(
  steps=1000,
  batch_size=64,
  learning_rate=3e-3,
  log_dir='runs/digits',
  eval_interval=100,
)
flags.DEFINE_integer('hidden_dims', 128, 'Width of the hidden layers.', lower_bound=1)
flags.DEFINE_integer('num_layers', 2, 'Number of hidden layers.', lower_bound=1)
flags.DEFINE_float(
  'dropout', 0.2, 'Probability of dropping an activation.', 0.0, upper_bound=0.99
)
config_flag.define('config')
FLAGS = flags.FLAGS


class DigitsClassifier(base_layer.BaseLayer):
  """Blocks of FeedForward, BatchNorm and Dropout, and a softmax over the digits.

  Attributes:
    input_dims: Pixels of an image.
    hidden_dims: Width of every block.
    num_layers: Number of blocks.
    num_classes: Number of digits.
    feed_forward_tpl: Projection and activation of a block.
    norm_tpl: Normalization of a block.
    dropout_tpl: Dropout of a block.
    softmax_tpl: Projection to logits, and the loss.
  """

  input_dims: int = 64
  hidden_dims: int = 128
  num_layers: int = 2
  num_classes: int = 10
  feed_forward_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)
  norm_tpl: LayerTpl = pax_fiddle.template_field(normalizations.BatchNorm)
  dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  softmax_tpl: LayerTpl = pax_fiddle.template_field(embedding_softmax.FullSoftmax)

  def setup(self):
    widths = [self.input_dims] + [self.hidden_dims] * self.num_layers
    self.create_children(
      'feed_forward',
      [
        self.feed_forward_tpl.clone().set(input_dims=before, output_dims=after)
        for before, after in zip(widths[:-1], widths[1:], strict=True)
      ],
    )
    self.create_children(
      'norm', [self.norm_tpl.clone().set(dim=width) for width in widths[1:]]
    )
    self.create_child('dropout', self.dropout_tpl.clone())
    self.create_child(
      'softmax',
      self.softmax_tpl.clone().set(
        input_dims=self.hidden_dims, num_classes=self.num_classes
      ),
    )

  def __call__(self, images, labels, weights):
    """Returns loss and accuracy as weighted scalars.

    Args:
      images: Pixels in [0, 1], [batch, input_dims].
      labels: Digits, int32 [batch].
      weights: 1 for an example, 0 for padding, float32 [batch].
    """
    self.add_summary('images', _pictures(images[:4]), SummaryType.IMAGE)
    x = images
    for i in range(self.num_layers):
      x = self.feed_forward[i](x)
      self.add_summary(f'activations_{i}', x, SummaryType.HISTOGRAM)
      self.add_summary(f'active_{i}', jnp.mean(x > 0), SummaryType.AGGREGATE_SCALAR)
      x = self.norm[i](x, paddings=1 - weights)
      x = self.dropout(x)
    out = self.softmax(x, class_weights=weights[:, None], class_ids=labels[:, None])
    confidence = jnp.exp(-out.per_example_xent)
    self.add_summary('confidence', jnp.mean(confidence))
    self.add_summary(
      'confusion',
      _confusion(labels, out.per_example_argmax[:, None], self.num_classes),
      SummaryType.AGGREGATE_IMAGE,
    )
    return {
      'loss': (out.avg_xent, out.total_weight),
      'accuracy': (out.accuracy, out.total_weight),
    }


def _pictures(images):
  """Returns square grey pictures [batch, side, side, 1] of images [batch, pixels]."""
  side = int(images.shape[-1] ** 0.5)
  return images.reshape(-1, side, side, 1)


def _confusion(labels, predictions, num_classes):
  """Returns [1, labels, predictions, 1]: which part of a label was read as what."""
  true = jax.nn.one_hot(labels.ravel(), num_classes)
  read = jax.nn.one_hot(predictions.ravel(), num_classes)
  counts = true.T @ read
  return (counts / jnp.maximum(counts.sum(1, keepdims=True), 1))[None, :, :, None]


def inverse_sqrt(peak: float, warm_up: int) -> optax.Schedule:
  """Returns a learning rate that rises for `warm_up` steps, then falls as step^-1/2.

  It does not depend on the number of steps to do: a run can be made longer afterwards.
  The schedule of Vaswani et al. 2017, "Attention Is All You Need", equation 3.
  """

  def schedule(step):
    step = jnp.maximum(step, 1)
    return peak * jnp.minimum(step / warm_up, jnp.sqrt(warm_up / step))

  return schedule


@dataclasses.dataclass
class Experiment:
  """What --config changes: a Pax config, and a config of an optax optimizer."""

  model: Any
  optimizer: Any


def base() -> fdl.Config:
  """Returns the config that the other flags describe."""
  model = pax_fiddle.Config(
    DigitsClassifier,
    name='classifier',
    hidden_dims=FLAGS.hidden_dims,
    num_layers=FLAGS.num_layers,
  )
  model.norm_tpl.decay = 0.95
  model.dropout_tpl.keep_prob = 1.0 - FLAGS.dropout
  schedule = fdl.Config(inverse_sqrt, peak=FLAGS.learning_rate, warm_up=50)
  optimizer = fdl.Config(optax.adamw, learning_rate=schedule, weight_decay=1e-3)
  return fdl.Config(Experiment, model=model, optimizer=optimizer)


def load_digits() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns training and held-out examples: images [N, 64] in [0, 1], labels [N]."""
  import sklearn.datasets

  digits = sklearn.datasets.load_digits()
  examples = {
    'images': (digits.data / 16.0).astype(np.float32),
    'labels': digits.target.astype(np.int32),
  }
  return data.split(examples, held_out=0.2, seed=SPLIT_SEED)


def make_task(config: fdl.Config) -> trainer.Task:
  """Returns the model, its optimizer and its data."""

  def forward(batch):
    return base_layer.instantiate(config.model)(**batch)

  training, held_out = load_digits()
  rate = config.optimizer.learning_rate
  rate = fdl.build(rate) if isinstance(rate, fdl.Buildable) else rate
  return trainer.Task(
    forward=hk.transform_with_state(forward),
    optimizer=fdl.build(config.optimizer),
    batch_at=lambda step: data.batch_at(training, FLAGS.batch_size, FLAGS.seed, step),
    eval_sets={
      'train': lambda: data.epoch(training, 360),
      'held_out': lambda: data.epoch(held_out, 360),
    },
    curves=('loss', 'accuracy'),
    learning_rate=rate if callable(rate) else lambda step: rate,
  )


def main() -> int:
  config = config_flag.build(FLAGS.config, sys.modules[__name__])
  if FLAGS.show_config:
    print(config_flag.show(config))
    return 0
  with config_flag.blaming(FLAGS.config):
    task = make_task(config)
    if FLAGS.config:
      trainer.check(task)
  options = run_flags.options({'config': config_flag.show(config)})
  result = trainer.train(task, options)
  if result.exit_code:
    return result.exit_code
  held_out = trainer.describe(result.metrics['held_out'])
  print(
    f'\nHeld-out images after {result.step} steps: {held_out}'
    f'\nCurves:      {options.log_dir}/curves.png (numbers: history.jsonl)'
    f'\nTensorBoard: pip install tensorboard; tensorboard --logdir={options.log_dir}'
    f'\nGo on:       --resume --steps={2 * result.step}, or --help for all flags'
  )
  return 0


if __name__ == '__main__':
  cli.run(main)
