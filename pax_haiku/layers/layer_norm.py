"""Normalization of each feature vector by itself: LayerNorm and the RMS norms."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import norm_base

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


def _feature_vector(
  layer: norm_base.BaseNormalization, init: float, collections: list[str] | None = None
) -> WeightHParams:
  """A `[dim]` variable, sharded by `wt`, replicated when only a mesh is given."""
  mapping = layer.weight_split_dims_mapping.wt
  if layer.mesh_shape is not None and mapping is None:
    mapping = [-1]
  return WeightHParams(
    shape=[layer.dim],
    init=WeightInit.Constant(init),
    mesh_shape=layer.mesh_shape,
    tensor_split_dims_mapping=mapping,
    collections=collections,
  )


class LayerNorm(norm_base.BaseNormalization):
  """`(x - mean) / sqrt(variance + epsilon) * (1 + scale) + bias` over the last axis.

  https://arxiv.org/abs/1607.06450. `paddings` are ignored.

  Attributes:
    direct_scale: multiply by `scale` (which then starts at 1), not by `1 + scale`.
    epsilon: added to the variance.
    use_scale: has a `scale [dim]`.
    use_bias: has a `bias [dim]`.
    reductions_in_fp32: normalize in float32, then go back to the inputs' dtype.
  """

  direct_scale: bool = False
  epsilon: float = 1e-6
  use_scale: bool = True
  use_bias: bool = True
  reductions_in_fp32: bool = False

  def setup(self) -> None:
    skip = [base_layer.WeightHParamsCollection.SKIP_LP_REGULARIZATION]
    if self.use_scale:
      init = 1.0 if self.direct_scale else 0.0
      self.create_variable('scale', _feature_vector(self, init, skip))
    if self.use_bias:
      self.create_variable('bias', _feature_vector(self, 0.0, skip))

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes `inputs [..., dim]`; the result has the promoted dtype."""
    x = inputs.astype(jnp.float32) if self.reductions_in_fp32 else inputs
    mean = jnp.mean(x, axis=-1, keepdims=True)
    # `x - mean` is written twice: gradients then round as Pax's do.
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    outputs = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
    if self.reductions_in_fp32:
      outputs = outputs.astype(inputs.dtype)
    if self.use_scale:
      scale = self.theta.scale
      outputs *= scale if self.direct_scale else 1 + scale
    if self.use_bias:
      outputs += self.theta.bias
    return outputs


class RmsNorm(norm_base.BaseNormalization):
  """`x / sqrt(mean(x^2) + epsilon) * scale` over the last axis, in `fprop_dtype`.

  https://arxiv.org/abs/1910.07467. `paddings` are ignored.

  Attributes:
    epsilon: added to the mean square.
    direct_scale: multiply by `scale` (which then starts at 1). False: by `1 + scale`,
      and `scale` starts at 0.
    intermediate_dtype: dtype in which the mean square is computed; None: the inputs'.
  """

  epsilon: float = 1e-6
  direct_scale: bool = True
  intermediate_dtype: jnp.dtype | None = None

  def setup(self) -> None:
    init = 1.0 if self.direct_scale else 0.0
    self.create_variable('scale', _feature_vector(self, init))

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes `inputs [..., dim]`."""
    if self.intermediate_dtype is not None:
      inputs = inputs.astype(self.intermediate_dtype)
    mean_square = jnp.mean(jnp.square(inputs), axis=-1, keepdims=True)
    outputs = inputs * jax.lax.rsqrt(mean_square + self.epsilon)
    outputs = outputs.astype(self.fprop_dtype)
    scale = self.theta.scale
    return outputs * (scale if self.direct_scale else 1 + scale)


class RmsNormNoScale(norm_base.BaseNormalization):
  """`x / sqrt(mean(x^2) + epsilon)` over the last axis, in the inputs' dtype.

  The mean is accumulated in float32. `paddings` are ignored.

  Attributes:
    epsilon: added to the mean square.
  """

  epsilon: float = 1e-6

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes `inputs [..., dim]`."""
    mean_square = jnp.mean(
      jnp.square(inputs), axis=-1, dtype=jnp.float32, keepdims=True
    )
    return (inputs * jax.lax.rsqrt(mean_square + self.epsilon)).astype(inputs.dtype)
