"""Convolution, batch normalization and activation in one layer."""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import activations, batch_norm, conv_nd
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]


class ConvBNAct(conv_nd.Conv2D):
  """Conv2D, then normalization, then activation.

  Attributes:
    batch_norm_tpl: the normalization; None: none. Its `use_moving_avg_in_training` is
      set to False, so it must have that field.
    activation_tpl: the activation.
  """

  batch_norm_tpl: LayerTpl | None = pax_fiddle.template_field(batch_norm.BatchNorm)
  activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.ReLU)
  )

  def setup(self) -> None:
    super().setup()
    if self.batch_norm_tpl is not None:
      norm = self.batch_norm_tpl.clone()
      norm.set(dim=self.filter_shape[-1], use_moving_avg_in_training=False)
      self.create_child('bn', norm)
    self.create_child('activation', self.activation_tpl.clone())

  def __call__(self, inputs: JTensor) -> JTensor:
    """Maps `[batch, height, width, channels]` to the same with other sizes."""
    outputs = super().__call__(inputs)
    if self.batch_norm_tpl is not None:
      outputs = self.bn(outputs)
    return self.activation(outputs)


class ConvBNActWithPadding(ConvBNAct):
  """ConvBNAct for sequences of different lengths, whose height is time.

  The normalization does not see the paddings. The outputs are set to zero where padded,
  except for stride 1 with 'SAME' padding.

  Attributes:
    compat_with_lingvo: strided 'SAME' convolutions keep the last padding of each stride
      rather than the first, and pad what then is missing. No dilations.
  """

  compat_with_lingvo: bool = False

  def setup(self) -> None:
    super().setup()
    if self.compat_with_lingvo and tuple(self.dilations) != (1, 1):
      raise AssertionError(
        f'{describe(self)}: compat_with_lingvo=True needs dilations (1, 1), found '
        f'{tuple(self.dilations)}.'
      )

  def _output_paddings(self, paddings: JTensor, length: int) -> JTensor:
    stride = self.filter_stride[0]
    if self.padding == 'VALID':
      taps = self.filter_shape[0]
      end = paddings.shape[1] - taps + 1
      windows = [paddings[:, i : i + end : stride] for i in range(taps)]
      return jnp.min(jnp.stack(windows), axis=0)
    if self.compat_with_lingvo:
      kept = paddings[:, stride - 1 :: stride]
      return jnp.pad(kept, [(0, 0), (0, length - kept.shape[1])], constant_values=1.0)
    return paddings[:, ::stride]

  def __call__(self, inputs: JTensor, paddings: JTensor) -> tuple[JTensor, JTensor]:
    """Convolves the unpadded part.

    Args:
      inputs: `[batch, time, width, channels]`.
      paddings: `[batch, time]`, 1 where padded.

    Returns:
      `(outputs, paddings)`. The paddings of a strided 'SAME' convolution are every
      stride-th one; those of a 'VALID' one are the minimum over each window, dilation
      left aside.
    """
    outputs = super().__call__(py_utils.apply_padding(inputs, paddings, axis=0))
    if self.padding == 'SAME' and self.filter_stride[0] == 1:
      return outputs, paddings
    paddings = self._output_paddings(paddings, outputs.shape[1])
    return outputs * (1.0 - paddings[:, :, jnp.newaxis, jnp.newaxis]), paddings
