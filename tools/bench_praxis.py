"""How long tracing a language model takes here and with Praxis, in one run.

    bash tools/make_praxis_env.sh
    python tools/bench_praxis.py [--num_layers=12 --rounds=2]

Both sides trace and lower loss and gradient of the same 126m model of Pax's own layers,
unrolled; nothing is compiled. The sides take turns, in processes of their own, and the
least CPU time of each counts, so that ratios hardly depend on what else the machine
does. `pax_haiku, shared` is the stack that traces equal blocks once
(`layers.shared_trace`).
"""

import json
import pathlib
import tempfile

from absl import flags
from praxis_compare import cli, process, tracing

LAYERS = flags.DEFINE_integer('num_layers', 12, 'Transformer blocks.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 2, 'Turns of each side.', lower_bound=1)
REPEATS = flags.DEFINE_integer('repeats', 3, 'Traces of a turn.', lower_bound=1)
PRAXIS = flags.DEFINE_string('praxis_python', str(process.DEFAULT_PRAXIS),
                             'Python of the environment that has Praxis.')
SIDES = {
    'pax_haiku': ('pax_haiku', tracing.PLAIN),
    'pax_haiku, shared': ('pax_haiku', tracing.SHARED),
    'praxis': ('praxis', tracing.PLAIN),
}


def main() -> int:
  pythons = {'pax_haiku': process.this_python(),
             'praxis': process.find_praxis(PRAXIS.value)}
  best = {name: float('inf') for name in SIDES}
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder, 'seconds.json')
    for _ in range(ROUNDS.value):
      for name, (pkg, stack) in SIDES.items():
        process.run_sides({pkg: pythons[pkg]}, 'praxis_compare.tracing', {pkg: [
            f'--out={out}', f'--stack={stack}', f'--num_layers={LAYERS.value}',
            f'--repeats={REPEATS.value}']})
        best[name] = min(best[name], *json.loads(out.read_text()))
  print(f'{"trace and lower":20}{"CPU s":>8}{"praxis is slower by":>22}')
  for name, seconds in best.items():
    print(f'{name:20}{seconds:8.2f}{best["praxis"] / seconds:20.1f} x')
  return 0


if __name__ == '__main__':
  cli.run(main)
