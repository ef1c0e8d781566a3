"""Residual networks for images: blocks, and the networks of 18 to 152 layers.

https://arxiv.org/abs/1512.03385.
"""

from collections.abc import Sequence

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import (
  activations,
  convolutions,
  normalizations,
  poolings,
  stochastics,
)
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
NestedMap = base_layer.NestedMap
WeightInit = base_layer.WeightInit


class ResNetBlock(base_layer.BaseLayer):
  """Bottleneck block: convolutions of 1x1, k x k and 1x1, and a way around them.

      y = body_2(body_1(body_0(x))),  out = act(shortcut(x) + y)

  The first two convolutions have a quarter of the output channels. There is a
  shortcut, a 1x1 convolution, if the stride isn't 1 or the numbers of channels differ.

  Attributes:
    input_dim: channels of the input.
    output_dim: channels of the output.
    conv_params: each convolution with its normalization, a `ConvBNAct`. The block sets
      the shape, stride and activation.
    kernel_size: k.
    stride: of the k x k convolution and of the shortcut.
    activation_tpl: the activation.
    residual_droppath_prob: probability to leave `y` out for an example in training.
    zero_init_residual: begin with `y = 0`, by the scale of the last normalization
      (https://arxiv.org/abs/2105.07576).
  """

  input_dim: int = 0
  output_dim: int = 0
  conv_params: LayerTpl = pax_fiddle.template_field(convolutions.ConvBNAct)
  kernel_size: int = 3
  stride: int = 1
  activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.ReLU)
  )
  residual_droppath_prob: float = 0.0
  zero_init_residual: bool = False

  def setup(self) -> None:
    self.create_children('body', self._body())
    if self._has_shortcut:
      self.create_child(
        'shortcut',
        self._conv(1, self.input_dim, self.output_dim, self.stride, activate=False),
      )
    if self.residual_droppath_prob > 0:
      self.create_child(
        'residual_droppath',
        pax_fiddle.Config(
          stochastics.StochasticResidual,
          survival_prob=1.0 - self.residual_droppath_prob,
        ),
      )
    self.create_child('postact', self.activation_tpl)

  @property
  def _has_shortcut(self) -> bool:
    return self.input_dim != self.output_dim or self.stride != 1

  def _conv(self, size: int, inputs: int, outputs: int, stride=1, activate=True):
    """The template of a convolution."""
    identity = pax_fiddle.Config(activations.Identity)
    return self.conv_params.clone().set(
      filter_shape=(size, size, inputs, outputs),
      filter_stride=(stride, stride),
      activation_tpl=self.activation_tpl.clone() if activate else identity,
    )

  def _body(self) -> list[LayerTpl]:
    inner = self.output_dim // 4
    last = self._conv(1, inner, self.output_dim, activate=False)
    if self.zero_init_residual:
      if last.batch_norm_tpl is None:
        raise NotImplementedError(
          f'{describe(self)}: zero_init_residual needs a normalization in conv_params, '
          'found batch_norm_tpl=None.'
        )
      # BatchNorm multiplies by 1 + gamma.
      last.batch_norm_tpl.gamma_init = WeightInit.Constant(-1.0)
    return [
      self._conv(1, self.input_dim, inner),
      self._conv(self.kernel_size, inner, inner, self.stride),
      last,
    ]

  def __call__(self, inputs: JTensor) -> JTensor:
    """Maps `[B, H, W, input_dim]` to `[B, H', W', output_dim]`."""
    outputs = inputs
    for conv in self.body:
      outputs = conv(outputs)
    if self._has_shortcut:
      inputs = self.shortcut(inputs)
    if self.residual_droppath_prob:
      return self.postact(self.residual_droppath(inputs, outputs))
    return self.postact(outputs + inputs)


class ResNetBasicBlock(ResNetBlock):
  """Block of two k x k convolutions, the first one with the stride.

  `zero_init_residual` has no effect.
  """

  def _body(self) -> list[LayerTpl]:
    size, outputs = self.kernel_size, self.output_dim
    return [
      self._conv(size, self.input_dim, outputs, self.stride),
      self._conv(size, outputs, outputs, activate=False),
    ]


def _default_conv():
  return pax_fiddle.Config(
    convolutions.ConvBNAct,
    batch_norm_tpl=pax_fiddle.Config(normalizations.BatchNorm, decay=0.9),
    params_init=WeightInit.GaussianSqrtFanOut(1.4141),
  )


def _default_pooling():
  return pax_fiddle.Config(poolings.GlobalPooling, pooling_dims=(1, 2))


class ResNet(base_layer.BaseLayer):
  """A convolution, a max pooling, stages of blocks, and a pooling over the image.

  The defaults are ResNet-50. A stage is `blocks[i]` blocks of `channels[i]` channels;
  its first block has the stride. The first convolution has `channels[0] // 4` channels
  if the blocks are `ResNetBlock`s, with blocks of any other class `channels[0]`.

  Attributes:
    conv_params: each convolution with its normalization; replaces the one of
      `block_params`.
    block_params: the blocks.
    strides: one per stage.
    channels: one per stage.
    blocks: numbers of blocks, one per stage.
    kernels: kernel sizes, one per stage.
    entryflow_conv_kernel: of the first convolution: height, width, input channels.
    entryflow_conv_stride: of the first convolution, vertical and horizontal.
    output_spatial_pooling_params: the last pooling; None: none.
    return_block_features: return the output of each stage, before that pooling.
    entry_max_pool: whether there is a max pooling after the first convolution.
  """

  conv_params: LayerTpl = pax_fiddle.template_field(_default_conv)
  block_params: LayerTpl = pax_fiddle.template_field(ResNetBlock)
  strides: Sequence[int] = (1, 2, 2, 2)
  channels: Sequence[int] = (256, 512, 1024, 2048)
  blocks: Sequence[int] = (3, 4, 6, 3)
  kernels: Sequence[int] = (3, 3, 3, 3)
  entryflow_conv_kernel: Sequence[int] = (7, 7, 3)
  entryflow_conv_stride: Sequence[int] = (2, 2)
  output_spatial_pooling_params: LayerTpl | None = pax_fiddle.template_field(
    _default_pooling
  )
  return_block_features: bool = False
  entry_max_pool: bool = True

  @classmethod
  def HParamsResNet5(cls) -> LayerTpl:
    """A small network for tests: one block of 16 channels."""
    return pax_fiddle.Config(cls, strides=[1], channels=[16], blocks=[1], kernels=[1])

  @classmethod
  def HParamsResNet18(cls) -> LayerTpl:
    """ResNet-18."""
    return cls._of_basic_blocks([2, 2, 2, 2])

  @classmethod
  def HParamsResNet34(cls) -> LayerTpl:
    """ResNet-34."""
    return cls._of_basic_blocks([3, 4, 6, 3])

  @classmethod
  def HParamsResNet50(cls) -> LayerTpl:
    """ResNet-50."""
    return pax_fiddle.Config(cls)

  @classmethod
  def HParamsResNet56(cls) -> LayerTpl:
    """56 layers."""
    return pax_fiddle.Config(cls, blocks=[3, 3, 9, 3])

  @classmethod
  def HParamsResNet83(cls) -> LayerTpl:
    """83 layers."""
    return pax_fiddle.Config(cls, blocks=[3, 3, 18, 3])

  @classmethod
  def HParamsResNet101(cls) -> LayerTpl:
    """ResNet-101."""
    return pax_fiddle.Config(cls, blocks=[3, 4, 23, 3])

  @classmethod
  def HParamsResNet152(cls) -> LayerTpl:
    """ResNet-152."""
    return pax_fiddle.Config(cls, blocks=[3, 8, 36, 3])

  @classmethod
  def _of_basic_blocks(cls, blocks: list[int]) -> LayerTpl:
    return pax_fiddle.Config(
      cls,
      channels=(64, 128, 256, 512),
      block_params=pax_fiddle.Config(ResNetBasicBlock),
      blocks=blocks,
    )

  def setup(self) -> None:
    self._check_lengths()
    block = self.block_params.clone()
    if hasattr(block, 'conv_params'):
      block.conv_params = self.conv_params.clone()
    contraction = 4 if block.cls is ResNetBlock else 1
    channels = self.channels[0] // contraction
    self.create_child(
      'entryflow_conv',
      self.conv_params.clone().set(
        filter_shape=(*self.entryflow_conv_kernel, channels),
        filter_stride=self.entryflow_conv_stride,
      ),
    )
    self.create_child(
      'entryflow_maxpool',
      pax_fiddle.Config(
        poolings.Pooling, window_shape=(3, 3), window_stride=(2, 2), pooling_type='MAX'
      ),
    )
    for i, outputs in enumerate(self.channels):
      for j in range(self.blocks[i]):
        template = block.clone().set(
          kernel_size=self.kernels[i],
          input_dim=channels,
          output_dim=outputs,
          stride=1 if j else self.strides[i],
        )
        self.create_child(f'stage_{i}_block_{j}', template)
        channels = outputs
    if self.output_spatial_pooling_params is not None:
      self.create_child('output_spatial_pooling', self.output_spatial_pooling_params)

  def _check_lengths(self):
    lengths = {
      name: len(getattr(self, name))
      for name in ('strides', 'channels', 'blocks', 'kernels')
    }
    if len(set(lengths.values())) > 1:
      raise ValueError(
        f'{describe(self)}: there must be one entry per stage in each of these fields, '
        f'found {lengths} entries.'
      )

  def __call__(self, inputs: JTensor) -> JTensor | dict[int, JTensor]:
    """Runs the network.

    Args:
      inputs: images `[B, H, W, C]`, C the last of `entryflow_conv_kernel`.

    Returns:
      `[B, channels[-1]]`; without a last pooling `[B, H', W', channels[-1]]`. With
      `return_block_features` a dict with the output of each stage, numbered from 2.

    Raises:
      ValueError: the fields don't agree on the number of stages.
    """
    outputs = self.entryflow_conv(inputs)
    if self.entry_max_pool:
      outputs, _ = self.entryflow_maxpool(outputs)
    features = {}
    for i, num_blocks in enumerate(self.blocks):
      for j in range(num_blocks):
        outputs = getattr(self, f'stage_{i}_block_{j}')(outputs)
      features[2 + i] = outputs
    if self.return_block_features:
      return features
    if self.output_spatial_pooling_params is not None:
      outputs = self.output_spatial_pooling(outputs)
    return outputs
