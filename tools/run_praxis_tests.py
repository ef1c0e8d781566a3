"""Runs Praxis's own tests on pax_haiku, through the drop-in.

  bash tools/make_praxis_env.sh
  python tools/run_praxis_tests.py --baseline --report out.json
  python tools/run_praxis_tests.py --module base_layer --module 'layers.*'

The test files stay where they are, in the environment with the real Praxis or in its
wheel (`pip download --no-deps praxis==1.4.0`, then --wheel). Each runs in its own
process. TensorFlow, lingvo and Flax are not needed: a test that uses one that isn't
installed counts as not runnable, with the name of what it used. Where all of them are
(tools/make_praxis_tests_env.sh; --python and --praxis_python name the two sides'
environments), every test runs.

Exit status: 0 if each test that passes on Praxis passes here, is not runnable or is
listed in praxis_tests/known.py with the reason why it can't; 1 if not; 2 for a wrong
command line.
"""

import concurrent.futures
import dataclasses
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import flags
from praxis_compare import cli, process
from praxis_tests import sources, table

PRAXIS = flags.DEFINE_string('praxis_python', str(process.DEFAULT_PRAXIS),
                             'Python of the environment that has Praxis.')
WHEEL = flags.DEFINE_string('wheel', None, 'Wheel of Praxis to take the tests from, '
                            'instead of the environment.')
PYTHON = flags.DEFINE_string('python', sys.executable,
                             'Python to run pax_haiku with.')
MODULES = flags.DEFINE_multi_string(
    'module', [], 'Glob over the names of the modules that are tested. Repeatable.')
BASELINE = flags.DEFINE_bool('baseline', False, 'Run the tests on Praxis, too.')
REPORT = flags.DEFINE_string('report', None, 'Write all results to this .json.')
JOBS = flags.DEFINE_integer('jobs', 1, 'How many test files to run at a time.',
                            lower_bound=1)
TIMEOUT = flags.DEFINE_integer('timeout_s', 1800, 'Time for one test file, in seconds.',
                               lower_bound=1)
LOGS = flags.DEFINE_string('logs', None, 'Keep what the tests print in this directory.')

# Tests that make a mesh of 2 x 2 devices; the others get one.
DEVICES = {'layers.grouped_query_attention': 4}


def run(pkg: str, python: str, test: sources.TestFile, folder: pathlib.Path) -> dict:
  """Runs one test file on one side; returns what the worker found."""
  out = folder / f'{pkg}.{test.module}.json'
  # The tests hold numbers from before JAX changed its rule of random bits.
  env = {**process.environment(pkg), 'JAX_THREEFRY_PARTITIONABLE': 'false'}
  if test.module in DEVICES:
    devices = f'--xla_force_host_platform_device_count={DEVICES[test.module]}'
    env['XLA_FLAGS'] = f'{env.get("XLA_FLAGS", "")} {devices}'.strip()
  with open(folder / f'{pkg}.{test.module}.log', 'w') as log:
    try:
      done = subprocess.run(
          [python, '-m', 'praxis_tests.worker', '--pkg', pkg, '--file', str(test.path),
           '--out', str(out)],
          cwd=folder, env=env, stdout=log, stderr=log, timeout=TIMEOUT.value)
    except subprocess.TimeoutExpired:
      return {'error': f'no end after {TIMEOUT.value} s'}
  if not out.exists():
    last = pathlib.Path(log.name).read_text().strip().split('\n')[-1]
    return {'error': f'the process ended with status {done.returncode}: {last}'}
  return json.loads(out.read_text())


def choose(package: pathlib.Path) -> list[sources.TestFile]:
  """The test files that the flags ask for."""
  found, others = sources.find(package)
  if not MODULES.value:
    return found
  chosen = [t for t in found
            if any(fnmatch.fnmatchcase(t.module, g) for g in MODULES.value)]
  for glob in MODULES.value:
    if not any(fnmatch.fnmatchcase(t.module, glob) for t in found):
      why = ('pax_haiku has no module of that name' if glob in others
             else 'Praxis has no test of that name')
      raise ValueError(f'--module={glob}: {why}')
  return chosen


def main() -> int:
  report = pathlib.Path(REPORT.value) if REPORT.value else None
  if report and (report.suffix != '.json' or not report.absolute().parent.is_dir()):
    raise ValueError(f'--report={report} must be a .json in a directory that exists')
  python = pathlib.Path(PYTHON.value).expanduser().absolute()
  if not python.is_file():
    raise ValueError(f'--python={PYTHON.value} does not exist')
  sides = {'pax_haiku': str(python)}
  if BASELINE.value:
    sides['praxis'] = process.find_praxis(PRAXIS.value)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    if WHEEL.value:
      package = sources.in_wheel(pathlib.Path(WHEEL.value), folder / 'wheel')
    else:
      package = sources.in_environment(process.find_praxis(PRAXIS.value))
    tests = choose(package)
    logs = pathlib.Path(LOGS.value or folder / 'logs').absolute()
    os.makedirs(logs, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
      running = {(pkg, test.module): pool.submit(run, pkg, python, test, logs)
                 for test in tests for pkg, python in sides.items()}
      rows = []
      for test in tests:
        ours = running['pax_haiku', test.module].result()
        there = (running['praxis', test.module].result() if BASELINE.value else None)
        rows += table.rows(test.module, ours, there)
        print(f'{test.module}: {len(ours)} tests', file=sys.stderr, flush=True)
  for line in table.lines(rows, BASELINE.value):
    print(line)
  if report:
    report.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    print(f'report: {report}')
  return 1 if any(row.is_wrong for row in rows) else 0


if __name__ == '__main__':
  sys.dont_write_bytecode = True
  cli.run(main)
