"""hk.nets.MLP as Pax layers.

    python examples/ports/mlp.py --small
"""

import haiku as hk
import numpy as np
import port_proof

from pax_haiku import layers, pax_fiddle

FULL, SMALL = (784, 300, 100, 10), (5, 4, 3)


def original(sizes):
  def run(x):
    return hk.nets.MLP(sizes[1:])(x)

  return run


def ported(sizes) -> pax_fiddle.Config:
  """A FeedForward for each layer, the last one without activation."""
  last = len(sizes) - 2
  return pax_fiddle.Config(
    layers.Sequential,
    name='mlp',
    layers=[
      port_proof.linear(sizes[i], sizes[i + 1], layers.ReLU if i < last else None)
      for i in range(last + 1)
    ],
  )


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  x = np.random.default_rng(0).normal(size=(8, sizes[0])).astype(np.float32)
  return port_proof.Port(lambda train: original(sizes), ported(sizes), (x,), ('eval',))


if __name__ == '__main__':
  port_proof.run(port)
