"""Trains a small model on one side and records its loss at every step.

Runs under both environments, as `runner.py` does. The models hold what a seed can
touch: `classifier` BatchNorm, dropout in a plain tower and in a Repeat, and a softmax;
`lm` packed sequences through a repeated stack of transformer blocks with dropout and a
mixture of experts.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from praxis_compare import inputs, spec, store
from praxis_compare import side as side_lib

BATCH, DIMS, CLASSES, VOCAB = 32, 8, 5, 11
OPTIMIZERS = {
    'sgd': lambda: optax.sgd(0.05, momentum=0.9),
    'adam': lambda: optax.adam(3e-3),
}


@dataclasses.dataclass(frozen=True)
class Model:
  """What is trained.

  Attributes:
    config: the layer.
    batch: step -> arguments of its call.
    loss: result of the call -> the loss.
    collections: what a step writes; `non_trainable` goes on to the next.
  """

  config: spec.Cfg
  batch: Callable[[int], tuple[Any, ...]]
  loss: Callable[[Any], Any]
  collections: tuple[str, ...] = ('non_trainable',)


def labelled(step: int) -> tuple[np.ndarray, np.ndarray]:
  """Inputs [BATCH, DIMS] and labels [BATCH]: the largest of noisy linear scores."""
  x = inputs.uniform(f'batch {step}', (BATCH, DIMS), -2, 2)
  scores = x @ inputs.uniform('truth', (DIMS, CLASSES))
  scores = scores + inputs.uniform(f'noise {step}', (BATCH, CLASSES), -0.5, 0.5)
  return x, scores.argmax(-1).astype(np.int32)


def text(step: int) -> tuple[spec.Map]:
  """Packed sequences: a token follows from the two before it, with exceptions."""
  rows, length = 8, 16
  ids = inputs.ids(rows, length + 1, below=VOCAB, name=f'text {step}')
  surprise = inputs.uniform(f'surprise {step}', (rows, length + 1), 0, 1) < 0.15
  for t in range(2, length + 1):
    follows = (ids[:, t - 1] + 2 * ids[:, t - 2] + 1) % VOCAB
    ids[:, t] = np.where(surprise[:, t], ids[:, t], follows)
  start = 4 + inputs.ids(rows, 1, below=8, name=f'start {step}')
  position = np.arange(length)[np.newaxis]
  second = (position >= start).astype(np.int32)
  paddings = inputs.paddings(rows, length)
  segment_ids = ((1 + second) * (1 - paddings)).astype(np.int32)
  return (spec.Map(
      ids=ids[:, :-1], labels=ids[:, 1:], paddings=paddings, weights=1 - paddings,
      segment_ids=segment_ids,
      segment_pos=(position - start * second).astype(np.int32)),)


CLASSIFIER = Model(
    spec.cfg('local.Classifier', input_dims=DIMS, num_classes=CLASSES), labelled,
    lambda out: out.avg_xent)
BLOCKS = spec.cfg(
    'transformers.StackedTransformer', num_layers=2, hidden_dims=32, num_heads=4,
    dropout_prob=0.1, moe_layers=[1], num_experts=4, num_groups=2)
LM = Model(
    spec.cfg('models.LanguageModel', lm_tpl=spec.cfg(
        'transformer_models.TransformerLm', model_dims=16, vocab_size=VOCAB,
        packed_input=True, stacked_transformer_tpl=spec.cfg(
            'transformers.StackedTransformerRepeated', block=BLOCKS, x_times=2))),
    text, lambda out: out[0].total_loss[0], ('non_trainable', 'aux_loss'))
MODELS = {'classifier': CLASSIFIER, 'lm': LM}


def train(side: side_lib.Side, steps: int, seed: int, optimizer: str,
          model: str = 'classifier') -> dict[str, np.ndarray]:
  """`{'loss': [steps], 'eval_loss': [], 'init/...', 'final/...'}`."""
  task = MODELS[model]
  layer = side.layer(task.config, 'float32')

  def batch(step: int) -> tuple[Any, ...]:
    return side.build(task.batch(step))

  root = jax.random.PRNGKey(seed)
  params_key, random_key, step_key = jax.random.split(root, 3)
  with side.context(do_eval=False):
    variables = layer.init({'params': params_key, 'random': random_key}, *batch(0))
  rule = OPTIMIZERS[optimizer]()
  params, state = variables['params'], variables.get('non_trainable', {})
  slots = rule.init(params)

  def given(params: Any, state: Any) -> dict[str, Any]:
    return {'params': params, **({'non_trainable': state} if state else {})}

  def loss_fn(params: Any, state: Any, key: Any, args: Any) -> Any:
    out, updated = layer.apply(given(params, state), *args, rngs={'random': key},
                               mutable=list(task.collections))
    return task.loss(out), updated.get('non_trainable', {})

  @jax.jit
  def step_fn(params: Any, state: Any, slots: Any, key: Any, args: Any) -> Any:
    with side.context(do_eval=False):
      (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(
          params, state, key, args)
    updates, slots = rule.update(grads, slots, params)
    return optax.apply_updates(params, updates), state, slots, loss

  out = {f'init/{k}': v for k, v in side_lib.flatten(variables).items()}
  losses = []
  for step in range(steps):
    params, state, slots, loss = step_fn(
        params, state, slots, jax.random.fold_in(step_key, step), batch(step))
    losses.append(float(loss))
  with side.context(do_eval=True):
    last, _ = layer.apply(given(params, state), *batch(steps),
                          mutable=list(task.collections))
  out['loss'] = np.asarray(losses, np.float32)
  out['eval_loss'] = task.loss(last)
  trained = side_lib.flatten(given(params, state))
  out.update({f'final/{k}': v for k, v in trained.items()})
  return jax.device_get(out)


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pkg', required=True, choices=('praxis', 'pax_haiku'))
  parser.add_argument('--out', required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--seed', type=int, required=True)
  parser.add_argument('--optimizer', choices=sorted(OPTIMIZERS), required=True)
  parser.add_argument('--model', choices=sorted(MODELS), default='classifier')
  options = parser.parse_args(argv)
  side = side_lib.Side(options.pkg)
  result = train(side, options.steps, options.seed, options.optimizer, options.model)
  writer = store.Writer()
  writer.save(options.out, {
      'package': options.pkg, 'versions': side.versions(),
      'cases': {k: writer.ref(v) for k, v in result.items()}})


if __name__ == '__main__':
  main(sys.argv[1:])
