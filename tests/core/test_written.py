"""Parameters that are written or created in `apply`, as Flax lets Praxis's layers.

Values, and what is boxed, were read off the real Praxis 1.4 with the same keys.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, layers, pax_fiddle
from pax_haiku.base_layer import BaseLayer, BoxedParam, WeightHParams, WeightInit

KEY, OTHER = jax.random.PRNGKey(0), jax.random.PRNGKey(1)
X = jnp.ones([1, 2])
NORMAL = WeightInit.Gaussian(1.0)


class Leaf(BaseLayer):
  put: bool = False

  def setup(self):
    self.create_variable('w', WeightHParams(shape=[2, 2], init=NORMAL))
    self.create_variable('b', WeightHParams(shape=[2], init=NORMAL))
    self.create_variable('m', WeightHParams(shape=[2], init=NORMAL), trainable=False)

  def __call__(self, x):
    if self.put:
      self.put_variable('params', 'b', self.theta.b * 0 + 7)
      self.put_variable('params', 'extra', [1.0])
      assert self.is_mutable_collection('params')
      assert self.has_variable('params', 'extra')
      assert self.get_variable('params', 'extra').shape == (1,)
      assert self.variables['params'].keys() == {'b', 'extra', 'w'}
    return x @ self.theta.w + self.theta.b + self.get_var('m')


class Net(BaseLayer):
  put: bool = False

  def setup(self):
    self.create_child('a', pax_fiddle.Config(Leaf))
    self.create_child('c', pax_fiddle.Config(Leaf, put=self.put))

  def __call__(self, x):
    return self.c(self.a(x))


@pytest.fixture(scope='module')
def variables():
  return Net().init(KEY, X)


def without(variables, *names):
  c = {k: v for k, v in variables['params']['c'].items() if k not in names}
  return {**variables, 'params': {'a': variables['params']['a'], 'c': c}}


def boxes(tree):
  leaves = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: isinstance(x, BoxedParam)
  )[0]
  return {
    '/'.join(str(k.key) for k in path): v
    for path, v in leaves
    if isinstance(v, BoxedParam)
  }


@pytest.mark.parametrize('mutable', [['params'], True, 'params'])
def test_a_missing_parameter_is_created_and_comes_back_boxed(variables, mutable):
  given = without(variables, 'b')
  out, updated = Net().apply(given, X, mutable=mutable, rngs={'params': OTHER})
  (path, box), *rest = boxes(updated).items()
  assert path == 'params/c/b' and not rest
  np.testing.assert_allclose(box.value, [1.5737, -1.3630], rtol=1e-4)  # 5 digits
  assert box.meta.shape == [2] and box.meta.init == NORMAL
  np.testing.assert_allclose(out, [[2.262361, -3.291341]], rtol=1e-5)
  again = base_layer.maybe_unbox_value({**variables, **updated})
  np.testing.assert_array_equal(Net().apply(again, X), out)


def test_whole_layers_are_created(variables):
  given = {'params': {'a': variables['params']['a']}}
  out, updated = Net().apply(given, X, mutable=True, rngs=OTHER)
  assert boxes(updated).keys() == {
    'params/c/w', 'params/c/b', 'non_trainable/a/m', 'non_trainable/c/m'}  # fmt: skip
  np.testing.assert_allclose(out, [[2.4610324, 1.9631909]], rtol=1e-5)
  out, updated = Net().apply({}, X, mutable=True, rngs=OTHER)
  assert len(boxes(updated)) == len(jax.tree.leaves(variables))
  np.testing.assert_allclose(out, [[0.82967776, 1.1440178]], rtol=1e-5)


def test_created_only_if_mutable_and_with_a_key(variables):
  given = without(variables, 'b')
  for options in (
    {'mutable': ['params']},
    {'mutable': ['params'], 'rngs': {'random': KEY}},
    {'mutable': ['non_trainable'], 'rngs': {'params': KEY}},
  ):
    with pytest.raises(base_layer.ScopeParamNotFoundError, match='missing params/c/b'):
      Net().apply(given, X, **options)


@pytest.mark.parametrize('apply', [Net.apply, jax.jit(Net.apply, static_argnums=0,
                                                      static_argnames='mutable')])
def test_put_variable(variables, apply):
  out, updated = apply(Net(put=True), variables, X, mutable='params')
  c = updated['params']['c']
  assert c.keys() == {'b', 'extra', 'w'} and not boxes(updated)
  np.testing.assert_array_equal(c['b'], [7, 7])
  np.testing.assert_array_equal(c['w'], variables['params']['c']['w'])
  np.testing.assert_allclose(out, [[7.6886225, 5.0716944]], rtol=1e-5)
  assert variables['params']['c'].keys() == {'b', 'w'}


def test_put_variable_in_init():
  params = Net(put=True).init(KEY, X)['params']
  np.testing.assert_array_equal(params['c']['b'], [7, 7])
  assert params['c']['extra'].shape == (1,) and params['a'].keys() == {'b', 'w'}


def test_put_variable_on_an_interactive_layer(variables):
  bound = Net().bind(variables, mutable=['params'])
  bound.a.put_variable('params', 'b', jnp.zeros(2))
  np.testing.assert_array_equal(bound.a.theta.b, [0, 0])
  params = {**variables['params']}
  params['a'] = {**params['a'], 'b': jnp.zeros(2)}
  expected = Net().apply({**variables, 'params': params}, X)
  np.testing.assert_array_equal(bound(X), expected)


def test_where_parameters_cannot_be_written(variables):
  error = base_layer.ModifyScopeVariableError
  with pytest.raises(error, match=r"Leaf 'net/c'.*'b'.*Pass mutable"):
    Net(put=True).apply(variables, X, mutable=['non_trainable'])
  native = hk.transform_with_state(lambda: Leaf(put=True, name='l')(X))
  with pytest.raises(error, match='neither inside a loop nor under a Haiku transform'):
    native.init(KEY)
  loop = layers.repeats.Repeat(sub_tpl=pax_fiddle.Config(Leaf), x_times=2)
  inside = loop.init(KEY, X)
  loop = layers.repeats.Repeat(sub_tpl=pax_fiddle.Config(Leaf, put=True), x_times=2)
  with pytest.raises(error, match='neither inside a loop'):
    loop.apply(inside, X, mutable=['params'])


def test_nothing_of_a_trace_stays(variables):
  with jax.checking_leaks():
    jax.jit(lambda v: Net(put=True).apply(v, X, mutable=['params']))(variables)
