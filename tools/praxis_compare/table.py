"""Compares what two sides recorded: one row per case, dtype, mode and section.

Tolerance: |a - b| <= atol + rtol * max|b| over the elements of one array. The scale is
the array's largest magnitude, not each element's own, because an element is a sum of
terms of that size and may be small by cancellation only. atol covers arrays whose exact
value is zero (gradients that cancel) while inputs and loss weights are of order one:
eight float32 roundings, and half a bfloat16 rounding. Initial values, integers and
whatever is not an array must be equal bit for bit.

bfloat16 gradients get three times that. Broadcasts are transposed to `lax.reduce_sum`
in bfloat16, which JAX 0.4.26 on CPU accumulates in float32 and JAX 0.10 in bfloat16:
1 + 256 * 2**-9 is 1.5 in one and 1.46875 in the other.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from praxis_compare import spec, store

TOLERANCES = {'float32': (1e-5, 1e-6), 'bfloat16': (1e-2, 2e-3)}
ROUNDING = ('JAX 0.4.26 rounds 0.7 * x in bfloat16 otherwise than JAX 0.10; the draws '
            'themselves are equal')
OK = ('equal', 'close', 'error as declared', 'known')


@dataclasses.dataclass
class Row:
  """One comparison. `load` is the worst error as a fraction of what is allowed."""

  case: str
  dtype: str
  mode: str
  section: str
  status: str = 'equal'
  arrays: int = 0
  worst: str = ''
  max_abs: float = 0.0
  max_rel: float = 0.0
  load: float = 0.0
  tolerance: str = 'bit-equal'
  note: str = ''

  @property
  def failed(self) -> bool:
    return self.status not in OK

  def fail(self, note: str) -> None:
    self.status = 'FAILED'
    self.note = f'{self.note}; {note}' if self.note else note


def tolerance(case: spec.Case, dtype: str, section: str) -> tuple[float, float, str]:
  """(rtol, atol, why) of one row; zeros mean bit-equal."""
  if (dtype, section) in case.tol:
    return case.tol[dtype, section]
  dtype = case.precision or dtype
  if section == 'init' and dtype == 'float32':
    return 0.0, 0.0, ''
  if section == 'init':
    return 2.0**-6, 0.0, ROUNDING  # two units of bfloat16, whose epsilon is 2**-7
  rtol, atol = TOLERANCES[dtype]
  if (dtype, section) == ('bfloat16', 'grads'):
    return 3 * rtol, 3 * atol, ''
  return rtol, atol, ''


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
  """(max |a-b|, that over max|b|); inf where NaNs or infinities do not coincide."""
  if ours.dtype == bool or not np.issubdtype(ours.dtype, np.floating):
    a, b = ours.astype(np.int64), theirs.astype(np.int64)
  else:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    if not same or not np.isfinite(a[finite]).all():
      return np.inf, np.inf
    a, b = a[finite], b[finite]
  if not a.size:
    return 0.0, 0.0
  error, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
  return error, error / scale if scale else (np.inf if error else 0.0)


def _names(paths: set[str]) -> str:
  shown = sorted(paths)[:4]
  return ', '.join(repr(p) for p in shown) + (', ...' if len(paths) > 4 else '')


def compare_arrays(row: Row, ours: dict[str, Any], theirs: dict[str, Any],
                   a: store.Results, b: store.Results,
                   tol: tuple[float, float, str]) -> None:
  """Fills `row` from two {path: reference} sections."""
  rtol, atol, why = tol
  row.arrays = len(theirs)
  if rtol or atol:
    row.tolerance = f'{atol:g} + {rtol:g} * max|b|'
    row.note = why
  if missing := set(theirs) - set(ours):
    row.fail(f'missing: {_names(missing)}')
  if extra := set(ours) - set(theirs):
    row.fail(f'unexpected: {_names(extra)}')
  for path in sorted(set(ours) & set(theirs)):
    x, y = ours[path], theirs[path]
    facts = [(r.get('repr'), r.get('dtype'), r.get('shape')) for r in (x, y)]
    if facts[0] != facts[1]:
      def text(fact):
        return fact[0] or f'{fact[1]}{fact[2]}'
      row.fail(f'{path!r} is {text(facts[0])}, expected {text(facts[1])}')
      continue
    if 'repr' in x:
      continue
    got, want = a.array(x), b.array(y)
    if got.tobytes() == want.tobytes():
      continue
    if row.status == 'equal':
      row.status = 'close'
    error, relative = difference(got, want)
    exact = not np.issubdtype(got.dtype, np.floating)
    finite = np.isfinite(want.astype(np.float64)) if not exact else None
    scale = 0.0 if exact or not finite.any() else float(np.abs(want[finite]).max())
    allowed = 0.0 if exact else atol + rtol * scale
    load = error / allowed if allowed else (np.inf if error else 0.0)
    if load > row.load or not row.worst:
      row.worst, row.max_abs, row.max_rel, row.load = path, error, relative, load
  if row.load > 1:
    row.fail(f'{row.worst!r} is past its tolerance')


def compare_metadata(row: Row, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
  row.arrays = len(theirs)
  if set(ours) != set(theirs):
    row.fail(f'variables differ: {_names(set(ours) ^ set(theirs))}')
  for path in sorted(set(ours) & set(theirs)):
    for field, want in theirs[path].items():
      got = ours[path].get(field)
      if got != want:
        row.fail(f'{path!r}.{field} is {got!r}, expected {want!r}')


def compare_tree(row: Row, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
  row.arrays = len(theirs)
  for path in sorted(set(ours) | set(theirs)):
    facts = [None if r is None else f'{r["dtype"]}{r["shape"]}'
             for r in (ours.get(path), theirs.get(path))]
    if facts[0] != facts[1]:
      row.fail(f'{path!r} is {facts[0] or "absent"}, expected {facts[1] or "absent"}')


def excuse(reason: str, found: str) -> str:
  return f'{reason} [{found}]'


def compare_errors(row: Row, case: spec.Case, ours: dict | None,
                   theirs: dict | None) -> None:
  """Both sides must have raised what the case declares, or neither anything.

  `known['error']` excuses Praxis 1.4.0 only.
  """
  row.arrays, row.tolerance = 1, 'same exception'
  wrong = {}
  for who, error in (('pax_haiku', ours), ('praxis', theirs)):
    if error and case.raises not in error['types']:
      found = f'{error["types"][0]} in {error["stage"]}: {error["message"][:200]}'
      wrong[who] = f'{who} raised {found}'
    elif not error and case.raises:
      wrong[who] = f'{who} did not raise {case.raises}'
  if list(wrong) == ['praxis'] and 'error' in case.known:
    row.status, row.note = 'known', excuse(case.known['error'], wrong['praxis'])
  elif wrong:
    row.fail('; '.join(wrong.values()))
  else:
    row.status = 'error as declared'
    row.note = ours['message'].strip().split('\n')[0][:160] if ours else ''


def compare_dtype(case: spec.Case, dtype: str, ours: dict[str, Any],
                  theirs: dict[str, Any], a: store.Results,
                  b: store.Results) -> Iterator[Row]:
  errors = ours.get('error'), theirs.get('error')
  if case.raises or any(errors):
    row = Row(case.name, dtype, '-', 'error')
    compare_errors(row, case, *errors)
    yield row
    if case.raises:
      return
  if 'init' in ours and 'init' in theirs:
    row = Row(case.name, dtype, '-', 'tree', tolerance='equal')
    compare_tree(row, ours['init'], theirs['init'])
    yield row
    row = Row(case.name, dtype, '-', 'init')
    compare_arrays(row, ours['init'], theirs['init'], a, b,
                   tolerance(case, dtype, 'init'))
    yield row
  if 'metadata' in ours and 'metadata' in theirs:
    row = Row(case.name, dtype, '-', 'metadata', tolerance='equal')
    compare_metadata(row, ours['metadata'], theirs['metadata'])
    yield row
  for mode in case.modes:
    x, y = ours['modes'].get(mode), theirs['modes'].get(mode)
    if x is None or y is None:
      continue  # that side's error is a row already
    for section in y:
      row = Row(case.name, dtype, mode, section)
      compare_arrays(row, x[section], y[section], a, b,
                     tolerance(case, dtype, section))
      yield row


def compare_case(case: spec.Case, a: store.Results, b: store.Results,
                 dtypes: Sequence[str] | None = None) -> list[Row]:
  """Rows of one case, in all its dtypes or in the given ones.

  `a` is the side under test, `b` the judge.
  """
  for who, results in (('pax_haiku', a), ('praxis', b)):
    if case.name not in results.cases:
      return [Row(case.name, '-', '-', 'error', 'FAILED',
                  note=f'no result from {who}')]
  ours, theirs = a.cases[case.name], b.cases[case.name]
  if ours['fingerprint'] != theirs['fingerprint']:
    return [Row(case.name, '-', '-', 'error', 'FAILED', note=(
        'the case changed since its numbers were recorded; run '
        'tools/record_golden.py'))]
  rows = []
  for dtype in dtypes or case.dtypes:
    rows += compare_dtype(case, dtype, ours['dtypes'][dtype],
                          theirs['dtypes'][dtype], a, b)
  rows = [r for r in rows if r.arrays or r.failed]
  for row in rows:
    reason = (case.known.get(row.section)
              or case.known.get(f'{row.dtype} {row.section}'))
    if row.failed and reason and row.section != 'error':
      row.status = 'known'
      row.note = excuse(reason, row.note)
  return rows


def sort_rows(rows: list[Row]) -> list[Row]:
  """Failures first, then by how much of the tolerance was used."""
  return sorted(rows, key=lambda r: (not r.failed, -r.load))
