"""Judges one tree: what both sides computed, and which differences are excused."""

import dataclasses
from typing import Any

from praxis_compare import spec, store, table

from praxis_fuzz import build, rules

# bfloat16 rounds after every operation, and the two JAX versions do not sum and fuse in
# the same order: in a tree several layers deep the roundings pile up, and a ReLU whose
# input is one rounding from zero flips. Only float32 tells small errors; bfloat16 is
# here for dtypes, trees and keys.
LOOSE = (0.1, 0.02, 'bfloat16 through several layers')
LOOSE_GRADS = (0.3, 0.05, 'bfloat16 gradients through several layers')
# Several layers in float32: eight roundings of one operation, each.
FLOAT32 = (1e-4, 1e-5, 'float32 through several layers')
TWO_BF16_UNITS = 2.0**-6


@dataclasses.dataclass
class Verdict:
  """What came out for one tree: equal, 'raised' by both, or failed rows."""

  failed: list[table.Row]
  excused: list[tuple[str, table.Row]]
  raised: tuple[str, str] | None = None

  @property
  def signature(self) -> str:
    """Tells kinds of failure apart, coarsely: trees that differ may share a cause."""
    kinds = {row.section for row in self.failed}
    if 'error' in kinds:  # what follows an error follows from it
      row, = (r for r in self.failed if r.section == 'error')
      return ': '.join(row.note.split(': ')[:2])
    return ' '.join(sorted(kinds))


def tolerant(case: spec.Case) -> spec.Case:
  """The case with tolerances for several layers on top of each other."""
  tol = {}
  for section in spec.SECTIONS:
    if section not in ('init', 'tree', 'metadata'):
      tol['float32', section] = FLOAT32
      tol['bfloat16', section] = LOOSE_GRADS if section == 'grads' else LOOSE
  return dataclasses.replace(case, tol=tol)


def init_rows(case: spec.Case, ours: dict[str, Any], theirs: dict[str, Any],
              a: store.Results, b: store.Results) -> list[table.Row]:
  """Initial values: float32 bit for bit, bfloat16 within two units.

  XLA of JAX 0.4 keeps more than bfloat16 inside a compiled `truncated_normal` and JAX
  0.10 does not; under `jax.disable_jit` the draws of both are equal.
  """
  rows = []
  for dtype, tol in (('float32', (0.0, 0.0, '')),
                     ('bfloat16', (TWO_BF16_UNITS, 0.0, 'two units'))):
    sides = [{k: r for k, r in side.items() if (r['dtype'] == 'bfloat16')
              == (dtype == 'bfloat16')} for side in (ours, theirs)]
    row = table.Row(case.name, dtype, '-', 'init')
    table.compare_arrays(row, *sides, a, b, tol)
    rows.append(row)
  return rows


def error_text(error: dict[str, Any]) -> str:
  return f'{error["types"][0]} in {error["stage"]}'


def numbers_as_arrays(sections: dict[str, Any]) -> dict[str, Any]:
  """The judge's sections with Python numbers taken for float32 or int32 scalars.

  Named excuse 'python-number': Praxis leaves a weight or a summary that is a Python
  number as it is; the state of a Haiku module holds arrays. Without 64-bit mode no
  array has these dtypes, so nothing else is excused.
  """
  names = {'float64': 'float32', 'int64': 'int32'}
  return {section: {path: {**r, 'dtype': names.get(r['dtype'], r['dtype'])}
                    if r.get('shape') == [] else r for path, r in entries.items()}
          for section, entries in sections.items()}


def judge(tree: dict[str, Any], a: store.Results, b: store.Results) -> Verdict:
  """Compares pax_haiku's results `a` for `tree` with the judge's `b`."""
  case = tolerant(build.case(tree))
  dtype, = case.dtypes
  ours, theirs = (dict(r.cases[case.name]['dtypes'][dtype]) for r in (a, b))
  errors = ours.pop('error', None), theirs.pop('error', None)
  theirs['modes'] = {m: numbers_as_arrays(v) for m, v in theirs['modes'].items()}
  rows, raised = [], None
  if all(errors):
    raised = error_text(errors[0]), error_text(errors[1])
  elif any(errors):
    row = table.Row(case.name, dtype, '-', 'error')
    who, error = ('pax_haiku', errors[0]) if errors[0] else ('praxis', errors[1])
    row.fail(f'only {who} raised: {error_text(error)}: {error["message"]}')
    rows.append(row)
  for row in table.compare_dtype(
      dataclasses.replace(case, modes=both_have(ours, theirs)), dtype, ours, theirs,
      a, b):
    if row.section == 'init':
      rows += init_rows(case, ours['init'], theirs['init'], a, b)
    else:
      rows.append(row)
  verdict = Verdict([], [], raised)
  for row in rows:
    if row.failed:
      rule = next((r for r in rules.RULES if r.applies(tree, row)), None)
      if rule is None:
        verdict.failed.append(row)
      else:
        verdict.excused.append((rule.name, row))
  return verdict


def both_have(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
  return tuple(m for m in spec.MODES if m in ours['modes'] and m in theirs['modes'])
