"""hk.nets.ResNet50, with its BatchNorm state, as Pax's ResNet.

    python examples/ports/resnet50.py --small
"""

import haiku as hk
import numpy as np
import port_norm
import port_proof

from pax_haiku import base_layer, layers, pax_fiddle

FULL = dict(channels=(256, 512, 1024, 2048), blocks=(3, 4, 6, 3), num_classes=1000)
SMALL = dict(channels=(8, 8, 8, 12), blocks=(1, 1, 1, 1), num_classes=5)


def original(channels, blocks, num_classes, train: bool):
  def run(images):
    net = hk.nets.ResNet(
      blocks_per_group=blocks,
      num_classes=num_classes,
      channels_per_group=channels,
      initial_conv_config={'output_channels': channels[0] // 4},
      use_projection=[channels[0] // 4 != channels[0], True, True, True],
    )
    return net(images, is_training=train)

  return run


class Classifier(base_layer.BaseLayer):
  """A ResNet and a linear layer.

  Attributes:
    channels, blocks: of the ResNet, one per stage.
    num_classes: number of logits.
  """

  channels: tuple[int, ...] = ()
  blocks: tuple[int, ...] = ()
  num_classes: int = 0

  def setup(self):
    net = pax_fiddle.Config(
      layers.ResNet, channels=self.channels, blocks=self.blocks
    )
    net.conv_params.tf_equivalent_padding = True
    net.conv_params.batch_norm_tpl = pax_fiddle.Config(port_norm.BatchNorm, decay=0.9)
    self.create_child('net', net)
    self.create_child('logits', port_proof.linear(self.channels[-1], self.num_classes))

  def __call__(self, images):
    """Logits `[B, num_classes]` of images `[B, H, W, 3]`."""
    return self.logits(self.net(images))


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  shape = (3, 32, 32, 3) if small else (4, 128, 128, 3)
  images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  config = pax_fiddle.Config(Classifier, name='classifier', **sizes)
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
