"""Variables of a layer: declaring, reading, writing, and the collections they are in.

Expected values are Pax's rules, or were seen in the real Praxis.
"""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
Labels = base_layer.WeightHParamsCollection
KEY = jax.random.PRNGKey(0)
X = jnp.array([1.0, 2.0])
BF16, F16 = jnp.bfloat16, jnp.float16


def constant(value, shape=(2,), **fields):
  return WeightHParams(list(shape), WeightInit.Constant(value), **fields)


class Mixed(BaseLayer):
  """A variable of each kind."""

  def setup(self):
    self.create_variable('w', constant(1.5))
    self.create_variable('half', constant(1.5, dtype=BF16))
    self.create_variable('index', constant(3, dtype=jnp.int32))
    self.create_variable(
      'exact', constant(1.5, collections=[Labels.DISALLOW_BFLOAT16_CONVERSION]))
    self.create_variable('n', constant(2.5), trainable=False)
    self.create_variable('steps', constant(0, (), dtype=jnp.int32), trainable=False)

  def __call__(self, x):
    return x * self.theta.w


def run(method, *, mutable=True, fields=None, variables=None, **kwargs):
  """Applies `method` to a `Mixed` layer."""
  layer = Mixed(name='mixed', **(fields or {}))
  if variables is None:
    variables = layer.init(KEY, X)
  return layer.apply(variables, X, method=method, mutable=mutable, **kwargs)


def declare(declaration, **fields):
  """Initializes a layer whose setup runs `declaration(self)`."""

  class Declaring(BaseLayer):
    number: Any = 3

    def setup(self):
      declaration(self)

    def method(self):
      pass

    @property
    def shown(self):
      return 1

    def __call__(self):
      return self.theta

  return Declaring(name='layer', **fields).init(KEY)


# -- create_variable ---------------------------------------------------------------


def test_collections_names_and_dtypes():
  variables = Mixed(name='mixed').init(KEY, X)
  found = jax.tree.map(lambda v: (v.shape, v.dtype.name), variables)
  assert found == {
    'params': {'w': ((2,), 'float32'), 'half': ((2,), 'bfloat16'),
               'index': ((2,), 'int32'), 'exact': ((2,), 'float32')},
    'non_trainable': {'n': ((2,), 'float32'), 'steps': ((), 'int32')}}


def test_same_name_in_both_collections():
  variables = declare(lambda s: (s.create_variable('a', constant(1.0)),
                                 s.create_variable('a', constant(2.0), False)))
  np.testing.assert_array_equal(variables['params']['a'], [1.0, 1.0])
  np.testing.assert_array_equal(variables['non_trainable']['a'], [2.0, 2.0])


@pytest.mark.parametrize('name', [
  'number', 'method', 'shown', 'dtype', 'name', 'theta', 'attribute', 'child',
  'children', 'setup'])
def test_name_of_an_attribute_is_refused(name):
  def declaration(self):
    self.attribute = 1
    self.create_child('child', Config(Mixed))
    self.create_children('children', [Config(Mixed)])
    self.create_variable(name, constant(1.0))

  with pytest.raises(AttributeError, match=f"'layer': can not create.*'{name}'"):
    declare(declaration)


@pytest.mark.parametrize('trainable', [True, False])
def test_same_name_twice_is_refused(trainable):
  def declaration(self):
    for _ in range(2):
      self.create_variable('a', constant(1.0), trainable=trainable)

  with pytest.raises(base_layer.NameInUseError, match="'layer'.*'a'.*variable"):
    declare(declaration)


def test_name_of_an_element_of_children_is_refused():
  def declaration(self):
    self.create_children('c', [Config(Mixed)])
    self.create_variable('c_0', constant(1.0))

  with pytest.raises(base_layer.NameInUseError, match='c_0'):
    declare(declaration)


@pytest.mark.parametrize('name', ['summaries', 'aux_loss', 'decoder_cache', '@x'])
def test_names_of_buckets_are_reserved_for_state(name):
  with pytest.raises(ValueError, match=f"'layer'.*'{name}' is reserved"):
    declare(lambda s: s.create_variable(name, constant(1.0), trainable=False))
  declare(lambda s: s.create_variable(name, constant(1.0)))


def test_only_in_setup():
  with pytest.raises(ValueError, match="'late'.*setup"):
    run(lambda s, x: s.create_variable('late', constant(1.0)))


def test_the_declaration_given_is_not_modified():
  given = WeightHParams([2, 2])
  metadata = {}

  class Keeper(BaseLayer):
    def setup(self):
      self.create_variable('a', given)
      self.create_variable('b', given, trainable=False)

    def __call__(self):
      return self.theta.a

  layer = Keeper(name='k', dtype=BF16, skip_lp_regularization=True,
                 params_init=WeightInit.Gaussian(2.0))
  metadata = layer.abstract_init_with_metadata()
  assert given == WeightHParams([2, 2])
  a, b = metadata['params']['a'], metadata['non_trainable']['b']
  assert a.init == b.init == WeightInit.Gaussian(2.0)
  assert a.dtype == b.dtype == BF16
  assert a.collections == [Labels.SKIP_LP_REGULARIZATION]
  assert sorted(b.collections) == sorted(
    [Labels.SKIP_LP_REGULARIZATION, Labels.NON_TRAINABLE])


def test_labels_are_not_doubled():
  class Labelled(BaseLayer):
    def setup(self):
      labels = [Labels.NON_TRAINABLE, Labels.SKIP_LP_REGULARIZATION, 'mine']
      self.create_variable('n', constant(0.0, collections=labels), trainable=False)

    def __call__(self):
      return self.get_var('n')

  layer = Labelled(name='l', skip_lp_regularization=True)
  found = layer.abstract_init_with_metadata()['non_trainable']['n'].collections
  assert found == [Labels.NON_TRAINABLE, Labels.SKIP_LP_REGULARIZATION, 'mine']


def test_labels_must_be_a_list():
  with pytest.raises(TypeError, match="'layer'.*collections must be a list"):
    declare(lambda s: s.create_variable(
      'a', constant(1.0, collections=('mine',)), trainable=False))


def test_sharding_must_fit_the_shape():
  mesh = dict(ici_mesh_shape=[1, 1], mesh_axis_names=['data', 'model'])
  with pytest.raises(AssertionError):
    declare(lambda s: s.create_variable('w', WeightHParams(
      [2, 2], tensor_split_dims_mapping=['data'])), **mesh)
  with pytest.raises(AssertionError):
    declare(lambda s: s.create_variable('w', WeightHParams(
      [2, 2], mesh_shape=[1, 1], tensor_split_dims_mapping=['data'])))


def test_params_init_of_the_layer_stands_in():
  variables = declare(lambda s: s.create_variable('w', WeightHParams([3])),
                      params_init=WeightInit.Constant(7.0))
  np.testing.assert_array_equal(variables['params']['w'], [7.0, 7.0, 7.0])


def test_a_scalar_needs_an_initializer_of_its_own():
  with pytest.raises(TypeError):
    declare(lambda s: s.create_variable('w', WeightHParams([])))


# -- What create_variable returns --------------------------------------------------


class Returning(BaseLayer):
  """Uses what `create_variable` returns, in setup and later."""

  use: Any = None

  def setup(self):
    w = self.create_variable('w', constant(1.5))
    n = self.create_variable('n', constant(2.5), trainable=False)
    self.found = self.use(w, n)
    self.kept = w

  def __call__(self):
    return self.found

  def late(self):
    return jnp.sum(self.kept)


@pytest.mark.parametrize('use, expected', [
  (lambda w, n: w + n, [4.0, 4.0]),
  (lambda w, n: 2 - w, [0.5, 0.5]),
  (lambda w, n: jnp.sum(w), 3.0),
  (lambda w, n: jnp.matmul(w, n), 7.5),
  (lambda w, n: jnp.einsum('i,i->', w, n), 7.5),
  (lambda w, n: jnp.stack([w, n])[:, 0], [1.5, 2.5]),
  (lambda w, n: jax.nn.relu(w), [1.5, 1.5]),
  (lambda w, n: jax.lax.add(jnp.asarray(w), jnp.asarray(n)), [4.0, 4.0]),
  (lambda w, n: jnp.where(w > 1, w, n), [1.5, 1.5]),
  (lambda w, n: jax.tree.map(lambda x: 2 * x, {'a': w})['a'], [3.0, 3.0]),
  (lambda w, n: jax.jit(lambda x: x * 2)(w), [3.0, 3.0]),
  (lambda w, n: w[1:], [1.5]),
  (lambda w, n: w.astype(jnp.int32).sum() + w.shape[0] + w.ndim, 5),
  (lambda w, n: w.at[0].set(0.0), [0.0, 1.5]),
])
def test_returned_value_can_be_used(use, expected):
  layer = Returning(use=use, name='r')
  variables = layer.init(KEY)
  np.testing.assert_array_equal(layer.apply(variables), expected)
  assert layer.apply(variables, method='late') == 3.0


def test_returned_value_reaches_whoever_keeps_it():
  one = constant(1.0, ())

  class Keeping(BaseLayer):
    def made(self, name):
      return self.create_variable(name, one)

    def setup(self):
      found = [self.made('a'), *[self.create_variable(n, one) for n in 'bc']]
      found.append(self.create_variable('d', one))
      (e := self.create_variable('e', one))
      found += [e, functools.partial(self.create_variable, 'f', one)()]
      found.extend(map(self.create_variable, 'gh', [one, one]))
      self.create_variable('dropped', one)
      self.found = {'items': found, 'one': self.create_variable('i', one) + 0}

    def __call__(self):
      return sum(self.found['items']) + self.found['one']

  layer = Keeping(name='k')
  assert layer.apply(layer.init(KEY)) == 9.0


def test_returned_value_is_cast():
  seen = []
  layer = Returning(use=lambda w, n: seen.append((w.dtype, n.dtype)), name='r',
                    fprop_dtype=BF16)
  layer.apply(layer.init(KEY))
  assert seen == [(BF16, jnp.float32)] * 2, 'in init and in apply'


# -- theta -------------------------------------------------------------------------


@pytest.mark.parametrize('fprop, expected', [
  (None, {'w': 'float32', 'half': 'float32', 'index': 'int32', 'exact': 'float32'}),
  (BF16, {'w': 'bfloat16', 'half': 'bfloat16', 'index': 'int32', 'exact': 'float32'}),
  (F16, {'w': 'float16', 'half': 'float16', 'index': 'int32', 'exact': 'float16'}),
])
def test_theta_casts(fprop, expected):
  found, _ = run(lambda s, x: {n: s.theta[n] for n in expected},
                 fields={'fprop_dtype': fprop})
  assert {n: v.dtype.name for n, v in found.items()} == expected


def test_theta_by_attribute_and_by_item():
  a, b = run(lambda s, x: (s.theta.w, s.theta['w']), mutable=False)
  np.testing.assert_array_equal(a, b)


def test_theta_of_what_is_not_there():
  for name in ('nope', 'n'):
    with pytest.raises(ValueError, match=f"Mixed 'mixed' has no trainable .*'{name}'"):
      run(lambda s, x, name=name: s.theta[name])
  with pytest.raises(ValueError, match='get_var'):
    run(lambda s, x: s.theta.n)
  with pytest.raises(ValueError, match='nope'):
    run(lambda s, x: hasattr(s.theta, 'nope'))


def test_theta_of_another_layer():
  class Tied(BaseLayer):
    def setup(self):
      self.create_child('inner', Config(Mixed))

    def __call__(self, x):
      return x @ self.inner.theta.w

  layer = Tied(name='tied')
  variables = layer.init(KEY, X)
  assert layer.apply(variables, X) == 4.5
  net = hk.transform_with_state(lambda x: Tied(name='tied')(x))
  params, state = net.init(KEY, X)
  assert set(params) == {'tied/inner'} and set(params['tied/inner']) >= {'w'}
  assert net.apply(params, state, None, X)[0] == 4.5


# -- get_var and update_var --------------------------------------------------------


def test_get_var_is_never_cast():
  found = run(lambda s, x: s.get_var('n'), fields={'fprop_dtype': BF16}, mutable=False)
  assert found.dtype == jnp.float32
  given = Mixed(name='mixed').init(KEY, X)
  given['non_trainable']['n'] = jnp.ones(2, jnp.int32)
  assert run(lambda s, x: s.get_var('n'), variables=given,
             mutable=False).dtype == jnp.int32


def test_get_var_of_what_is_not_there():
  for name in ('nope', 'w'):
    with pytest.raises(AssertionError, match=f"'mixed' has no non-train.*'{name}'"):
      run(lambda s, x, name=name: s.get_var(name))
  with pytest.raises(AssertionError, match=r'theta\.w'):
    run(lambda s, x: s.get_var('w'))


def test_update_var_is_visible_at_once_and_returned():
  def method(self, x):
    self.update_var('n', 2 * x)
    seen = self.get_var('n')
    self.update_var('n', (seen + 1).astype(BF16))
    return seen, self.get_var('n')

  (first, second), updated = run(method, mutable=['non_trainable'])
  np.testing.assert_array_equal(first, [2.0, 4.0])
  np.testing.assert_array_equal(second, [3.0, 5.0])
  assert second.dtype == BF16, 'the dtype may change'
  np.testing.assert_array_equal(updated['non_trainable']['n'], [3.0, 5.0])
  assert updated['non_trainable']['steps'] == 0, 'unchanged parts are returned too'


def test_update_var_without_effect():
  def method(self, x):
    self.update_var('n', 2 * x)
    self.update_var('n', jnp.ones(7))
    return self.get_var('n')

  np.testing.assert_array_equal(run(method, mutable=False), [2.5, 2.5])
  found = Mixed(name='mixed').init(KEY, X, method=lambda s, x: (s(x), method(s, x)))
  np.testing.assert_array_equal(found['non_trainable']['n'], [2.5, 2.5])


def test_update_var_of_the_wrong_shape():
  with pytest.raises(ValueError, match=r"'mixed'.*'n'.*\(3,\).*\(2,\)"):
    run(lambda s, x: s.update_var('n', jnp.ones(3)))
  with pytest.raises(ValueError, match=r'\(\).*\(2,\)'):
    run(lambda s, x: s.update_var('n', 1.0))


def test_update_var_of_a_trainable():
  with pytest.raises(ValueError, match="'mixed': 'w' is trainable"):
    run(lambda s, x: s.update_var('w', x))


def test_update_var_of_what_is_not_there():
  with pytest.raises(AssertionError, match='nope'):
    run(lambda s, x: s.update_var('nope', x))


# -- Missing and misfit variables --------------------------------------------------


def test_given_trainable_must_have_the_declared_shape_but_any_dtype():
  given = Mixed(name='mixed').init(KEY, X)
  given['params']['w'] = jnp.ones(2, BF16)
  assert run(lambda s, x: s.theta.w, variables=given, mutable=False).dtype == 'float32'
  given['params']['w'] = jnp.ones(3)
  with pytest.raises(base_layer.ScopeParamShapeError, match=r"'w'.*\(2,\).*\(3,\)"):
    run(lambda s, x: s.theta.w, variables=given)


def test_given_non_trainable_is_not_checked():
  given = Mixed(name='mixed').init(KEY, X)
  given['non_trainable']['n'] = jnp.ones((3, 1))
  found = run(lambda s, x: s.get_var('n'), variables=given, mutable=False)
  assert found.shape == (3, 1)


def test_missing_variable_and_missing_collection():
  given = Mixed(name='mixed').init(KEY, X)
  for collection, name, read in (
      ('params', 'w', lambda s, x: s.theta.w),
      ('non_trainable', 'n', lambda s, x: s.get_var('n'))):
    rest = {k: v for k, v in given[collection].items() if k != name}
    with pytest.raises(base_layer.ScopeParamNotFoundError, match=f"'mixed'.*'{name}'"):
      run(read, variables={**given, collection: rest}, mutable=False)
    without = {c: v for c, v in given.items() if c != collection}
    with pytest.raises(base_layer.ScopeCollectionNotFound, match=collection):
      run(read, variables=without, mutable=False)


def test_a_mutable_collection_is_created_when_missing():
  given = Mixed(name='mixed').init(KEY, X)

  def count(self, x):
    self.update_var('n', self.get_var('n') + x)
    return self.theta.w * x

  out, updated = run(count, variables={'params': given['params']},
                     mutable=['non_trainable'], rngs=KEY)
  np.testing.assert_array_equal(out, [1.5, 3.0])
  np.testing.assert_array_equal(
    base_layer.maybe_unbox_value(updated['non_trainable'])['n'], [3.5, 4.5])


# -- variables, get_variable, put_variable, sow ------------------------------------


def test_variables_of_a_subtree():
  class Pair(BaseLayer):
    def setup(self):
      self.create_child('a', Config(Mixed))
      self.create_child('b', Config(Mixed))
      self.create_variable('own', constant(9.0))

    def __call__(self, x):
      self.a.update_var('n', x)
      self.b(self.a(x))
      return self.variables, self.a.variables

  layer = Pair(name='pair')
  given = layer.init(KEY, X)
  (whole, part), updated = layer.apply(given, X, mutable=['non_trainable'])
  assert set(whole['params']) == {'a', 'b', 'own'}
  assert set(part['params']) == {'w', 'half', 'index', 'exact'}
  np.testing.assert_array_equal(part['non_trainable']['n'], X)
  np.testing.assert_array_equal(whole['non_trainable']['a']['n'], X)
  np.testing.assert_array_equal(updated['non_trainable']['a']['n'], X)


def test_get_variable():
  def method(self, x):
    return [self.get_variable('params', 'w'), self.get_variable('non_trainable', 'n'),
            self.get_variable('params', 'n'), self.get_variable('params', 'nope', 5),
            self.get_variable('summaries', 'nope', 6)]

  found = run(method, fields={'fprop_dtype': BF16}, mutable=False)
  assert found[0].dtype == jnp.float32, 'not cast'
  np.testing.assert_array_equal(found[1], [2.5, 2.5])
  assert found[2:] == [None, 5, 6]


def test_put_variable():
  def method(self, x):
    self.put_variable('prefix_decoder_cache', 'key', x)
    self.put_variable('mine', 'tree', {'a': x, 'b': [x]})
    self.put_variable('non_trainable', 'n', 3 * x)
    return (self.get_variable('prefix_decoder_cache', 'key'), self.get_var('n'),
            self.get_variable('mine', 'tree')['b'][0],
            self.has_variable('mine', 'tree'), self.has_variable('mine', 'other'),
            self.has_variable('params', 'w'), self.has_variable('params', 'n'))

  out, updated = run(method)
  for found, expected in zip(out[:3], (X, 3 * X, X), strict=True):
    np.testing.assert_array_equal(found, expected)
  assert out[3:] == (True, False, True, False)
  np.testing.assert_array_equal(updated['prefix_decoder_cache']['key'], X)
  np.testing.assert_array_equal(updated['mine']['tree']['a'], X)


def test_put_variable_into_an_immutable_collection():
  for collection in ('mine', 'params', 'non_trainable'):
    with pytest.raises(base_layer.ModifyScopeVariableError,
                       match=f"'mixed'.*'v'.*'{collection}' is immutable"):
      run(lambda s, x, c=collection: s.put_variable(c, 'v', x), mutable=['summaries'])


def test_is_mutable_collection():
  names = ('params', 'summaries', 'non_trainable', 'aux_loss', 'decoder_cache')

  def look(self, x):
    return [self.is_mutable_collection(c) for c in names]

  assert run(look, mutable=['summaries'])[0] == [False, True, False, False, False]
  assert run(look, mutable=True)[0] == [True] * 5
  assert run(look, mutable=False) == [False] * 5
  assert run(look, mutable=base_layer.DenyList('summaries'))[0] == [
    True, False, True, True, True]
  seen = []
  Mixed(name='mixed').init(
    KEY, X, method=lambda s, x: seen.append((s.is_initializing(), look(s, x))))
  assert seen == [(True, [True, False, True, False, False])]


def test_sow():
  def method(self, x):
    return [self.sow('intermediates', 'seen', v) for v in (x, x + 1)]

  out, updated = run(method, mutable=['intermediates'])
  assert out == [True, True]
  seen = updated['intermediates']['seen']
  assert type(seen) is tuple
  np.testing.assert_array_equal(seen, [X, X + 1])
  assert run(method, mutable=False) == [False, False]


# -- Decode state ------------------------------------------------------------------


def test_decode_state():
  def start(self, x):
    assert not self.has_variable('decoder_cache', 'c')
    self.update_decode_state('c', x)
    return self.get_decode_state('c')

  def step(self, x):
    self.update_decode_state('c', self.get_decode_state('c') + x)
    return self.get_decode_state('c')

  given = Mixed(name='mixed').init(KEY, X)
  out, cache = run(start, variables=given, mutable=['decoder_cache'])
  np.testing.assert_array_equal(out, X)
  np.testing.assert_array_equal(cache['decoder_cache']['c'], X)
  out, cache = run(step, variables={**given, **cache}, mutable=['decoder_cache'])
  np.testing.assert_array_equal(out, 2 * X)
  out = run(step, variables={**given, **cache}, mutable=False)
  np.testing.assert_array_equal(out, 2 * X, err_msg='not written, but readable')


def test_decode_state_that_is_not_there():
  with pytest.raises(AssertionError, match="'mixed' has no decode state 'c'"):
    run(lambda s, x: s.get_decode_state('c'))
  with pytest.raises(AssertionError, match='c'):
    run(lambda s, x: (s.update_decode_state('c', x), s.get_decode_state('c')),
        mutable=False)


# -- Quantized and sparse variables ------------------------------------------------


class Packed(BaseLayer):
  """A quantized and a sparse variable."""

  symmetric: bool = True
  scale_shape: Any = (3,)
  scale_hparams: Any = None

  def setup(self):
    self.create_quantized_variable(
      'q', WeightHParams([2, 3], tensor_split_dims_mapping=['a', None]),
      scale_shape=self.scale_shape, use_symmetric=self.symmetric,
      scale_hparams=self.scale_hparams)
    self.create_sparse_variable('s', constant(2.0, (2, 3)))

  def __call__(self):
    return (self.get_quantized_weight('q', self.symmetric), self.get_sparse_weight('s'))


def test_quantized_variable():
  layer = Packed(name='p')
  variables = layer.init(KEY)
  assert set(variables['params']) == {'q', 'q_quantized_scale', 's'}
  (weight, scale, zero), _ = layer.apply(variables)
  assert weight.dtype == jnp.int8 and not weight.any() and zero is None
  assert scale.shape == (3,) and scale.dtype == jnp.float32
  metadata = layer.abstract_init_with_metadata()
  assert list(metadata['params']['q'].tensor_split_dims_mapping) == ['a', None]


def test_asymmetric_quantized_variable():
  layer = Packed(name='p', symmetric=False, fprop_dtype=BF16)
  (weight, scale, zero), _ = layer.apply(layer.init(KEY))
  assert (weight.dtype, scale.dtype, zero.dtype) == (jnp.int8, BF16, BF16)
  assert zero.shape == (3,)


def test_scale_of_a_quantized_variable():
  layer = Packed(name='p', scale_shape=[], scale_hparams=constant(0.5, (4,)))
  (_, scale, _), _ = layer.apply(layer.init(KEY))
  np.testing.assert_array_equal(scale, [0.5] * 4)
  with pytest.raises(ValueError, match="'p'.*not both"):
    Packed(name='p', scale_hparams=constant(0.5, (4,))).init(KEY)
  with pytest.raises(TypeError):
    Packed(name='p', scale_shape=[]).init(KEY)


def test_sparse_variable():
  layer = Packed(name='p')
  variables = layer.init(KEY)
  mask = variables['non_trainable']['s_sparsity_mask']
  assert mask.dtype == bool and mask.shape == (2, 3) and not mask.any()
  _, (weight, seen) = layer.apply(variables)
  np.testing.assert_array_equal(weight, np.full((2, 3), 2.0))
  np.testing.assert_array_equal(seen, mask)


def test_quantize_weight_by_default_changes_nothing():
  class Nest(BaseLayer):
    inst: BaseLayer = pax_fiddle.instance_field(Mixed)

    def setup(self):
      self.create_variable('g', constant(1.0, tensor_split_dims_mapping=['a']))
      self.create_child('a', Config(Mixed))
      self.create_child('unused', Config(Mixed))
      self.create_child('reading', Config(Returning, use=lambda w, n: w + n))

    def __call__(self, x):
      return self.a(self.inst(x)) * self.theta.g

  layer = Nest(name='nest', mesh_axis_names=['a'])
  variables = layer.init(KEY, X)
  found = layer.apply(variables, method='quantize_weight')
  assert jax.tree.structure(found) == jax.tree.structure(variables)
  jax.tree.map(np.testing.assert_array_equal, found, variables)
  given = layer.init(KEY, X, method=lambda s, x: s.unused(s(x)))
  specs = layer.apply(given, method='quantized_partition_specs')
  assert specs['params']['g'].meta == jax.sharding.PartitionSpec('a')
  assert specs['non_trainable']['inst']['steps'].meta == jax.sharding.PartitionSpec()
  assert set(specs['params']) == {'g', 'a', 'inst', 'unused'}


def test_quantize_weight_without_variables():
  class Bare(BaseLayer):
    def __call__(self):
      return 0

  assert Bare(name='b').apply({}, method='quantize_weight') == {}


# -- The same variables in Haiku's trees -------------------------------------------


class Busy(BaseLayer):
  """Writes to every bucket."""

  def setup(self):
    self.create_child('inner', Config(Mixed))

  def __call__(self, x):
    out = self.inner(x)
    self.inner.update_var('n', self.inner.get_var('n') + x)
    self.inner.add_summary('norm', jnp.sum(x))
    self.add_summary('x', x)
    self.add_aux_loss('l2', jnp.sum(x**2))
    return out


def test_haiku_trees():
  net = hk.transform_with_state(lambda x: Busy(name='busy')(x))
  params, state = net.init(KEY, X)
  assert set(params) == {'busy/inner'}
  assert set(params['busy/inner']) <= {'w', 'half', 'index', 'exact'}
  assert set(state) == {'busy', 'busy/inner'}
  assert set(state['busy']) == {'summaries', 'aux_loss'}
  assert set(state['busy']['summaries']) == {'x_scalar'}
  assert set(state['busy/inner']) == {'n', 'steps', 'summaries'}
  np.testing.assert_array_equal(state['busy/inner']['n'], [2.5, 2.5], 'as declared')
  treedef = jax.tree.structure(state)
  for step in range(1, 4):
    _, state = net.apply(params, state, None, X)
    assert jax.tree.structure(state) == treedef
    np.testing.assert_array_equal(state['busy/inner']['n'], 2.5 + step * X)
    assert state['busy']['aux_loss']['l2'].value == 5.0, 'starts afresh'


def test_both_faces_hold_the_same():
  layer = Busy(name='busy')
  variables = layer.init(KEY, X)
  net = hk.transform_with_state(lambda x: Busy(name='busy')(x))
  from pax_haiku.core import variables as trees

  params, state = trees.to_haiku(variables, root='busy')
  out, state = net.apply(params, state, None, X)
  mutable = ['non_trainable', 'summaries', 'aux_loss']
  expected, updated = layer.apply(variables, X, mutable=mutable)
  np.testing.assert_array_equal(out, expected)
  found = trees.to_pax(params, state, root='busy')
  assert jax.tree.structure(found) == jax.tree.structure(
    {'params': variables['params'], **updated})
  jax.tree.map(np.testing.assert_array_equal,
               {c: found[c] for c in mutable}, updated)


def test_conversion_is_lossless():
  from pax_haiku.core import variables as trees

  loss = base_layer.AuxLossStruct(jnp.ones(()), jnp.ones(()))
  pax = {'params': {'a': {'w': X}, 'w': X, 'b': {'c': {'w': X}}},
         'non_trainable': {'a': {'w': X}}, 'summaries': {'s_scalar': X},
         'aux_loss': {'b': {'l': loss}}, 'mine': {'a': {'q': (X, X)}},
         'decoder_cache': {'b': {'k': X}}}
  params, state = trees.to_haiku(pax, root='net')
  assert set(params) == {'net', 'net/a', 'net/b/c'}
  assert set(state['net/a']) == {'w', '@mine'}
  assert state['net/b']['aux_loss'] == {'l': loss}
  back = trees.to_pax(params, state, root='net')
  assert jax.tree.structure(back) == jax.tree.structure(pax)
  with pytest.raises(ValueError, match="'other'.*'net'"):
    trees.to_pax({'other': {'w': X}}, {}, root='net')
