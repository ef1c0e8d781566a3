"""Mappings as text and as converters: expressions, files, trees, optimizer states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku.interop import Mapping, MappingError, convert_optimizer
from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop.mapping_text import parse_expr

TEXT = """
# a comment
source haiku
target pax
params:fc/w = transpose(params:net/~/linear/w, [1,0])  # proved
params:qkv = concat(params:q/w, params:k/w, 1, [2,2])  # by values
params:scale = add(params:norm/scale, -1)
non_trainable:mean = state:bn/~/ema/average
back state:bn/~/ema/hidden = non_trainable:mean
back state:bn/~/ema/counter = full(1000000000, [], int32)
unused params:old/w
"""


def array(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def source():
  return {
    'params': {
      'net/~/linear': {'w': array(3, 2)},
      'q': {'w': array(3, 2, seed=1)},
      'k': {'w': array(3, 2, seed=2)},
      'norm': {'scale': np.float32([0.5, 1.0, 1.5])},
      'old': {'w': array(1)},
    },
    'state': {
      'bn/~/ema': {
        'average': array(4),
        'hidden': array(4, seed=3),
        'counter': np.int32(7),
      }
    },
  }


EXPRESSIONS = [
  ('x', {'x': (2, 3)}),
  ('transpose(x, [2,0,1])', {'x': (2, 3, 4)}),
  ('reshape(x, [2,6], [3,4])', {'x': (2, 6)}),
  ('add(transpose(x, [1,0]), 1)', {'x': (2, 3)}),
  ('stack(x, transpose(y, [1,0]))', {'x': (2, 3), 'y': (3, 2)}),
  ('concat(x, y, 1, [3,1])', {'x': (2, 3), 'y': (2, 1)}),
  (
    'concat(slice(x, 1, 4, 6, 6), slice(x, 1, 0, 4, 6), 1, [2,4])',
    {'x': (2, 6)},
  ),
  ('stack(index(x, 1, 2), index(x, 0, 2))', {'x': (2, 3)}),
  (
    'concat(reshape(slice(reshape(x, [2,6], [2,2,3]), 2, 0, 1, 3), [2,2,1], [2,2]), '
    'reshape(slice(reshape(x, [2,6], [2,2,3]), 2, 1, 3, 3), [2,2,2], [2,4]), 1, [2,4])',
    {'x': (2, 6)},
  ),
  (
    'stack(index(index(x, 0, 2), 0, 2), index(index(x, 1, 2), 1, 2), '
    'add(index(index(x, 0, 2), 1, 2), 0.5), index(index(x, 1, 2), 0, 2))',
    {'x': (2, 2, 3)},
  ),
]


@pytest.mark.parametrize('text, shapes', EXPRESSIONS)
def test_expressions_are_inverted_and_printed(text, shapes):
  expr = parse_expr(text)
  assert str(expr) == text and parse_expr(str(expr)) == expr
  arrays = {n: array(*s, seed=i) for i, (n, s) in enumerate(shapes.items())}
  parts = ex.Parts()
  expr.backward(expr.forward(arrays.__getitem__), parts.put)
  back = parts.finish()
  assert set(back) == set(arrays)
  for name in arrays:
    # `add` rounds.
    np.testing.assert_allclose(back[name], arrays[name], rtol=1e-6, atol=1e-7)
    if 'add' not in text:
      np.testing.assert_array_equal(back[name], arrays[name])


def test_inverse_does_not_add_constants_to_gradients():
  expr, parts = parse_expr('add(x, 1)'), ex.Parts()
  expr.backward(np.ones(2), parts.put, True)
  np.testing.assert_array_equal(parts.finish()['x'], np.ones(2))
  np.testing.assert_array_equal(expr.forward(lambda n: np.ones(2), True), np.ones(2))


def test_constructors_simplify():
  x = ex.Ref('x')
  assert ex.transpose(ex.transpose(x, (1, 2, 0)), (2, 0, 1)) == x
  assert ex.reshape(ex.reshape(x, (6,), (2, 3)), (2, 3), (6,)) == x
  assert ex.add(ex.add(x, 1), -1) == x
  assert ex.stack([ex.Index(x, i, 2) for i in range(2)]) == x
  assert ex.concat([ex.Slice(x, 0, 0, 1, 3), ex.Slice(x, 0, 1, 3, 3)], 0, [1, 2]) == x
  assert isinstance(ex.stack([ex.Index(x, i, 2) for i in (1, 0)]), ex.Stack)


def test_text_is_read_and_written_back():
  mapping = Mapping.from_text(TEXT)
  again = Mapping.from_text(str(mapping))
  assert again == mapping and str(again) == str(mapping)
  assert [r.note for r in mapping.rules[:2]] == ['proved', 'by values']
  assert mapping.unused == ['params:old/w'] and mapping.proved == 0.25
  assert '4 of 4 entries mapped: 1 proved, 1 by values, 2 by hand' in str(mapping)


def test_file_is_replaced_whole(tmp_path):
  path = tmp_path / 'map.txt'
  mapping = Mapping.from_text(TEXT)
  mapping.save(path)
  assert Mapping.load(path) == mapping
  assert [p.name for p in tmp_path.iterdir()] == ['map.txt']


def test_names_with_special_characters_are_quoted():
  text = 'params:"a b" = x'
  with pytest.raises(MappingError):
    Mapping.from_text(text)
  rule = mapping_lib.Rule('params:a b/w=1 #x', ex.Ref('params:c|d/(w)'))
  mapping = Mapping([rule])
  assert str(rule) == '"params:a b/w=1 #x" = "params:c|d/(w)"'
  assert Mapping.from_text(str(mapping)).rules == [rule]


@pytest.mark.parametrize(
  'line, message',
  [
    ('params:a', 'expected NAME = EXPRESSION'),
    ('params:a = ', "expected 'more', found 'the end'"),
    ('params:a = transpose(b, [0,0])', 'no order of axes'),
    ('params:a = transpose(b, [x])', "expected a number, found 'x'"),
    ('params:a = transpose(b', "found 'the end'"),
    ('params:a = concat(b, c, 0, [1])', 'concat of 2 parts'),
    ('params:a = reshape(b)', 'reshape has the wrong arguments'),
    ('params:a = b c', "unexpected 'c'"),
    ('source flax', 'expected source haiku or source pax'),
  ],
)
def test_bad_lines_are_named(line, message):
  with pytest.raises(MappingError, match='the mapping: line 2: ') as error:
    Mapping.from_text('\n' + line)
  assert message in str(error.value) and line.strip() in str(error.value)


def test_all_bad_lines_are_listed(tmp_path):
  (tmp_path / 'm').write_text('a = b\na = c\nd\n? e =\n')
  with pytest.raises(MappingError) as error:
    Mapping.load(tmp_path / 'm')
  assert 'line 3: ' in str(error.value) and 'a is set by several' in str(error.value)
  with pytest.raises(MappingError, match='cannot be read'):
    Mapping.load(tmp_path / 'none')


def test_trees_are_converted_both_ways():
  mapping, tree = Mapping.from_text(TEXT), source()
  out = mapping.convert(tree)
  assert set(out) == {'params', 'non_trainable'}
  np.testing.assert_array_equal(
    out['params']['fc']['w'], tree['params']['net/~/linear']['w'].T
  )
  np.testing.assert_array_equal(out['params']['scale'], [-0.5, 0.0, 0.5])
  back = mapping.convert(out, back=True)
  del tree['params']['old']
  for part in ('hidden', 'average'):
    np.testing.assert_array_equal(
      back['state']['bn/~/ema'][part], tree['state']['bn/~/ema']['average']
    )
  assert back['state']['bn/~/ema']['counter'] == 1_000_000_000
  jax.tree.map(np.testing.assert_array_equal, back['params'], tree['params'])


def test_misfits_are_all_listed():
  mapping, tree = Mapping.from_text(TEXT), source()
  del tree['params']['q'], tree['state']['bn/~/ema']['average']
  with pytest.raises(MappingError) as error:
    mapping.convert(tree)
  assert str(error.value) == 'missing in the source: params:q/w, state:bn/~/ema/average'
  tree = source()
  tree['params']['extra'] = {'w': array(1), 'b': array(1)}
  with pytest.raises(MappingError, match='no rule uses params:extra/b, params:extra/w'):
    mapping.convert(tree)
  out = mapping.convert(source())
  like = {**out, 'params': {**out['params'], 'more': array(2), 'scale': array(2)}}
  with pytest.raises(MappingError) as error:
    mapping.convert(source(), like=like)
  assert 'missing params:more float32[2]' in str(error.value)
  assert 'params:scale: expected shape (2,), found (3,)' in str(error.value)


def test_shapes_are_checked_by_the_rules():
  mapping = Mapping.from_text(
    'params:a = reshape(params:b, [4], [2,2])\nparams:c = slice(params:d, 0, 0, 1, 2)'
  )
  with pytest.raises(MappingError) as error:
    mapping.forward({'params:b': array(5), 'params:d': array(3)})
  assert 'params:a: ' in str(error.value) and 'params:c: ' in str(error.value)
  with pytest.raises(MappingError, match='params:d: 1 of 2 elements have no rule'):
    mapping.backward({'params:a': array(2, 2), 'params:c': array(1)})


def test_entries_set_twice_must_agree():
  mapping = Mapping.from_text('a:x = b:x\na:y = b:x')
  same = mapping.backward({'a:x': array(2), 'a:y': array(2)})
  np.testing.assert_array_equal(same['b:x'], array(2))
  with pytest.raises(MappingError, match='b:x: set by several rules'):
    mapping.backward({'a:x': array(2), 'a:y': array(2, seed=1)})


def test_dtypes_are_those_of_the_model():
  mapping = Mapping.from_text('params:w = params:l/w')
  like = {'params': {'w': jnp.zeros(2, jnp.bfloat16)}}
  out = mapping.convert({'params': {'l': {'w': array(2)}}}, like=like)
  assert out['params']['w'].dtype == jnp.bfloat16


# -- Optimizer states ----------------------------------------------------------------

OPTIMIZER_TEXT = """
params:fc/w = transpose(params:lin/w, [1,0])
params:fc/scale = add(params:norm/scale, -1)
"""
OLD = {'lin': {'w': array(3, 2)}, 'norm': {'scale': np.ones(2, np.float32)}}
NEW = {'fc': {'w': array(3, 2).T, 'scale': np.zeros(2, np.float32)}}


def gradients(params, seed):
  return jax.tree.map(lambda p: array(*p.shape, seed=seed), params)


@pytest.mark.parametrize('masked', [False, True])
def test_optimizer_goes_on_where_it_was(masked):
  """Two steps of Adam; between them the state moves to the other model and back."""
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
  if masked:
    optimizer = optax.masked(
      optimizer,
      lambda tree: jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == 'w', tree
      ),
    )
  mapping = Mapping.from_text(OPTIMIZER_TEXT)
  first = gradients(OLD, 1)
  first['norm']['scale'] = np.ones(2, np.float32)
  _, state = optimizer.update(first, optimizer.init(OLD), OLD)
  moved = convert_optimizer(mapping, state, OLD, NEW)
  assert jax.tree.structure(moved) == jax.tree.structure(optimizer.init(NEW))
  second = gradients(OLD, 2)
  step, _ = optimizer.update(second, state, OLD)
  there = {'fc': {'w': second['lin']['w'].T, 'scale': second['norm']['scale']}}
  new_step, _ = optimizer.update(there, moved, NEW)
  np.testing.assert_allclose(new_step['fc']['w'].T, step['lin']['w'], rtol=1e-6)
  np.testing.assert_allclose(new_step['fc']['scale'], step['norm']['scale'], rtol=1e-6)
  back = convert_optimizer(mapping, moved, OLD, NEW, back=True)
  jax.tree.map(np.testing.assert_array_equal, back, state)


def test_optimizer_with_other_shapes_is_refused():
  optimizer = optax.adafactor(0.1, min_dim_size_to_factor=2)
  mapping = Mapping.from_text(OPTIMIZER_TEXT)
  with pytest.raises(MappingError, match='arrays of other shapes than the parameters'):
    convert_optimizer(mapping, optimizer.init(OLD), OLD, NEW)
