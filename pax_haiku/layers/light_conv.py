"""The convolution module of the Conformer."""

import math

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import (
  activations,
  batch_norm,
  depthwise_conv,
  layer_norm,
  linears,
  stochastics,
)
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SplitDimsMapping = pytypes.SplitDimsMapping


class LightConv1D(base_layer.BaseLayer):
  """Gated depthwise convolution over time with a residual connection.

  https://arxiv.org/abs/2005.08100, section 2.2. With `h = ln(x)`: the gated unit
  `a(h) * sigmoid(g(h))`, depthwise convolution, normalization, activation, projection,
  dropout, and `x` added. The result is not set to zero where padded.

  Attributes:
    input_dims: size of inputs and outputs.
    kernel_size: taps of the kernel.
    conv_activation_tpl: the activation.
    dropout_prob: probability of dropping an element.
    ln_tpl: normalization of the inputs.
    linear_start_tpl: both projections before the gate.
    depthwise_conv_tpl: the convolution.
    conv_norm_layer_tpl: normalization after the convolution.
    linear_end_tpl: the projection after the activation.
    dropout_tpl: the dropout.
    is_causal: an output sees no later input (if the normalizations do not).
    use_2d_conv_norm: give the normalization inputs `[B, T, 1, D]`.
  """

  input_dims: int | None = None
  kernel_size: int | None = None
  conv_activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.Swish)
  )
  dropout_prob: float = 0.0
  ln_tpl: LayerTpl = pax_fiddle.template_field(layer_norm.LayerNorm)
  linear_start_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)
  depthwise_conv_tpl: LayerTpl = pax_fiddle.template_field(
    depthwise_conv.DepthwiseConv1D
  )
  conv_norm_layer_tpl: LayerTpl = pax_fiddle.template_field(batch_norm.BatchNorm)
  linear_end_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)
  dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  is_causal: bool = False
  use_2d_conv_norm: bool = False

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the weights.

    Attributes:
      df: of the projections before the gate; reversed for the one at the end.
      him: of the kernel.
    """

    df: SplitDimsMapping = None
    him: SplitDimsMapping = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the activations.

    Attributes:
      blf: of the projections before the gate.
      bld: of the projection at the end.
    """

    blf: SplitDimsMapping = None
    bld: SplitDimsMapping = None

  def _projection(
    self, tpl: LayerTpl, wt: SplitDimsMapping, out: SplitDimsMapping
  ) -> LayerTpl:
    projection = tpl.clone().set(
      input_dims=self.input_dims,
      output_dims=self.input_dims,
      activation_tpl=pax_fiddle.Config(activations.Identity),
      params_init=base_layer.WeightInit.Xavier(math.sqrt(1.5)),
    )
    projection.weight_split_dims_mapping.wt = wt
    projection.activation_split_dims_mapping.out = out
    return projection

  def setup(self) -> None:
    if not self.input_dims or not self.kernel_size:
      raise ValueError(
        f'{describe(self)}: input_dims and kernel_size must be set, found '
        f'{self.input_dims} and {self.kernel_size}.'
      )
    dims = self.input_dims
    wp, ap = self.weight_split_dims_mapping, self.activation_split_dims_mapping
    self.create_child('ln', self.ln_tpl.clone().set(dim=dims))
    start = self._projection(self.linear_start_tpl, wp.df, ap.blf)
    self.create_child('linear_start_act', start)
    self.create_child('linear_start_gated', start)
    fd = None if wp.df is None else list(reversed(wp.df))
    self.create_child(
      'linear_end', self._projection(self.linear_end_tpl, fd, ap.bld)
    )
    conv = self.depthwise_conv_tpl.clone().set(
      filter_shape=(self.kernel_size, dims, 1), is_causal=self.is_causal
    )
    conv.weight_split_dims_mapping.him = wp.him
    self.create_child('depthwise_conv1d', conv)
    self.create_child('conv_norm', self.conv_norm_layer_tpl.clone().set(dim=dims))
    self.create_child('conv_activation', self.conv_activation_tpl.clone())
    self.create_child(
      'dropout', self.dropout_tpl.clone().set(keep_prob=1.0 - self.dropout_prob)
    )

  def _normalize(self, x: JTensor, paddings: JTensor | None) -> JTensor:
    if self.use_2d_conv_norm:
      return jnp.squeeze(self.conv_norm(jnp.expand_dims(x, 2), paddings), 2)
    return self.conv_norm(x, paddings)

  def __call__(self, inputs: JTensor, paddings: JTensor | None) -> JTensor:
    """Maps `[B, T, input_dims]` to the same.

    Args:
      inputs: `[B, T, input_dims]`.
      paddings: `[B, T]`, 1 where padded, or None.
    """
    x = self.ln(inputs)
    x = self.linear_start_act(x) * jax.nn.sigmoid(self.linear_start_gated(x))
    x = self.depthwise_conv1d(x, paddings)
    x = self.conv_activation(self._normalize(x, paddings))
    return self.dropout(self.linear_end(x)) + inputs
