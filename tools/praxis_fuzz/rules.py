"""Differences from Praxis 1.4.0 that are no fault of pax_haiku, each by name.

Besides these, `compare.numbers_as_arrays` takes Python numbers for scalars
('python-number'), and initial bfloat16 values may differ by two units.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from praxis_compare import table

Tree = dict[str, Any]
REPEATS = ('repeats.Repeat', 'transformers.StackedTransformerRepeated')


@dataclasses.dataclass(frozen=True)
class Rule:
  """A named excuse for a difference.

  Attributes:
    name: as printed.
    reason: why the difference is not a fault of pax_haiku.
    applies: (tree, row) -> whether it excuses the row.
  """

  name: str
  reason: str
  applies: Callable[[Tree, table.Row], bool]


def layers(node: Any) -> Iterator[Tree]:
  """All layer nodes of a tree."""
  if isinstance(node, dict):
    if 'layer' in node:
      yield node
    node = list(node.values())
  if isinstance(node, list):
    for value in node:
      yield from layers(value)


def _nested_nd_prefix(tree: Tree, row: table.Row) -> bool:
  def several(repeat: Tree) -> bool:
    return len(repeat['fields'].get('nd_prefix_shape') or ()) > 1

  def repeating(node: Any) -> list[Tree]:
    return [n for n in layers(node) if n['layer'] in REPEATS]

  return 'only praxis raised: AssertionError in init' in row.note and any(
      several(outer) and len(repeating(outer)) > 1
      for outer in repeating(tree['config']))


RULES = (
    Rule('nested-nd-prefix',
         'Praxis 1.4.0 fails an internal assert when a Repeat whose prefix has several '
         'dims holds another Repeat; the spec asks for the axes of both, outer first, '
         'which is what pax_haiku makes.', _nested_nd_prefix),
)
