"""hk.nets.MobileNetV1 as Pax layers.

    python examples/ports/mobilenet.py --small
"""

import haiku as hk
import jax.numpy as jnp
import numpy as np
import port_norm
import port_proof

from pax_haiku import base_layer, layers, pax_fiddle

FULL = dict(
  strides=(1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1),
  channels=(64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024),
  num_classes=1000,
)
SMALL = dict(strides=(1, 2), channels=(6, 8), num_classes=3)
STEM = 32


def original(strides, channels, num_classes, train: bool):
  def run(images):
    net = hk.nets.MobileNetV1(strides, channels, num_classes)
    return net(images, is_training=train)

  return run


def conv(size, inputs, outputs, stride, padding='VALID') -> pax_fiddle.Config:
  """Convolution, normalization, ReLU; depthwise if there is one input."""
  return pax_fiddle.Config(
    layers.ConvBNAct,
    filter_shape=(size, size, inputs, outputs),
    filter_stride=(stride, stride),
    padding=padding,
    batch_norm_tpl=pax_fiddle.Config(port_norm.BatchNorm, decay=0.999),
  )


class MobileNetV1(base_layer.BaseLayer):
  """Convolutions in turns over each channel by itself and at each place by itself.

  https://arxiv.org/abs/1704.04861.

  Attributes:
    strides, channels: one per block.
    num_classes: number of logits.
  """

  strides: tuple[int, ...] = ()
  channels: tuple[int, ...] = ()
  num_classes: int = 0

  def setup(self):
    self.create_child('stem', conv(3, 3, STEM, 2))
    inputs, blocks = STEM, []
    for stride, outputs in zip(self.strides, self.channels, strict=True):
      blocks.append(conv(3, 1, inputs, stride, 'SAME'))
      blocks.append(conv(1, inputs, outputs, 1))
      inputs = outputs
    self.create_children('conv', blocks)
    self.create_child('logits', port_proof.linear(inputs, self.num_classes))

  def __call__(self, images):
    """Logits `[B, num_classes]` of images `[B, H, W, 3]`."""
    x = self.stem(images)
    for layer in self.conv:
      x = layer(x)
    return self.logits(jnp.mean(x, axis=(1, 2)))


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  shape = (4, 13, 13, 3) if small else (4, 128, 128, 3)
  images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  config = pax_fiddle.Config(MobileNetV1, name='mobilenet', **sizes)
  # Gradients in training are ill-conditioned at full size: inputs that differ by 3e-7
  # change those of the original MobileNet by 16 %, as ReLUs of a million units flip.
  return port_proof.Port(
    lambda train: original(**sizes, train=train),
    config,
    (images,),
    ('eval', 'train') if small else ('eval',),
  )


if __name__ == '__main__':
  port_proof.run(port)
