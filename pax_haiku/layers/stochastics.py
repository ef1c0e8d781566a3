"""Layers that draw random numbers: dropout, and residual branches left out at random.

Both draw from the stream `random` (`next_prng_key`).
"""

import numbers
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

__all__ = ['Dropout', 'StochasticResidual']

JTensor = pytypes.JTensor


class Dropout(base_layer.BaseLayer):
  """`x mask / keep_prob`, where entries of the mask are 1 with `keep_prob`, else 0.

  Outside of training, and if `keep_prob` is 1, the inputs are returned and nothing is
  drawn.

  Attributes:
    keep_prob: probability to keep an entry.
    noise_shape: shape of the mask, which is broadcast; None: that of the inputs.
    noise_shape_broadcast_dims: axes (negative ones count from the end) along which
      all entries share their fate: the mask has size 1 there.
    dropout_at_eval: drop in evaluation, too.
    transpose_qk: draw a rank-4 mask with its last two axes swapped, if they are equally
      long. Makes no difference to the distribution.
  """

  keep_prob: float = 1.0
  noise_shape: Sequence[int] | None = None
  noise_shape_broadcast_dims: Sequence[int] | None = None
  dropout_at_eval: bool = False
  transpose_qk: bool | None = False

  def _mask_shape(self, inputs: JTensor) -> list[int]:
    shape = list(inputs.shape if self.noise_shape is None else self.noise_shape)
    for dim in self.noise_shape_broadcast_dims or ():
      if not -len(shape) <= dim < len(shape):
        raise ValueError(
          f'{describe(self)}: {dim} in noise_shape_broadcast_dims='
          f'{list(self.noise_shape_broadcast_dims)} is not an axis of the noise shape '
          f'{shape}.'
        )
      shape[dim] = 1
    return shape

  def __call__(self, inputs: JTensor) -> JTensor:
    """Drops entries of `inputs`.

    Raises:
      AssertionError: `keep_prob` is not positive.
      ValueError: `noise_shape_broadcast_dims` names an axis that does not exist.
    """
    if isinstance(self.keep_prob, numbers.Real) and self.keep_prob == 1.0:
      return inputs
    if self.do_eval and not self.dropout_at_eval:
      return inputs
    if isinstance(self.keep_prob, numbers.Real) and self.keep_prob <= 0:
      raise AssertionError(
        f'{describe(self)}: keep_prob must be positive, found {self.keep_prob}.'
      )
    inputs = jnp.asarray(inputs)
    shape = self._mask_shape(inputs)
    noise = jax.random.uniform(self.next_prng_key(), shape, inputs.dtype)
    if self.transpose_qk and noise.ndim == 4 and shape[-1] == shape[-2]:
      noise = jnp.swapaxes(noise, -1, -2)
    mask = jnp.floor(self.keep_prob + noise)
    return inputs * mask / self.keep_prob


class StochasticResidual(base_layer.BaseLayer):
  """Adds a residual branch, left out for some examples in training.

  `inputs + residual_weight residual mask / survival_prob`; the mask is 1 with
  `survival_prob`, else 0, and the same for all entries of an example. In evaluation
  mask and `survival_prob` count as 1. https://arxiv.org/abs/1603.09382

  Attributes:
    residual_weight: factor of the residual.
    survival_prob: probability to keep the residual of an example. In training a key is
      drawn even if it is 1.
  """

  residual_weight: float = 1.0
  survival_prob: float = 1.0

  def __call__(self, inputs: JTensor, residual: JTensor) -> JTensor:
    """Adds `residual [B, ...]` to `inputs [B, ...]`."""
    if not self.do_eval:
      residual = jnp.asarray(residual)
      shape = [residual.shape[0]] + [1] * (residual.ndim - 1)
      noise = jax.random.uniform(self.next_prng_key(), shape, residual.dtype)
      mask = jnp.floor(self.survival_prob + noise)
      residual = residual / self.survival_prob * mask
    return inputs + self.residual_weight * residual
