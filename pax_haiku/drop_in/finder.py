"""Makes imports of `praxis` find pax_haiku: finders for `sys.meta_path`."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from types import ModuleType

from absl import logging

import pax_haiku
from pax_haiku.core import config_text, flax_serialization
from pax_haiku.drop_in import missing

_lock = threading.RLock()


class MixtureError(ImportError):
  """The real Praxis and its stand-in would meet in one process."""


def _target(name: str) -> str:
  """Name in pax_haiku of a module of praxis."""
  return 'pax_haiku' + name.removeprefix('praxis')


def _is_praxis(name: str) -> bool:
  return name == 'praxis' or name.startswith('praxis.')


def _check_unmixed() -> None:
  """Raises MixtureError if a module named praxis is not one of pax_haiku's."""
  foreign = sorted(name for name, module in list(sys.modules.items())
                   if _is_praxis(name) and module is not sys.modules.get(_target(name)))
  if foreign:
    where = getattr(sys.modules.get(foreign[0]), '__file__', None) or 'no file'
    raise MixtureError(
        f'{foreign[0]} ({where}) is in this process already, as are '
        f'{len(foreign) - 1} of its modules; pax_haiku.drop_in replaces Praxis as a '
        'whole or not at all: import pax_haiku.drop_in before anything that imports '
        'praxis, or run the program by python -m pax_haiku.drop_in',
        name=foreign[0])


class _Loader(importlib.abc.Loader):
  """Hands out the module of pax_haiku instead of loading another."""

  def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
    module = importlib.import_module(_target(spec.name))
    # The import system is about to put `spec` in place of the module's own.
    spec.loader_state = module.__spec__
    return module

  def exec_module(self, module: ModuleType) -> None:
    module.__spec__ = module.__spec__.loader_state
    missing.watch(module)
    flax_serialization.register()  # Flax may have been imported meanwhile


class _Finder(importlib.abc.MetaPathFinder):
  """Comes first, so that nobody else is asked for `praxis`."""

  def find_spec(self, fullname, path=None, target=None):
    if not _is_praxis(fullname):
      return None
    _check_unmixed()
    name = _target(fullname)
    found = sys.modules.get(name) or importlib.util.find_spec(name)
    if found is None:
      if missing.is_probe():
        return None
      raise missing.no_module(fullname, sys.modules[name.rpartition('.')[0]])
    return importlib.machinery.ModuleSpec(fullname, _Loader())


class _FlaxHint(importlib.abc.MetaPathFinder):
  """Comes last, when nobody has found Flax."""

  def find_spec(self, fullname, path=None, target=None):
    if fullname == 'flax' and not missing.is_probe():
      raise missing.no_flax()
    return None


_first, _last = _Finder(), _FlaxHint()


def is_installed() -> bool:
  """Whether `praxis` means pax_haiku at present."""
  return _first in sys.meta_path


def install() -> None:
  """Makes `praxis` mean pax_haiku; a second call changes nothing.

  Raises:
    MixtureError: a module of the real Praxis was imported before.
  """
  with _lock:
    _check_unmixed()
    if is_installed():
      return
    real = importlib.util.find_spec('praxis')
    if real is not None:
      places = real.origin or ', '.join(real.submodule_search_locations or ())
      logging.warning('praxis is pax_haiku in this process; the Praxis that is '
                      'installed (%s) stays out.', places)
    missing.watch(pax_haiku)
    config_text.package_name = 'praxis'
    sys.meta_path.insert(0, _first)
    sys.meta_path.append(_last)


def remove() -> None:
  """Undoes `install`; modules that were imported meanwhile stay what they are."""
  with _lock:
    for finder in (_first, _last):
      if finder in sys.meta_path:
        sys.meta_path.remove(finder)
    for name, module in list(sys.modules.items()):
      if _is_praxis(name) and module is sys.modules.get(_target(name)):
        del sys.modules[name]
    missing.unwatch()
    config_text.package_name = 'pax_haiku'
