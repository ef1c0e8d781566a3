"""Trace time of Pax layers against the same model in hand-written Haiku.

    python tools/bench_trace.py [--repeats 25]

Prints, for 64 FeedForward layers and for a tree of 1000 layers, the time to trace
init and apply on both sides and their ratio. Both sides have the same modules with the
same names. Both sides are timed alternately in one
run and the smallest CPU time of each counts, so that the ratio hardly depends on what
else the machine does.
"""

import gc
import time

import haiku as hk
import jax
import jax.numpy as jnp
from absl import app, flags

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import linears

_REPEATS = flags.DEFINE_integer(
    'repeats', 25, 'How often each side is traced.', lower_bound=1)

DIMS = 8
WIDTH = 10  # children per node of the tree
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]


# -- Pax ------------------------------------------------------------------------


class PaxStack(base_layer.BaseLayer):
  """`num` FeedForward layers in a row."""

  num: int = 64
  ff_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)

  def setup(self):
    ff = self.ff_tpl.clone().set(input_dims=DIMS, output_dims=DIMS)
    self.create_children('ff', [ff] * self.num)

  def __call__(self, x):
    for ff in self.ff:
      x = ff(x)
    return x


class PaxLeaf(base_layer.BaseLayer):
  """x * w."""

  def setup(self):
    self.create_variable('w', base_layer.WeightHParams(shape=[DIMS]))

  def __call__(self, x):
    return x * self.theta.w


class PaxTree(base_layer.BaseLayer):
  """WIDTH children; with a PaxTree as child, a tree."""

  child_tpl: LayerTpl = pax_fiddle.template_field(PaxLeaf)

  def setup(self):
    self.create_children('node', [self.child_tpl] * WIDTH)

  def __call__(self, x):
    for node in self.node:
      x = node(x)
    return x


# -- Haiku ------------------------------------------------------------------------


class HkEinsum(hk.Module):

  def __call__(self, equation, *arrays):
    return jnp.einsum(equation, *arrays)


class HkLinear(hk.Module):

  def __init__(self, name=None):
    super().__init__(name)
    self.einsum = HkEinsum(name='einsum')

  def __call__(self, x):
    init = hk.initializers.VarianceScaling(1.0, 'fan_avg', 'uniform')
    w = hk.get_parameter('w', [DIMS, DIMS], x.dtype, init=init)
    return self.einsum('...y,yz->...z', x, w)


class HkBias(hk.Module):

  def __call__(self, x):
    return x + hk.get_parameter('b', [DIMS], x.dtype, init=jnp.zeros)


class HkReLU(hk.Module):

  def __call__(self, x):
    return jax.nn.relu(x)


class HkFeedForward(hk.Module):

  def __init__(self, name=None):
    super().__init__(name)
    self.linear = HkLinear(name='linear')
    self.bias = HkBias(name='bias')
    self.activation = HkReLU(name='activation')

  def __call__(self, x):
    return self.activation(self.bias(self.linear(x)))


class HkStack(hk.Module):

  def __init__(self, name=None):
    super().__init__(name)
    self.ff = [HkFeedForward(name=f'ff_{i}') for i in range(64)]

  def __call__(self, x):
    for ff in self.ff:
      x = ff(x)
    return x


class HkLeaf(hk.Module):

  def __call__(self, x):
    init = hk.initializers.RandomUniform(-1.0, 1.0)
    return x * hk.get_parameter('w', [DIMS], x.dtype, init=init)


class HkTree(hk.Module):

  def __init__(self, depth=3, name=None):
    super().__init__(name)
    self.node = [
        HkTree(depth - 1, name=f'node_{i}') if depth > 1 else HkLeaf(name=f'node_{i}')
        for i in range(WIDTH)]

  def __call__(self, x):
    for node in self.node:
      x = node(x)
    return x


def _seconds(function, *args) -> float:
  gc.collect()
  start = time.process_time()
  jax.make_jaxpr(function)(*args)
  return time.process_time() - start


def ratios(pax_fn, hk_fn, repeats: int) -> dict[str, tuple[float, float, float]]:
  """{phase: (pax seconds, haiku seconds, ratio)} of the two functions."""
  x, key = jnp.ones([2, DIMS]), jax.random.PRNGKey(0)
  sides = [hk.transform_with_state(f) for f in (pax_fn, hk_fn)]
  variables = [jax.eval_shape(side.init, key, x) for side in sides]
  best = {phase: [float('inf')] * 2 for phase in ('init', 'apply')}
  for _ in range(repeats):
    for i, (side, (params, state)) in enumerate(zip(sides, variables, strict=True)):
      # A new function each time: make_jaxpr must not answer from its cache.
      init = _seconds(lambda key, x, f=side.init: f(key, x), key, x)
      apply = _seconds(lambda p, s, x, f=side.apply: f(p, s, None, x),
                       params, state, x)
      best['init'][i] = min(best['init'][i], init)
      best['apply'][i] = min(best['apply'][i], apply)
  return {phase: (*t, t[0] / t[1]) for phase, t in best.items()}


def main(argv):
  del argv
  tree = pax_fiddle.Config(PaxTree)
  for _ in range(2):
    tree = pax_fiddle.Config(PaxTree, child_tpl=tree)
  tree.name = 'net'
  models = {
      '64 FeedForward': (
          lambda x: base_layer.instantiate(pax_fiddle.Config(PaxStack, name='net'))(x),
          lambda x: HkStack(name='net')(x)),
      'tree of 1000 leaves': (
          lambda x: base_layer.instantiate(tree)(x),
          lambda x: HkTree(name='net')(x)),
  }
  print(f'{"model":22} {"phase":6} {"pax_haiku":>10} {"haiku":>10} {"ratio":>6}')
  for name, (pax_fn, hk_fn) in models.items():
    for phase, (pax_s, hk_s, ratio) in ratios(pax_fn, hk_fn, _REPEATS.value).items():
      print(f'{name:22} {phase:6} {pax_s * 1e3:8.1f}ms {hk_s * 1e3:8.1f}ms '
            f'{ratio:6.2f}')


if __name__ == '__main__':
  app.run(main)
