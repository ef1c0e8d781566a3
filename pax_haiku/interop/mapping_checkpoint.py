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

  Entries of other collections whose names end as those of all parameters do
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
  if base is None:
    out = (mapping.backward if back else mapping.forward)(variables)
  else:
    before = {n: x for n, x in base.items() if is_variable(n)}
    out = mapping_base.convert(mapping, variables, before, back=back)
  surplus = sorted(set(variables) - mapping.known(back))
  if surplus:
    raise mapping_lib.MappingError('no rule uses ' + ', '.join(surplus))
  params = _params(variables)
  beside = {n: x for n, x in entries.items() if n not in variables}
  rules = [r for r in mapping.rules if r.name.startswith('params:') and r.way == '=']
  part = mapping_lib.Mapping(rules)
  for prefix in _moments(params, beside):
    moved = {f'params:{p}': beside.pop(prefix + p) for p in params}
    made = (part.backward if back else part.forward)(moved, linear=True)
    if base is not None:  # of parameters that the mapping does not use
      out.update({n: base[n] for p in _params(base) if (n := prefix + p) in base})
    out.update({prefix + n.removeprefix('params:'): x for n, x in made.items()})
  out.update({n: np.asarray(x) for n, x in beside.items()})
  return out


def _params(entries: MappingType[str, Any]) -> list[str]:
  return [n.removeprefix('params:') for n in entries if n.startswith('params:')]


def _moments(params: list[str], entries: MappingType[str, Any]) -> list[str]:
  """Prefixes under which there is an entry for each parameter."""
  if not params:
    return []
  first = params[0]
  prefixes = [
    n.removesuffix(first) for n in entries if n.endswith((f'/{first}', f':{first}'))
  ]
  return [p for p in prefixes if all(p + name in entries for name in params)]
