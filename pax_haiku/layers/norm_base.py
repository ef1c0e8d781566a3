"""What the normalization layers share: the base class, the no-op, masked moments."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes

JTensor = pytypes.JTensor


def compute_moments(
  inputs: JTensor,
  padding: JTensor,
  reduce_over_dims: Sequence[int],
  cumulative_axis: int | None = None,
  keepdims: bool = False,
) -> tuple[JTensor, JTensor]:
  """Mean and variance of the unpadded part of `inputs`.

  With mask `m = 1 - padding`: mean is `sum(x m) / n`, variance is
  `sum((x - mean)^2 m) / n`, and `n = max(sum(m), 1)` counts elements of `inputs`.
  Under a `pmap` whose axis is called `'batch'` the sums run over all devices.

  Args:
    inputs: any shape.
    padding: same rank, broadcastable to `inputs`; 1 marks what to leave out.
    reduce_over_dims: non-negative axes that are averaged away.
    cumulative_axis: if given, entry `t` of this axis sees the steps up to `t` only.
      Each squared difference is taken to the mean *at its own step*, so the variance
      is not the textbook running variance. Needs `keepdims=True` to make sense.
    keepdims: keep the reduced axes with size 1.

  Returns:
    `(mean, variance)` in the dtype that `inputs` and `padding` promote to.

  Raises:
    ValueError: the ranks differ, or an axis is out of range.
  """
  if inputs.ndim != padding.ndim:
    raise ValueError(
      f'compute_moments: padding of shape {padding.shape} has another rank than inputs '
      f'of shape {inputs.shape}. Add axes of size 1 to the padding.'
    )
  for dim in reduce_over_dims:
    if not 0 <= dim < inputs.ndim:
      raise ValueError(
        f'compute_moments: {dim} in reduce_over_dims={list(reduce_over_dims)} is not '
        f'an axis of inputs of shape {inputs.shape}. Give axes from 0 to '
        f'{inputs.ndim - 1}.'
      )
  mask = 1 - padding

  def total(x):
    x = jnp.sum(x, axis=tuple(reduce_over_dims), keepdims=keepdims)
    if cumulative_axis is not None:
      x = jnp.cumsum(x, axis=cumulative_axis)
    if base_layer.is_running_under_pmap():
      x = jax.lax.psum(x, axis_name=base_layer.PMAP_PARALLEL_AXIS_NAME)
    return x

  def broadcast_to_inputs(x):
    return x if keepdims else jnp.expand_dims(x, tuple(reduce_over_dims))

  count = jnp.maximum(total(jnp.ones_like(inputs) * mask), 1)
  mean = total(inputs * mask) / count
  centered = inputs - broadcast_to_inputs(mean)
  variance = total(jnp.square(centered) * mask) / count
  return mean, variance


class BaseNormalization(base_layer.BaseLayer):
  """Base of all normalizations.

  Attributes:
    dim: size of the last axis of the inputs.
  """

  dim: int = 0

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes `inputs [..., dim]`; `paddings [...]` is 1 where to ignore them."""
    raise NotImplementedError(
      f'{type(self).__name__} must define __call__(inputs, paddings=None).'
    )


class IdentityNorm(BaseNormalization):
  """Returns its inputs."""

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    return inputs
