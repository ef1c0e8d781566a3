"""Optimizer states by a mapping: moments move as the parameters that they belong to."""

from collections.abc import Mapping as MappingType
from typing import Any

import jax
import numpy as np

from pax_haiku.interop import mapping as mapping_lib


def convert_optimizer(
  mapping: mapping_lib.Mapping,
  opt_state: Any,
  source_params: Any,
  target_params: Any,
  *,
  back: bool = False,
  base: Any = None,
) -> Any:
  """An optax state of one model as that of the other.

  Every subtree with the names and shapes of the parameters (moments, traces, ...) is
  converted; layouts change as those of the parameters do, but no constants are added.
  Everything else (counts, keys) is kept.

  Args:
    mapping: of the two models.
    opt_state: from `optimizer.init` or `update` with the source's parameters.
    source_params: the source's parameters, or their shapes: `params` of Haiku or
      `variables['params']` of Pax.
    target_params: the target's, likewise.
    back: `opt_state` is the target's, and the source's is wanted.
    base: a state of the other model, from which `opt_state` once was converted. Moments
      of parameters that only the other model has come from it.

  Returns:
    A state that `optimizer.update` takes with the other model's parameters.

  Raises:
    MappingError: a subtree has the names of the parameters, but other shapes, or the
      base is a state of another optimizer.
  """
  old, new = source_params, target_params
  if back:
    old, new = new, old
  wanted = {n: np.shape(x) for n, x in _named(old).items()}

  def mirrors(x) -> bool:
    return isinstance(x, MappingType) and set(_named(x)) == set(wanted)

  def convert(x, before=None):
    if not mirrors(x):
      return x
    entries = _named(x)
    other = [
      f'{n} {np.shape(v)} instead of {wanted[n]}'
      for n, v in entries.items()
      if not _is_masked(v) and np.shape(v) != wanted[n]
    ]
    if other:
      raise mapping_lib.MappingError(
        'the optimizer keeps arrays of other shapes than the parameters, which cannot '
        'be converted: ' + ', '.join(other)
      )
    known = {} if base is None else _named(before)
    return _converted(mapping, entries, new, back, known)

  if base is None:
    return jax.tree.map(convert, opt_state, is_leaf=mirrors)
  try:
    return jax.tree.map(convert, opt_state, base, is_leaf=mirrors)
  except mapping_lib.MappingError:
    raise
  except (TypeError, ValueError) as error:
    raise mapping_lib.MappingError(
      f'the base is a state of another optimizer: {error}'
    ) from None


def _is_masked(x) -> bool:
  """Whether `optax.masked` left this entry out."""
  return type(x).__name__ == 'MaskedNode'


def _named(params) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path({'params': params}, is_leaf=_is_masked)[
    0
  ]
  return {
    'params:' + '/'.join(str(getattr(k, 'key', k)) for k in path[1:]): leaf
    for path, leaf in leaves
  }


def _converted(mapping, entries, like, back, base) -> Any:
  masked = {n: v for n, v in entries.items() if _is_masked(v)}
  arrays = {n: np.asarray(v) for n, v in entries.items() if n not in masked}
  names = _named(like)
  if back:
    hidden = {n for r in mapping.rules if r.name in masked for n in r.expr.names()}
    kept = mapping_lib.Mapping(
      [
        r
        for r in mapping.rules
        if r.name in arrays and not any(n in hidden for n in r.expr.names())
      ]
    )
    made = kept.backward(arrays, linear=True)
  else:
    hidden = {
      r.name
      for r in mapping.rules
      if r.name in names and any(n in masked for n in r.expr.names())
    }
    made = mapping.forward(
      arrays, linear=True, only=lambda n: n in names and n not in hidden
    )
  made = {**{n: base[n] for n in names if n in base and n not in hidden}, **made}
  missing = sorted(set(names) - set(made) - hidden)
  if missing:
    raise mapping_lib.MappingError('no rule gives ' + ', '.join(missing))
  blank = next(iter(masked.values()), None)
  treedef = jax.tree_util.tree_structure(like)
  values = [blank if n in hidden else made[n] for n in names]
  return jax.tree_util.tree_unflatten(treedef, values)
