"""Batch normalization with the epsilon that Haiku's has; Pax's is fixed at 0.001."""

import jax
import jax.numpy as jnp

from pax_haiku import layers


class BatchNorm(layers.BatchNorm):
  """Pax's BatchNorm, its moving averages included, with another epsilon.

  Haiku divides its averages by what the first steps lack (zero_debias) and Pax does
  not: after a conversion the two go on alike in evaluation, and in training up to that
  difference in the averages.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float = 1e-5

  def __call__(self, inputs, paddings=None):
    """Normalizes `[..., dim]`; `paddings` is not supported."""
    if paddings is not None:
      raise NotImplementedError(f'{self._pax_describe()} takes no paddings.')
    nothing = jnp.zeros([*inputs.shape[:-1], 1])
    mean, variance, beta, gain = self.compute_and_update_moments(inputs, nothing)
    return (inputs - mean) * (gain * jax.lax.rsqrt(variance + self.epsilon)) + beta
