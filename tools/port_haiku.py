"""Ports a Haiku model to Pax conventions: look, write, match, convert, verify.

  python tools/port_haiku.py inspect --model=pkg.net:forward --inputs='f32[2,8]'
  python tools/port_haiku.py scaffold --model=... --inputs=... --out=port.py
  python tools/port_haiku.py match --model=... --port=port.py:config --inputs=... \\
      --mapping=net.map
  python tools/port_haiku.py convert --mapping=net.map --checkpoint=old.npz \\
      --out=new.npz
  python tools/port_haiku.py verify --model=... --port=... --inputs=... \\
      --mapping=net.map --checkpoint=old.npz --report=report.html

A model is `package.module:name` or `file.py:name` of a function that uses Haiku
modules, of an `hk.transform` pair, of a Pax layer or config, or of a function that
returns one.

Exit status: 0 if all is well; 1 if `match` leaves entries undecided or the models
differ, or `verify` finds a difference past the tolerance; 2 for bad input.
"""

import os
import sys

from absl import flags

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from haiku_port import commands  # noqa: E402
from praxis_compare import cli  # noqa: E402

flags.DEFINE_string('model', None, 'The Haiku model, as module:name.')
flags.DEFINE_string('port', None, 'Its Pax port, likewise.')
flags.DEFINE_string(
  'inputs', None, 'Dtypes and shapes such as f32[2,8],i32[2,5]<100, or an .npz file.'
)
flags.DEFINE_string('kwargs', '', 'Keyword arguments of the Haiku model, as JSON.')
flags.DEFINE_string(
  'init_kwargs', None, 'The same for its init, where that needs others.'
)
flags.DEFINE_bool('eval', False, 'Run Pax layers in evaluation.')
flags.DEFINE_string('mapping', None, 'The mapping, a text file.')
flags.DEFINE_string(
  'checkpoint', None, 'A .npz or .safetensors file, or a directory of orbax.'
)
flags.DEFINE_string(
  'port_checkpoint', None, "verify: the port's own; else the mapping makes it."
)
flags.DEFINE_bool(
  'allow_pickle', False, 'Read pickles as well; arrays and plain containers only.'
)
flags.DEFINE_bool('back', False, 'convert: from the port to the original.')
flags.DEFINE_string(
  'base',
  None,
  'convert: the checkpoint that was converted before; what did not change since then '
  'comes from it, bit for bit.',
)
flags.DEFINE_string('out', None, 'File to write.')
flags.DEFINE_string('report', None, 'verify: also write this .html or .json.')
flags.DEFINE_float(
  'tolerance', 1e-4, 'Largest difference, as a fraction of the largest value.'
)
flags.DEFINE_bool('gradients', True, 'verify: compare gradients too.')
flags.DEFINE_bool(
  'iterations', False, 'verify: show each iteration of loops that modules run in.'
)
flags.DEFINE_string('class_name', 'Net', 'scaffold: name of the layer.')
flags.DEFINE_integer('seed', 0, 'Of random inputs and variables.')


def main() -> int:
  """Runs the command that comes first on the line."""
  found = sys.argv[1] if len(sys.argv) > 1 else ''
  if found in commands.COMMANDS:
    del sys.argv[1]
    cli.run(lambda: commands.run(found, flags.FLAGS))
  elif found.startswith('--help'):
    cli.run(lambda: 0)
  print(
    'port_haiku.py: expected one of the commands '
    + ', '.join(commands.COMMANDS)
    + (f', found {found!r}' if found else '')
    + '; --help tells more',
    file=sys.stderr,
  )
  return 2


if __name__ == '__main__':
  sys.dont_write_bytecode = True
  sys.exit(main())
