"""Every case of the comparison against the recorded numbers of the real Praxis.

The numbers come from `tools/record_golden.py`. Tolerances are those of the side-by-side
comparison: see `tools/praxis_compare/table.py`, which says why. Each case is run op by
op, which is faster than compiling layers this small and shares its operations.

To keep the suite under ten minutes, cases of both dtypes run in float32 alone,
and the few marked as slow do not run. With PAX_HAIKU_ALL_DTYPES=1 in the environment,
as in `.ci/run`, all run in both.
"""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT / 'tools') not in sys.path:
  sys.path.insert(0, str(ROOT / 'tools'))

from praxis_compare import cases, runner, side, store, table  # noqa: E402

GOLDEN = ROOT / 'tests' / 'golden'
ALL_DTYPES = bool(os.environ.get('PAX_HAIKU_ALL_DTYPES'))


@pytest.fixture(scope='module')
def recorded():
  return store.load_folder(GOLDEN)


@pytest.fixture(scope='module')
def ours():
  return side.Side('pax_haiku')


CASES = [c.name for c in cases.all_cases() if ALL_DTYPES or not c.slow]


@pytest.mark.parametrize('name', CASES)
def test_equals_praxis(name, recorded, ours):
  case = cases.by_name(name)
  dtypes = case.dtypes if ALL_DTYPES else case.dtypes[:1]
  writer = store.Writer()
  done = {name: runner.run_case(ours, case, writer, dtypes)}
  results = store.from_writer(writer, {'cases': done})
  rows = table.compare_case(case, results, recorded, dtypes)
  assert rows
  failed = [f'{r.dtype} {r.mode} {r.section}: {r.note} (abs {r.max_abs:.2g}, rel '
            f'{r.max_rel:.2g}, allowed {r.tolerance})' for r in rows if r.failed]
  assert not failed, '\n'.join(failed)


def test_recorded_numbers_say_what_made_them(recorded):
  for name in ('praxis', 'jax', 'flax', 'numpy'):
    assert recorded.meta['versions'][name]


def test_no_recorded_case_is_left_over(recorded):
  assert set(recorded.cases) == {c.name for c in cases.all_cases()}


def test_recorded_numbers_stay_small():
  assert sum(f.stat().st_size for f in GOLDEN.glob('*.npz')) < 10e6
