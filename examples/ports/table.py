"""Proves ports and writes the tables of README.md beside this file.

    python examples/ports/table.py                   # models of reduced size
    python examples/ports/table.py --full            # as published; takes long
    python examples/ports/table.py --full mlp lstm   # only these, others stay

It needs the packages whose models are ported; graph_gps.py and evoformer.py say how to
install them.
"""

import ast
import importlib
import inspect
import pathlib
import re
import textwrap

import haiku as hk
import port_norm
import port_proof
from absl import app, flags

HERE = pathlib.Path(__file__).resolve().parent
NAMES = (
  'mlp',
  'resnet50',
  'mobilenet',
  'vector_quantizer',
  'lstm',
  'transformer',
  'graph_gps',
  'evoformer',
)
# What is the original where a script has no code of its own for it.
IMPORTED = {
  'mlp': (hk.nets.MLP,),
  'resnet50': (hk.nets.ResNet, hk.nets.ResNet.BlockGroup, hk.nets.ResNet.BlockV1),
  'mobilenet': (hk.nets.MobileNetV1,),
  'vector_quantizer': (hk.nets.VectorQuantizerEMA,),
}
SHARED = {'resnet50': (port_norm.BatchNorm,), 'mobilenet': (port_norm.BatchNorm,)}
NOT_THE_PORT = ('original', 'port')

INTRODUCTION = """# Ports of Haiku models

Each script holds a Haiku model (imported, or written in plain Haiku), its port to Pax
layers, and the proof that both compute the same:

    python examples/ports/mlp.py --small

finds which parameters are the same (`interop.match`), converts random ones, and
compares outputs and gradients. `python examples/ports/table.py` made these tables.
"""
TITLES = {True: 'Models of reduced size', False: 'Models at full size'}
COLUMNS = (
  'port',
  'entries',
  'numbers',
  'matched',
  'proved',
  'outputs',
  'gradients',
  'last bit',
  'round trip',
  'lines',
)
HEADER = f'\n| {" | ".join(COLUMNS)} |\n|{" --- |" * len(COLUMNS)}\n'
FOOTER = """
* entries: of the port's variables, moving averages included; numbers: in them.
* matched: found by `interop.match`; proved: perturbing the original's entry and its
  partner moves both outputs alike.
* outputs, gradients: worst difference in float32, as a fraction of the largest entry,
  in training and evaluation where these differ.
* last bit: how far the original's own outputs and gradients move if the last bit of
  all its parameters and inputs changes. No port can be nearer than about that.
* round trip: whether variables come back bit for bit, from either side to the other and
  back, with those of before as the base (`convert(..., base=...)`).
* lines: of code, without comments and docstrings, of the original and of the port.
"""


def code_lines(text: str) -> int:
  """Lines that hold code: no comments, docstrings or blank lines."""
  tree = ast.parse(textwrap.dedent(text))
  lines = set()
  for node in ast.walk(tree):
    may_have_one = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    if may_have_one and ast.get_docstring(node, False) is not None:
      node.body.pop(0)
  for node in ast.walk(tree):
    if isinstance(node, ast.stmt | ast.expr | ast.arg):
      lines.update((node.lineno, node.end_lineno))
  return len(lines)


def lines_of(name: str, module) -> tuple[int, int]:
  """Lines of the original and of the port."""
  own = [v for v in vars(module).values() if getattr(v, '__module__', '') == name]
  ported = [v for v in own if v.__name__ not in NOT_THE_PORT]
  original = getattr(module, 'IMPORTED', IMPORTED.get(name, (module.original,)))
  ported += SHARED.get(name, ())
  return tuple(
    sum(code_lines(inspect.getsource(part)) for part in parts)
    for parts in (original, ported)
  )


def row(name: str, small: bool) -> str:
  module = importlib.import_module(name)
  proof = port_proof.prove(module.port(small))
  original, ported = lines_of(name, module)
  cells = [
    f'[{name}]({name}.py)',
    proof.parameters,
    f'{proof.numbers:,}',
    f'{proof.matched:.0%}',
    f'{proof.proved:.0%}',
    f'{proof.outputs:.1e}',
    f'{proof.gradients:.1e}',
    ' / '.join(f'{x:.0e}' for x in proof.rounding),
    'exact' if proof.round_trip else 'differs',
    f'{original} / {ported}',
  ]
  return '| ' + ' | '.join(map(str, cells)) + ' |\n'


def page(rows: dict[bool, dict[str, str]]) -> str:
  """README.md.

  Args:
    rows: lines by name of the models of reduced size (True) and at full size (False).
  """
  text = INTRODUCTION
  for small, title in TITLES.items():
    if rows[small]:
      known = ''.join(rows[small][name] for name in NAMES if name in rows[small])
      text += f'\n## {title}\n{HEADER}{known}'
  return text + FOOTER


def rows_of(text: str) -> dict[bool, dict[str, str]]:
  """The rows of a page."""
  rows: dict[bool, dict[str, str]] = {True: {}, False: {}}
  small = True
  for line in text.splitlines():
    small = {f'## {title}': key for key, title in TITLES.items()}.get(line, small)
    if found := re.match(r'\| \[(\w+)\]', line):
      rows[small][found.group(1)] = line + '\n'
  return rows


def main(argv):
  small, readme = not flags.FLAGS.full, HERE / 'README.md'
  names = argv[1:] or NAMES
  if unknown := sorted(set(names) - set(NAMES)):
    raise app.UsageError(f'no such ports: {unknown}; there are {", ".join(NAMES)}')
  for name in names:
    line = row(name, small)
    rows = rows_of(readme.read_text())
    rows[small][name] = line
    print(rows[small][name], end='', flush=True)
    temporary = HERE / '.README.md'
    temporary.write_text(page(rows))
    temporary.replace(readme)


if __name__ == '__main__':
  flags.DEFINE_bool('full', False, 'Models of full size.')
  app.run(main)
