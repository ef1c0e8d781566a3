"""The comparison on a terminal: one line per case, every failure in full."""

import itertools
from collections.abc import Iterator, Sequence

from praxis_compare import table


def number(value: float) -> str:
  return '0' if value == 0 else f'{value:.1e}'


def verdict(rows: Sequence[table.Row]) -> str:
  """One word for all rows of a case."""
  for status in ('FAILED', 'known', 'close', 'error as declared'):
    if any(r.status == status for r in rows):
      return status
  return 'equal'


def by_case(rows: Sequence[table.Row]) -> list[tuple[str, list[table.Row]]]:
  ordered = sorted(rows, key=lambda r: r.case)
  return [(name, list(group))
          for name, group in itertools.groupby(ordered, key=lambda r: r.case)]


def summary(rows: Sequence[table.Row]) -> str:
  cases = [(n, verdict(g)) for n, g in by_case(rows)]
  count = {v: sum(w == v for _, w in cases)
           for v in ('equal', 'close', 'error as declared', 'known', 'FAILED')}
  parts = [f'{n} {"bit-equal" if v == "equal" else v}' for v, n in count.items() if n]
  return f'{len(cases)} cases: ' + ', '.join(parts)


def lines(rows: Sequence[table.Row]) -> Iterator[str]:
  groups = sorted(by_case(rows), key=lambda g: verdict(g[1]) == 'FAILED')
  for name, group in groups:
    worst = max(group, key=lambda r: r.load)
    text = f'{verdict(group):18} {name}'
    if worst.load:
      text += (f'  worst {worst.dtype} {worst.mode} {worst.section}: '
               f'abs {number(worst.max_abs)} rel {number(worst.max_rel)} '
               f'({worst.load:.0%} of {worst.tolerance})')
    yield text
    for row in group:
      if row.failed:
        yield (f'    FAILED {row.dtype} {row.mode} {row.section}: {row.note} '
               f'(abs {number(row.max_abs)}, rel {number(row.max_rel)}, '
               f'allowed {row.tolerance})')
      elif row.status == 'known':
        yield f'    known {row.dtype} {row.mode} {row.section}: {row.note}'
  yield summary(rows)
