"""Runs one side of the comparison in a process of its own."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

TOOLS = pathlib.Path(__file__).resolve().parent.parent
ROOT = TOOLS.parent
DEFAULT_PRAXIS = ROOT / '.praxis-venv' / 'bin' / 'python'
# Both read the same numbers from the same key only with the newer rule of random bits,
# which JAX 0.4 has to be asked for.
ENVIRONMENT = {'JAX_PLATFORMS': 'cpu', 'JAX_THREEFRY_PARTITIONABLE': 'true',
               'PYTHONDONTWRITEBYTECODE': '1'}


def environment(pkg: str) -> dict[str, str]:
  """Variables of a side's process; only pax_haiku sees the repository."""
  paths = [str(TOOLS)] + ([str(ROOT)] if pkg == 'pax_haiku' else [])
  return {**os.environ, **ENVIRONMENT, 'PYTHONPATH': os.pathsep.join(paths)}


def find_praxis(path: str) -> str:
  """Absolute path of the Praxis environment's Python; ValueError if it is not there."""
  python = pathlib.Path(path).expanduser().absolute()
  if not python.is_file():
    raise ValueError(f'no Praxis environment: {python} does not exist; '
                     'bash tools/make_praxis_env.sh builds one')
  return str(python)


def start(pkg: str, python: str, module: str,
          arguments: Sequence[str]) -> subprocess.Popen:
  """Starts `python -m module --pkg pkg ...`; progress goes to stderr."""
  return subprocess.Popen([python, '-m', module, '--pkg', pkg, *arguments],
                          cwd=TOOLS, env=environment(pkg))


def run_sides(sides: dict[str, str], module: str,
              arguments: dict[str, Sequence[str]]) -> None:
  """Runs {pkg: python} side by side; RuntimeError names the one that broke."""
  running = {pkg: start(pkg, python, module, arguments[pkg])
             for pkg, python in sides.items()}
  codes = {}
  try:
    for pkg, child in running.items():
      codes[pkg] = child.wait()
  finally:
    for child in running.values():
      if child.poll() is None:
        child.kill()
  broken = [f'{pkg} (exit status {code})' for pkg, code in codes.items() if code]
  if broken:
    raise RuntimeError(f'the process of {" and ".join(broken)} broke; see above')


def this_python() -> str:
  return sys.executable
