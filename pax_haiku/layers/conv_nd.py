"""Convolutions in two and three axes, channels last."""

import dataclasses
from collections.abc import Sequence

import jax

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import norm_base
from pax_haiku.layers.conv_padding import causal_padding, symmetric_padding
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


class _ConvNd(base_layer.BaseLayer):
  """What Conv2D and Conv3D share; see there.

  Attributes:
    filter_shape: sizes of the kernel, input channels a group, output channels.
    filter_stride: stride of each axis.
    dilations: distance of the kernel's taps in each axis.
    bias: add a bias to each output channel.
    bias_init: its initial value.
    kernel_init: initial kernel; None: `params_init`.
    padding: 'SAME' or 'VALID'.
    tf_equivalent_padding: let XLA pad, as TensorFlow does. By default 'SAME' pads
      `(k - 1) // 2` before and the rest of `k - 1` behind, whatever the stride, where
      `k` is the span of the (dilated) kernel.
    is_causal: pad the first axis before only; needs `tf_equivalent_padding` and 'SAME'.
  """

  # Names of the spatial axes, as `jax.lax.conv_general_dilated` takes them.
  _AXES = ''

  filter_shape: Sequence[int] = ()
  filter_stride: Sequence[int] = ()
  dilations: Sequence[int] = ()
  bias: bool = False
  bias_init: WeightInit = dataclasses.field(
    default_factory=lambda: WeightInit.Constant(0.0)
  )
  kernel_init: WeightInit | None = None
  padding: str = 'SAME'
  tf_equivalent_padding: bool = False
  is_causal: bool = False

  @classmethod
  def HParamsDepthwise(
    cls,
    *,
    kernel_shape: Sequence[int],
    in_channels: int,
    channel_multipliers: int = 1,
    **hparams,
  ) -> pax_fiddle.Config:
    """Config of a convolution of each channel by itself.

    Args:
      kernel_shape: sizes of the kernel.
      in_channels: number of channels.
      channel_multipliers: outputs of each channel.
      **hparams: other fields.

    Raises:
      ValueError: `kernel_shape` has the wrong length, or `filter_shape` is given.
    """
    if len(kernel_shape) != len(cls._AXES):
      raise ValueError(
        f'{cls.__name__}.HParamsDepthwise: kernel_shape must have {len(cls._AXES)} '
        f'elements, found {kernel_shape}.'
      )
    if 'filter_shape' in hparams:
      raise ValueError(
        f'{cls.__name__}.HParamsDepthwise: filter_shape follows from the other '
        "arguments and can't be given."
      )
    filter_shape = (*kernel_shape, 1, in_channels * channel_multipliers)
    return cls.config(filter_shape=filter_shape, **hparams)

  def check_dimensions(self) -> None:
    """Checks the fields.

    Raises:
      ValueError: a field has the wrong length or value.
      NotImplementedError: causal convolution with 'VALID' padding.
    """
    rank = len(self._AXES)
    for name, length in (
      ('filter_shape', rank + 2),
      ('filter_stride', rank),
      ('dilations', rank),
    ):
      if len(getattr(self, name)) != length:
        raise ValueError(
          f'{describe(self)}: {name} must have {length} values, found '
          f'{tuple(getattr(self, name))}.'
        )
    if any(stride <= 0 for stride in self.filter_stride):
      raise ValueError(
        f'{describe(self)}: filter_stride must be positive, found '
        f'{tuple(self.filter_stride)}.'
      )
    if self.padding not in ('SAME', 'VALID'):
      raise ValueError(
        f"{describe(self)}: padding must be 'SAME' or 'VALID', found {self.padding!r}."
      )
    if self.is_causal and not self.tf_equivalent_padding:
      raise ValueError(
        f'{describe(self)}: is_causal=True needs tf_equivalent_padding=True.'
      )
    if self.is_causal and self.padding == 'VALID':
      raise NotImplementedError(
        f"{describe(self)}: is_causal=True needs padding='SAME', found 'VALID'."
      )

  def setup(self) -> None:
    self.check_dimensions()
    self.create_variable(
      'w',
      WeightHParams(
        shape=self.filter_shape,
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=self.weight_split_dims_mapping.wt,
        init=self.kernel_init,
      ),
    )
    if self.bias:
      self.create_variable(
        'b', WeightHParams(shape=[self.filter_shape[-1]], init=self.bias_init)
      )

  def _compute_padding(
    self, pad_height_zero: bool = False
  ) -> str | list[tuple[int, int]]:
    """Padding of each axis, or the name of one of XLA's ways.

    Args:
      pad_height_zero: don't pad the causal axis, whose past a streaming layer keeps.
    """
    spans = list(zip(self.filter_shape, self.dilations, strict=False))
    if self.is_causal:
      past = 0 if pad_height_zero else causal_padding(*spans[0])
      return [(past, 0)] + [symmetric_padding(*span) for span in spans[1:]]
    if self.tf_equivalent_padding:
      return self.padding
    if self.padding == 'VALID':
      return [(0, 0)] * len(spans)
    return [symmetric_padding(*span) for span in spans]

  def _kernel(self) -> JTensor:
    return self.theta.w

  def _shard(self, x: JTensor) -> JTensor:
    return x

  def __call__(self, inputs: JTensor) -> JTensor:
    """Convolves `inputs [batch, spatial axes..., channels]`, cast to `fprop_dtype`.

    Raises:
      ValueError: rank or number of channels do not fit.
    """
    shape = tuple(self.filter_shape)
    if inputs.ndim != len(shape):
      raise ValueError(
        f'{describe(self)}: expected inputs of rank {len(shape)} '
        f'(N{self._AXES}C), found shape {inputs.shape}.'
      )
    groups = inputs.shape[-1] // shape[-2]
    if not groups or inputs.shape[-1] % shape[-2]:
      raise ValueError(
        f'{describe(self)}: the input channels must be a multiple of filter_shape[-2], '
        f'found inputs of shape {inputs.shape} and filter_shape {shape}.'
      )
    if shape[-1] % groups:
      raise ValueError(
        f'{describe(self)}: filter_shape[-1] must be a multiple of the {groups} groups '
        f'that inputs of shape {inputs.shape} make, found filter_shape {shape}.'
      )
    outputs = jax.lax.conv_general_dilated(
      lhs=self._shard(inputs.astype(self.fprop_dtype)),
      rhs=self._kernel(),
      window_strides=tuple(self.filter_stride),
      padding=self._compute_padding(),
      rhs_dilation=tuple(self.dilations),
      dimension_numbers=(f'N{self._AXES}C', f'{self._AXES}IO', f'N{self._AXES}C'),
      feature_group_count=groups,
    )
    outputs = self._shard(outputs)
    if self.bias:
      outputs += self.theta.b
    return outputs


class Conv2D(_ConvNd):
  """Convolution of `[batch, height, width, channels]`.

  Attributes:
    filter_shape: height and width of the kernel, input channels a group, output
      channels. The inputs make `channels // filter_shape[2]` groups.
    filter_stride: strides in height and width.
    dilations: distances of the kernel's taps in height and width.
    weight_norm_tpl: normalization of the kernel.
  """

  _AXES = 'HW'

  filter_shape: Sequence[int] = (0, 0, 0, 0)
  filter_stride: Sequence[int] = (0, 0)
  dilations: Sequence[int] = (1, 1)
  weight_norm_tpl: pax_fiddle.Config[norm_base.BaseNormalization] = (
    pax_fiddle.template_field(norm_base.IdentityNorm)
  )

  def setup(self) -> None:
    super().setup()
    self.create_child(
      'weight_norm', self.weight_norm_tpl.clone().set(dim=self.filter_shape[-1])
    )

  def _kernel(self) -> JTensor:
    return self.weight_norm(self.theta.w)

  def _shard(self, x: JTensor) -> JTensor:
    out = self.activation_split_dims_mapping.out
    return base_layer.maybe_shard(x, out, self.mesh_axis_names)


class Conv3D(_ConvNd):
  """Convolution of `[batch, time, height, width, channels]`.

  Attributes:
    filter_shape: time, height and width of the kernel, input channels a group, output
      channels.
    filter_stride: strides in time, height and width.
    dilations: distances of the kernel's taps in time, height and width.
  """

  _AXES = 'THW'

  filter_shape: Sequence[int] = (0, 0, 0, 0, 0)
  filter_stride: Sequence[int] = (0, 0, 0)
  dilations: Sequence[int] = (1, 1, 1)
