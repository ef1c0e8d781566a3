"""The tree of a model's modules with parameter counts, and what each returns."""

from typing import Any

import numpy as np

from pax_haiku.interop import capture
from pax_haiku.interop.match_model import Model


def table(model: Model, args, kwargs) -> str:
  """A line for each module, indented, then the sums."""
  entries = model.entries
  outputs, kinds = {}, {}
  points, _, _ = capture.points_of(model, args, kwargs)
  for point in points:
    outputs.setdefault(point.module, f'{point.dtype}[{_dims(point.shape)}]')
    kinds.setdefault(point.module, point.kind)
  modules: dict[str, dict[str, Any]] = {}
  for name, value in entries.items():
    collection, _, path = name.partition(':')
    module, _, last = path.rpartition('/')
    modules.setdefault(module, {})[
      f'{last}' if collection == 'params' else f'{last} ({collection})'
    ] = value
  for module in list(modules) + list(outputs):
    parts = module.split('/')
    for i in range(1, len(parts)):
      above = '/'.join(parts[:i])
      if not above.endswith('~'):
        modules.setdefault(above, {})
    modules.setdefault(module, {})
  rows = []
  for module in sorted(modules, key=lambda m: m.split('/')):
    depth = len([p for p in module.split('/') if p != '~']) - 1
    inside = sum(
      np.size(v)
      for n, v in entries.items()
      if n.startswith('params:') and _below(n.partition(':')[2], module)
    )
    held = ', '.join(
      f'{n} {str(v.dtype)}[{_dims(np.shape(v))}]' for n, v in modules[module].items()
    )
    rows.append(
      (
        '  ' * max(depth, 0) + (module.rpartition('/')[2] or '(root)'),
        kinds.get(module, ''),
        f'{inside:,}',
        outputs.get(module, ''),
        held,
      )
    )
  rows.insert(0, ('module', 'class', 'parameters', 'returns', 'variables'))
  widths = [max(len(r[i]) for r in rows) for i in range(4)]
  lines = [
    f'{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:{widths[3]}}  {e}'.rstrip()
    for a, b, c, d, e in rows
  ]
  params = sum(np.size(v) for n, v in entries.items() if n.startswith('params:'))
  state = sum(np.size(v) for n, v in entries.items()) - params
  return '\n'.join([*lines, f'{params:,} parameters, {state:,} numbers of state'])


def _below(path: str, module: str) -> bool:
  return not module or path.startswith(module + '/')


def _dims(shape) -> str:
  return ','.join(map(str, shape))
