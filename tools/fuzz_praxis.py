"""Looks for random layer trees on which pax_haiku and the real Praxis differ.

  bash tools/make_praxis_env.sh
  python tools/fuzz_praxis.py --minutes 5 --seed 1

Prints progress and, for each difference, the smallest tree that shows it as a test to
paste into tests/regressions/.

Exit status: 0 if no tree differed, 1 if one did, 2 for a wrong command line.
"""

import os
import pathlib
import sys
import tempfile

from absl import flags
from praxis_compare import cli, process

MINUTES = flags.DEFINE_float('minutes', 5.0, 'How long to draw trees.', lower_bound=0.0)
SEED = flags.DEFINE_integer('seed', 0, 'Seed of the trees.', lower_bound=0)
DEPTH = flags.DEFINE_integer('depth', 2, 'Levels below the root at most.',
                             lower_bound=0, upper_bound=6)
MAX_TREES = flags.DEFINE_integer('max_trees', None, 'Stop after so many trees.',
                                 lower_bound=1)
PRAXIS = flags.DEFINE_string('praxis_python', str(process.DEFAULT_PRAXIS),
                             'Python of the environment that has Praxis.')
JUDGE = flags.DEFINE_enum('judge', 'praxis', ['praxis', 'pax_haiku'],
                          'Package to compare with; pax_haiku tests the fuzzer itself.')
SAVE = flags.DEFINE_string('save', None, 'Directory for the tests that are printed.')


def main() -> int:
  os.environ.update(process.ENVIRONMENT)  # before anything imports JAX
  sys.path.insert(0, str(process.ROOT))
  save = pathlib.Path(SAVE.value) if SAVE.value else None
  if save and not save.is_dir():
    raise ValueError(f'--save={save}: no such directory')
  if JUDGE.value == 'praxis':
    python = process.find_praxis(PRAXIS.value)
  else:
    python = process.this_python()
  from praxis_fuzz import session
  with tempfile.TemporaryDirectory() as folder:
    return session.run(
        python=python, pkg=JUDGE.value, folder=folder, seed=SEED.value,
        minutes=MINUTES.value, depth=DEPTH.value, max_trees=MAX_TREES.value, save=save)


if __name__ == '__main__':
  sys.dont_write_bytecode = True
  cli.run(main)
