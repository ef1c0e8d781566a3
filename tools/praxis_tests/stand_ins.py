"""What the tests get in place of packages that aren't installed.

Anything of such a package can be named and passed around. To use it ends the test as
"not runnable", with the name of what it needed. While the test file is being loaded,
calls are let through, so that decorators and base classes do no harm to other tests.
"""

import builtins
import functools
import importlib
import importlib.util
import pathlib
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


def has_tensorflow() -> bool:
  return importlib.util.find_spec('tensorflow') is not None


def prepare_lingvo() -> None:
  """Lets as much of lingvo be imported as can be.

  Its NestedMap, a part of Praxis, asks if a value is of TensorFlow. With TensorFlow its
  layers can be imported, too, without the operations that it has compiled itself: no
  test needs those, and they load on some systems only.
  """
  if has_tensorflow():
    name = 'lingvo.core.ops.gen_x_ops'
    sys.modules[name] = module = ModuleType(name)
    module.__getattr__ = _Operation
    # There is one NestedMap, as in Praxis: the one of the side that is tested.
    nested_map = importlib.import_module('lingvo.core.nested_map')
    nested_map.NestedMap = importlib.import_module('praxis.py_utils').NestedMap
  else:
    nothing = {name: type(name, (), {}) for name in ('DType', 'Tensor', '_DictWrapper')}
    for name in ('tensorflow.compat.v2',
                 'tensorflow.python.trackable.data_structures'):
      module = sys.modules[name] = ModuleType(name)
      vars(module).update(nothing)


def prepare_flax() -> None:
  """Lets Flax's `nn.apply(function, layer)` take a layer that is no Flax module.

  It then is what a user writes here: `layer.apply(..., method=function)`.
  """
  if importlib.util.find_spec('flax') is None:
    return
  linen = importlib.import_module('flax.linen')
  layer = importlib.import_module('praxis.base_layer').BaseLayer
  of_flax = linen.apply

  def apply(fn: Any, module: Any, mutable: Any = False, **kwargs: Any) -> Any:
    if isinstance(module, layer):
      return functools.partial(module.apply, method=fn, mutable=mutable)
    return of_flax(fn, module, mutable, **kwargs)

  linen.apply = apply


class _Operation:
  """A compiled operation of lingvo."""

  def __init__(self, name: str):
    if name.startswith('__'):
      raise AttributeError(name)
    self._name = name

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    if self._name.startswith('assert_'):  # checks lingvo's own shapes
      return importlib.import_module('tensorflow').no_op()
    log.used.append(f'lingvo.core.ops.{self._name}')
    raise NotRunnable(f'needs lingvo.core.ops.{self._name}')


# Directory of the package whose tests are run; set by the worker.
package: pathlib.Path | None = None


@functools.cache
def _test_utils() -> Any:
  """`praxis.test_utils`: the file beside the tests if it can be loaded, or our own."""
  file = package / 'test_utils.py' if package else None
  if not (has_tensorflow() and file and file.is_file()):
    return praxis_test_utils
  # Not under its name in sys.modules: the drop-in would see the real Praxis there.
  spec = importlib.util.spec_from_file_location('praxis_own_test_utils', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _stand_in(path: str) -> Any:
  if path == 'praxis.test_utils':
    return _test_utils()
  if path == 'lingvo.core.nested_map':  # Praxis's NestedMap is this one
    return importlib.import_module('praxis.py_utils')
  return _TensorFlow(path) if path.split('.')[0] == 'tensorflow' else Absent(path)


def _is_optional(path: str) -> bool:
  return any(path == name or path.startswith(f'{name}.') for name in OPTIONAL)


def _member(module: str, name: str) -> Any:
  """`from module import name`, or its stand-in if that can't be had."""
  path = f'{module}.{name}'
  if path in ('praxis.test_utils', 'lingvo.core.nested_map'):
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
