"""Puts the results of both sides together, and prints them."""

import dataclasses
from collections import Counter
from collections.abc import Iterator

from praxis_tests.known import KNOWN
from praxis_tests.worker import FAILED, NOT_RUNNABLE, PASSED

KNOWN_FAILURE = 'known'


@dataclasses.dataclass(frozen=True)
class Row:
  """One test. `baseline`: its status on the real Praxis, '' where it was not run."""

  module: str
  test: str
  status: str
  reason: str
  baseline: str

  @property
  def is_wrong(self) -> bool:
    """Fails here although nothing explains it."""
    return self.status == FAILED and self.baseline in ('', PASSED)


def rows(module: str, ours: dict, baseline: dict | None) -> list[Row]:
  """Rows of a module, from what the worker wrote on each side.

  A file that can't be loaded counts as many failures as it has tests on Praxis, or one.
  """
  there = {} if baseline is None or 'error' in baseline else baseline
  if 'error' in ours:
    ours = {test: (FAILED, ours['error']) for test in there or ['(the whole file)']}
  found = []
  for test, (status, reason) in ours.items():
    known = KNOWN.get(module, {}).get(test)
    if status == FAILED and known:
      status, reason = KNOWN_FAILURE, known
    elif status == PASSED and known:
      status, reason = FAILED, f'passes, but known.py says it cannot: {known}'
    found.append(Row(module, test, status, reason, there.get(test, ('',))[0]))
  gone = [Row(module, test, FAILED, 'is not run here', status)
          for test, (status, _) in there.items() if test not in ours]
  return found + gone


def _package(reason: str) -> str:
  """What a test that is not runnable needs, in short."""
  if reason.startswith('skips itself'):
    return 'skips itself'
  path = reason.removeprefix('needs ')
  return path if path.startswith('praxis.') else path.split('.')[0].split(' ')[0]


def lines(found: list[Row], with_baseline: bool) -> Iterator[str]:
  """The table, a line for each module, and after it each test that needs a word."""
  modules = list(dict.fromkeys(row.module for row in found))
  width = max(map(len, [*modules, 'module']))
  head = ['passed', 'failed', 'known', 'not runnable']
  if with_baseline:
    head += ['pass on Praxis', 'of them here']
  yield '  '.join(['module'.ljust(width), *head, 'needs'])
  for module in [*modules, None]:
    mine = [row for row in found if module in (row.module, None)]
    count = Counter(row.status for row in mine)
    cells = [count[PASSED], count[FAILED], count[KNOWN_FAILURE], count[NOT_RUNNABLE]]
    if with_baseline:
      there = [row for row in mine if row.baseline == PASSED]
      cells += [len(there), sum(row.status == PASSED for row in there)]
    needs = Counter(_package(r.reason) for r in mine if r.status == NOT_RUNNABLE)
    text = ', '.join(f'{name} {n}' for name, n in needs.most_common())
    yield '  '.join([(module or 'all').ljust(width),
                     *(str(c).rjust(len(h)) for c, h in zip(cells, head, strict=True)),
                     text]).rstrip()
  for title, status in (('failed', FAILED), ('known to fail', KNOWN_FAILURE)):
    for row in found:
      if row.status == status:
        there = f' ({row.baseline} on Praxis)' if row.baseline else ''
        yield f'{title}: {row.module} {row.test}{there}: {row.reason}'
