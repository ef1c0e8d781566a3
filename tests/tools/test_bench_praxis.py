"""tools/bench_praxis.py: its model on our side, and a missing Praxis."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT / 'tools') not in sys.path:
  sys.path.insert(0, str(ROOT / 'tools'))

from praxis_compare import side, tracing  # noqa: E402


def test_both_stacks_are_traced():
  ours = side.Side('pax_haiku')
  for stack in (tracing.PLAIN, tracing.SHARED):
    (seconds,) = tracing.measure(ours, 1, stack, 1)
    assert seconds > 0


def test_no_praxis_is_one_line():
  done = subprocess.run(
    [sys.executable, 'tools/bench_praxis.py', '--praxis_python=nowhere'],
    cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1 and 'nowhere' in done.stderr
