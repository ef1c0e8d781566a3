"""Checkpoints by a mapping: variables, and optimizer moments that lie beside them."""

from collections.abc import Mapping as MappingType
from typing import Any

import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_base

_VARIABLES = ('params', 'state', 'non_trainable')


def is_variable(name: str) -> bool:
  """Whether an entry is a parameter or a state of a model."""
  return name.partition(':')[0] in _VARIABLES


def convert_entries(
  mapping: mapping_lib.Mapping,
  entries: MappingType[str, Any],
  *,
  back: bool = False,
  base: MappingType[str, Any] | None = None,
) -> dict[str, np.ndarray]:
  """The entries of one model's checkpoint as those of the other.

  Entries of other collections whose names end as those of parameters do
  (`opt_state:0/mu/mlp/~/linear_0/w` and so on) are moments: their layout changes as
  that of the parameters. What else there is (counts, steps) is kept.

  Args:
    mapping: of the two models.
    entries: `{entry name: array}`.
    back: they are the target's, and the source's are wanted.
    base: a checkpoint of the result's model, from which `entries` once were converted.
      What they have not changed since then is taken from it, bit for bit. Moments that
      it has not are computed.

  Raises:
    MappingError: entries are ambiguous, missing, surplus or of the wrong shape, or the
      base is of another model.
  """
  variables = {n: x for n, x in entries.items() if is_variable(n)}
  _check_side(mapping, variables, back)
  if base is None:
    out = (mapping.backward if back else mapping.forward)(variables)
  else:
    before = {n: x for n, x in base.items() if is_variable(n)}
    out = mapping_base.convert(mapping, variables, before, back=back)
  surplus = sorted(set(variables) - mapping.known(back))
  if surplus:
    raise mapping_lib.MappingError('no rule uses ' + ', '.join(surplus))
  beside = {n: x for n, x in entries.items() if n not in variables}
  for prefix, params in moments(entries).items():
    moved = {f'params:{p}': np.asarray(beside.pop(prefix + p)) for p in params}
    _check_shapes(prefix, moved, variables)
    made = _moved(mapping, prefix, moved, back)
    if base is not None:  # of parameters that the mapping does not use
      out.update({n: base[n] for p in _params(base) if (n := prefix + p) in base})
    out.update({prefix + n.removeprefix('params:'): x for n, x in made.items()})
  out.update({n: np.asarray(x) for n, x in beside.items()})
  return out


def _check_side(mapping, variables, back: bool) -> None:
  names = set(variables)
  if names <= mapping.known(not back) and not names <= mapping.known(back):
    here, there = 'source', 'target'
    here, there = (there, here) if back else (here, there)
    way = 'without back (--back)' if back else 'with back (--back)'
    raise mapping_lib.MappingError(
      f'these are entries of the {there}, not of the {here}: convert them {way}'
    )


def moments(entries: MappingType[str, Any]) -> dict[str, list[str]]:
  """`{prefix: parameters that have an entry below it}`.

  Not all need to have one: some optimizers leave parameters out.
  """
  left = {n for n in entries if not is_variable(n)}
  found: dict[str, list[str]] = {}
  for param in _params(entries):
    for name in left:
      if name.endswith((f'/{param}', f':{param}')):
        found.setdefault(name.removesuffix(param), []).append(param)
  taken: dict[str, list[str]] = {}
  for prefix, params in sorted(found.items(), key=lambda item: -len(item[1])):
    mine = [p for p in params if prefix + p in left]
    left.difference_update(prefix + p for p in mine)
    if mine:
      taken[prefix] = mine
  return taken


def _check_shapes(prefix: str, moved, variables) -> None:
  other = [
    f'{prefix}{n.removeprefix("params:")} has shape {x.shape}, the parameter '
    f'{np.shape(variables[n])}'
    for n, x in moved.items()
    if x.shape != np.shape(variables[n])
  ]
  if other:
    raise mapping_lib.MappingError('; '.join(other))


def _moved(mapping, prefix: str, moved, back: bool) -> dict[str, np.ndarray]:
  """Moments of some parameters as those of the other model."""
  rules = [r for r in mapping.rules if r.name.startswith('params:') and r.way == '=']
  if back:
    rules = [r for r in rules if r.name in moved]
  else:
    rules = [r for r in rules if any(n in moved for n in r.expr.names())]
  part = mapping_lib.Mapping(rules)
  try:
    return (part.backward if back else part.forward)(moved, linear=True)
  except mapping_lib.MappingError as error:
    raise mapping_lib.MappingError(f'below {prefix}: {error}') from None


def _params(entries: MappingType[str, Any]) -> list[str]:
  return [n.removeprefix('params:') for n in entries if n.startswith('params:')]
