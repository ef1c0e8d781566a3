"""Trains the same small model with pax_haiku and with Praxis from one seed.

  bash tools/make_praxis_env.sh
  python tools/compare_training.py --report curves.html
  python tools/compare_training.py --model lm --steps 100

Both runs see the same batches; initial values must be bit-equal, dropout masks are the
same draws. The loss of each step is shown with its relative difference. Exit status: 0
if the runs agree, 1 if not, 2 for a wrong command line.
"""

import pathlib
import sys
import tempfile

from absl import flags
from praxis_compare import cli, curves, process, store

STEPS = flags.DEFINE_integer('steps', 200, 'Training steps.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 1, 'Seed of initial values and dropout.')
MODEL = flags.DEFINE_enum('model', 'classifier', ['classifier', 'lm'],
                          'A classifier, or a language model of transformer blocks.')
OPTIMIZER = flags.DEFINE_enum('optimizer', 'sgd', ['adam', 'sgd'], 'Optax optimizer.')
REPORT = flags.DEFINE_string('report', None, 'Write the curves to this .html or .json.')
PRAXIS = flags.DEFINE_string('praxis_python', str(process.DEFAULT_PRAXIS),
                             'Python of the environment that has Praxis.')
FIRST = flags.DEFINE_float('first_step_tolerance', 1e-5,
                           'Allowed relative difference of the loss at step 1.')
ANYWHERE = flags.DEFINE_float(
    'tolerance', 1e-3, 'Allowed relative difference at any step. Wider than that of '
    'the first, because rounding grows from step to step.')

WHAT = {
    'classifier': 'classifier with BatchNorm, dropout and a Repeat',
    'lm': 'language model on packed text: repeated transformer blocks with dropout and '
          'a mixture of experts',
}
WRITERS = {'.html': curves.write_html, '.json': curves.write_json}


def main() -> int:
  report = pathlib.Path(REPORT.value) if REPORT.value else None
  if report and report.suffix not in WRITERS:
    raise ValueError(f'--report={report} must end in .html or .json')
  if report and not report.absolute().parent.is_dir():
    raise ValueError(f'--report={report}: no such directory')
  sides = {'pax_haiku': process.this_python(),
           'praxis': process.find_praxis(PRAXIS.value)}
  with tempfile.TemporaryDirectory() as folder:
    files = {pkg: str(pathlib.Path(folder, f'{pkg}.npz')) for pkg in sides}
    process.run_sides(sides, 'praxis_compare.training', {
        pkg: [f'--out={file}', f'--steps={STEPS.value}', f'--seed={SEED.value}',
              f'--optimizer={OPTIMIZER.value}', f'--model={MODEL.value}']
        for pkg, file in files.items()})
    results = {pkg: store.load(file) for pkg, file in files.items()}
  found = curves.compare(results['pax_haiku'], results['praxis'])
  problems = found.problems(FIRST.value, ANYWHERE.value)
  for line in [*curves.text_lines(found), *(problems or ['the runs agree'])]:
    print(line)
  if report:
    WRITERS[report.suffix](report, found, {
        'what': f'{STEPS.value} steps of a {WHAT[MODEL.value]}, optimizer '
                f'{OPTIMIZER.value}, seed {SEED.value}, float32.',
        'problems': problems,
        'versions': {pkg: r.meta['versions'] for pkg, r in results.items()}})
    print(f'report: {report}')
  return 1 if problems else 0


if __name__ == '__main__':
  sys.dont_write_bytecode = True
  cli.run(main)
