"""What is said about names that pax_haiku doesn't have."""

import difflib
import dis
import pkgutil
import sys
from types import ModuleType
from typing import NoReturn

_IMPORT_FROM = dis.opmap.get('IMPORT_FROM')


class _Package(ModuleType):
  """A package that watches the modules which are imported into it later on."""

  def __setattr__(self, name: str, value) -> None:
    super().__setattr__(name, value)
    if isinstance(value, ModuleType) and value.__name__ == f'{self.__name__}.{name}':
      watch(value)


class _Missing:
  """A module's `__getattr__`: asked for the names that the module doesn't have."""

  def __init__(self, module: ModuleType):
    self.module = module
    self.inner = vars(module).get('__getattr__')

  def __call__(self, name: str):
    if self.inner is not None:
      try:
        return self.inner(name)
      except AttributeError:
        pass
    module = self.module
    if name.startswith('__'):  # asked by Python itself, often, and only to see
      raise AttributeError(f'module {module.__name__!r} has no attribute {name!r}')
    _raise_no_attribute(module, name, sys._getframe(1))


def _raise_no_attribute(module: ModuleType, name: str, frame) -> NoReturn:
  """Raises what `from module import name`, or else `module.name`, has to raise."""
  alias = _alias(module)
  text = f'{module.__name__} has no {name!r}. {_list(name, _names(module))}'
  # Python would replace the text of an AttributeError in an import statement.
  if frame.f_code.co_code[frame.f_lasti] == _IMPORT_FROM:
    raise ImportError(f'cannot import name {name!r} from {alias!r}: {text}',
                      name=alias, path=getattr(module, '__file__', None))
  raise AttributeError(f'module {alias!r} has no attribute {name!r}: {text}')


def _alias(module: ModuleType) -> str:
  return 'praxis' + module.__name__.removeprefix('pax_haiku')


def _modules(package: ModuleType) -> set[str]:
  """Names of the modules in a package; none for a plain module."""
  return {info.name for info in pkgutil.iter_modules(getattr(package, '__path__', ()))}


def _names(module: ModuleType) -> set[str]:
  """Names in a module, without the modules that it has imported from elsewhere."""
  inside = f'{module.__name__}.'
  return _modules(module) | {
      name for name, value in vars(module).items()
      if not isinstance(value, ModuleType) or value.__name__.startswith(inside)}


def _list(name: str, there: set[str]) -> str:
  """Says what is there, the names that look like `name` first."""
  names = sorted(candidate for candidate in there if not candidate.startswith('_'))
  lower = {candidate.lower(): candidate for candidate in names}
  close = [lower[found] for found in
           difflib.get_close_matches(name.lower(), lower, n=5, cutoff=0.6)]
  others = [candidate for candidate in names if candidate not in close]
  parts = [f'Closest: {", ".join(close)}.'] if close else []
  if others:
    parts.append(f'{"There are also" if close else "There are"}: {", ".join(others)}.')
  return ' '.join(parts) or 'It is empty.'


def no_module(name: str, parent: ModuleType) -> ModuleNotFoundError:
  """The error for a module `name` of praxis that `parent` doesn't have."""
  tail = name.rpartition('.')[2]
  return ModuleNotFoundError(
      f'No module named {name!r}: {parent.__name__}, which stands in for '
      f'{_alias(parent)}, has no {tail!r}. {_list(tail, _modules(parent))}', name=name)


def no_flax() -> ModuleNotFoundError:
  """The error for Flax, where it isn't installed."""
  return ModuleNotFoundError(
      "No module named 'flax': pax_haiku.drop_in stands in for Praxis, not for Flax. "
      'Layer code that only marks methods can say base_layer.compact and '
      'base_layer.nowrap for nn.compact and nn.nowrap, and hk.remat for nn.remat; '
      'other uses need Flax itself: pip install flax', name='flax')


def is_probe() -> bool:
  """Whether a finder is asked if a module exists, rather than to import it.

  To be called by `find_spec`. `importlib.util.find_spec` expects None for what isn't
  there; an import can be told more. In doubt it is a probe.
  """
  try:
    return sys._getframe(3).f_code.co_name != '_find_and_load_unlocked'
  except ValueError:
    return True


def watch(module: ModuleType) -> None:
  """Lets `module`, and what is imported from inside it, tell what it has."""
  if isinstance(vars(module).get('__getattr__'), _Missing):
    return
  if hasattr(module, '__path__') and type(module) is ModuleType:
    module.__class__ = _Package
  vars(module)['__getattr__'] = _Missing(module)
  for name, value in list(vars(module).items()):
    if isinstance(value, ModuleType) and value.__name__ == f'{module.__name__}.{name}':
      watch(value)


def unwatch() -> None:
  """Undoes every `watch`."""
  for module in list(sys.modules.values()):
    hook = vars(module).get('__getattr__') if type(module) in _KINDS else None
    if isinstance(hook, _Missing):
      if hook.inner is None:
        del vars(module)['__getattr__']
      else:
        vars(module)['__getattr__'] = hook.inner
      if type(module) is _Package:
        module.__class__ = ModuleType


_KINDS = (ModuleType, _Package)
