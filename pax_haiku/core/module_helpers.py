"""Small functions of `base_layer` that stand beside the layer class."""

import inspect

import fiddle as fdl
import jax

from pax_haiku import asserts, pax_fiddle
from pax_haiku.core import constants


def is_running_under_pmap() -> bool:
  """Whether an axis named 'batch' is bound: in pmap, vmap or shard_map with it."""
  try:
    jax.lax.axis_index(constants.PMAP_PARALLEL_AXIS_NAME)
  except NameError:
    return False
  return True


def get_template_fields(template: pax_fiddle.Config) -> list[str]:
  """Names of all fields of a layer's config, `parent` and `name` included.

  Raises:
    TypeError: not a Config.
  """
  if not isinstance(template, fdl.Buildable):
    raise TypeError(f'Expected a Config of a layer, got {type(template).__name__}.')
  return list(inspect.signature(fdl.get_callable(template)).parameters)


def instantiate_layer(layer_p: pax_fiddle.Config, root_scope=None):
  """Builds a layer; `root_scope` is accepted for Pax code and plays no role."""
  del root_scope
  return pax_fiddle.instantiate(layer_p)


def assert_has_shape(t, shape):
  """Checks the rank of `t` and each dim against `shape`; -1 fits any size.

  Raises:
    ValueError: they differ. Switched off inside `asserts.AssertsContext(False)`.
  """
  fits = len(t.shape) == len(shape) and all(
    want in (-1, have) for have, want in zip(t.shape, shape, strict=True)
  )
  asserts.eq(
    fits,
    True,
    msg=f'Expected shape {tuple(shape)} (-1: any), found shape {tuple(t.shape)}.',
  )
