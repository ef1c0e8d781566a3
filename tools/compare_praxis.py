"""Compares pax_haiku with the real Praxis, case by case, from the same seed.

  bash tools/make_praxis_env.sh
  python tools/compare_praxis.py --case linears.Linear --case 'normalizations.*'
  python tools/compare_praxis.py --all --report out.html

Exit status: 0 if every number is within its tolerance, 1 if not, 2 for a wrong
command line.
"""

import pathlib
import sys
import tempfile

from absl import flags
from praxis_compare import (
  cases,
  cli,
  process,
  report_html,
  report_json,
  report_text,
  store,
  table,
)

CASES = flags.DEFINE_multi_string(
    'case', [], 'Glob over `module.Class`, or over `module.Class/variant`. Repeatable.')
ALL = flags.DEFINE_bool('all', False, 'Compare every case.')
LIST = flags.DEFINE_bool('list', False, 'List the chosen cases (default: all).')
REPORT = flags.DEFINE_string('report', None, 'Write the table to this .html or .json.')
PRAXIS = flags.DEFINE_string('praxis_python', str(process.DEFAULT_PRAXIS),
                             'Python of the environment that has Praxis.')
RECORDED = flags.DEFINE_string(
    'recorded', None, 'Directory of recorded Praxis numbers (tests/golden) to compare '
    'with, instead of running Praxis.')

WRITERS = {'.html': report_html.write, '.json': report_json.write}


def compute(names: list[str], folder: pathlib.Path) -> dict[str, store.Results]:
  """Results of each side, by package."""
  sides = {'pax_haiku': process.this_python()}
  if RECORDED.value is None:
    sides['praxis'] = process.find_praxis(PRAXIS.value)
  chosen = folder / 'names.txt'
  chosen.write_text('\n'.join(names))
  process.run_sides(sides, 'praxis_compare.runner', {
      pkg: ['--names', str(chosen), '--out', str(folder / f'{pkg}.npz')]
      for pkg in sides})
  return {pkg: store.load(folder / f'{pkg}.npz') for pkg in sides}


def main() -> int:
  if CASES.value and ALL.value:
    raise ValueError('--case and --all exclude each other')
  chosen = cases.select(CASES.value) if CASES.value else cases.all_cases()
  if LIST.value:
    print('\n'.join(c.name for c in chosen))
    return 0
  if not CASES.value and not ALL.value:
    raise ValueError('nothing to compare: give --case or --all; --list shows the cases')
  report = pathlib.Path(REPORT.value) if REPORT.value else None
  if report and report.suffix not in WRITERS:
    raise ValueError(f'--report={report} must end in .html or .json')
  if report and not report.absolute().parent.is_dir():
    raise ValueError(f'--report={report}: no such directory')
  if RECORDED.value is not None:
    judge = store.load_folder(RECORDED.value)
  with tempfile.TemporaryDirectory() as folder:
    results = compute([c.name for c in chosen], pathlib.Path(folder))
  if RECORDED.value is None:
    judge = results['praxis']
  rows = [row for case in chosen
          for row in table.compare_case(case, results['pax_haiku'], judge)]
  for line in report_text.lines(rows):
    print(line)
  if report:
    versions = {'pax_haiku': results['pax_haiku'].meta['versions'],
                'praxis': judge.meta['versions']}
    WRITERS[report.suffix](report, rows, versions)
    print(f'report: {report}')
  return 1 if any(r.failed for r in rows) else 0


if __name__ == '__main__':
  sys.dont_write_bytecode = True
  cli.run(main)
