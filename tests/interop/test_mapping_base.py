"""Round trips with a base: what nobody changed comes back bit for bit."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from pax_haiku.interop import (
  Mapping,
  MappingError,
  convert_optimizer,
  mapping_checkpoint,
  match_model,
)
from pax_haiku.interop import mapping as mapping_lib
from tests.interop import port_models as models
from tests.interop.port_models import MIXED, Config, normal

X = normal(1, 6, 3)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-30, 1 + 2**-23, 1 - 2**-24, np.inf, np.nan, 1e-44]


def assert_same_bits(found, expected):
  assert set(found) == set(expected)
  for name, x in expected.items():
    x, y = np.asarray(x), np.asarray(found[name])
    assert (y.dtype, y.shape) == (x.dtype, x.shape), name
    assert y.tobytes() == x.tobytes(), name


# -- Random mappings -------------------------------------------------------------------


def wild(rng, shape, dtype):
  """Numbers of every magnitude, of all signs, and special ones."""
  x = rng.normal(size=shape) * 10 ** rng.uniform(-12, 12, shape)
  near = 1 + rng.normal(size=shape) * 10 ** rng.uniform(-8, 0, shape)
  x = np.where(rng.random(shape) < 0.4, near, x)
  with np.errstate(over='ignore'):
    special = rng.choice(SPECIAL, shape)
    return np.where(rng.random(shape) < 0.1, special, x).astype(dtype)


def random_rules(rng):
  """Rules of every kind, and the source's entries that they take."""
  lines, source, shapes = [], {}, {}

  def new(*shape):
    name = f'params:layer{len(source)}/w'
    dtype = rng.choice(['float32', 'float32', 'bfloat16', 'float16'])
    source[name] = wild(rng, shape, jnp.dtype(str(dtype)))
    return name

  def add(expr):
    shapes[f'params:port/v{len(lines)}'] = None
    lines.append(f'params:port/v{len(lines)} = {expr}')

  def offset(expr):
    return f'add({expr}, {rng.choice([-1, 0.5, 1])})' if rng.random() < 0.6 else expr

  def like(name):
    new_name = new(*source[name].shape)
    source[new_name] = wild(rng, source[name].shape, source[name].dtype)
    return new_name

  for _ in range(rng.integers(1, 4)):
    kind = rng.integers(6)
    if kind == 0:
      add(offset(f'transpose({new(2, 3)}, [1,0])'))
    elif kind == 1:
      add(offset(f'reshape({new(2, 1, 3)}, [2,1,3], [6])'))
    elif kind == 2:  # fused projections
      q = new(3, 2)
      add(offset(f'concat({q}, {offset(like(q))}, {like(q)}, 1, [2,2,2])'))
    elif kind == 3:  # a stack of layers from a list
      first = new(2, 2)
      add(offset(f'stack({first}, {offset(f"transpose({like(first)}, [1,0])")})'))
    elif kind == 4:  # a list of layers from a stack
      stack = new(3, 2)
      for i in range(3):
        add(offset(f'index({offset(stack)}, {i}, 3)'))
    else:  # tied on one side only
      tied = new(4)
      add(tied)
      add(offset(tied))
  return Mapping.from_text('\n'.join(lines)), source


def trained(rng, entries):
  """Entries some of whose elements have changed, and which have."""
  new, masks = {}, {}
  for name, x in entries.items():
    masks[name] = rng.random(x.shape) < rng.choice([0.0, 0.3, 1.0])
    new[name] = np.where(masks[name], wild(rng, x.shape, x.dtype), x)
  return new, masks


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_random_trees_come_back(seed):
  rng = np.random.default_rng(seed)
  mapping, source = random_rules(rng)
  with np.errstate(all='ignore'):
    there = mapping.forward(source)
    back = mapping.convert(
      mapping_lib.unflatten(there, 'pax'),
      back=True,
      base=mapping_lib.unflatten(source, 'haiku'),
    )
    assert_same_bits(mapping_lib.flatten(back), source)
    # Other numbers, and from the port through the original to the port.
    port = {n: wild(rng, x.shape, x.dtype) for n, x in there.items()}
    try:
      here = mapping.backward(port)
    except MappingError:  # tied, and wild numbers differ
      return
    again = mapping_checkpoint.convert_entries(mapping, here, base=port)
    assert_same_bits(again, port)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_only_what_was_trained_changes(seed):
  """Each element of the original is of the base, or what the rule makes of a change."""
  rng = np.random.default_rng(seed)
  mapping, source = random_rules(rng)
  with np.errstate(all='ignore'):
    there, masks = trained(rng, mapping.forward(source))
    try:
      plain = mapping.backward(there)
    except MappingError:
      return
    # Where changed elements of the port belong; either of two that are tied.
    moved = {}

    def put(name, index, shape, mask):
      moved.setdefault(name, np.zeros(shape, bool))[index] |= mask

    for rule in mapping.rules:
      rule.expr.backward(masks[rule.name], put, True)
    found = mapping_checkpoint.convert_entries(mapping, there, back=True, base=source)
  for name, x in source.items():
    changed = moved[name]
    assert_same_bits({name: found[name][~changed]}, {name: x[~changed]})
    same = (found[name] == plain[name]) | (found[name] == x)
    assert (same | np.isnan(plain[name])).all()


# -- Models ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def checkpoint():
  """A model with averages of some updates, Adam's moments and scales far from 1."""
  source = match_model.as_model(models.hk_mixed, args=(X,))
  tree = source.tree
  params, state = tree['params'], tree['state']
  scale = jnp.float32([1e-9, 3e-4, 1e7, 1.0000001])
  params['layer_norm']['scale'] = scale
  params['batch_norm']['scale'] = -scale[None]
  optimizer = optax.adam(1e-3)
  opt_state = optimizer.init(params)

  @jax.jit
  def step(params, state, opt_state):
    def loss(params):
      out, new = source.call({'params': params, 'state': state}, None, (X,), {})
      return jnp.sum(out**2), new['state']

    grads, state = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), state, opt_state

  for _ in range(3):
    params, state, opt_state = step(params, state, opt_state)
  params['layer_norm']['scale'] = scale
  return {'params': params, 'state': state}, opt_state


def test_a_model_comes_back(checkpoint):
  tree, opt_state = checkpoint
  port = Config(models.Mixed, name='net').Instantiate()
  there = MIXED.convert(tree)
  moments = convert_optimizer(MIXED, opt_state, tree['params'], there['params'])
  back = MIXED.convert(there, back=True, base=tree)
  jax.tree.map(np.testing.assert_array_equal, back, tree)
  assert_same_bits(mapping_lib.flatten(back), mapping_lib.flatten(tree))
  assert back['state']['batch_norm/~/mean_ema']['counter'] == 3
  again = convert_optimizer(
    MIXED, moments, tree['params'], there['params'], back=True, base=opt_state
  )
  jax.tree.map(np.testing.assert_array_equal, again, opt_state)
  assert jax.tree.structure(again) == jax.tree.structure(opt_state)
  # Without it, a small scale is lost and averages are old ones.
  plain = MIXED.convert(there, back=True)
  assert plain['params']['layer_norm']['scale'][0] == 0
  assert plain['state']['batch_norm/~/mean_ema']['counter'] == 1_000_000_000
  # Half a step of training: averages move, and one layer.
  _, updated = port.apply(there, X, mutable=['non_trainable'])
  bias = there['params']['ff_1']['bias']['b'] + 1
  there['params']['ff_1']['bias']['b'] = bias
  found = MIXED.convert({**there, **updated}, back=True, base=tree)
  before, after = mapping_lib.flatten(tree), mapping_lib.flatten(found)
  changed = {n for n in before if before[n].tobytes() != after[n].tobytes()}
  ema = {f'state:batch_norm/~/{v}_ema' for v in ('mean', 'var')}
  name = 'params:__layer_stack_no_per_layer/linear/b'
  assert changed == {name} | {
    f'{e}/{k}' for e in ema for k in ('average', 'hidden', 'counter')
  }
  moved = (after[name] != before[name]).all(1)
  np.testing.assert_array_equal(moved, [False, True, False])
  for e in ema:
    assert after[e + '/counter'] == 1_000_000_000
    np.testing.assert_array_equal(after[e + '/hidden'], after[e + '/average'])


def test_a_port_comes_back(checkpoint):
  """Small offsets of Pax's scales survive a visit to Haiku."""
  port = MIXED.convert(checkpoint[0])
  port['params']['ln']['scale'] = np.float32([1e-12, -0.0, 3e-9, 0.1])
  there = MIXED.convert(port, back=True)
  assert MIXED.convert(there)['params']['ln']['scale'][0] == 0
  back = MIXED.convert(there, base=port)
  assert_same_bits(mapping_lib.flatten(back), mapping_lib.flatten(port))


def test_averages_go_the_other_way():
  """The mapping was made from the port to the original."""
  lines = [
    'source pax\ntarget haiku',
    'state:ema/average = non_trainable:mean',
    'forth state:ema/hidden = non_trainable:mean',
    'forth state:ema/counter = full(1000000000, [], int32)',
  ]
  mapping = Mapping.from_text('\n'.join(lines))
  base = {
    'state:ema/average': np.float32([1, 2]),
    'state:ema/hidden': np.float32([0.5, 1]),
    'state:ema/counter': np.int32(4),
  }
  there = mapping.backward(base)
  convert = mapping_checkpoint.convert_entries
  assert_same_bits(convert(mapping, there, base=base), base)
  there['non_trainable:mean'][1] = 7
  found = convert(mapping, there, base=base)
  np.testing.assert_array_equal(found['state:ema/hidden'], [1, 7])
  assert found['state:ema/counter'] == 1_000_000_000


UNUSED = Mapping.from_text('params:w = add(params:l/w, -1)\nunused params:old/w')
BASE = {
  'params:l/w': np.float32([0.1, 1e-9]),
  'params:old/w': np.ones(3, np.float32),
  'opt_state:mu/l/w': np.float32([3, 4]),
  'opt_state:mu/old/w': np.float32([5, 6, 7]),
}


def test_what_only_the_original_has_comes_back():
  convert = mapping_checkpoint.convert_entries
  there = convert(UNUSED, BASE)
  assert set(there) == {'params:w', 'opt_state:mu/w'}
  assert_same_bits(convert(UNUSED, there, back=True, base=BASE), BASE)
  variables = {n: x for n, x in BASE.items() if n.startswith('params')}
  without = convert(UNUSED, there, back=True, base=variables)
  assert_same_bits(without, {**variables, 'opt_state:mu/l/w': np.float32([3, 4])})
  mu, params = ({m: {'w': BASE[p + m + '/w']} for m in ('l', 'old')}
                for p in ('opt_state:mu/', 'params:'))  # fmt: skip
  moved = convert_optimizer(UNUSED, (mu,), params, {'w': params['l']['w']})
  found = convert_optimizer(
    UNUSED, moved, params, {'w': params['l']['w']}, back=True, base=(mu,)
  )
  jax.tree.map(np.testing.assert_array_equal, found, (mu,))


def test_moments_of_some_parameters():
  """An optimizer that leaves parameters out, as `optax.masked` does."""
  mapping = Mapping.from_text(
    'params:a = params:l/w\nparams:b = transpose(params:m/w, [1,0])\n'
    'params:c = stack(params:n/w, params:o/w)'
  )
  two = np.arange(6, dtype=np.float32).reshape(2, 3)
  entries = {f'params:{m}/w': two for m in 'lmno'}
  some = {f'opt_state:1/mu/{m}/w': 2 * two for m in 'mno'}
  count = {'opt_state:1/count': np.int32(2)}
  convert = mapping_checkpoint.convert_entries
  there = convert(mapping, {**entries, **some, **count})
  assert {n for n in there if n.startswith('opt_state')} == {
    'opt_state:1/mu/b',
    'opt_state:1/mu/c',
    'opt_state:1/count',
  }
  np.testing.assert_array_equal(there['opt_state:1/mu/b'], 2 * two.T)
  assert_same_bits(convert(mapping, there, back=True), {**entries, **some, **count})
  assert mapping_checkpoint.moments(there) == {'opt_state:1/mu/': ['b', 'c']}
  del some['opt_state:1/mu/n/w']
  with pytest.raises(MappingError, match='below opt_state:1/mu/: missing in'):
    convert(mapping, {**entries, **some})
  with pytest.raises(MappingError, match=r'1/nu/m/w has shape \(2,\), the parameter'):
    convert(mapping, {**entries, 'opt_state:1/nu/m/w': np.ones(2)})


def test_the_wrong_way_is_told():
  there = mapping_checkpoint.convert_entries(UNUSED, BASE)
  with pytest.raises(MappingError, match='entries of the target, .* with back'):
    mapping_checkpoint.convert_entries(UNUSED, there)
  with pytest.raises(MappingError, match='entries of the source, .* without back'):
    mapping_checkpoint.convert_entries(UNUSED, BASE, back=True)


def test_dtypes_are_those_of_the_base():
  """A port in bfloat16 gives back the original's float32."""
  there = {'params:w': (BASE['params:l/w'] - 1).astype(jnp.bfloat16)}
  found = mapping_checkpoint.convert_entries(UNUSED, there, back=True, base=BASE)
  np.testing.assert_array_equal(found['params:l/w'], BASE['params:l/w'])
  there['params:w'][0] = 0.5
  found = mapping_checkpoint.convert_entries(UNUSED, there, back=True, base=BASE)
  np.testing.assert_array_equal(found['params:l/w'], np.float32([1.5, 1e-9]))
  assert found['params:l/w'].dtype == np.float32


@pytest.mark.parametrize(
  'base, message',
  [
    ({}, 'missing params:l/w'),
    ({'params:l/w': np.ones(2), 'params:x': np.ones(2)}, 'surplus params:x'),
    ({'params:l/w': np.ones(3)}, r'params:w has shape \(2,\), by the base \(3,\)'),
  ],
)
def test_a_base_of_another_model(base, message):
  there = {'params:w': np.ones(2, np.float32)}
  with pytest.raises(MappingError, match=f'the base is of another model: {message}'):
    mapping_checkpoint.convert_entries(UNUSED, there, back=True, base=base)


def test_an_optimizer_state_of_another_optimizer():
  params = {'l': {'w': np.ones(2)}, 'old': {'w': np.ones(3)}}
  moved = convert_optimizer(UNUSED, (params,), params, {'w': np.ones(2)})
  with pytest.raises(MappingError, match='the base is a state of another optimizer'):
    convert_optimizer(
      UNUSED, moved, params, {'w': np.ones(2)}, back=True, base=(params, params)
    )
