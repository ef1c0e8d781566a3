"""Records the real Praxis's numbers for all cases in tests/golden/<module>.npz.

  bash tools/make_praxis_env.sh
  python tools/record_golden.py                     # every module
  python tools/record_golden.py --module linears --module losses

The test suite checks pax_haiku against these files, so it needs no Praxis. Each carries
the versions that made it. Recording the same cases again gives the same bytes.
"""

import pathlib
import sys
import tempfile

from absl import flags
from praxis_compare import cases, cli, process, store

MODULES = flags.DEFINE_multi_string('module', [], 'Only these modules. Repeatable.')
OUT = flags.DEFINE_string('out', str(process.ROOT / 'tests' / 'golden'), 'Directory.')
PRAXIS = flags.DEFINE_string('praxis_python', str(process.DEFAULT_PRAXIS),
                             'Python of the environment that has Praxis.')


def main() -> int:
  by_module: dict[str, list[str]] = {}
  for case in cases.all_cases():
    by_module.setdefault(case.module, []).append(case.name)
  if unknown := set(MODULES.value) - set(by_module):
    raise ValueError(f'no cases for {sorted(unknown)}; there are {sorted(by_module)}')
  wanted = {m: n for m, n in by_module.items() if m in (MODULES.value or by_module)}
  out = pathlib.Path(OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  python = process.find_praxis(PRAXIS.value)
  with tempfile.TemporaryDirectory() as folder:
    names, file = pathlib.Path(folder, 'names.txt'), pathlib.Path(folder, 'out.npz')
    names.write_text('\n'.join(n for group in wanted.values() for n in group))
    process.run_sides({'praxis': python}, 'praxis_compare.runner', {
        'praxis': ['--names', str(names), '--out', str(file)]})
    results = store.load(file)
  for module, group in wanted.items():
    path = out / f'{module}.npz'
    store.subset(results, group, path)
    print(f'{path}: {len(group)} cases, {path.stat().st_size} bytes')
  return 0


if __name__ == '__main__':
  sys.dont_write_bytecode = True
  cli.run(main)
