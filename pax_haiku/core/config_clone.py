"""A fast deep copy of configs.

Layers clone templates each time they are traced, so `clone()` lies on the path that
decides trace time; `copy.deepcopy` of a Fiddle config copies the history of every
argument as well and takes 20 times as long. A clone starts with an empty history.
"""

import collections
import copy
import enum
import functools
import types
from typing import Any

import fiddle as fdl
import numpy as np
from fiddle.history import History, tracking_enabled

# Values that are shared, not copied: they cannot change.
_ATOMIC = (type(None), bool, int, float, complex, str, bytes, type, enum.Enum, np.dtype,
           types.FunctionType, types.BuiltinFunctionType, types.MethodType,
           types.ModuleType)
ATOMIC_TYPES = frozenset(_ATOMIC)  # the same, for a first quick look


@functools.cache
def is_config_type(kind: type) -> bool:
  """Whether objects of this type are Fiddle configs (isinstance is slow on ABCs)."""
  return issubclass(kind, fdl.Buildable)


def is_like_new(value: Any, prototype: fdl.Buildable) -> bool:
  """Whether `value` is a config of `prototype`'s callable with nothing set in it."""
  return (type(value) is type(prototype) and not value.__arguments__
          and not any(value.__argument_tags__.values())
          and fdl.get_callable(value) is fdl.get_callable(prototype))


def clone_value(value: Any, memo: dict[int, Any] | None = None) -> Any:
  """A deep copy of a config, a container or any other value.

  A config that occurs several times inside `value` is one object in the copy, too.
  """
  if type(value) in ATOMIC_TYPES:
    return value
  return _clone(value, {} if memo is None else memo)


def _clone(value: Any, memo: dict[int, Any]) -> Any:
  known = memo.get(id(value))
  if known is not None:
    return known
  kind = type(value)
  if is_config_type(kind):
    new = _clone_config(value, memo)
  elif kind is list or kind is tuple:
    new = kind([clone_value(v, memo) for v in value])
  elif kind is dict:
    new = {k: clone_value(v, memo) for k, v in value.items()}
  elif isinstance(value, _ATOMIC):
    return value
  else:
    return copy.deepcopy(value, memo)  # which keeps the memo itself
  memo[id(value)] = new
  return new


class _NoHistory(History):
  """The history of all clones made while Fiddle tracks none, as in every setup.

  One object for all: a layer keeps dozens of configs, and each object that a trace
  leaves alive costs it garbage collection.
  """

  def __missing__(self, key):
    return []


_NO_HISTORY = _NoHistory()
_set = object.__setattr__


def _clone_config(config: fdl.Buildable, memo: dict[int, Any]) -> fdl.Buildable:
  arguments = config.__arguments__.copy()
  for name, value in arguments.items():
    if type(value) not in ATOMIC_TYPES:
      arguments[name] = _clone(value, memo)
  tags = collections.defaultdict(set)
  if config.__argument_tags__:
    tags.update((name, set(t)) for name, t in config.__argument_tags__.items())
  new = object.__new__(type(config))
  # Through new.__dict__ the object would get a dictionary, which it can do without.
  _set(new, '__fn_or_cls__', config.__fn_or_cls__)
  _set(new, '__signature_info__', config.__signature_info__)
  _set(new, '__arguments__', arguments)
  _set(new, '__argument_tags__', tags)
  _set(new, '__argument_history__', History() if tracking_enabled() else _NO_HISTORY)
  return new
