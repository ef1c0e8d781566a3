"""Immutable containers."""

import collections
import copy
import pickle

import jax
import jax.numpy as jnp
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.core.frozen import FrozenDict, freeze_containers
from pax_haiku.core.nested_map import NestedMap

Point = collections.namedtuple('Point', 'x y')


def test_reads_like_a_dict():
  d = FrozenDict({'b': 1}, a=2)
  assert d['b'] == 1 and d.get('c', 3) == 3 and 'a' in d and len(d) == 2
  assert list(d) == ['b', 'a'] and dict(d) == {'b': 1, 'a': 2}
  assert d == {'a': 2, 'b': 1} == d and d == FrozenDict(a=2, b=1)
  assert d != {'a': 2} and d != 5
  assert dict(**d) == {'a': 2, 'b': 1}
  assert repr(d) == "FrozenDict({'b': 1, 'a': 2})"
  with pytest.raises(KeyError):
    d['c']


def test_does_not_change():
  source = {'a': 1}
  d = FrozenDict(source)
  source['a'] = 2
  assert d['a'] == 1
  with pytest.raises(ValueError, match=r"immutable: cannot set 'a'.*copy\("):
    d['a'] = 2
  with pytest.raises(ValueError, match=r"cannot delete 'a'.*unfreeze\(\)"):
    del d['a']
  assert not hasattr(d, 'update') and not hasattr(d, 'pop')


def test_copy_with_updates():
  d = FrozenDict(a=1, b=FrozenDict(c=2))
  changed = d.copy({'b': {'d': [3]}, 'e': 4})
  assert changed == {'a': 1, 'b': {'d': (3,)}, 'e': 4}
  assert isinstance(changed['b'], FrozenDict)
  assert d | {'a': 5} == {'a': 5, 'b': {'c': 2}}
  assert d.copy() == d == {'a': 1, 'b': {'c': 2}}


def test_unfreeze():
  plain = FrozenDict(a=1, b=FrozenDict(c=2)).unfreeze()
  assert type(plain) is dict and type(plain['b']) is dict
  assert plain == {'a': 1, 'b': {'c': 2}}


def test_hash():
  assert hash(FrozenDict(a=1, b=(2,))) == hash(FrozenDict(b=(2,), a=1))
  assert {FrozenDict(a=1): 'x'}[FrozenDict(a=1)] == 'x'
  with pytest.raises(TypeError, match='unhashable'):
    hash(FrozenDict(a=[1]))


@pytest.mark.parametrize(
  'duplicate',
  [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))],
  ids=['copy', 'deepcopy', 'pickle'],
)
def test_copies(duplicate):
  d = FrozenDict(a=[1], b=FrozenDict(c=2))
  other = duplicate(d)
  assert other == d and isinstance(other['b'], FrozenDict)


def test_deepcopy_is_deep():
  d = FrozenDict(a=[1])
  copy.deepcopy(d)['a'].append(2)
  assert d == {'a': [1]}


def test_is_a_pytree_like_a_dict():
  d = FrozenDict(b=1, a=FrozenDict(c=2))
  leaves, _ = jax.tree_util.tree_flatten_with_path(d)
  expected, _ = jax.tree_util.tree_flatten_with_path({'b': 1, 'a': {'c': 2}})
  assert leaves == expected
  assert jax.tree.map(lambda x: x + 1, d) == {'b': 2, 'a': {'c': 3}}
  assert isinstance(jax.tree.map(lambda x: x, d), FrozenDict)
  assert jax.jit(lambda x: x)(d)['a']['c'] == 2
  assert jax.tree.structure(FrozenDict(a=1, b=1)) == jax.tree.structure(
    FrozenDict(b=1, a=1)
  )


def test_freeze_containers():
  config, array = pax_fiddle.Config(Point, x=[1]), jnp.ones(2)
  frozen = freeze_containers(
    {'list': [1, [2, {'a': []}]], 'map': NestedMap(b=[3]), 'cfg': [config, array]}
  )
  assert isinstance(frozen, FrozenDict)
  assert frozen['list'] == (1, (2, FrozenDict(a=())))
  assert isinstance(frozen['map'], FrozenDict) and frozen['map']['b'] == (3,)
  assert frozen['cfg'][0] is config and config.x == [1]
  assert frozen['cfg'][1] is array


def test_freeze_keeps_namedtuples():
  frozen = freeze_containers([Point([1], {'a': 2})])
  assert frozen == (Point((1,), FrozenDict(a=2)),)
  assert type(frozen[0]) is Point


def test_freeze_returns_what_needs_no_change():
  for value in (1, None, 'text', (1, (2,)), Point(1, 2), FrozenDict(a=(1,)), {1, 2}):
    assert freeze_containers(value) is value
