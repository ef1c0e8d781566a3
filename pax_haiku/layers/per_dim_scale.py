"""A learned scale for each dimension of a query."""

import math

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


class PerDimScale(base_layer.BaseLayer):
  """`x softplus(s) / (softplus(0) sqrt(dim))`, with one learned `s` a dimension.

  `s` starts at 0, so that queries start out scaled by `1 / sqrt(dim)`.

  Attributes:
    dim: number of dimensions.
  """

  dim: int = 0

  def setup(self) -> None:
    self.create_variable(
      'per_dim_scale',
      base_layer.WeightHParams(
        shape=[self.dim], init=base_layer.WeightInit.Constant(0.0)
      ),
    )

  def __call__(self, inputs: JTensor) -> JTensor:
    """Scales `[..., dim]`.

    Raises:
      AssertionError: the last axis has another length.
    """
    if inputs.shape[-1] != self.dim:
      raise AssertionError(
        f'{describe(self)}: expected inputs [..., {self.dim}] (dim), got shape '
        f'{inputs.shape}.'
      )
    inverse_softplus_of_0 = 1.442695041
    scale = jnp.asarray(inverse_softplus_of_0 / math.sqrt(self.dim), inputs.dtype)
    return inputs * (scale * jax.nn.softplus(self.theta.per_dim_scale))
