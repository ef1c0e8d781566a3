"""hk.nets.VectorQuantizerEMA as a Pax layer.

    python examples/ports/vector_quantizer.py --small

Pax has no counterpart whose codebook is a moving average, so the port is a layer of its
own, in Pax idiom.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import port_proof

from pax_haiku import base_layer, pax_fiddle

WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
FULL, SMALL = dict(dims=64, num_codes=512), dict(dims=4, num_codes=6)
DECAY, COST = 0.99, 0.25


def original(dims: int, num_codes: int, train: bool):
  def run(x):
    net = hk.nets.VectorQuantizerEMA(dims, num_codes, COST, DECAY)
    out = net(x, is_training=train)
    return {k: out[k] for k in ('quantize', 'loss', 'perplexity', 'encoding_indices')}

  return run


class MovingAverage(base_layer.BaseLayer):
  """An average over steps, divided by what the first steps lack.

  Attributes:
    shape: of the averaged array.
    decay: weight of the past.
  """

  shape: tuple[int, ...] = ()
  decay: float = 0.99

  def setup(self):
    for name, shape, dtype in (
      ('hidden', self.shape, jnp.float32), ('counter', (), jnp.int32)
    ):
      declared = WeightHParams(list(shape), WeightInit.Constant(0), dtype)
      self.create_variable(name, declared, trainable=False)

  def __call__(self, x):
    """The average, with `x` taken in."""
    counter = self.get_var('counter') + 1
    hidden = self.get_var('hidden') * self.decay + x * (1 - self.decay)
    self.update_var('counter', counter)
    self.update_var('hidden', hidden)
    return hidden / (1 - jnp.power(self.decay, counter))


class VectorQuantizerEma(base_layer.BaseLayer):
  """Replaces vectors by the nearest of some codes, the averages of what they took.

  https://arxiv.org/abs/1711.00937, appendix A.1.

  Attributes:
    dims: depth of the vectors.
    num_codes: number of codes.
    decay: of the averages.
    commitment_cost: weight of the loss.
    epsilon: keeps codes that took nothing finite.
  """

  dims: int = 0
  num_codes: int = 0
  decay: float = DECAY
  commitment_cost: float = COST
  epsilon: float = 1e-5

  def setup(self):
    init = WeightInit.UniformSqrtDim()
    codes = WeightHParams([self.dims, self.num_codes], init)
    self.create_variable('codes', codes, trainable=False)
    for name, shape in (
      ('sizes', (self.num_codes,)), ('sums', (self.dims, self.num_codes))
    ):
      average = pax_fiddle.Config(MovingAverage, shape=shape, decay=self.decay)
      self.create_child(name, average)

  def __call__(self, x):
    """Quantizes `[..., dims]`; moves the codes when training.

    Returns:
      A dict: quantize `[..., dims]`, loss, perplexity, encoding_indices `[...]`.
    """
    codes, rows = self.get_var('codes'), x.reshape(-1, self.dims)
    distances = (
      jnp.sum(jnp.square(rows), 1, keepdims=True)
      - 2 * rows @ codes
      + jnp.sum(jnp.square(codes), 0, keepdims=True)
    )
    ids = jnp.argmin(distances, 1)
    one_hot = jax.nn.one_hot(ids, self.num_codes, dtype=x.dtype)
    if not self.do_eval:
      sizes, sums = self.sizes(jnp.sum(one_hot, 0)), self.sums(rows.T @ one_hot)
      total = jnp.sum(sizes)
      shares = (sizes + self.epsilon) / (total + self.num_codes * self.epsilon)
      self.update_var('codes', sums / (shares * total))
    ids = ids.reshape(x.shape[:-1])
    found = codes.T[ids]
    share = jnp.mean(one_hot, 0)
    return {
      'quantize': x + jax.lax.stop_gradient(found - x),
      'loss': self.commitment_cost
      * jnp.mean(jnp.square(jax.lax.stop_gradient(found) - x)),
      'perplexity': jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10))),
      'encoding_indices': ids,
    }


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  shape = (2, 5, sizes['dims'])
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  config = pax_fiddle.Config(VectorQuantizerEma, name='vq', **sizes)
  return port_proof.Port(
    lambda train: original(**sizes, train=train),
    config,
    (x,),
    ('train', 'eval'),
    steps=3,
  )


if __name__ == '__main__':
  port_proof.run(port)
