"""Depthwise convolution over time."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.conv_padding import causal_padding
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


class BaseDepthwiseConv1D(base_layer.BaseLayer):
  """The fields of a depthwise convolution over time.

  Attributes:
    filter_shape: taps of the kernel, input channels, outputs of each channel.
    bias: add a bias to each output channel.
    bias_init: its initial value.
    is_causal: an output sees no later input.
    use_2d_conv_weight_shape: store the kernel with an axis of size 1 at the end.
    rhs_dilation_rate: distance of the kernel's taps.
  """

  filter_shape: Sequence[int] = (0, 0, 0)
  bias: bool = False
  bias_init: WeightInit = dataclasses.field(
    default_factory=lambda: WeightInit.Constant(0.0)
  )
  is_causal: bool = False
  use_2d_conv_weight_shape: bool = False
  rhs_dilation_rate: int = 1

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Convolves `inputs [B, T, D]`; `paddings [B, T]` is 1 where padded."""
    raise NotImplementedError(
      f'{type(self).__name__} must define __call__(inputs, paddings=None).'
    )


class DepthwiseConv1D(BaseDepthwiseConv1D):
  """Convolution over time of each channel by itself, stride 1, length kept."""

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the kernel.

    Attributes:
      him: of time, the axis of size 1, and output channels.
    """

    him: SplitDimsMapping = None

  def setup(self) -> None:
    if len(self.filter_shape) != 3:
      raise AssertionError(
        f'{describe(self)}: filter_shape must have 3 values (taps, channels, '
        f'multiplier), found {tuple(self.filter_shape)}.'
      )
    if self.rhs_dilation_rate <= 0:
      raise AssertionError(
        f'{describe(self)}: rhs_dilation_rate must be positive, found '
        f'{self.rhs_dilation_rate}.'
      )
    taps, channels, multiplier = self.filter_shape
    shape = [taps, 1, channels * multiplier]
    mapping = self.weight_split_dims_mapping.him
    if self.use_2d_conv_weight_shape:
      shape.append(1)
      if mapping is not None:
        mapping = [mapping[0], None, *mapping[1:]]
    self.create_variable(
      'w',
      WeightHParams(
        shape=shape, mesh_shape=self.mesh_shape, tensor_split_dims_mapping=mapping
      ),
    )
    if self.bias:
      self.create_variable(
        'b', WeightHParams(shape=[channels * multiplier], init=self.bias_init)
      )

  def get_w(self) -> JTensor:
    """The kernel, `[taps, 1, channels * multiplier]`."""
    w = self.theta.w
    return jnp.squeeze(w, -1) if self.use_2d_conv_weight_shape else w

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Convolves `inputs`.

    Args:
      inputs: `[B, T, channels]`; cast to `fprop_dtype`.
      paddings: `[B, T]`; inputs are taken as 0 where it is 1. The result is not.

    Returns:
      `[B, T, channels * multiplier]`.
    """
    if paddings is not None:
      inputs = jnp.where(paddings[:, :, jnp.newaxis] > 0, 0, inputs)
    taps, channels, _ = self.filter_shape
    past = causal_padding(taps, self.rhs_dilation_rate)
    outputs = jax.lax.conv_general_dilated(
      lhs=inputs.astype(self.fprop_dtype),
      rhs=self.get_w(),
      window_strides=(1,),
      padding=[(past, 0)] if self.is_causal else 'SAME',
      rhs_dilation=(self.rhs_dilation_rate,),
      dimension_numbers=('NHC', 'HIO', 'NHC'),
      feature_group_count=channels,
    )
    if self.bias:
      outputs += self.theta.b
    return outputs
