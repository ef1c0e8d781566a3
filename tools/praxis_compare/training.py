"""Trains a small classifier on one side and records its loss at every step.

BatchNorm, dropout in a plain tower and in a Repeat, a softmax, optax: what a seed can
touch. Runs under both environments, as `runner.py` does.
"""

import argparse
import sys
from typing import Any

import jax
import numpy as np
import optax

from praxis_compare import inputs, spec, store
from praxis_compare import side as side_lib

BATCH, DIMS, CLASSES = 32, 8, 5
OPTIMIZERS = {
    'sgd': lambda: optax.sgd(0.05, momentum=0.9),
    'adam': lambda: optax.adam(3e-3),
}


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
  """Inputs [BATCH, DIMS] and labels [BATCH]: the largest of noisy linear scores."""
  x = inputs.uniform(f'batch {step}', (BATCH, DIMS), -2, 2)
  scores = x @ inputs.uniform('truth', (DIMS, CLASSES))
  scores = scores + inputs.uniform(f'noise {step}', (BATCH, CLASSES), -0.5, 0.5)
  return x, scores.argmax(-1).astype(np.int32)


def train(side: side_lib.Side, steps: int, seed: int,
          optimizer: str) -> dict[str, np.ndarray]:
  """`{'loss': [steps], 'eval_loss': [], 'init/...', 'final/...'}`."""
  config = spec.cfg('local.Classifier', input_dims=DIMS, num_classes=CLASSES)
  layer = side.layer(config, 'float32')
  root = jax.random.PRNGKey(seed)
  params_key, random_key, step_key = jax.random.split(root, 3)
  with side.context(do_eval=False):
    variables = layer.init({'params': params_key, 'random': random_key}, *batch(0))
  rule = OPTIMIZERS[optimizer]()
  params, state = variables['params'], variables['non_trainable']
  slots = rule.init(params)

  def loss_fn(params: Any, state: Any, key: Any, x: Any, y: Any) -> Any:
    out, updated = layer.apply({'params': params, 'non_trainable': state}, x, y,
                               rngs={'random': key}, mutable=['non_trainable'])
    return out.avg_xent, updated['non_trainable']

  @jax.jit
  def step_fn(params: Any, state: Any, slots: Any, key: Any, x: Any, y: Any) -> Any:
    with side.context(do_eval=False):
      (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(
          params, state, key, x, y)
    updates, slots = rule.update(grads, slots, params)
    return optax.apply_updates(params, updates), state, slots, loss

  out = {f'init/{k}': v for k, v in side_lib.flatten(variables).items()}
  losses = []
  for step in range(steps):
    params, state, slots, loss = step_fn(
        params, state, slots, jax.random.fold_in(step_key, step), *batch(step))
    losses.append(float(loss))
  with side.context(do_eval=True):
    last = layer.apply({'params': params, 'non_trainable': state}, *batch(steps))
  out['loss'] = np.asarray(losses, np.float32)
  out['eval_loss'] = last.avg_xent
  trained = {'params': params, 'non_trainable': state}
  out.update({f'final/{k}': v for k, v in side_lib.flatten(trained).items()})
  return jax.device_get(out)


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pkg', required=True, choices=('praxis', 'pax_haiku'))
  parser.add_argument('--out', required=True)
  parser.add_argument('--steps', type=int, required=True)
  parser.add_argument('--seed', type=int, required=True)
  parser.add_argument('--optimizer', choices=sorted(OPTIMIZERS), required=True)
  options = parser.parse_args(argv)
  side = side_lib.Side(options.pkg)
  result = train(side, options.steps, options.seed, options.optimizer)
  writer = store.Writer()
  writer.save(options.out, {
      'package': options.pkg, 'versions': side.versions(),
      'cases': {k: writer.ref(v) for k, v in result.items()}})


if __name__ == '__main__':
  main(sys.argv[1:])
