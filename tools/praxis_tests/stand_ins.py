"""What the tests get in place of packages that aren't installed.

Anything of such a package can be named and passed around. To use it ends the test as
"not runnable", with the name of what it needed. While the test file is being loaded,
calls are let through, so that decorators and base classes do no harm to other tests.
"""

import builtins
import importlib
import sys
import unittest
from types import ModuleType, SimpleNamespace
from typing import Any

from praxis_tests import praxis_test_utils

# Missing, these make a test not runnable; missing anything else is a failure.
OPTIONAL = ('tensorflow', 'lingvo', 'flax', 'jax.experimental.jax2tf', 'praxis',
            'clu', 'tensorflow_datasets', 'seqio')


class NotRunnable(unittest.SkipTest):
  """A test needs something that isn't here."""


class Log:
  """What was used of absent packages since the last `clear`."""

  loading = True

  def __init__(self):
    self.clear()

  def clear(self) -> None:
    self.named: list[str] = []
    self.used: list[str] = []


log = Log()


class Absent:
  """Something of a package that isn't installed."""

  def __init__(self, path: str):
    self._path = path

  def _use(self, *args: Any, **kwargs: Any) -> 'Absent':
    if log.loading:
      return Absent(self._path)
    log.used.append(self._path)
    raise NotRunnable(f'needs {self._path}')

  def __getattr__(self, name: str) -> 'Absent':
    if name == '__version__':
      return self._use()
    if name.startswith('__'):
      raise AttributeError(name)
    if not log.loading:
      log.named.append(f'{self._path}.{name}')
    return Absent(f'{self._path}.{name}')

  def __mro_entries__(self, bases: tuple) -> tuple[type, ...]:
    return (type('AbsentBase', (), {'__new__': lambda cls, *a, **k: self._use()}),)

  __call__ = __getitem__ = __instancecheck__ = __subclasscheck__ = _use
  __iter__ = __enter__ = __len__ = __bool__ = __array__ = _use
  __or__ = __ror__ = __eq__ = __lt__ = __add__ = __mul__ = _use
  __hash__ = object.__hash__

  def __repr__(self) -> str:
    return f'<absent {self._path}>'


class _TensorFlow(Absent):
  """TensorFlow, with what does no harm: seeding it seeds nothing."""

  def __getattr__(self, name: str) -> Any:
    if name in ('compat', 'v2', 'v1'):
      return self
    if name == 'random':
      return SimpleNamespace(set_seed=lambda seed: None)
    return super().__getattr__(name)


def quiet_lingvo() -> None:
  """Lets lingvo's NestedMap, a part of Praxis, ask if a value is of TensorFlow."""
  try:
    import tensorflow  # noqa: F401
  except ImportError:
    nothing = {name: type(name, (), {}) for name in ('DType', 'Tensor', '_DictWrapper')}
    for name in ('tensorflow.compat.v2',
                 'tensorflow.python.trackable.data_structures'):
      module = sys.modules[name] = ModuleType(name)
      vars(module).update(nothing)


def _stand_in(path: str) -> Any:
  if path == 'praxis.test_utils':
    return praxis_test_utils
  if path == 'lingvo.core.nested_map':  # Praxis's NestedMap is this one
    return importlib.import_module('praxis.py_utils')
  return _TensorFlow(path) if path.split('.')[0] == 'tensorflow' else Absent(path)


def _is_optional(path: str) -> bool:
  return any(path == name or path.startswith(f'{name}.') for name in OPTIONAL)


def _member(module: str, name: str) -> Any:
  """`from module import name`, or its stand-in if that can't be had."""
  path = f'{module}.{name}'
  if path == 'praxis.test_utils':
    return _stand_in(path)
  try:
    found = importlib.import_module(module)
    if not hasattr(found, name):
      importlib.import_module(path)
    return getattr(found, name)
  except ImportError as error:
    if _is_optional(path) or _is_optional(error.name or ''):
      return _stand_in(path)
    raise


def import_(name: str, globals=None, locals=None, fromlist=(), level: int = 0) -> Any:
  """`__import__` of the test files."""
  if level or not (_is_optional(name) or name == 'jax.experimental'):
    return builtins.__import__(name, globals, locals, fromlist, level)
  if fromlist:
    return SimpleNamespace(**{member: _member(name, member) for member in fromlist})
  try:
    return builtins.__import__(name)
  except ImportError as error:
    if _is_optional(error.name or ''):
      return _stand_in(name.partition('.')[0])
    raise
