"""Statistics of an array without its padded entries."""

import jax.numpy as jnp

from pax_haiku import py_utils, pytypes

__all__ = ['compute_stats']

JTensor = pytypes.JTensor


def compute_stats(
  inputs: JTensor, padding: JTensor | None = None
) -> py_utils.NestedMap:
  """Mean, standard deviation and largest absolute value, in float32.

  Args:
    inputs: any shape.
    padding: same rank, broadcastable to `inputs`; 1 marks what to leave out.

  Returns:
    A NestedMap of the scalars `mean_v`, `std_v` and `max_v`.

  Raises:
    AssertionError: the ranks differ.
  """
  x = inputs.astype(jnp.float32)
  if padding is None:
    padding = jnp.zeros_like(x)
  if x.ndim != padding.ndim:
    raise AssertionError(
      f'compute_stats: padding of shape {padding.shape} has another rank than inputs '
      f'of shape {x.shape}. Add axes of size 1 to the padding.'
    )
  mask = 1 - padding.astype(jnp.float32)
  count = jnp.maximum(1.0, jnp.sum(jnp.ones_like(x) * mask))
  mean = jnp.sum(x * mask) / count
  variance = jnp.sum(jnp.square((x - mean) * mask)) / count
  return py_utils.NestedMap(
    mean_v=mean, std_v=jnp.sqrt(variance), max_v=jnp.max(jnp.abs(x * mask))
  )
