"""Helpers against numpy, and against numbers that the real Praxis gave."""

import collections
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from jax.sharding import AxisType, PartitionSpec

from pax_haiku import py_utils
from pax_haiku.py_utils import NestedMap

Pair = collections.namedtuple('Pair', 'u v')


# --- arrays ---


@pytest.mark.parametrize(
    'dtype, expected',
    [  # recorded from Praxis, but for 64 bits, which fall to 32 here
        (jnp.float32, -2.381976325057654e38),
        (jnp.bfloat16, -2.3660258324971503e38),
        (jnp.float16, -45856.0),
        (jnp.int8, -88),
        (jnp.int32, -1503238552),
        (jnp.float64, -2.381976325057654e38),
        (jnp.int64, -1503238552),
        (np.dtype('float32'), -2.381976325057654e38),
    ],
)
def test_large_negative_number(dtype, expected):
  value = py_utils.get_large_negative_number(dtype)
  assert value.shape == () and not value.weak_type
  assert value.dtype == jax.dtypes.canonicalize_dtype(dtype)
  assert float(value) == expected


@pytest.mark.parametrize('dtype', [jnp.bool_, jnp.uint8])
def test_large_negative_number_needs_a_sign(dtype):
  with pytest.raises(ValueError, match='dtype'):
    py_utils.get_large_negative_number(dtype)


def test_apply_mask_to_logits():
  logits = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  low = np.float32(-2.381976325057654e38)
  mask = jnp.array([[0.0, -1e38], [-3e38, -1.2e38]])
  out = py_utils.apply_mask_to_logits(logits, mask)
  np.testing.assert_array_equal(out, [[1, 2], [low, low]])
  assert py_utils.apply_mask_to_logits(logits.astype(jnp.bfloat16), mask).dtype == (
      jnp.bfloat16
  )


def test_l2_normalize():
  x = np.random.RandomState(0).randn(2, 3, 4).astype(np.float32)
  # Sums of a few products in another order: a few units in the last place.
  for axis in (-1, 1, (0, 2)):
    expected = x / np.sqrt(np.sum(x * x, axis=axis, keepdims=True) + 0.5)
    out = py_utils.l2_normalize(x, axis=axis, epsilon=0.5)
    np.testing.assert_allclose(out, expected, rtol=1e-6)
  assert not np.any(np.isnan(py_utils.l2_normalize(jnp.zeros(3))))


X = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
PADDING = np.array([[0, 1, 0], [1, 0, 0.5]], np.float32)


def test_apply_padding_selects():
  padding = PADDING[:, :, None]
  expected = np.where(padding > 0, 0, X)
  np.testing.assert_array_equal(py_utils.apply_padding(X, padding), expected)
  np.testing.assert_array_equal(py_utils.apply_padding(X, padding > 0), expected)
  np.testing.assert_array_equal(
      py_utils.apply_padding(X, padding, pad_value=7.0), np.where(padding > 0, 7, X)
  )
  for dtype in (jnp.bfloat16, jnp.int32):
    assert py_utils.apply_padding(X.astype(dtype), padding).dtype == dtype


def test_apply_padding_multiplies():
  padding = PADDING[:, :, None]
  out = py_utils.apply_padding(jnp.asarray(X), padding, use_select=False)
  np.testing.assert_array_equal(out, X * (1 - padding))
  out = py_utils.apply_padding(
      jnp.asarray(X), padding, pad_value=jnp.float32(8), use_select=False
  )
  np.testing.assert_array_equal(out, X * (1 - padding) + 8 * padding)
  out = py_utils.apply_padding(X.astype(jnp.bfloat16), padding, use_select=False)
  assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    'padding, axis, aligned',
    [
        (PADDING, 0, PADDING[:, :, None]),
        (PADDING, 1, PADDING[:, :, None]),
        (PADDING[0], -2, PADDING[0][None, :, None]),
        (PADDING[0, :2], -1, PADDING[0, :2][None, None]),
        (PADDING[:, :, None, None], 0, PADDING[:, :, None]),
        (PADDING[:, :, None, None], 1, PADDING[:, :, None]),
    ],
)
def test_apply_padding_at_an_axis(padding, axis, aligned):
  out = py_utils.apply_padding(X, padding, axis=axis)
  np.testing.assert_array_equal(out, np.where(aligned > 0, 0, X))


def test_pad_or_trim_to():
  x = jnp.ones((2, 3))
  np.testing.assert_array_equal(
      py_utils.pad_or_trim_to(x, (3, 2)), [[1, 1], [1, 1], [0, 0]]
  )
  np.testing.assert_array_equal(
      py_utils.pad_or_trim_to(x, [2, 4], pad_val=5), [[1, 1, 1, 5]] * 2
  )
  assert py_utils.pad_or_trim_to(None, [1]) is None
  with pytest.raises(AssertionError, match='rank'):
    py_utils.pad_or_trim_to(x, (3,))


def test_total_num_vars():
  variables = {'a': jnp.ones((2, 3)), 'b': [np.ones(4)], 'c': jnp.float32(1)}
  assert py_utils.total_num_vars(variables) == 11


# --- sequences ---


def test_sequence_mask_and_paddings():
  mask = py_utils.sequence_mask(jnp.array([1, 3]), 4)
  np.testing.assert_array_equal(mask, [[1, 0, 0, 0], [1, 1, 1, 0]])
  assert mask.dtype == jnp.bool_
  nested = py_utils.sequence_mask([[1], [0]], 2, jnp.float32)
  np.testing.assert_array_equal(nested, [[[1, 0]], [[0, 0]]])
  assert nested.dtype == jnp.float32
  paddings = py_utils.sequence_paddings(jnp.array([1, 3]), 4)
  np.testing.assert_array_equal(paddings, [[0, 1, 1, 1], [0, 0, 0, 1]])
  assert paddings.dtype == jnp.float32
  assert py_utils.sequence_paddings([2], 3, jnp.int32).dtype == jnp.int32


def test_flip_sequence():
  x = jnp.array([[1, 2, 3, 0], [1, 2, 9, 8], [1, 2, 3, 4], [5, 6, 7, 8]])
  expected = [[3, 2, 1, 0], [2, 1, 8, 9], [4, 3, 2, 1], [8, 7, 6, 5]]
  lengths = jnp.array([3, 2, 4, 0])
  np.testing.assert_array_equal(py_utils.flip_sequence(x, lengths), expected)
  deep = jnp.stack([x, -x], axis=-1)
  out = py_utils.flip_sequence(deep, lengths)
  np.testing.assert_array_equal(out[..., 1], -np.array(expected))


def test_concat_sequences_with_padding():
  in0 = np.arange(1, 13.0).reshape(2, 3, 2)
  pad0 = np.array([[0, 0, 1.0], [0, 1, 1]])
  in1 = -np.arange(1, 9.0).reshape(2, 2, 2)
  pad1 = np.array([[0, 1.0], [0, 0]])
  out, paddings = jax.jit(py_utils.concat_sequences_with_padding)(in0, pad0, in1, pad1)
  np.testing.assert_array_equal(
      out[..., 0], [[1, 3, -1, -3, 5], [7, -5, -7, 9, 11]]
  )  # recorded from Praxis
  np.testing.assert_array_equal(paddings, [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
  flat, _ = py_utils.concat_sequences_with_padding(
      in0[..., 0], pad0, in1[..., 0], pad1
  )
  np.testing.assert_array_equal(flat, out[..., 0])


EOS = 2
IDS = [[1, 2, 3], [4, 5, 9], [6, 7, 2]]


@pytest.mark.parametrize(
    'paddings, extend, ids, new_paddings',
    [  # recorded from Praxis
        (
            [[0, 0, 1], [0, 1, 1], [0, 0, 1]],
            True,
            [[1, 2, 2], [4, 2, 2], [6, 7, 2]],
            [[0, 0, 1], [0, 0, 1], [0, 0, 0]],
        ),
        (
            [[0, 0, 0]] * 3,
            True,
            [[1, 2, 3, 2], [4, 5, 9, 2], [6, 7, 2, 2]],
            [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]],
        ),
        ([[0, 0, 0]] * 3, False, IDS, [[0, 0, 0]] * 3),
        ([[1, 1, 1]] * 3, True, [[2, 2, 2]] * 3, [[0, 1, 1]] * 3),
    ],
)
def test_append_eos(paddings, extend, ids, new_paddings):
  out = py_utils.append_eos(
      jnp.array(IDS), jnp.array(paddings, jnp.float32), EOS, extend
  )
  np.testing.assert_array_equal(out[0], ids)
  np.testing.assert_array_equal(out[1], new_paddings)


# --- trees ---


def test_merge_dict():
  assert py_utils.merge_dict({'a': 1}, NestedMap(b=2)) == {'a': 1, 'b': 2}
  assert type(py_utils.merge_dict(NestedMap(a=1), {'a': 1})) is dict
  for second in ({'a': 2}, {'a': [1]}):
    with pytest.raises(ValueError, match='The same key a'):
      py_utils.merge_dict({'a': [1]}, second)


def test_assert_same_shape_and_dtype():
  x = jnp.ones((2, 3))
  py_utils.assert_same_shape_and_dtype({'a': x}, {'a': x + 1})
  for other in (x[0], x.astype(jnp.int32)):
    with pytest.raises(AssertionError, match='Leaf'):
      py_utils.assert_same_shape_and_dtype({'a': x}, {'a': other})
  with pytest.raises(ValueError):
    py_utils.assert_same_shape_and_dtype({'a': x}, {'b': x})


def test_tree_unstack():
  tree = NestedMap(a=jnp.arange(6).reshape(2, 3), b=np.arange(2))
  first, second = py_utils.tree_unstack(tree, 0)
  assert type(first) is NestedMap
  np.testing.assert_array_equal(second.a, [3, 4, 5])
  assert (int(first.b), int(second.b)) == (0, 1)
  parts = py_utils.tree_unstack(tree.a, -1)
  np.testing.assert_array_equal(jnp.stack(parts, -1), tree.a)
  deep = jnp.arange(8).reshape(2, 2, 2)
  np.testing.assert_array_equal(py_utils.tree_unstack(deep, -2)[1], deep[:, 1])
  np.testing.assert_array_equal(py_utils.tree_unstack(deep, 1)[1], deep[:, 1])
  scalars = {'a': jnp.float32(2)}
  assert py_utils.tree_unstack(scalars, 0) == [scalars]
  assert py_utils.tree_unstack({}, 0) == []
  for bad in ({'a': jnp.ones(2), 'b': jnp.ones(3)}, {'a': 1.0, 'b': jnp.ones(2)}):
    with pytest.raises(ValueError, match='axis 0'):
      py_utils.tree_unstack(bad, 0)


def test_concat_nested_maps():
  maps = [
      NestedMap(a=jnp.full((n, 2), n), b={'c': np.full((n, 1), n)}, s=n, l=[n])
      for n in (1, 2)
  ]
  out = py_utils.concat_nested_maps(maps, 0)
  np.testing.assert_array_equal(out.a, [[1, 1], [2, 2], [2, 2]])
  np.testing.assert_array_equal(out.b.c, [[1], [2], [2]])
  assert out.s == 1 and out.l == [1] and type(out.b) is NestedMap


def test_concat_nested_maps_takes_what_cannot_be_joined_from_the_first_map():
  maps = [
      NestedMap(a=jnp.ones((1, n)), v=jnp.full(n, n), b=NestedMap(d=jnp.ones((1, 1))))
      for n in (2, 3, 1)
  ]
  maps[0].b.e, maps[2].b.e = 5, 6
  out = py_utils.concat_nested_maps(maps, 1)
  assert out.a.shape == (1, 6) and out.b.d.shape == (1, 3) and out.b.e == 5
  np.testing.assert_array_equal(out.v, [2, 2])
  assert py_utils.concat_nested_maps(maps[:1], 1) == maps[0]
  del maps[2].b['d']
  with pytest.raises(KeyError, match='d; available'):
    py_utils.concat_nested_maps(maps, 1)


def test_filter_by_matching_keys():
  batch = {'ab': 1, 'abc': 2, 'b': {'ab': 3}}
  matching, rest = py_utils.filter_by_matching_keys(batch, ['ab', 'z'])
  assert type(matching) is type(rest) is NestedMap
  assert matching == {'ab': 1, 'abc': 2} and rest == {'b': {'ab': 3}}
  assert py_utils.filter_by_matching_keys(batch, []) == ({}, batch)


def test_select_nodes_by_indices():
  out = py_utils.select_nodes_by_indices(
      {'a': 0, 'b': 1}, {'a': 1, 'b': 2}, {'a': 3, 'b': 4}
  )
  assert out == {'a': 1, 'b': 4}


def test_extract_prefixed_keys():
  extract = py_utils.extract_prefixed_keys_from_nested_map
  tree = NestedMap(a=NestedMap(b=[1, 2]), c=3)
  out = extract(tree)
  assert out == {'a': {'b': ['a/b[0]', 'a/b[1]']}, 'c': 'c'}
  assert type(out) is type(out.a) is NestedMap
  assert extract({'a': (1, [2]), 'z': None, 'e': {}, 'l': []}, prefix='p') == {
      'a': ('p/a[0]', ['p/a[1][0]']),
      'z': 'p/z',
      'e': {},
      'l': [],
  }
  assert extract({'p': Pair(1, [2])}) == {'p': Pair('p/u', ['p/v[0]'])}
  assert extract({'m': optax.MaskedNode()}) == {'m': optax.MaskedNode()}
  assert extract(3) is None and extract(3, prefix='q') == 'q'
  named = extract(tree, key_separator='.', left_separator='<', right_separator='>')
  assert named.a.b == ['a.b<0>', 'a.b<1>']
  assert extract(tree, is_leaf=lambda v: isinstance(v, list)).a == {'b': None}


def test_match_and_update_variables():
  old = NestedMap(a=NestedMap(b=[1, 2]), c=3)
  new = NestedMap(a=NestedMap(b=[10, 20]), c=30)
  match = py_utils.match_variable_names
  assert match(old, r'a/b\[0\]') == {'a': {'b': [True, False]}, 'c': False}
  assert match(old, ['a/.*', 'c']) == {'a': {'b': [True, True]}, 'c': True}
  assert match(old, 'a') == {'a': {'b': [False, False]}, 'c': False}
  update = py_utils.update_matched_variables
  assert update(old, new, 'a/.*') == {'a': {'b': [10, 20]}, 'c': 3}
  assert update(old, new, ['a/.*'], invert=True) == {'a': {'b': [1, 2]}, 'c': 30}
  assert update(old, new, []) == old


# --- devices ---


def test_batches_of_devices():
  x = np.arange(8).reshape(4, 2)
  split = py_utils.reshape_with_outer_batch_size(x, 2)
  np.testing.assert_array_equal(split, [x[:2], x[2:]])
  np.testing.assert_array_equal(py_utils.combine_inner_and_outer_batches(split), x)
  np.testing.assert_array_equal(py_utils.unshard(py_utils.reshard(x)), x)
  assert py_utils.reshard(x).shape[0] == jax.local_device_count()
  with pytest.raises(ValueError, match='outer_bs'):
    py_utils.reshape_with_outer_batch_size(x, 3)


def test_uneven_sharding():
  spec = PartitionSpec('x', None, ('x', 'y'))
  paddings = py_utils.get_uneven_sharding_paddings(
      spec, (3, 4, 5), (2, 4), ('x', 'y')
  )
  assert list(paddings) == [1, 0, 3]
  x = {'a': jnp.ones((3, 2)), 'b': jnp.ones((2, 2))}
  specs = {'a': PartitionSpec('x'), 'b': PartitionSpec('x')}
  shapes = {'a': (3, 2), 'b': (2, 2)}
  padded = py_utils.maybe_pad_uneven_sharding(x, specs, shapes, (2,), ('x',))
  np.testing.assert_array_equal(padded['a'], [[1, 1]] * 3 + [[0, 0]])
  assert padded['b'] is x['b']
  cut = py_utils.maybe_slice_uneven_sharding(padded, specs, shapes)
  assert jax.tree.map(jnp.shape, cut) == shapes


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit])
def test_mesh(kind):
  spec = PartitionSpec('x', None)
  x = jnp.ones((2, 2))
  assert not py_utils.global_mesh_defined()
  assert py_utils.with_sharding_constraint(x, spec) is x
  mesh = jax.make_mesh((1,), ('x',), axis_types=(kind,))
  with jax.set_mesh(mesh):
    assert py_utils.global_mesh_defined()
    out = jax.jit(lambda x: py_utils.with_sharding_constraint(x, spec))(x)
    assert py_utils.with_sharding_constraint(x, None) is x
  np.testing.assert_array_equal(out, x)
  assert not py_utils.global_mesh_defined()


def test_constraint_reaches_the_compiler():
  mesh = jax.make_mesh((1,), ('x',), axis_types=(AxisType.Auto,))
  constrain = lambda x: py_utils.with_sharding_constraint(  # noqa: E731
      x, PartitionSpec('x', None)
  )
  with jax.set_mesh(mesh):
    assert 'sharding_constraint' in str(jax.make_jaxpr(constrain)(jnp.ones((2, 2))))
  assert 'sharding_constraint' not in str(jax.make_jaxpr(constrain)(jnp.ones((2, 2))))


def test_arrays_on_devices():
  mesh = jax.sharding.Mesh(py_utils.create_device_mesh([1]), ('x',))
  assert py_utils.create_device_mesh([1, 1], [1, 1]).shape == (1, 1)
  with pytest.raises(ValueError):
    py_utils.create_device_mesh([jax.device_count() + 1])
  host = {'a': np.arange(6.0, dtype=np.float32).reshape(2, 3)}
  shapes = {'a': jax.ShapeDtypeStruct((2, 3), np.float32)}
  for specs in (None, {'a': PartitionSpec('x')}):
    out = py_utils.make_array(host, shapes, mesh, specs)
    np.testing.assert_array_equal(out['a'], host['a'])
    assert out['a'].sharding.mesh == mesh
  replicated = py_utils.maybe_unreplicate_for_fully_replicated(out)
  np.testing.assert_array_equal(replicated['a'], host['a'])
  first = py_utils.maybe_unreplicate_for_first_shard(out)
  np.testing.assert_array_equal(first['a'], host['a'])
  copies = py_utils.convert_fully_replicated_array_to_pmap_array(jnp.ones((1, 2)))
  assert copies.shape == (jax.local_device_count(), 1, 2)
  whole = py_utils.convert_host_local_array_to_global_array(jnp.ones((2, 2)))
  np.testing.assert_array_equal(whole, np.ones((2, 2)))
  (part,) = py_utils.put_to_devices(np.ones((2, 2)), jax.local_devices()[:1])
  assert part.shape == (2, 2)
  assert py_utils.get_global_input_shape_dtype(host['a']) == shapes['a']
  assert py_utils.sync_global_devices('here') is None
  assert not py_utils.is_mock_tpu_backend()
  assert py_utils.is_tpu() == (jax.local_devices()[0].platform == 'tpu')


# --- small ones ---


def test_masked_nodes():
  node = py_utils.BpropMaskedNode()
  assert py_utils.is_bprop_masked_node(node) and not py_utils.is_bprop_masked_node(1)
  assert jax.tree.leaves({'a': node}) == []
  assert py_utils.is_optax_masked_node(optax.MaskedNode())
  assert not py_utils.is_optax_masked_node(node)


@pytest.mark.parametrize(
    'pattern, glob',
    [
        ('p@10', 'p-?????-of-00010'),
        ('p', 'p'),
        ('/x/p@100000', '/x/p-?????-of-100000'),
        ('p@*', 'p-?????-of-*'),
    ],
)
def test_sharded_file_pattern(pattern, glob):
  assert py_utils.sharded_file_pattern_to_glob(pattern) == glob


@pytest.mark.parametrize('pattern', ['a@2,b@3', 'p@', 'p@1.rec'])
def test_sharded_file_pattern_refuses(pattern):
  with pytest.raises(ValueError):
    py_utils.sharded_file_pattern_to_glob(pattern)


def test_enumeration_id():
  example = {'o': 1}
  assert py_utils.get_enumeration_id(example) is None
  example.update(zip(py_utils.ENUM_PROVENANCE_KEYS, (np.array(3), 1, 4), strict=True))
  expected = (  # recorded from Praxis
      '_seqio_provenance/index_within_shard=3/_seqio_provenance/shard_index=1'
      '/_seqio_provenance/num_shards=4'
  )
  assert py_utils.get_enumeration_id(example) == expected
  assert py_utils.get_enumeration_id(example, pop=True) == expected
  assert example == {'o': 1}


def test_logging_verbosity_level():
  before = logging.get_verbosity()
  with py_utils.logging_verbosity_level('error'):
    assert logging.get_verbosity() == logging.ERROR
  assert logging.get_verbosity() == before
  with pytest.raises(KeyError):
    with py_utils.logging_verbosity_level('x'):
      pass


def test_timing():
  with py_utils.timeit() as period:
    time.sleep(0.002)
  assert period.elapsed >= 0.001
  assert py_utils.RunningPeriod(1.0, 3.0, 5).elapsed == 5
  assert py_utils.RunningPeriod(1.0, 3.0).elapsed == 2
  with py_utils.timeit(min_elapsed=100) as period:
    pass
  assert period.elapsed == 100


def test_benchmark(monkeypatch):
  lines = []
  monkeypatch.setattr(logging, 'info', lambda text, *args: lines.append(text % args))

  @py_utils.benchmark('pre ', first_n=1)
  def add(a, b=1):
    return a + b

  assert (add(1), add(2, b=2)) == (2, 4)
  assert add.__name__ == 'add'
  assert len(lines) == 1 and lines[0].startswith('pre ')


def test_thread_local_stack():
  first, second = py_utils.ThreadLocalStack(), py_utils.ThreadLocalStack()
  first.stack.append(1)
  assert (first.stack, second.stack) == ([1], [])
