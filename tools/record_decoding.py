"""Records what the real Praxis decodes: tests/golden/decoding/<group>.npz.

Runs in Praxis's environment (tools/make_praxis_env.sh):

    JAX_PLATFORMS=cpu JAX_THREEFRY_PARTITIONABLE=true \
      .praxis-venv/bin/python tools/record_decoding.py [--group sample] [--show]
"""

import argparse
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.decoding import cases, model_cases  # noqa: E402

GROUPS = {**cases.GROUPS, 'models': model_cases.CASES}
GOLDEN = ROOT / 'tests' / 'golden' / 'decoding'


def record(group: str, library: str) -> dict[str, np.ndarray]:
  """{'case|name': array} of a group's cases."""
  module = model_cases if group == 'models' else cases
  runner = module.Runner(library)
  out = {}
  for name, case in GROUPS[group].items():
    for key, value in runner.run(case).items():
      out[f'{name}|{key}'] = value
  return out


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--group', choices=GROUPS, action='append')
  parser.add_argument('--library', default='praxis', help='praxis or pax_haiku')
  parser.add_argument('--show', action='store_true', help='print, do not write')
  options = parser.parse_args()
  GOLDEN.mkdir(parents=True, exist_ok=True)
  for group in options.group or GROUPS:
    arrays = record(group, options.library)
    if options.show:
      for name, value in arrays.items():
        print(name, value.dtype, value.shape, value.tolist(), sep='\t')
    else:
      path = GOLDEN / f'{group}.npz'
      np.savez_compressed(path, **arrays)
      print(f'{path.relative_to(ROOT)}: {len(arrays)} arrays, {path.stat().st_size} B')


if __name__ == '__main__':
  main()
