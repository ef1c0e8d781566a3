"""init, apply, bind and abstract init, as a user of Pax sees them.

Expected values are Pax's rules, or were seen in the real Praxis.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
LayerTpl = pax_fiddle.Config[BaseLayer]
KEYS = {'params': jax.random.PRNGKey(0), 'random': jax.random.PRNGKey(1)}
X = jnp.array([[1.0, 2.0]])


class Unit(BaseLayer):
  """A product that writes to every collection."""

  size: int = 2

  def setup(self):
    self.create_variable('w', WeightHParams([2, 2], WeightInit.Constant(2.0)))
    self.create_variable('n', WeightHParams([], WeightInit.Constant(0.0)), False)

  def __call__(self, x, scale=1.0):
    self.update_var('n', self.get_var('n') + 1)
    self.add_summary('s', jnp.sum(x))
    self.add_aux_loss('a', jnp.sum(x), 0.5)
    return scale * (x @ self.theta.w)

  def other(self, x):
    return x + 1

  def draw(self):
    return self.next_prng_key()


class Net(BaseLayer):
  """Calls `first` twice, `many[1]` and `inst` once, and `unused` never."""

  tpl: LayerTpl = pax_fiddle.template_field(Unit)
  inst: BaseLayer = pax_fiddle.instance_field(Unit)

  def setup(self):
    self.create_child('first', self.tpl)
    self.create_children('many', [self.tpl, self.tpl])
    self.create_child('unused', self.tpl)

  def __call__(self, x):
    return self.first(self.inst(self.many[1](self.first(x))))

  def only_inst(self, x):
    return self.inst(x)


USED = {'first', 'many_1', 'inst'}


def unit(**fields):
  return Unit(name='unit', **fields)


@pytest.fixture(scope='module')
def net():
  return Config(Net, name='net').Instantiate()


@pytest.fixture(scope='module')
def variables(net):
  return net.init(KEYS, X)


def equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


# -- init --------------------------------------------------------------------------


def test_init(net, variables):
  assert set(variables) == {'params', 'non_trainable'}
  for collection, name in (('params', 'w'), ('non_trainable', 'n')):
    assert {k: set(v) for k, v in variables[collection].items()} == {
      u: {name} for u in USED}
  assert all(type(v) is dict for v in (variables, variables['params']))
  assert list(variables['params']) == sorted(USED)
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(variables))
  assert variables['non_trainable']['first']['n'] == 0.0, 'updates have no effect'


def test_init_with_a_method(net):
  for method in ('only_inst', net.only_inst, Net.only_inst, lambda n, x: n.inst(x)):
    assert set(net.init(KEYS, X, method=method)['params']) == {'inst'}
  with pytest.raises(AttributeError, match="Net 'net' has no method 'nope'"):
    net.init(KEYS, X, method='nope')


def test_init_takes_keyword_arguments():
  layer = unit()
  equal(layer.init(KEYS, x=X, scale=3.0), layer.init(KEYS, X))
  equal(layer.apply(layer.init(KEYS, X), scale=3.0, x=X), 3 * X @ jnp.full((2, 2), 2.0))


def test_mutable_of_init_replaces_the_list(net):
  names = ['params', 'non_trainable', 'summaries', 'aux_loss']
  found = net.init(KEYS, X, mutable=names)
  assert set(found) == set(names)
  assert set(found['summaries']) == USED
  assert found['aux_loss']['first']['a'].weight == 1.0, 'two calls of 0.5'
  assert found['non_trainable']['first']['n'] == 0.0
  assert set(net.init(KEYS, X, mutable=['params'])) == {'params'}


def test_collections_without_variables_are_absent():
  class Bare(BaseLayer):
    def __call__(self, x):
      return x

  assert Bare().init(KEYS, X) == {}
  equal(Bare().apply({}, X, mutable=True), (X, {}))


def test_init_under_jit_and_with_typed_keys(net, variables):
  equal(jax.jit(net.init)(KEYS, X), variables)
  typed = {'params': jax.random.key(0), 'random': jax.random.key(1)}
  equal(net.init(typed, X), variables)
  equal(net.init(jax.random.PRNGKey(0), X), variables)


@pytest.mark.parametrize('rngs', [
  3, None, jnp.ones(2), {'params': jnp.ones(2)}, {'params': 1}, {3: KEYS['params']},
  jax.random.split(jax.random.PRNGKey(0))])
def test_what_is_no_key(rngs):
  with pytest.raises(base_layer.InvalidRngError, match=r'PRNGKey'):
    unit().init(rngs, X)


def test_init_with_output():
  out, found = unit().init_with_output(KEYS, X)
  equal(out, X @ jnp.full((2, 2), 2.0))
  assert set(found) == {'params', 'non_trainable', 'summaries', 'aux_loss'}
  box = found['params']['w']
  assert isinstance(box, base_layer.BoxedParam) and list(box.meta.shape) == [2, 2]
  equal(base_layer.maybe_unbox_value(found['params']), unit().init(KEYS, X)['params'])


# -- apply -------------------------------------------------------------------------


def test_apply_returns_the_output_alone(net, variables):
  expected = X
  for _ in range(4):
    expected = expected @ jnp.full((2, 2), 2.0)
  equal(net.apply(variables, X), expected)
  equal(jax.jit(net.apply)(variables, X), expected)


@pytest.mark.parametrize('mutable, expected', [
  ([], set()), ('aux_loss', {'aux_loss'}), (('summaries',), {'summaries'}),
  (['non_trainable', 'summaries'], {'non_trainable', 'summaries'}),
  (True, {'params', 'non_trainable', 'summaries', 'aux_loss'}),
  (base_layer.DenyList(['params', 'summaries']), {'non_trainable', 'aux_loss'}),
  (base_layer.DenyList('params'), {'non_trainable', 'aux_loss', 'summaries'}),
])
def test_mutable(net, variables, mutable, expected):
  out, updated = net.apply(variables, X, mutable=mutable)
  equal(out, net.apply(variables, X))
  assert set(updated) == expected


def test_updated_collections_are_whole(net, variables):
  given = {**variables, 'non_trainable': {**variables['non_trainable'],
                                          'spare': {'z': X}}}
  _, updated = net.apply(given, X, mutable=['non_trainable', 'aux_loss'])
  equal(updated['non_trainable'], {
    'first': {'n': jnp.float32(2)}, 'inst': {'n': jnp.float32(1)},
    'many_1': {'n': jnp.float32(1)}, 'spare': {'z': X}})
  assert variables['non_trainable']['first']['n'] == 0.0, 'the given ones are kept'
  assert updated['aux_loss']['first']['a'].weight == 1.0


def test_given_aux_losses_add_up(net, variables):
  """As in Praxis: what is given in a mutable collection is what one starts from."""
  _, first = net.apply(variables, X, mutable=['aux_loss', 'summaries'])
  _, second = net.apply({**variables, **first}, X, mutable=['aux_loss', 'summaries'])
  for name in USED:
    one, two = (u['aux_loss'][name]['a'] for u in (first, second))
    np.testing.assert_allclose([two.value, two.weight], [2 * one.value, 2 * one.weight])
  equal(second['summaries'], first['summaries'])


def test_extra_variables_are_ignored(net, variables):
  given = {**variables, 'cache': {'q': {'v': X}},
           'params': {**variables['params'], 'more': {'w': X}}}
  equal(net.apply(given, X), net.apply(variables, X))
  _, updated = net.apply(given, X, mutable=True)
  assert 'more' in updated['params'] and 'cache' in updated


def test_apply_with_a_method(net, variables):
  for method in ('only_inst', net.only_inst, lambda n, x: n.inst(x)):
    equal(net.apply(variables, X, method=method), X @ jnp.full((2, 2), 2.0))
  equal(net.apply(variables, X, method=lambda n, x: n.first.other(x)), X + 1)


def test_apply_does_not_need_unused_children(net, variables):
  only = {'params': {'inst': variables['params']['inst']},
          'non_trainable': {'inst': variables['non_trainable']['inst']}}
  equal(net.apply(only, X, method='only_inst'), X @ jnp.full((2, 2), 2.0))


def test_boxed_variables_may_be_given(net, variables):
  _, boxed = net.init_with_output(KEYS, X, mutable=['params', 'non_trainable'])
  equal(net.apply(boxed, X), net.apply(variables, X))


def test_apply_creates_mutable_collections_that_are_absent(net, variables):
  out, made = net.apply({}, X, mutable=['params', 'non_trainable'], rngs=KEYS)
  equal(out, net.apply(variables, X))
  equal(base_layer.maybe_unbox_value(made['params']), variables['params'])
  out, made = net.apply({'params': variables['params']}, X, rngs=KEYS,
                        mutable=['non_trainable'])
  equal(out, net.apply(variables, X))
  _, expected = net.apply(variables, X, mutable=['non_trainable'])
  equal(base_layer.maybe_unbox_value(made), expected)


def test_one_level_too_deep(net, variables):
  with pytest.raises(base_layer.ApplyScopeInvalidVariablesStructureError,
                     match="Net 'net'.*one level"):
    net.apply({'params': variables}, X)


def test_variables_of_the_wrong_type(net):
  with pytest.raises(TypeError, match="Net 'net'.apply.*dict.*list"):
    net.apply([], X)


def test_gradients(net, variables):
  def loss(params, x):
    return jnp.sum(net.apply({**variables, 'params': params}, x))

  grads, dx = jax.grad(loss, (0, 1))(variables['params'], X)
  w = jnp.full((2, 2), 2.0)
  ones = jnp.ones((1, 2))
  equal(dx, ones @ (w @ w @ w @ w).T)
  y = X @ w
  equal(grads['many_1']['w'], y.T @ (ones @ (w @ w).T))
  equal(grads['first']['w'], X.T @ (ones @ (w @ w @ w).T) + (y @ w @ w).T @ ones)


def test_vmap_over_variables(net, variables):
  stacked = jax.tree.map(lambda v: jnp.stack([v, 2 * v]), variables)
  found = jax.vmap(net.apply, in_axes=(0, None))(stacked, X)
  equal(found[0], net.apply(variables, X))
  equal(found[1], 16 * found[0])


# -- Random streams ----------------------------------------------------------------


def test_missing_stream(net, variables):
  with pytest.raises(base_layer.InvalidRngError, match=r"'first'.*'random'.*rngs="):
    net.apply(variables, method=lambda n: n.first.draw())
  with pytest.raises(base_layer.InvalidRngError, match='dropout'):
    net.apply(variables, method=lambda n: n.first.draw(),
              rngs={'dropout': KEYS['random']})


def test_a_single_key_is_the_params_stream(net, variables):
  def draw(rngs):
    return net.apply(variables, method=lambda n: n.first.draw(), rngs=rngs)

  one = draw(jax.random.PRNGKey(7))
  equal(draw({'params': jax.random.PRNGKey(7)}), one)
  equal(draw({'random': jax.random.PRNGKey(7)}), one)
  both = draw({'params': jax.random.PRNGKey(8), 'random': jax.random.PRNGKey(7)})
  equal(both, one)


# -- capture_intermediates ---------------------------------------------------------


def test_capture_intermediates(net, variables):
  out, updated = net.apply(variables, X, capture_intermediates=True)
  w = jnp.full((2, 2), 2.0)
  assert set(updated) == {'intermediates'}
  found = updated['intermediates']
  equal(found['__call__'], (out,))
  equal(found['first']['__call__'], (X @ w, X @ w @ w @ w @ w))
  equal(found['many_1']['__call__'], (X @ w @ w,))
  assert set(found) == USED | {'__call__'}


def test_capture_intermediates_beside_mutable(net, variables):
  _, updated = net.apply(variables, X, capture_intermediates=True,
                         mutable=['non_trainable'])
  assert set(updated) == {'intermediates', 'non_trainable'}


def test_capture_selected_intermediates(net, variables):
  _, updated = net.apply(
    variables, X, capture_intermediates=lambda layer, method: (
      layer.name == 'first' and method == '__call__'))
  assert set(updated['intermediates']) == {'first'}
  _, updated = net.apply(
    variables, X, method=lambda n, x: n.inst(n.first.other(x)),
    capture_intermediates=lambda layer, method: method == 'other')
  equal(updated, {'intermediates': {'first': {'other': (X + 1,)}}})


def test_capture_intermediates_under_jit(net, variables):
  def run(v, x):
    return net.apply(v, x, capture_intermediates=True)

  equal(jax.jit(run)(variables, X), run(variables, X))


# -- bind --------------------------------------------------------------------------


def test_bind(net, variables):
  b = net.bind(variables)
  equal(b(X), net.apply(variables, X))
  equal(b.first.theta.w, variables['params']['first']['w'])
  equal(b.first.theta['w'], b.many[1].get_variable('params', 'w'))
  assert (b.name, b.first.name, b.many[1].name, b.inst.name) == (
    'net', 'first', 'many_1', 'inst')
  assert Net(fprop_dtype=jnp.bfloat16).bind(variables).first.fprop_dtype == jnp.bfloat16
  assert (b.path, b.first.path, b.many[0].path) == ((), ('first',), ('many_0',))
  assert b.tpl == net.tpl and len(b.many) == 2
  equal(b.only_inst(X), b.inst(X))
  equal(b.first.other(X), X + 1)
  assert b.first.has_variable('params', 'w') and not b.has_variable('params', 'w')
  assert not b.is_initializing() and not b.is_mutable_collection('non_trainable')
  equal(b.variables, variables)
  equal(b.first.variables, {c: variables[c]['first'] for c in variables})


def test_state_of_a_bound_layer_persists(net, variables):
  b = net.bind(variables, mutable=['non_trainable', 'summaries'])
  b(X)
  b.first(X)
  assert b.first.get_var('n') == 3.0
  assert b.variables['non_trainable']['first']['n'] == 3.0
  assert b.variables['summaries']['first']['s_scalar'] == 3.0
  b.first.update_var('n', jnp.float32(9.0))
  assert b.first.get_var('n') == 9.0
  assert variables['non_trainable']['first']['n'] == 0.0
  immutable = net.bind(variables)
  immutable(X)
  assert immutable.first.get_var('n') == 0.0


def test_key_counters_of_a_bound_layer_persist(net, variables):
  rngs = {'random': jax.random.PRNGKey(3)}
  b = net.bind(variables, rngs=rngs)
  found = [b.first.draw(), b.first.draw(), b.many[0].draw()]
  expected = net.apply(variables, rngs=rngs, method=lambda n: [
    n.first.draw(), n.first.draw(), n.many[0].draw()])
  equal(found, expected)


def test_bind_and_unbind(net, variables):
  first, own = net.bind(variables).first.unbind()
  assert type(first) is Unit
  equal(first.apply(own, X), X @ jnp.full((2, 2), 2.0))
  whole, everything = net.bind(variables).unbind()
  equal(whole.apply(everything, X), net.apply(variables, X))
  with pytest.raises(ValueError, match='bind'):
    net.unbind()


def test_apply_of_a_bound_layer_takes_the_variables_that_it_is_given(net, variables):
  others = jax.tree.map(lambda x: 2 * x, variables)
  equal(net.bind(variables).apply(others, X), net.apply(others, X))
  first = net.bind(others).first
  equal(first.apply({'params': variables['params']['first'],
                     'non_trainable': variables['non_trainable']['first']}, X),
        X @ jnp.full((2, 2), 2.0))


def test_attributes_of_a_bound_layer(net, variables):
  with pytest.raises(AttributeError, match='nope'):
    net.bind(variables).nope  # noqa: B018
  with pytest.raises(ValueError, match='nope'):
    net.bind(variables).first.theta.nope  # noqa: B018
  assert isinstance(net.bind(variables), Net)


def test_clone(net):
  copy = net.clone(name='copy', dtype=jnp.bfloat16)
  assert (copy.name, copy.dtype, net.name, net.dtype) == (
    'copy', jnp.bfloat16, 'net', jnp.float32)
  assert copy.tpl is net.tpl
  with pytest.raises(TypeError, match="'nope'"):
    net.clone(nope=1)


# -- Abstract init -----------------------------------------------------------------


class Odd(BaseLayer):
  """Has variables of several kinds; says what it sees while being traced."""

  log: Any = None

  def setup(self):
    self.create_variable('w', WeightHParams(
      [2, 3], fan_in_axes=[0], fan_out_axes=[1], tensor_split_dims_mapping=['a', None],
      collections=['mine']))
    self.create_variable('n', WeightHParams([], WeightInit.Constant(0),
                                            dtype=jnp.int32), trainable=False)

  def __call__(self, x, *, flag=None):
    if self.log:
      self.log(x, flag, self.do_eval)
    self.add_summary('s', x)
    return x @ self.theta.w


def test_abstract_init_with_metadata():
  layer = Odd(name='odd', ici_mesh_shape=[1], mesh_axis_names=['a'])
  found = layer.abstract_init_with_metadata(X)
  assert set(found) == {'params', 'non_trainable'}
  w, n = found['params']['w'], found['non_trainable']['n']
  assert list(w.shape) == [2, 3] and w.dtype == jnp.float32
  assert w.init == WeightInit.Xavier(1.000001) and w.repeat_prefix is None
  assert (w.fan_in_axes, w.fan_out_axes) == ([0], [1])
  assert list(w.tensor_split_dims_mapping) == ['a', None] and w.collections == ['mine']
  assert n.dtype == jnp.int32 and base_layer.var_not_trainable(n)
  assert not base_layer.var_not_trainable(w)
  specs = base_layer.var_partition_specs(found, [1], ['a'])
  assert specs['params']['w'] == jax.sharding.PartitionSpec('a', None)


def test_abstract_init_computes_nothing():
  seen = []
  layer = Odd(log=lambda x, flag, do_eval: seen.append((x, flag, do_eval)), name='odd')
  shape = jax.ShapeDtypeStruct((5, 2), jnp.float32)
  layer.abstract_init_with_metadata(shape, flag=3)
  layer.abstract_init_with_metadata(shape, do_eval=True)
  hparams = base_layer.JaxContext.HParams(do_eval=True)
  with base_layer.JaxContext.new_context(hparams=hparams):
    layer.abstract_init_with_metadata(shape)
  assert [s[2] for s in seen] == [False, True, False], 'in a context of its own'
  assert all(isinstance(s[0], jax.core.Tracer) for s in seen)
  assert isinstance(seen[0][1], jax.core.Tracer), 'numbers are traced too'
  assert seen[0][0].shape == (5, 2)


def test_abstract_init_in_bfloat16():
  seen = []
  layer = Odd(log=lambda x, *_: seen.append(x.dtype), fprop_dtype=jnp.bfloat16,
              name='odd')
  layer.abstract_init_with_metadata(X)
  assert seen == [jnp.bfloat16]


def test_abstract_init_of_more_collections():
  found = Odd(name='odd').abstract_init_with_metadata(
    X, extra_mutable_list=['summaries'])
  assert set(found) == {'params', 'non_trainable', 'summaries'}
  s = found['summaries']['s_scalar']
  assert isinstance(s, WeightHParams) and list(s.shape) == [1, 2]


def test_abstract_init_with_a_method(net):
  found = net.abstract_init_with_metadata(X, method=Net.only_inst)
  assert set(found['params']) == {'inst'}


def test_abstract_init_with_mdl_config(net):
  found = net.abstract_init_with_mdl_config(X)
  assert set(found) == USED | {'_hparams'}
  root, first = found['_hparams'], found['first']['_hparams']
  assert pax_fiddle.get_callable(root) is Net and root.name == 'net'
  assert root.tpl is None and root.inst is None
  assert pax_fiddle.get_callable(first) is Unit
  assert (first.name, first.size, first.fprop_dtype) == ('first', 2, jnp.float32)
