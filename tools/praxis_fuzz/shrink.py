"""Makes a failing tree smaller while it still fails.

Works on the plain data, where one deletion is one check; hypothesis would draw the
whole tree again for each. What no longer fits together raises on both sides, and so
does not count as failing.
"""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

Tree = dict[str, Any]
Path = tuple[Any, ...]


def size(tree: Any) -> int:
  return len(json.dumps(tree))


def _walk(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
  """All places of a tree, outer ones first."""
  yield path, node
  items = (node.items() if isinstance(node, dict)
           else enumerate(node) if isinstance(node, list) else ())
  for key, value in items:
    yield from _walk(value, (*path, key))


def _at(tree: Any, path: Path) -> Any:
  for key in path:
    tree = tree[key]
  return tree


def _replaced(tree: Tree, path: Path, value: Any) -> Tree:
  out = copy.deepcopy(tree)
  _at(out, path[:-1])[path[-1]] = copy.deepcopy(value)
  return out


def _without(tree: Tree, path: Path) -> Tree:
  out = copy.deepcopy(tree)
  del _at(out, path[:-1])[path[-1]]
  return out


def _is_layer(node: Any) -> bool:
  return isinstance(node, dict) and 'layer' in node


def smaller(tree: Tree) -> Iterator[Tree]:
  """Trees that are one step smaller, large steps first."""
  config = tree['config']
  for path, node in _walk(config, ('config',)):
    if not _is_layer(node):
      continue
    inner = [n for p, n in _walk(node) if p and _is_layer(n)]
    for child in inner:  # a layer in place of what holds it
      yield _replaced(tree, path, child)
  for path, node in _walk(config, ('config',)):
    if path[-2:-1] == ('fields',) or (
        path[-3:-2] == ('fields',) and isinstance(path[-1], int)):
      # a field, an operation of a script, an item of a list
      yield _without(tree, path)
    if isinstance(node, list) and node[:1] and node[0] in (
        'if_eval', 'if_train', 'if_init'):
      yield _replaced(tree, path, node[1:])
  if tree.get('paddings'):
    yield {**tree, 'paddings': False}
  if tree.get('input_dtype') == 'bfloat16':
    yield {**tree, 'input_dtype': 'float32'}


def shrink(tree: Tree, fails: Callable[[Tree], bool], over: Callable[[], bool]) -> Tree:
  """The smallest tree found, by greedy steps, until `over()` or none is smaller."""
  seen = {json.dumps(tree, sort_keys=True)}
  progress = True
  while progress and not over():
    progress = False
    for candidate in smaller(tree):
      key = json.dumps(candidate, sort_keys=True)
      if key in seen:
        continue
      seen.add(key)
      if over():
        break
      if fails(candidate):
        tree, progress = candidate, True
        break
  return tree
