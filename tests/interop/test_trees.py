"""Trees of variables converted both ways: by hand, and round trips of random trees."""

import haiku as hk
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from pax_haiku import base_layer, interop, layers, pax_fiddle

LOSS = base_layer.AuxLossStruct(2.0, 1.0)
PARAMS = {'net': {'w': 1}, 'net/ffn/~/linear': {'w': 2, 'b': 3}}
STATE = {
  'net/bn': {'mean': 4, 'cache': {'k': 5, 'v': [6]}, 'summaries': {'x_scalar': 7}},
  'net': {'aux_loss': {'l2': LOSS}, '@mine': {'q': (8, 9)}},
}
PAX = {
  'params': {'w': 1, 'ffn': {'~': {'linear': {'w': 2, 'b': 3}}}},
  'non_trainable': {'bn': {'mean': 4, '@cache': {'k': 5, 'v': [6]}}},
  'summaries': {'bn': {'x_scalar': 7}},
  'aux_loss': {'l2': LOSS},
  'mine': {'q': (8, 9)},
}


def test_by_hand():
  assert interop.to_pax(PARAMS, STATE, root='net') == PAX
  assert interop.to_pax(PARAMS, STATE) == PAX, 'the root is found'
  assert interop.to_haiku(PAX, root='net') == (PARAMS, STATE)


def test_all_module_names_kept():
  pax = interop.to_pax({'linear': {'w': 1}, 'linear_1': {'w': 2}}, {}, root='')
  assert pax == {'params': {'linear': {'w': 1}, 'linear_1': {'w': 2}}}
  params, state = interop.to_haiku(pax, root='')
  assert (params, state) == ({'linear': {'w': 1}, 'linear_1': {'w': 2}}, {})
  with pytest.raises(ValueError, match=r"\['w'\] belong to the outermost layer"):
    interop.to_haiku({'params': {'w': 1}}, root='')


def test_nothing_at_all():
  assert interop.to_pax({}, {}) == interop.to_pax({}) == {}
  assert interop.to_haiku({}, root='net') == ({}, {})


def test_what_holds_nothing_is_kept():
  params = {'net': {}, 'net/a': {'w': 1}}
  state = {'net': {'summaries': {}}, 'net/a': {'summaries': {'x': 1}, 'c': {}}}
  pax = interop.to_pax(params, state)
  assert pax['summaries'] == {'@': {}, 'a': {'x': 1}}
  assert interop.to_haiku(pax, root='net') == (params, state)


def test_boxes_are_opened():
  box = base_layer.BoxedParam(3.0, base_layer.WeightHParams([]))
  assert interop.to_haiku({'params': {'w': box}}, root='n')[0] == {'n': {'w': 3.0}}


@pytest.mark.parametrize(
  'params, root, message',
  [
    ({'a': {'w': 1}, 'b': {'w': 1}}, None, r"outermost modules are \['a', 'b'\]"),
    ({'a': {'w': 1}, 'ab': {'w': 1}}, 'a', "'ab' does not lie below the root 'a'"),
    ({'a': {'b': 1}, 'a/b': {'w': 2}}, 'a', "'b' is the name of a module and of a"),
    ({'a/b': {'w': 2}, 'a': {'b': 1}}, 'a', "'b' is the name of a module and of a"),
    ({'a/b': {'c': 2}, 'a/b/c/d': {'e': 1}}, 'a', "'b/c' is the name of a module"),
  ],
)
def test_trees_that_do_not_fit(params, root, message):
  for args in ((params, {}), ({}, params)):
    with pytest.raises(ValueError, match=message):
      interop.to_pax(*args, root=root)


def test_not_trees():
  with pytest.raises(TypeError, match=r"params\['params/w'\] to be \{name: value\}"):
    interop.to_pax({'params/w': jnp.ones(2)})
  with pytest.raises(TypeError, match='state to be .*found list'):
    interop.to_pax({}, [1])
  with pytest.raises(TypeError, match=r"variables\['w'\] to be nested dicts"):
    interop.to_haiku({'w': jnp.ones(2)}, root='net')
  with pytest.raises(TypeError, match='variables to be .*found tuple'):
    interop.to_haiku((PARAMS, STATE), root='net')


# -- Random trees ------------------------------------------------------------------

# Modules are called m..., values v..., so none has the full name of another.
modules = st.lists(
  st.sampled_from(['m', 'm_1', '~', '~setup', 'mean_ema', 'summaries', 'm@']),
  max_size=6,
).map(lambda parts: '/'.join(['net', *parts]))
names = ['v', 'v_1', 'v/w', 'v~', 'v b', 'vé', 'vsummaries']
plain_names = st.sampled_from([*names, '@v'])
leaves = st.one_of(
  st.integers(),
  st.none(),
  st.builds(base_layer.AuxLossStruct, st.integers(), st.integers()),
  st.lists(st.integers(), max_size=2),
  st.tuples(st.integers()),
)
arrays = st.integers(0, 3).map(lambda n: np.zeros([n, 2], np.float16))
dicts = st.dictionaries(st.sampled_from(['k', '@', 'm', 'v']), leaves, max_size=2)
buckets = st.dictionaries(
  st.sampled_from(
    ['summaries', 'aux_loss', 'decoder_cache', 'prefix_decoder_cache', 'intermediates',
     '@mine', '@~']
  ),
  st.dictionaries(st.sampled_from(['x_scalar', 'v', 'loss']), leaves, max_size=2),
  max_size=3,
)
plain = st.builds(
  lambda plain, of_dicts: {**plain, **of_dicts},
  st.dictionaries(plain_names, arrays | leaves, max_size=3),
  st.dictionaries(st.sampled_from(['d', 'd_1', 'decoder']), dicts, max_size=2),
)
flat_params = st.dictionaries(modules, plain, max_size=4)
flat_state = st.dictionaries(
  modules, st.builds(lambda plain, kept: {**plain, **kept}, plain, buckets), max_size=4
)


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x is y or x == y


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(flat_params, flat_state)
def test_round_trip_from_haiku(params, state):
  pax = interop.to_pax(params, state, root='net')
  back = interop.to_haiku(pax, root='net')
  same(back, (params, state))
  same(interop.to_pax(*back, root='net'), pax)


nested = st.recursive(
  st.dictionaries(st.sampled_from(names), leaves, max_size=2),
  lambda inner: st.builds(
    lambda here, below: {**here, **below},
    st.dictionaries(st.sampled_from(names), leaves, max_size=2),
    st.dictionaries(st.sampled_from(['m', '~', 'mean_ema']), inner, max_size=2),
  ),
  max_leaves=6,
)


def without_empties(tree):
  if not isinstance(tree, dict):
    return tree
  kept = {k: without_empties(v) for k, v in tree.items()}
  return {k: v for k, v in kept.items() if v != {}}


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(
  st.dictionaries(
    st.sampled_from(['params', 'non_trainable', 'summaries', 'aux_loss', '@', 'mine']),
    nested,
  )
)
def test_round_trip_from_pax(variables):
  flat = interop.to_haiku(variables, root='net')
  same(interop.to_pax(*flat, root='net'), without_empties(variables))


# -- Trees of real models ----------------------------------------------------------


def test_trees_of_a_model_run_on_both_sides():
  config = pax_fiddle.Config(
    layers.ConvBNAct, name='net', filter_shape=(1, 1, 2, 3), filter_stride=(1, 1)
  )
  x = jnp.ones([2, 3, 3, 2])
  net = hk.transform_with_state(lambda x: config.Instantiate()(x))
  params, state = net.init(jax.random.PRNGKey(0), x)
  out, new_state = net.apply(params, state, None, x)
  variables = interop.to_pax(params, state)
  same(interop.to_haiku(variables, root='net'), (params, state))
  found, updated = config.Instantiate().apply(
    variables, x, mutable=['non_trainable', 'summaries']
  )
  np.testing.assert_array_equal(found, out)
  jax.tree.map(
    np.testing.assert_array_equal,
    interop.to_haiku({'params': variables['params'], **updated}, root='net')[1],
    new_state,
  )
