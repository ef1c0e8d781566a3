"""What nothing decides is tried: the assignment with which the outputs agree, if it is
the only one."""

import itertools
import math
from collections.abc import Callable
from collections.abc import Mapping as MappingType

import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_expr as ex

BY_TRIAL = 'by trial'
_MOST = 60  # runs of the target
_MOST_AXES = 4

Options = dict[str, list[ex.Expr]]


def arrangements(name: str, shape, target_shape) -> list[ex.Expr]:
  """All orders of the axes of an entry, reshaped to the target's shape."""
  if math.prod(shape) != math.prod(target_shape) or len(shape) > _MOST_AXES:
    return []
  return [
    ex.reshape(
      ex.transpose(ex.Ref(name), perm), [shape[a] for a in perm], target_shape
    )
    for perm in itertools.permutations(range(len(shape)))
  ]


def decide(
  mapping: mapping_lib.Mapping,
  options: Options,
  entries: MappingType[str, np.ndarray],
  gap: Callable[[list[mapping_lib.Rule]], float],
  tolerance: float,
) -> None:
  """Turns the ambiguous entries of a mapping into rules, in place, or leaves them.

  Args:
    mapping: as found.
    options: what each ambiguous entry may be made of.
    entries: random values of the source's entries.
    gap: how far the outputs of the two models are from each other by some rules.
    tolerance: largest difference of outputs that count as equal.
  """
  names = [a.name for a in mapping.ambiguous]
  choices = [options.get(n, []) for n in names]
  if not names or not 0 < math.prod(map(len, choices)) <= _MOST:
    return
  fit: list[list[mapping_lib.Rule]] = []
  tried: list[list[np.ndarray]] = []
  for exprs in itertools.product(*choices):
    sources = [n for x in exprs for n in x.names()]
    if len(set(sources)) < len(sources):
      continue
    values = [np.asarray(x.forward(entries.__getitem__)) for x in exprs]
    if any(all(map(np.array_equal, before, values)) for before in tried):
      continue  # the same in another way
    tried.append(values)
    made = [mapping_lib.Rule(*x, BY_TRIAL) for x in zip(names, exprs, strict=True)]
    if gap(mapping.rules + made) <= tolerance:
      fit.append(made)
  if len(fit) == 1:
    mapping.rules.extend(fit[0])
    mapping.ambiguous.clear()
    used = {n for rule in fit[0] for n in rule.expr.names()}
    mapping.unused[:] = [n for n in mapping.unused if n not in used]
