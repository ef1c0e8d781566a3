"""Immutable containers: what a bound layer keeps of the lists and dicts given to it."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax


class FrozenDict(Mapping):
  """A dict that does not change. A pytree whose paths look like a dict's.

  Hashable when its values are. Equal to any mapping with equal items.
  """

  __slots__ = ('_dict', '_hash')

  def __init__(self, *args, **kwargs):
    self._dict = dict(*args, **kwargs)
    self._hash = None

  def __getitem__(self, key) -> Any:
    return self._dict[key]

  def __iter__(self) -> Iterator:
    return iter(self._dict)

  def __len__(self) -> int:
    return len(self._dict)

  def __contains__(self, key) -> bool:
    return key in self._dict

  def __hash__(self) -> int:
    if self._hash is None:
      self._hash = hash(frozenset(self._dict.items()))
    return self._hash

  def __eq__(self, other) -> bool:
    if isinstance(other, FrozenDict):
      return self._dict == other._dict
    return self._dict == other if isinstance(other, dict) else NotImplemented

  def __or__(self, other: Mapping) -> 'FrozenDict':
    return self.copy(other)

  def __repr__(self) -> str:
    return f'FrozenDict({self._dict!r})'

  def __setitem__(self, key, value):
    raise ValueError(
      f'FrozenDict is immutable: cannot set {key!r}. Use copy({{{key!r}: ...}}), which '
      'returns a changed copy, or unfreeze(), which returns a plain dict.'
    )

  def __delitem__(self, key):
    raise ValueError(
      f'FrozenDict is immutable: cannot delete {key!r}. Use unfreeze(), which returns '
      'a plain dict.'
    )

  def __reduce__(self):
    return FrozenDict, (self._dict,)

  def copy(self, updates: Mapping | None = None) -> 'FrozenDict':
    """Returns a FrozenDict with `updates` (frozen too) added or put over the items."""
    updates = {k: freeze_containers(v) for k, v in (updates or {}).items()}
    return FrozenDict({**self._dict, **updates})

  def unfreeze(self) -> dict:
    """Returns a plain dict, with the FrozenDicts nested directly in it as dicts too."""
    return {
      k: v.unfreeze() if isinstance(v, FrozenDict) else v for k, v in self.items()
    }


def _flatten_with_keys(d: FrozenDict):
  keys = tuple(sorted(d))
  return tuple((jax.tree_util.DictKey(k), d[k]) for k in keys), keys


def _flatten(d: FrozenDict):
  keys = tuple(sorted(d))
  return tuple(d[k] for k in keys), keys


jax.tree_util.register_pytree_with_keys(
  FrozenDict,
  _flatten_with_keys,
  lambda keys, values: FrozenDict(zip(keys, values, strict=True)),
  _flatten,
)


def freeze_containers(value: Any) -> Any:
  """Lists become tuples and dicts become FrozenDicts, at every depth.

  Namedtuples keep their type. Everything else (arrays, layers, configs, sets) is
  returned as it is and not looked into. A value with nothing to freeze is returned
  itself, not a copy.
  """
  if isinstance(value, (list, tuple)):
    items = [freeze_containers(v) for v in value]
    if isinstance(value, tuple):
      if all(new is old for new, old in zip(items, value, strict=True)):
        return value
      if hasattr(value, '_fields'):
        return type(value)(*items)
    return tuple(items)
  if isinstance(value, FrozenDict):
    items = {k: freeze_containers(v) for k, v in value.items()}
    same = all(items[k] is value[k] for k in items)
    return value if same else FrozenDict(items)
  if isinstance(value, dict):
    return FrozenDict((k, freeze_containers(v)) for k, v in value.items())
  return value
