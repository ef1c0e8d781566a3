"""One side of the comparison: a package that speaks the Pax API, by name.

`Side('praxis')` and `Side('pax_haiku')` differ in nothing but that name.
"""

import importlib
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from praxis_compare import spec
from praxis_compare.cases import local_layers

DISTRIBUTIONS = ('praxis', 'pax-haiku', 'jax', 'jaxlib', 'flax', 'dm-haiku', 'fiddle',
                 'optax', 'numpy')


def flatten(tree: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
  """Leaves by '/'-joined path; lists by index, (value, weight) pairs by field."""
  if isinstance(tree, Mapping):
    items = [(str(k), v) for k, v in tree.items()]
  elif isinstance(tree, list | tuple):
    names = getattr(tree, '_fields', range(len(tree)))
    items = [(str(k), v) for k, v in zip(names, tree, strict=True)]
  elif hasattr(tree, 'value') and hasattr(tree, 'weight'):
    items = [('value', tree.value), ('weight', tree.weight)]
  else:
    return {'/'.join(path): tree}
  out = {}
  for key, value in items:
    out.update(flatten(value, (*path, key)))
  return out


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nested plain dicts from '/'-joined paths."""
  out: dict[str, Any] = {}
  for path, value in flat.items():
    *outer, last = path.split('/')
    node = out
    for key in outer:
      node = node.setdefault(key, {})
    node[last] = value
  return out


class Side:
  """Builds configs, layers and inputs with the package `pkg`."""

  def __init__(self, pkg: str) -> None:
    self.pkg = pkg
    self.base_layer = importlib.import_module(f'{pkg}.base_layer')
    self.pax_fiddle = importlib.import_module(f'{pkg}.pax_fiddle')
    self.py_utils = importlib.import_module(f'{pkg}.py_utils')
    self._local: dict[str, type] | None = None

  def versions(self) -> dict[str, str]:
    out = {'python': platform.python_version()}
    for name in DISTRIBUTIONS:
      try:
        out[name] = importlib.metadata.version(name)
      except importlib.metadata.PackageNotFoundError:
        pass
    return out

  def lookup(self, path: str) -> Any:
    """`module.Class[.member]` below `layers`, or `local.Class`."""
    module, _, rest = path.partition('.')
    if module == 'local':
      if self._local is None:
        self._local = local_layers.define(self.pkg)
      return self._local[rest]
    found: Any = importlib.import_module(f'{self.pkg}.layers.{module}')
    for name in rest.split('.'):
      found = getattr(found, name)
    return found

  def build(self, value: Any) -> Any:
    """Plain data -> the package's own configs, initialisers and maps."""
    if isinstance(value, spec.Cfg):
      config = self.pax_fiddle.Config(self.lookup(value.layer))
      for name, field in value.fields.items():
        *outer, last = name.split('.')
        target = config
        for part in outer:
          target = getattr(target, part)
        setattr(target, last, self.build(field))
      return config
    if isinstance(value, spec.Init):
      return getattr(self.base_layer.WeightInit, value.method)(*value.args)
    if isinstance(value, spec.Name):
      return self.lookup(value.path)
    if isinstance(value, spec.Dtype):
      return getattr(jnp, value.name)
    if isinstance(value, spec.Map):
      return self.py_utils.NestedMap(
          {k: self.build(v) for k, v in value.items()})
    if isinstance(value, dict):
      return {k: self.build(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
      return type(value)(self.build(v) for v in value)
    return value

  def layer(self, config: spec.Cfg, dtype: str) -> Any:
    """A layer instance; `dtype` is its fprop dtype."""
    built = self.build(config)
    built.name = 'layer'
    if dtype != 'float32':
      built.fprop_dtype = jnp.dtype(dtype)
    return built.Instantiate()

  def context(self, do_eval: bool) -> Any:
    jax_context = self.base_layer.JaxContext
    return jax_context.new_context(hparams=jax_context.HParams(do_eval=do_eval))


def is_float(leaf: Any) -> bool:
  return (isinstance(leaf, np.ndarray | jax.Array)
          and jnp.issubdtype(leaf.dtype, jnp.floating))
