"""Inputs and weights with known values, and checks of numbers recorded from Praxis.

A case of the recorded table gives four numbers of a layer's result: how many elements,
the first, the last, and the sum of absolute values. The layer is fed with
`reference_input` and its trainable variables are replaced by `reference_weights`.
Non-trainable variables keep their constant initial values.
"""

import jax
import numpy as np

from pax_haiku import base_layer


def reference_input(shape) -> np.ndarray:
  """Float32 array with element i (row-major) = sin(0.37 i + 0.2)."""
  i = np.arange(np.prod(shape, dtype=int))
  return np.sin(0.37 * i + 0.2).astype(np.float32).reshape(shape)


def reference_weights(variables) -> dict:
  """`variables` with element i of trainable variable k = 0.5 sin(0.7 i + 0.3 k + 0.1).

  Variables are numbered from 0 in the ASCII order of their paths, joined by '/'. A
  stacked variable counts as one, over its full shape.

  Args:
    variables: `{'params': nested dict of arrays, ...}`, as `init` returns it.
  """
  leaves, treedef = jax.tree_util.tree_flatten_with_path(variables.get('params', {}))
  paths = ['/'.join(key.key for key in path) for path, _ in leaves]
  rank = {path: k for k, path in enumerate(sorted(paths))}

  def value(path, leaf):
    i = np.arange(leaf.size)
    x = 0.5 * np.sin(0.7 * i + 0.3 * rank[path] + 0.1)
    return x.astype(leaf.dtype).reshape(leaf.shape)

  values = [value(p, x) for p, (_, x) in zip(paths, leaves, strict=True)]
  if not values:
    return dict(variables)
  return {**variables, 'params': jax.tree.unflatten(treedef, values)}


X = reference_input((2, 5, 4))
PADDINGS = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.float32)
CLASS_WEIGHTS = (1 - PADDINGS)[..., np.newaxis]
CLASS_IDS = (np.arange(10) % 7).reshape(2, 5, 1)
IMAGE = reference_input((2, 5, 5, 2))


def run(cfg, *args, do_eval=False, **kwargs):
  """The result of a layer with reference weights.

  Args:
    cfg: the layer's config; gets the name `layer` if it has none.
    *args: given to the layer.
    do_eval: run in evaluation mode.
    **kwargs: given to the layer.
  """
  if cfg.name is None:
    cfg = cfg.clone().set(name='layer')
  layer = cfg.Instantiate()
  hparams = base_layer.JaxContext.HParams(do_eval=do_eval)
  with base_layer.JaxContext.new_context(hparams=hparams):
    variables = layer.init(jax.random.PRNGKey(0), *args, **kwargs)
    return layer.apply(reference_weights(variables), *args, **kwargs)


def check(array, n: int, first: float, last: float, abs_sum: float):
  """Compares a result with its four recorded numbers.

  The numbers have 7 digits: rtol 1e-5, and atol 1e-6 for entries close to zero, where
  float32 sums cancel. The sum of absolute values has the rounding of its terms.
  """
  array = np.asarray(array, np.float64).ravel()
  assert array.size == n
  np.testing.assert_allclose([array[0], array[-1]], [first, last], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.sum(np.abs(array)), abs_sum, rtol=1e-5)
