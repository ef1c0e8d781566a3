"""Rows of a comparison: two arrays side by side, and which belong together."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from pax_haiku.interop.capture import Point

# Bins of a histogram: |a - b| / max |b| below 1e-8, below 1e-7, ..., below 1, the rest.
BINS = tuple(10.0**e for e in range(-8, 1))


@dataclasses.dataclass
class Row:
  """One comparison of two arrays.

  Attributes:
    part: 'variables', 'forward', 'outputs', 'state' or 'gradients'.
    target, source: where the arrays are from.
    target_shape, source_shape, target_dtype, source_dtype: of the arrays.
    max_abs: largest |a - b|; inf if they cannot be compared or are not finite.
    max_rel: that over the largest |b| of the source.
    histogram: how many elements differ by how much, see `BINS`.
    entries: variables of the target that are used here for the first time.
    past: whether `max_rel` is past the tolerance.
    first: the first such row of its part.
    note: a remark.
    excused: not counted, since what is computed from it agrees.
  """

  part: str
  target: str
  source: str
  target_shape: tuple[int, ...]
  source_shape: tuple[int, ...]
  target_dtype: str
  source_dtype: str
  max_abs: float
  max_rel: float
  histogram: list[int]
  entries: list[str] = dataclasses.field(default_factory=list)
  past: bool = False
  first: bool = False
  note: str = ''
  excused: bool = False


def make_row(
  part: str, target: str, source: str, a: Any, b: Any, floor: float = 0.0, **more
) -> Row:
  """The comparison of two arrays, elements in order; `floor` as in `measure`."""
  a, b = np.asarray(a), np.asarray(b)
  far, scaled, bins = measure(a, b, floor)
  row = Row(
    part,
    target,
    source,
    a.shape,
    b.shape,
    str(a.dtype),
    str(b.dtype),
    far,
    scaled,
    bins,
    **more,
  )
  if a.size != b.size:
    row.note = 'the shapes differ'
  return row


def measure(
  a: np.ndarray, b: np.ndarray, floor: float = 0.0
) -> tuple[float, float, list[int]]:
  """`(max |a - b|, the same over max |b|, histogram)`.

  Args:
    a, b: arrays of one size.
    floor: what to take for `max |b|` at least: sums of terms of that size may be small
      by cancellation, but are not more precise then.
  """
  if a.size != b.size:
    return np.inf, np.inf, [0] * (len(BINS) + 1)
  if not a.size:
    return 0.0, 0.0, [0] * (len(BINS) + 1)
  wide = np.float64 if jnp.issubdtype(b.dtype, jnp.floating) else None
  wide = wide or (np.complex128 if b.dtype.kind == 'c' else np.float64)
  x, y = a.astype(wide).ravel(), b.astype(wide).ravel()
  same = (x == y) | (np.isnan(x) & np.isnan(y))
  with np.errstate(invalid='ignore'):
    far = np.where(same, 0.0, np.abs(x - y))
  far = np.where(np.isnan(far), np.inf, far)
  size = np.abs(y[np.isfinite(y)]).max(initial=floor)
  scaled = np.where(far == 0, 0.0, far / size if size else np.inf)
  counts = np.bincount(
    np.searchsorted(BINS, scaled, side='right'), minlength=len(BINS) + 1
  )
  return float(far.max()), float(scaled.max()), counts.tolist()


_ALIKE = 1e-2  # points without variables, or of helper methods, must agree to be a pair


def align(
  targets: Sequence[tuple[Point, np.ndarray, frozenset]],
  sources: Sequence[tuple[Point, np.ndarray, frozenset]],
  by_kind: bool = False,
) -> list[tuple[int, int]]:
  """Pairs of points that depend on the same mapped variables.

  Where several do (before and after an activation, a layer and the one around it), the
  pairs keep the order of execution, and among these differ least.

  Args:
    targets: (point, value, the rules it depends on), in order of execution.
    sources: likewise.
    by_kind: where layers or iterations differ, pair their modules as in those that
      agree.

  Returns:
    (index of the target, index of the source), in the target's order.
  """
  groups: dict[frozenset, tuple[list[int], list[int]]] = {}
  for side, points in enumerate((targets, sources)):
    for i, (_, _, rules) in enumerate(points):
      groups.setdefault(rules, ([], []))[side].append(i)
  parts = [
    (rules, *sides)
    for rules, both in groups.items()
    for sides in _by_iteration(*both, targets, sources)
  ]
  costs = [
    np.array(
      [[_cost(targets[i][1], sources[j][1]) for j in theirs] for i in ours]
    ).reshape(len(ours), len(theirs))
    for _, ours, theirs in parts
  ]

  def paired():
    for (rules, ours, theirs), table in zip(parts, costs, strict=True):
      for i, j in _cheapest(table):
        first, second = targets[ours[i]], sources[theirs[j]]
        sure = rules and first[0].usual and second[0].usual
        if sure or table[i, j] < _ALIKE:
          yield ours[i], theirs[j], table, (i, j)

  if by_kind:
    names = [[_kind(point) for point, _, _ in side] for side in (targets, sources)]
    alike = {
      (names[0][i], names[1][j]) for i, j, table, at in paired() if table[at] < _ALIKE
    }
    for (_, ours, theirs), table in zip(parts, costs, strict=True):
      for i, j in np.ndindex(table.shape):
        if table[i, j] <= 1 and (names[0][ours[i]], names[1][theirs[j]]) in alike:
          table[i, j] = 0.0
  return sorted((i, j) for i, j, _, _ in paired())


def _kind(point: Point) -> str:
  """The label without numbers, which a layer and its like in a stack or list share."""
  return re.sub(r'_?\d+', '', point.label)


def _by_iteration(ours: list[int], theirs: list[int], targets, sources, level=0):
  """`(targets, sources)`; of loops on both sides, the n-th iterations together.

  Iterations of a loop that share their variables depend on the same rules.
  """
  outside, within = zip(
    *(
      _split(numbers, points, level)
      for numbers, points in ((ours, targets), (theirs, sources))
    ),
    strict=True,
  )
  if not within[0] or len(within[0]) != len(within[1]):
    yield ours, theirs
    return
  yield outside
  for pair in zip(*within, strict=True):
    yield from _by_iteration(*pair, targets, sources, level + 1)


def _split(numbers: list[int], points, level: int) -> tuple[list[int], list[list[int]]]:
  """Points outside of loops of that depth, and those of each iteration."""
  outside: list[int] = []
  parts: dict[int, list[int]] = {}
  for i in numbers:
    where = points[i][0].iterations
    (parts.setdefault(where[level], []) if len(where) > level else outside).append(i)
  return outside, list(parts.values())


def _cost(a: np.ndarray, b: np.ndarray) -> float:
  if a.size != b.size:
    return 4.0
  return min(measure(a, b)[1], 1.0) + (0.0 if a.shape == b.shape else 1e-9)


def _cheapest(costs: np.ndarray) -> list[tuple[int, int]]:
  """As many pairs as there can be, in order on both sides, of the least total cost."""
  rows, columns = costs.shape
  best: dict[tuple[int, int], tuple[int, float, tuple]] = {}
  for i in range(rows + 1):
    for j in range(columns + 1):
      options = []  # of equal ones the first: the outermost layer is the last to end
      if i and j:
        count, cost, pairs = best[i - 1, j - 1]
        options.append(
          (count - 1, cost + costs[i - 1, j - 1], (*pairs, (i - 1, j - 1)))
        )
      if i:
        options.append(best[i - 1, j])
      if j:
        options.append(best[i, j - 1])
      options.append((0, 0.0, ()))
      best[i, j] = min(options, key=lambda o: (o[0], o[1]))
  return list(best[rows, columns][2])
