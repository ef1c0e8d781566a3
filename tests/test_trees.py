"""Paths of leaves, and trees that are part of others."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import trees
from pax_haiku.core.nested_map import NestedMap

Pair = collections.namedtuple('Pair', 'u v')


def tree():
  return {
      'a': [1, {'x': 2, 'b': (3, None)}],
      'n': NestedMap(k=4),
      'p': Pair(5, [6]),
  }


def test_to_path_tree():
  assert trees.to_path_tree(tree()) == {
      'a': ['a[0]', {'x': 'a[1]/x', 'b': ('a[1]/b[0]', None)}],
      'n': {'k': 'n/k'},
      'p': Pair('p/u', ['p/v[0]']),
  }
  assert trees.to_path_tree(3) == ''
  assert trees.to_path_tree([1, [2]]) == ['[0]', ['[1][0]']]


def test_to_path_tree_leaves_out():
  paths = trees.to_path_tree(tree(), is_leaf=lambda v: v == 2)
  assert paths['a'] == ['a[0]', {'x': None, 'b': ('a[1]/b[0]', None)}]


def test_fullmatch_path():
  matches = trees.fullmatch_path(tree(), [r'a\[1\]/.*', 'n'])
  assert matches['a'] == [False, {'x': True, 'b': (True, None)}]
  assert matches['n'] == {'k': False}
  assert trees.fullmatch_path({'k': 1}, 'k') == {'k': True}
  assert trees.fullmatch_path({'k': 1, 'l': 2}, '.*', lambda v: v == 1) == {
      'k': None,
      'l': True,
  }


@pytest.mark.parametrize(
    'sub, sup, part',
    [
        ({'a': 1}, {'a': 1, 'b': 2}, True),
        ({'a': 1}, {'a': 2}, False),
        ({'b': 1}, {'a': 1}, False),
        ([1], [1, 2], True),
        ([2], [1, 2], False),
        ([1, 2], [1], False),
        ((1,), [1], False),
        (NestedMap(a=1), {'a': 1}, True),
        ({'a': {'b': 1}}, {'a': NestedMap(b=1, c=2)}, True),
        ([[1], [2]], [[1, 5], [2, 6], [3]], True),
        (1, 1.0, False),
        (None, None, True),
        (None, {}, False),
        ({}, {'a': 1}, True),
        (np.arange(2), np.arange(2), True),
    ],
)
def test_is_subset(sub, sup, part):
  assert trees.is_subset(sub, sup) is part


@pytest.mark.parametrize(
    'sub, sup, expected',
    [
        ({'a': 1}, {'a': 2, 'b': 3}, {'a': 2}),
        ([0], [1, 2], [1]),
        ({'a': {'b': 0}}, {'a': {'b': 1, 'c': 2}}, {'a': {'b': 1}}),
        ([[0], [0]], [[1, 5], [2, 6], [3]], [[1], [2]]),
        (3, 4, 4),
    ],
)
def test_extract(sub, sup, expected):
  assert trees.extract_elements_matching_subset_structure(sub, sup) == expected


def test_extract_keeps_the_types_of_the_subset():
  extract = trees.extract_elements_matching_subset_structure
  assert type(extract(NestedMap(a=1), {'a': 2})) is NestedMap
  assert type(extract({'a': 1}, NestedMap(a=2))) is dict


@pytest.mark.parametrize(
    'sub, sup',
    [({'b': 1}, {'a': 1}), ([1, 2], [1]), ((1,), [1]), ({'a': 1}, [1]), (None, 5)],
)
def test_extract_refuses(sub, sup):
  with pytest.raises(ValueError, match='subset'):
    trees.extract_elements_matching_subset_structure(sub, sup)


def test_get_shape_dtype():
  out = trees.get_shape_dtype({'a': np.ones((2, 3), np.int32), 'b': jnp.ones(2)})
  assert out == {
      'a': jax.ShapeDtypeStruct((2, 3), jnp.int32),
      'b': jax.ShapeDtypeStruct((2,), jnp.float32),
  }


def test_copy():
  x = {'a': [jnp.ones(1)]}
  y = trees.copy(x)
  assert y['a'] is not x['a'] and y['a'][0] is x['a'][0]
