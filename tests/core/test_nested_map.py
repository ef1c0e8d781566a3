"""NestedMap against the behaviour of Pax's own (lingvo's), recorded by running it."""

import copy
import dataclasses
import pickle

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pax_haiku import base_layer, py_utils, pytypes
from pax_haiku.core.nested_map import NestedMap


def example():
  return NestedMap(
      b=1,
      a=NestedMap(z=[1, {'q': 2, 'p': (3, 4)}, [5]], y=None),
      e=[],
      f={},
      g=NestedMap(),
  )


def test_one_class_under_all_its_names():
  assert NestedMap is py_utils.NestedMap is pytypes.NestedMap is base_layer.NestedMap


@pytest.mark.parametrize('key', ['a-b', 'a.b', 'a/b', 'A[0]', '_x', 'Flatten'])
def test_accepted_keys(key):
  m = NestedMap({key: 1})
  m[key] = 2
  assert m[key] == 2


@pytest.mark.parametrize('key', ['1a', '', ' a', '-x', 'é'])
def test_keys_start_with_a_letter(key):
  for make in (lambda: NestedMap({key: 1}), lambda: NestedMap().__setitem__(key, 1)):
    with pytest.raises(ValueError, match='Invalid NestedMap key'):
      make()


@pytest.mark.parametrize('key', ['keys', 'get', 'copy', 'update', '__class__'])
def test_names_of_dict_methods_are_reserved(key):
  with pytest.raises(AssertionError, match=f'{key} is a reserved key'):
    NestedMap()[key] = 1
  with pytest.raises(AssertionError, match=f'{key} is a reserved key'):
    NestedMap({key: 1})


def test_reserved_as_attribute():
  with pytest.raises(AssertionError, match='items is a reserved key'):
    NestedMap().items = 3


def test_keys_are_str():
  with pytest.raises(AssertionError, match='str'):
    NestedMap({3: 1})
  with pytest.raises(AssertionError, match='str'):
    NestedMap()[3] = 1


def test_update_and_setdefault_do_not_check():
  m = NestedMap()
  m.update({3: 4})
  m.setdefault(5, 6)
  assert dict(m) == {3: 4, 5: 6}


def test_method_names_as_keys_leave_the_method():
  m = NestedMap(Flatten=3)
  assert m['Flatten'] == 3
  assert m.Flatten() == [3]


def test_missing():
  m = example()
  available = r"zz; available attributes: \['a', 'b', 'e', 'f', 'g'\]"
  with pytest.raises(AttributeError, match=available):
    _ = m.zz
  with pytest.raises(KeyError, match=available):
    _ = m['zz']
  with pytest.raises(AttributeError, match=available):
    del m.zz
  with pytest.raises(KeyError, match=available):
    del m['zz']
  assert m.get('zz', 3) == 3
  assert not hasattr(m, 'zz')


def test_attributes():
  m = NestedMap()
  m.x = 1
  assert m == {'x': 1} and m.x == 1
  del m.x
  assert m == {}


def test_iteration_keeps_order_but_methods_sort():
  m = NestedMap(b=1, a=2)
  assert list(m) == ['b', 'a']
  assert m.Keys() == ['a', 'b']
  assert list(m.Transform(str)) == ['a', 'b']


def test_pytree():
  m = NestedMap(b=1, a={'q': 2})
  assert jax.tree.leaves(m) == [2, 1]
  paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(m)[0]]
  key = jax.tree_util.DictKey
  assert paths == [(key('a'), key('q')), (key('b'),)]
  mapped = jax.tree.map(lambda x: x + 1, m)
  assert type(mapped) is NestedMap and type(mapped.a) is dict
  assert mapped == {'a': {'q': 3}, 'b': 2}
  same = {'b': 1, 'a': {'q': 2}}
  assert m == same
  assert jax.tree.structure(m) != jax.tree.structure(same)


def test_through_jit_and_grad():
  m = NestedMap(w=np.float32(2.0))
  out = jax.jit(jax.grad(lambda m: m.w**2))(m)
  assert type(out) is NestedMap and out.w == 4.0


def test_copies():
  leaf = object()
  m = NestedMap(a=[leaf], b=NestedMap(c=leaf), d=(leaf,))
  for shallow in (m.copy(), copy.copy(m)):
    assert type(shallow) is NestedMap and shallow.a is m.a
  for deep in (m.DeepCopy(), copy.deepcopy(m)):
    assert type(deep) is NestedMap
    assert deep.a is not m.a and deep.b is not m.b
    assert deep.a[0] is leaf and deep.b.c is leaf and deep.d is m.d


def test_pickle():
  m = pickle.loads(pickle.dumps(NestedMap(a=NestedMap(b=1))))
  assert m == {'a': {'b': 1}}
  assert type(m) is NestedMap and type(m.a) is NestedMap


def test_from_and_to_nested_dict():
  m = NestedMap.FromNestedDict({'a': [{'b': 1}, ({'c': 2},)], 'd': {}})
  assert type(m.a[0]) is type(m.a[1][0]) is type(m.d) is NestedMap
  assert type(NestedMap.FromNestedDict([{'a': 1}])[0]) is NestedMap
  d = NestedMap(a=[NestedMap(b=1)], t=(NestedMap(c=2),)).ToNestedDict()
  assert type(d) is type(d['a'][0]) is dict
  assert type(d['t'][0]) is NestedMap  # tuples are leaves


def test_from_nested_dataclass():

  @dataclasses.dataclass
  class Point:
    x: object = 1
    y: object = None

  m = NestedMap.FromNestedDataclass(Point(y=[Point()]))
  assert m == {'x': 1, 'y': [{'x': 1, 'y': None}]}
  assert type(m.y[0]) is NestedMap
  with pytest.raises(ValueError, match='dataclass'):
    NestedMap.FromNestedDataclass(3)


@pytest.mark.parametrize(
    'key, value',
    [
        ('b', 1),
        ('a.z[0]', 1),
        ('a.z[1].q', 2),
        ('a.z[1].p', (3, 4)),
        ('a.z[2]', [5]),
        ('a.y', None),
        ('e', []),
    ],
)
def test_get_item(key, value):
  m = example()
  assert m.GetItem(key) == value
  assert m.Get(key, 'default') == value
  assert m.Has(key)


@pytest.mark.parametrize(
    'key, error',
    [
        ('zz', KeyError),
        ('a.zz', KeyError),
        ('a.z[9]', IndexError),
        ('b.c', TypeError),
        ('b[0]', TypeError),
        ('a.z.q', TypeError),
        ('a.z[2][0]', KeyError),  # one index per part
        ('', KeyError),
    ],
)
def test_get_item_missing(key, error):
  m = example()
  with pytest.raises(error):
    m.GetItem(key)
  assert m.Get(key, 'default') == 'default'
  assert m.Get(key) is None
  assert not m.Has(key)


@pytest.mark.parametrize(
    'before, key, after',
    [
        ({}, 'a.b.c', {'a': {'b': {'c': 9}}}),
        ({}, 'a[0]', {'a': [9]}),
        ({'a': [1]}, 'a[1].b', {'a': [1, {'b': 9}]}),
        ({'a': [1]}, 'a[0]', {'a': [9]}),
        ({'a': [{'q': 1}]}, 'a[0].b', {'a': [{'q': 1, 'b': 9}]}),
        ({'a': {}}, 'a.b', {'a': {'b': 9}}),
    ],
)
def test_set(before, key, after):
  m = NestedMap(before)
  assert m.Set(key, 9) is None
  assert m == after


@pytest.mark.parametrize(
    'before, key', [({}, 'a[1]'), ({'a': 1}, 'a.b'), ({'a': 1}, 'a[0]'), ({}, '1')]
)
def test_set_refuses(before, key):
  with pytest.raises(ValueError):
    NestedMap(before).Set(key, 9)


def test_get_slice():
  m = example()
  assert m.GetSlice(['b', 'a.z[0]']) == {'b': 1, 'a': {'z': [1]}}
  with pytest.raises(KeyError):
    m.GetSlice(['zz'])


def test_leaves():
  m = example()
  items = [
      ('a.y', None),
      ('a.z[0]', 1),
      ('a.z[1].p', (3, 4)),
      ('a.z[1].q', 2),
      ('a.z[2][0]', 5),
      ('b', 1),
  ]
  assert m.FlattenItems() == items
  assert m.Keys() == [key for key, _ in items]
  assert m.Flatten() == [value for _, value in items]


def test_pack():
  packed = example().Pack('uvwxyz')
  assert packed == {
      'a': {'y': 'u', 'z': ['v', {'p': 'w', 'q': 'x'}, ['y']]},
      'b': 'z',
      'e': [],
      'f': {},
      'g': {},
  }
  assert type(packed.a.z[1]) is dict and type(packed.g) is NestedMap
  for leaves in ([], [1] * 7):
    with pytest.raises(ValueError, match='6 leaves'):
      example().Pack(leaves)


def test_transform_with_key():
  m = example()
  assert m.TransformWithKey(lambda k, v: k).Flatten() == m.Keys()


def test_filter_drops_what_it_empties_only():
  m = example()
  kept = {'e': [], 'f': {}, 'g': {}}
  assert m.Filter(lambda v: v == 2) == {'a': {'z': [{'q': 2}]}, **kept}
  assert m.Filter(lambda v: False) == kept
  assert m.Filter(lambda v: True) == m
  assert m.FilterKeyVal(lambda k, v: 'y' in k) == {'a': {'y': None}, **kept}
  nested = NestedMap(a=NestedMap(b=[], c=NestedMap(), d=1))
  assert nested.Filter(lambda v: False) == {'a': {'b': [], 'c': {}}}


def test_is_compatible():
  m = example()
  assert m.IsCompatible(m.Transform(str))
  assert not NestedMap(a=1).IsCompatible(NestedMap(b=1))
  assert not NestedMap(a=[1]).IsCompatible(NestedMap(a=1))


def test_update_merges_leaf_by_leaf():
  m = NestedMap(a=NestedMap(b=1, c=2))
  assert m.Update(NestedMap(a=NestedMap(c=3, d=4), e=5)) is m
  assert m == {'a': {'b': 1, 'c': 3, 'd': 4}, 'e': 5}
  assert NestedMap(a=[1, 2]).Update(NestedMap(a=[3])) == {'a': [3, 2]}


def test_union_leaves_its_arguments_alone():
  m = NestedMap(a=NestedMap(b=1))
  assert m.Union(NestedMap(a=NestedMap(c=3))) == {'a': {'b': 1, 'c': 3}}
  assert m == {'a': {'b': 1}}


def test_debug_string():
  assert NestedMap(bb=1, a='x').DebugString() == 'a     x\nbb    1'
  assert NestedMap().DebugString() == ''
  assert example().VLog(1, 'prefix') is None


@pytest.mark.parametrize(
    'key, parts',
    [
        ('k[0]', ('k', 0)),
        ('k', ('k', None)),
        ('a.b[12]', ('a.b[12]', None)),
        ('k[x]', ('k[x]', None)),
        ('k[0][1]', ('k[0][1]', None)),
        ('k[-1]', ('k[-1]', None)),
    ],
)
def test_square_bracket_index(key, parts):
  assert NestedMap.SquareBracketIndex(key) == parts


KEYS = st.text('abcxyz_', min_size=1, max_size=3)
TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3)
    | st.lists(inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, TREES, max_size=3))
def test_round_trips(tree):
  m = NestedMap.FromNestedDict(tree)
  assert m.ToNestedDict() == tree
  assert m.Pack(m.Flatten()) == m
  if not any('][' in key for key in m.Keys()):  # lists of lists have no nested keys
    assert NestedMap().Update(m).FlattenItems() == m.FlattenItems()
    assert [m.GetItem(key) for key in m.Keys()] == m.Flatten()
  leaves, treedef = jax.tree.flatten(m)
  assert leaves == m.Flatten() and jax.tree.unflatten(treedef, leaves) == m
