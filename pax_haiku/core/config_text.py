"""Configs and other nested structures as text, one line per value; and their walk."""

import abc
import dataclasses
import enum
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import fiddle as fdl
import numpy as np

_UNSET = object()


class StrOverride(abc.ABC):
  """Base of objects whose `str()` is their text in dumps."""

  @abc.abstractmethod
  def __str__(self) -> str:
    """The text."""


def _is_hparams(value: Any) -> bool:
  return getattr(type(value), '__pax_hparams__', False)


def _is_dataclass_object(value: Any) -> bool:
  return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _config_items(config: fdl.Buildable) -> list[tuple[str, Any]]:
  """(name, value) of all arguments that have a value or default, but `parent`."""
  items = []
  for name, value in fdl.ordered_arguments(config, include_defaults=True).items():
    if name != 'parent':
      items.append((str(name), value))
  return items


def _children(key: str, value: Any) -> list[tuple[str, Any]] | None:
  """(key, value) of the members of a structure, None for a leaf."""
  prefix = f'{key}.' if key != '' else ''
  if isinstance(value, fdl.Buildable):
    return [(prefix + name, v) for name, v in _config_items(value)]
  if isinstance(value, Mapping):
    return [(f'{prefix}{k}', v) for k, v in value.items()]
  if isinstance(value, tuple) and hasattr(value, '_fields'):
    return [(f'{key}[{n}]', v) for n, v in zip(value._fields, value, strict=True)]
  if isinstance(value, list | tuple | range):
    return [(f'{key}[{i}]', v) for i, v in enumerate(value)]
  if _is_dataclass_object(value):
    return [
        (prefix + f.name, getattr(value, f.name, _UNSET))
        for f in dataclasses.fields(value)
        if f.name != 'parent'
    ]
  return None


def visit_nested_struct(
    obj_to_visit: Any,
    visit_fn: Callable[[str, Any], None],
    enter_fn: Callable[[str, Any], bool] | None = None,
    exit_fn: Callable[[str, Any], None] | None = None,
) -> None:
  """Walks through mappings, sequences, dataclasses and configs.

  Keys read `a.b` for members of mappings, dataclasses and configs, `a[0]` for those
  of sequences, `a[name]` for those of namedtuples. The field `parent` is left out.

  Args:
    obj_to_visit: the structure; its own key is ''.
    visit_fn: called with key and value of each leaf.
    enter_fn: called with key and value of each structure; if it returns false, the
      structure is visited as a leaf.
    exit_fn: called with key and value of each structure that was entered.

  Raises:
    ValueError: a structure contains itself.
  """
  around = set()

  def visit(key, value):
    children = _children(key, value)
    if children is None or (enter_fn is not None and not enter_fn(key, value)):
      visit_fn(key, value)
      return
    if id(value) in around:
      raise ValueError(
          f'A circular reference chain is detected. Current key: {key}'
      )
    around.add(id(value))
    for child_key, child in children:
      if child is not _UNSET:
        visit(child_key, child)
    around.remove(id(value))
    if exit_fn is not None:
      exit_fn(key, value)

  visit('', obj_to_visit)


def _quote(text: str) -> str:
  quote = '"' if text.count("'") > text.count('"') else "'"
  escaped = text.replace('\\', '\\\\').replace(quote, '\\' + quote)
  return f'{quote}{escaped}{quote}'


package_name = 'pax_haiku'  # what texts call this package; the drop-in says 'praxis'


def _location(value: Any) -> str:
  module = inspect.getmodule(value)
  name = getattr(module, '__name__', None) or str(getattr(value, '__module__', None))
  qualname = getattr(value, '__qualname__', type(value).__name__)
  if name.startswith('pax_haiku.core.'):  # a text names what users import
    outer = qualname.partition('.')[0]
    facade = sys.modules.get('pax_haiku.base_layer')
    if hasattr(facade, outer) and getattr(facade, outer) is getattr(module, outer):
      name = facade.__name__
  if name.partition('.')[0] == 'pax_haiku':
    name = package_name + name.removeprefix('pax_haiku')
  return f'{name}/{qualname}'


def _is_proto(value: Any) -> bool:
  return hasattr(value, 'SerializeToString') and hasattr(value, 'DESCRIPTOR')


def _plain(value: Any) -> Any:
  """What stands for a member of a list: numbers, str and containers of them."""
  if isinstance(value, str | int | float):
    return value
  if isinstance(value, Mapping):
    return {k: _plain(v) for k, v in value.items()}
  if isinstance(value, tuple) and hasattr(value, '_fields'):
    return {n: _plain(v) for n, v in value._asdict().items()}
  if isinstance(value, list | tuple):
    return type(value)(_plain(v) for v in value)
  if _is_hparams(value):
    return {
        f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
    }
  if isinstance(value, fdl.Buildable) or _is_dataclass_object(value):
    return repr(value)
  return value if isinstance(value, enum.Enum) else _text(value)


def _text(value: Any) -> str:
  """The text of a leaf."""
  if isinstance(value, str) and not isinstance(value, enum.Enum):
    return _quote(value)
  if isinstance(value, int | float) and not isinstance(value, np.generic):
    return str(value)
  if isinstance(value, enum.Enum | StrOverride):
    return str(value)
  if isinstance(value, list | tuple):
    return repr(_plain(value))
  if isinstance(value, np.ndarray):
    return np.array2string(value, separator=', ')
  if isinstance(value, type) or type(value).__name__ == '_ScalarMeta':
    return f'type/{_location(value)}'
  if inspect.isroutine(value):
    return f'callable/{_location(value)}'
  if type(value).__name__ == 'DType' and hasattr(value, 'as_numpy_dtype'):
    return value.name  # TensorFlow's
  if _is_proto(value):
    kind = type(value)
    text = ' '.join(str(value).split())
    return f'proto/{kind.__module__}/{kind.__qualname__}/{text}'
  return type(value).__name__


def _enters_list(value: list | tuple) -> bool:
  """Whether a sequence has lines for its members: all configs, or all HParams."""
  return all(isinstance(v, fdl.Buildable) for v in value) or all(
      map(_is_hparams, value)
  )


def nested_struct_to_text(
    obj_to_visit: Any, include_types: bool = False, separator: str = ':'
) -> str | tuple[str, dict[str, str]]:
  """A text with one line `key separator value` for each leaf, sorted by key.

  A config has a line `key.cls` and lines for all its arguments, defaults included
  (the `cls` of sharding templates is left out). Lists have one line, unless they
  hold configs only.

  Args:
    obj_to_visit: the structure.
    include_types: also return the type name of each key's value.
    separator: between key and value.
  """
  lines = {}

  def add(key, value):
    lines[key] = (_text(value), type(value).__name__)

  def enter(key, value):
    if isinstance(value, StrOverride | range):
      return False
    if isinstance(value, fdl.Buildable):
      if not key.endswith('_split_dims_mapping'):
        add(f'{key}.cls' if key else 'cls', fdl.get_callable(value))
      return True
    if isinstance(value, list | tuple) and not hasattr(value, '_fields'):
      return _enters_list(value)
    return True

  visit_nested_struct(obj_to_visit, add, enter)
  keys = sorted(lines)
  text = ''.join(f'{key} {separator} {lines[key][0]}\n' for key in keys)
  if include_types:
    return text, {key: lines[key][1] for key in keys}
  return text
