"""Random keys of layers: the worked examples of Praxis on Flax, number by number.

`Block` creates w, b (trainable) and m (not), each of shape [2] and standard normal,
and draws two keys per call. `Net` has a variable g, a child ffn that it calls twice,
and two children blk. All numbers were recorded from Praxis; see tests/core/test_rng.py
for the formula behind them.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import repeats

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
PARAMS, RANDOM = jax.random.PRNGKey(0), jax.random.PRNGKey(1)
KEYS = {'params': PARAMS, 'random': RANDOM}
X = jnp.zeros(())


def gaussian(layer, name, trainable=True):
  layer.create_variable(
    name, base_layer.WeightHParams([2], base_layer.WeightInit.Gaussian(1.0)),
    trainable=trainable)


class Block(BaseLayer):
  """Three variables, two draws."""

  def setup(self):
    gaussian(self, 'w')
    gaussian(self, 'b')
    gaussian(self, 'm', trainable=False)

  def __call__(self, x):
    drawn = jnp.stack([self.next_prng_key(), self.next_prng_key()])
    self.sow('drawn', 'keys', drawn)
    return x


class Net(BaseLayer):
  """A variable, a draw, and blocks."""

  def setup(self):
    gaussian(self, 'g')
    self.create_child('ffn', Config(Block))
    self.create_children('blk', [Config(Block), Config(Block)])

  def __call__(self, x):
    self.sow('drawn', 'keys', self.next_prng_key()[None])
    return self.blk[1](self.blk[0](self.ffn(self.ffn(x))))


NET = Net(name='net')
VALUES = {
  'params/g': (0.076142, -1.615746),
  'params/ffn/w': (-0.775000, 1.367742),
  'params/ffn/b': (0.281119, 0.571135),
  'non_trainable/ffn/m': (-1.218227, -0.181455),
  'params/blk_0/w': (-1.827319, 1.826499),
  'params/blk_1/w': (1.524168, 2.035416),
  'params/blk_1/b': (0.240140, -0.106313),
  'non_trainable/blk_1/m': (-0.789498, -1.711326),
}


def at(tree, path):
  for name in path.split('/'):
    tree = tree[name]
  return tree


def check_values(variables, values):
  for path, value in values.items():
    # Recorded with six decimals.
    np.testing.assert_allclose(at(variables, path), value, atol=1e-6, err_msg=path)


def drawn_in_apply(layer, variables, rngs, method=None, at_path=()):
  """The keys that each call of the layer at a path drew, in order."""
  _, updated = layer.apply(variables, X, rngs=rngs, mutable=['drawn'], method=method)
  tree = updated['drawn']
  for name in at_path:
    tree = tree[name]
  return np.concatenate(tree['keys'], axis=-2)


def check_keys(found, expected):
  np.testing.assert_array_equal(found, np.array(expected, np.uint32))


@pytest.fixture(scope='module')
def variables():
  return NET.init(KEYS, X)


def test_initial_values(variables):
  check_values(variables, VALUES)


def test_initial_values_do_not_depend_on_order_kind_of_key_or_jit():
  typed = {'params': jax.random.key(0), 'random': jax.random.key(1)}
  check_values(jax.jit(Net(name='renamed').init)(KEYS, X), VALUES)
  check_values(NET.init(typed, X, method=lambda n, x: [
    layer.theta.w for layer in (n.blk[1], n.ffn, n.blk[0])]), VALUES)


def test_drawn_keys(variables):
  rngs = {'random': RANDOM}
  check_keys(drawn_in_apply(NET, variables, rngs), [(3077990774, 2166202870)])
  ffn = drawn_in_apply(NET, variables, rngs, at_path=('ffn',))
  check_keys(ffn[[0, 2, 3]], [(1357824895, 1938638923), (4143776551, 3065287143),
                              (1316352794, 189270443)])
  check_keys(drawn_in_apply(NET, variables, rngs, at_path=('blk_0',))[:1],
             [(1649170522, 3700715403)])
  check_keys(drawn_in_apply(NET, variables, rngs, at_path=('blk_1',))[1:],
             [(3615981991, 3127141904)])


def test_one_key_only(variables):
  """The draws of a layer then follow its variables in the params stream."""
  found = NET.init(PARAMS, X, mutable=['params', 'non_trainable', 'drawn'])
  check_values(found, VALUES)
  check_keys(found['drawn']['keys'][0], [(3456700291, 3873160899)])
  check_keys(drawn_in_apply(NET, variables, PARAMS), [(1428664606, 3351135085)])


def test_a_draw_in_setup_shifts_the_variables():
  class Early(BaseLayer):
    def setup(self):
      self.first = self.next_prng_key('params')
      gaussian(self, 'w')

    def __call__(self, x):
      return self.theta.w

  from pax_haiku.core import rng

  variables = Early(name='e').init(PARAMS, X)
  expected = jax.random.normal(rng.fold_in_path(PARAMS, (), 2), (2,))
  np.testing.assert_array_equal(variables['params']['w'], expected)


def test_a_constant_costs_a_draw_too():
  class Leading(BaseLayer):
    def setup(self):
      self.create_variable(
        'zero', base_layer.WeightHParams([], base_layer.WeightInit.Constant(0.0)))
      gaussian(self, 'b')

    def __call__(self, x):
      return self.theta.b

  class Outer(BaseLayer):
    def setup(self):
      self.create_child('ffn', Config(Leading))

    def __call__(self, x):
      return self.ffn(x)

  check_values(Outer().init(PARAMS, X), {'params/ffn/b': VALUES['params/ffn/b']})


def test_siblings_do_not_matter(variables):
  class Larger(Net):
    def setup(self):
      self.create_child('before', Config(Block))
      super().setup()
      self.create_child('after', Config(Block))

    def __call__(self, x):
      return self.after(super().__call__(self.before(x)))

  larger = Larger(name='net')
  found = larger.init(KEYS, X)
  check_values(found, VALUES)
  for path in (('ffn',), ('blk_1',)):
    check_keys(drawn_in_apply(larger, found, {'random': RANDOM}, at_path=path),
               drawn_in_apply(NET, variables, {'random': RANDOM}, at_path=path))


def test_names_are_joined_without_a_separator():
  """As in Praxis, so paths ('ab', 'c') and ('a', 'bc') draw the same keys."""
  class Inner(BaseLayer):
    child: str = ''

    def setup(self):
      self.create_child(self.child, Config(Block))

    def __call__(self, x):
      return getattr(self, self.child)(x)

  class Outer(BaseLayer):
    def setup(self):
      self.create_child('ab', Config(Inner, child='c'))
      self.create_child('a', Config(Inner, child='bc'))

    def __call__(self, x):
      return self.a(self.ab(x))

  params = Outer().init(KEYS, X)['params']
  np.testing.assert_array_equal(params['ab']['c']['w'], params['a']['bc']['w'])


def test_the_same_key_is_used_again_by_a_new_apply(variables):
  first = drawn_in_apply(NET, variables, {'random': RANDOM}, at_path=('ffn',))
  again = drawn_in_apply(NET, variables, {'random': RANDOM}, at_path=('ffn',))
  check_keys(again, first)
  assert len(np.unique(first, axis=0)) == 4


# -- Inside Repeat -----------------------------------------------------------------

REPEAT = repeats.Repeat(sub_tpl=Config(Block), x_times=3, name='r')
STACKED = {
  'params/sub/w': [(0.362020, 0.232666), (-0.293587, -2.177231), (-1.142805, 1.000482)],
  'params/sub/b': [(0.068819, 0.672987), (1.734301, -0.074104), (-0.373427, -0.312258)],
  'non_trainable/sub/m': [(-0.520301, -0.788763), (0.050232, 0.826491),
                          (2.333325, -1.259175)],
}
FIRST = [(3911257914, 2382371472), (1212711877, 1393655790), (3949147132, 4162401994)]
SECOND = [(854877843, 3436555032), (852492962, 3812126503), (560416650, 4116908014)]


@pytest.fixture(scope='module')
def stacked():
  return REPEAT.init(KEYS, X)


def test_initial_values_in_repeat(stacked):
  check_values(stacked, STACKED)


def test_drawn_keys_in_repeat(stacked):
  (keys,) = REPEAT.apply(stacked, X, rngs={'random': RANDOM}, mutable=['drawn'])[1][
    'drawn']['sub']['keys']
  check_keys(keys[:, 0], FIRST)
  check_keys(keys[:, 1], SECOND)


def test_repeat_called_twice_goes_on_counting(stacked):
  """The body counts as traced twice, so the second call starts at the 7th draw."""
  from pax_haiku.core import rng

  _, updated = REPEAT.apply(stacked, X, rngs={'random': RANDOM}, mutable=['drawn'],
                            method=lambda r, x: r(r(x)))
  found = updated['drawn']['sub']['keys'][-1]
  for i, root in enumerate(jax.random.split(RANDOM, 3)):
    check_keys(found[i], [rng.fold_in_path(root, ('sub',), c) for c in (7, 8)])


def test_repeat_with_one_key_only(stacked):
  from pax_haiku.core import rng

  found = REPEAT.init(PARAMS, X)
  for i, root in enumerate(jax.random.split(PARAMS, 3)):
    for collection, name, count in (('params', 'w', 6), ('params', 'b', 7),
                                    ('non_trainable', 'm', 8)):
      expected = jax.random.normal(rng.fold_in_path(root, ('sub',), count), (2,))
      np.testing.assert_array_equal(found[collection]['sub'][name][i], expected)
  (keys,) = REPEAT.apply(stacked, X, rngs=PARAMS, mutable=['drawn'])[1]['drawn']['sub'][
    'keys']
  check_keys(keys[:, 0], [(415362765, 1516229333)] * 3)


# -- Under the user's own transform ------------------------------------------------


def test_haiku_keys_under_a_transform():
  """A layer draws from Haiku's sequence, as the same code in an hk.Module would."""
  class Draw(BaseLayer):
    def __call__(self, x):
      return self.next_prng_key(), self.next_prng_key('params')

  found = hk.transform(lambda x: Draw()(x)).apply({}, RANDOM, X)
  expected = hk.transform(lambda x: (hk.next_rng_key(), hk.next_rng_key())).apply(
    {}, RANDOM, X)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a, b)


def test_initial_values_under_a_transform():
  """Each variable draws Haiku's next key, constants none."""
  class Three(BaseLayer):
    def setup(self):
      gaussian(self, 'a')
      self.create_variable(
        'zero', base_layer.WeightHParams([], base_layer.WeightInit.Constant(0.0)))
      gaussian(self, 'b', trainable=False)

    def __call__(self, x):
      return self.theta.a

  params, state = hk.transform_with_state(lambda x: Three()(x)).init(PARAMS, X)

  def by_hand(x):
    return [jax.random.normal(hk.next_rng_key(), (2,)) for _ in range(2)]

  a, b = hk.transform(by_hand).apply({}, PARAMS, X)
  np.testing.assert_array_equal(params['three']['a'], a)
  np.testing.assert_array_equal(state['three']['b'], b)


def test_missing_key_under_a_transform():
  net = hk.transform_with_state(lambda x: Net()(x))
  params, state = net.init(PARAMS, X)
  with pytest.raises(base_layer.InvalidRngError, match=r"Net 'net'.*rng=None"):
    net.apply(params, state, None, X)
