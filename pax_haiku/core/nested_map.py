"""NestedMap: a dict with attribute access whose nested leaves have text keys.

A leaf is anything but a dict or a list (so tuples, None and arrays are leaves, other
than in `jax.tree`). Nested keys read `a.b[2].c`; all methods that speak of nested
keys go through mappings in sorted key order.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging

_KEY_START = re.compile(r'[A-Za-z_]')
_INDEXED = re.compile(r'([A-Za-z_]\w*)\[(\d+)\]')
_RESERVED = frozenset(dir(dict))
_ABSENT = object()


class NestedMap(dict):
  """A dict whose str keys are also attributes: `m.x` is `m['x']`.

  Keys must be str and start with a letter or underscore, and may not be names of
  dict methods; `m.update` and `m.setdefault` do not check.
  """

  __slots__ = ()

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    for key in self:
      self.CheckKey(key)

  # Access to direct members.

  @staticmethod
  def CheckKey(key: Any) -> None:
    """Refuses keys that cannot be attributes.

    Raises:
      AssertionError: the key is not a str, or the name of a dict method.
      ValueError: the key does not start with a letter or underscore.
    """
    if not isinstance(key, str):
      raise AssertionError(
          f'NestedMap keys must be str, not {type(key).__name__}: {key!r}.'
      )
    if not _KEY_START.match(key):
      raise ValueError(
          f'Invalid NestedMap key {key!r}: it must start with a letter or _.'
      )
    if key in _RESERVED:
      raise AssertionError(f'{key} is a reserved key: dict has an attribute so named.')

  def _no_such_key(self, key: Any) -> str:
    return f'{key}; available attributes: {sorted(self, key=str)}'

  def __missing__(self, key):
    raise KeyError(self._no_such_key(key))

  def __setitem__(self, key, value):
    self.CheckKey(key)
    super().__setitem__(key, value)

  def __delitem__(self, key):
    if key not in self:
      raise KeyError(self._no_such_key(key))
    super().__delitem__(key)

  def __getattr__(self, name):
    try:
      return dict.__getitem__(self, name)
    except KeyError:
      raise AttributeError(self._no_such_key(name)) from None

  def __setattr__(self, name, value):
    self[name] = value

  def __delattr__(self, name):
    if name not in self:
      raise AttributeError(self._no_such_key(name))
    super().__delitem__(name)

  # Copies and conversions.

  def copy(self) -> 'NestedMap':
    """A shallow copy."""
    return _new(type(self), self)

  __copy__ = copy

  def __deepcopy__(self, memo) -> 'NestedMap':
    del memo  # The leaves are shared, not copied.
    return self.DeepCopy()

  def __reduce__(self):
    return _new, (type(self), dict(self))

  def DeepCopy(self) -> 'NestedMap':
    """New containers with the same leaf objects."""
    return self.Pack(self.Flatten())

  @staticmethod
  def FromNestedDict(x: Any) -> Any:
    """Every mapping inside, also through lists and tuples, as a NestedMap."""
    if isinstance(x, Mapping):
      return NestedMap({k: NestedMap.FromNestedDict(v) for k, v in x.items()})
    if isinstance(x, tuple) and hasattr(x, '_fields'):
      return type(x)(*map(NestedMap.FromNestedDict, x))
    if isinstance(x, list | tuple):
      return type(x)(map(NestedMap.FromNestedDict, x))
    return x

  @staticmethod
  def FromNestedDataclass(x: Any) -> 'NestedMap':
    """The fields of a dataclass, and of dataclasses within, as a NestedMap."""
    if not dataclasses.is_dataclass(x) or isinstance(x, type):
      raise ValueError(
          f'FromNestedDataclass needs a dataclass object, not {type(x).__name__}.'
      )
    return NestedMap.FromNestedDict(dataclasses.asdict(x))

  def ToNestedDict(self) -> dict[str, Any]:
    """Plain dicts throughout, through dicts and lists (not through tuples)."""
    return _to_dict(self)

  # Access to nested members.

  @staticmethod
  def SquareBracketIndex(key: str) -> tuple[str, int | None]:
    """Splits `'k[0]'` into `('k', 0)`; a key without index gives `(key, None)`."""
    match = _INDEXED.fullmatch(key)
    return (match.group(1), int(match.group(2))) if match else (key, None)

  def GetItem(self, key: str) -> Any:
    """The value at a nested key such as `'a.b[1]'`.

    Raises:
      KeyError, IndexError, TypeError: there is no such value.
    """
    value = self
    for part in key.split('.'):
      name, index = self.SquareBracketIndex(part)
      value = value[name]
      if index is not None:
        value = value[index]
    return value

  def Get(self, key: str, default: Any = None) -> Any:
    """The value at a nested key, or `default`."""
    try:
      return self.GetItem(key)
    except (KeyError, IndexError, TypeError):
      return default

  def Has(self, key: str) -> bool:
    """Whether there is a value at a nested key."""
    return self.Get(key, _ABSENT) is not _ABSENT

  def Set(self, key: str, value: Any) -> None:
    """Sets the value at a nested key, making maps and lists on the way.

    Raises:
      ValueError: a list index beyond the end by more than one, or something other
        than a mapping or list in the way.
    """
    current = self
    parts = key.split('.')
    for i, part in enumerate(parts):
      if not isinstance(current, dict):
        raise ValueError(
            f'Cannot set {key!r}: {".".join(parts[:i])!r} holds a '
            f'{type(current).__name__}, not a mapping.'
        )
      name, index = self.SquareBracketIndex(part)
      last = i == len(parts) - 1
      new = value if last else NestedMap()
      if index is None:
        if last or name not in current:
          current[name] = new
        current = current[name]
        continue
      items = current.setdefault(name, [])
      if not isinstance(items, list):
        raise ValueError(
            f'Cannot set {key!r}: {name!r} is a {type(items).__name__}, not a list.'
        )
      if index > len(items):
        raise ValueError(
            f'Cannot set {key!r}: {name!r} has {len(items)} items, so the index '
            f'may be {len(items)} at most.'
        )
      if index == len(items):
        items.append(new)
      elif last:
        items[index] = new
      current = items[index]

  def GetSlice(self, keys: Iterable[str]) -> 'NestedMap':
    """A new map that has only the given nested keys."""
    result = NestedMap()
    for key in keys:
      result.Set(key, self.GetItem(key))
    return result

  # All leaves at once.

  def Keys(self) -> list[str]:
    """The nested keys of all leaves."""
    return [key for key, _ in _items(self)]

  def Flatten(self) -> list[Any]:
    """All leaves."""
    return [value for _, value in _items(self)]

  def FlattenItems(self) -> list[tuple[str, Any]]:
    """All (nested key, leaf) pairs."""
    return list(_items(self))

  def Pack(self, leaves: Sequence[Any]) -> 'NestedMap':
    """The same structure with other leaves, in the order of `Flatten`."""
    leaves = list(leaves)
    expected = len(self.Flatten())
    if len(leaves) != expected:
      raise ValueError(f'Pack needs {expected} leaves, got {len(leaves)}.')
    following = iter(leaves)
    return _map(self, lambda key, leaf: next(following))

  def Transform(self, fn: Callable[[Any], Any]) -> 'NestedMap':
    """The same structure with `fn(leaf)` for each leaf."""
    return _map(self, lambda key, leaf: fn(leaf))

  def TransformWithKey(self, fn: Callable[[str, Any], Any]) -> 'NestedMap':
    """The same structure with `fn(nested key, leaf)` for each leaf."""
    return _map(self, fn)

  def Filter(self, fn: Callable[[Any], bool]) -> 'NestedMap':
    """Only leaves with true `fn(leaf)`; containers emptied by this disappear."""
    return self.FilterKeyVal(lambda key, leaf: fn(leaf))

  def FilterKeyVal(self, fn: Callable[[str, Any], bool]) -> 'NestedMap':
    """As `Filter`, with `fn(nested key, leaf)`."""
    result = _filter(self, fn, '')
    return type(self)() if result is _ABSENT else result

  def IsCompatible(self, other: 'NestedMap') -> bool:
    """Whether the two have the same nested keys."""
    return self.Keys() == other.Keys()

  def Update(self, other: 'NestedMap') -> 'NestedMap':
    """Takes over the leaves of `other`, leaf by leaf; returns self."""
    for key, leaf in other.FlattenItems():
      self.Set(key, leaf)
    return self

  def Union(self, other: 'NestedMap') -> 'NestedMap':
    """A new map with the leaves of both; those of `other` win."""
    return self.DeepCopy().Update(other)

  def DebugString(self) -> str:
    """One line per leaf: nested key, padded, and value."""
    items = self.FlattenItems()
    width = max((len(key) for key, _ in items), default=0) + 4
    return '\n'.join(sorted(f'{key:<{width}}{leaf}' for key, leaf in items))

  def VLog(self, level: int | None = None, prefix: str | None = None) -> None:
    """Logs `DebugString` line by line at a verbosity level (default 0)."""
    for line in self.DebugString().split('\n'):
      logging.vlog(level or 0, '%s %s', prefix or 'nmap: ', line)


def _new(cls: type[NestedMap], items: Mapping[str, Any]) -> NestedMap:
  """A NestedMap (or an object of a subclass) of keys that have been checked before."""
  result = cls()
  dict.update(result, items)
  return result


def _to_dict(x: Any) -> Any:
  if isinstance(x, dict):
    return {k: _to_dict(v) for k, v in x.items()}
  if isinstance(x, list):
    return [_to_dict(v) for v in x]
  return x


def _children(container: Any, prefix: str) -> Iterator[tuple[Any, str, Any]]:
  """(key, nested key, value) of the members of a dict or list, keys sorted."""
  if isinstance(container, dict):
    for key in sorted(container):
      yield key, f'{prefix}.{key}' if prefix else key, container[key]
  else:
    for i, value in enumerate(container):
      yield i, f'{prefix}[{i}]', value


def _items(container: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  for _, path, value in _children(container, prefix):
    if isinstance(value, dict | list):
      yield from _items(value, path)
    else:
      yield path, value


def _rebuild(like: Any, members: Iterable[tuple[Any, Any]]) -> Any:
  if isinstance(like, NestedMap):
    return _new(type(like), dict(members))
  if isinstance(like, dict):
    return dict(members)
  return [value for _, value in members]


def _map(container: Any, fn: Callable[[str, Any], Any], prefix: str = '') -> Any:
  return _rebuild(
      container,
      [
          (key, _map(v, fn, path) if isinstance(v, dict | list) else fn(path, v))
          for key, path, v in _children(container, prefix)
      ],
  )


def _filter(container: Any, fn: Callable[[str, Any], bool], prefix: str) -> Any:
  kept = []
  if not container:
    return _rebuild(container, [])
  for key, path, value in _children(container, prefix):
    if isinstance(value, dict | list):
      value = _filter(value, fn, path)
    elif not fn(path, value):
      continue
    if value is not _ABSENT:
      kept.append((key, value))
  return _rebuild(container, kept) if kept else _ABSENT


def _flatten_with_keys(x: NestedMap):
  keys = tuple(sorted(x))
  return tuple((jax.tree_util.DictKey(k), x[k]) for k in keys), keys


def _flatten(x: NestedMap):
  keys = tuple(sorted(x))
  return tuple(x[k] for k in keys), keys


jax.tree_util.register_pytree_with_keys(
    NestedMap,
    _flatten_with_keys,
    lambda keys, values: _new(NestedMap, dict(zip(keys, values, strict=True))),
    _flatten,
)
