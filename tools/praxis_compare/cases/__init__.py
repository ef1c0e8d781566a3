"""All cases, one module of them per module of layers."""

import fnmatch
import functools
import importlib
import pkgutil
from collections.abc import Sequence

from praxis_compare import spec

_NOT_CASES = ('local_layers',)


@functools.cache
def _table() -> dict[str, spec.Case]:
  out: dict[str, spec.Case] = {}
  for info in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
    if info.name in _NOT_CASES:
      continue
    for one in importlib.import_module(f'{__name__}.{info.name}').CASES:
      if one.name in out:
        raise ValueError(f'two cases are called {one.name!r}')
      out[one.name] = one
  return out


def all_cases() -> list[spec.Case]:
  return list(_table().values())


def by_name(name: str) -> spec.Case:
  return _table()[name]


def select(patterns: Sequence[str]) -> list[spec.Case]:
  """Cases that match any pattern, in declared order.

  A pattern is a glob over `module.Class/variant`; without a '/' it is one over
  `module.Class`. ValueError for a pattern that matches nothing.
  """
  found: set[str] = set()
  for pattern in patterns:
    hits = [c.name for c in all_cases() if fnmatch.fnmatchcase(
        c.name if '/' in pattern else c.layer, pattern)]
    if not hits:
      raise ValueError(f'no case matches {pattern!r}; --list shows them all')
    found.update(hits)
  return [c for c in all_cases() if c.name in found]
