"""The role of each parameter in a graph: what it meets first, and where in the program.

`contacts` follows a parameter through reshapes and transposes to the operation that
mixes it with other data. There its axes have a meaning (contracted, free, spatial,
channels), which gives a layout that does not depend on how a framework stores it.

`colours` refines colours as Weisfeiler and Lehman do: after round r, two nodes have one
colour if the program looks the same within r steps around them.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop.match_graph import Const, Graph, Node

LAYOUT = frozenset(
  {
    'reshape',
    'transpose',
    'squeeze',
    'expand_dims',
    'broadcast_in_dim',
    'copy',
    'copy_p',
    'convert_element_type',
    'sharding_constraint',
    'name',
    'reduce_precision',
  }
)
_COMMUTATIVE = frozenset({'add', 'add_any', 'mul', 'max', 'min', 'and', 'or', 'eq'})
_ROUNDS = 10


@dataclasses.dataclass(frozen=True)
class Contact:
  """Where a piece of a parameter first meets other data.

  Attributes:
    node: index of the operation.
    kind: 'dot', 'conv', 'gather', or the operation's name.
    chain: layout operations from the piece to `shape`: ('reshape', old, new),
      ('transpose', perm) or ('add', value).
    shape: of the canonical layout: (contracted, free), (spatial..., in, out), (n,).
    partner: variable or Const that it is mixed with, None if there is none.
  """

  node: int
  kind: str
  chain: tuple[Any, ...]
  shape: tuple[int, ...]
  partner: Any

  def canonical(self, x: ex.Expr) -> ex.Expr:
    """The piece `x` in the canonical layout."""
    for op, *args in self.chain:
      x = {'reshape': ex.reshape, 'transpose': ex.transpose, 'add': ex.add}[op](
        x, *args
      )
    return x

  def original(self, x: ex.Expr) -> ex.Expr:
    """The inverse of `canonical`."""
    for op, *args in reversed(self.chain):
      if op == 'reshape':
        x = ex.reshape(x, args[1], args[0])
      elif op == 'transpose':
        x = ex.transpose(x, np.argsort(args[0]))
      else:
        x = ex.add(x, -args[0])
    return x


def consumers(graph: Graph) -> dict[int, list[tuple[int, int]]]:
  """Variable -> [(index of a node that reads it, operand number)]."""
  users: dict[int, list[tuple[int, int]]] = {}
  for i, node in enumerate(graph.nodes):
    for position, r in enumerate(node.inputs):
      if isinstance(r, int):
        users.setdefault(r, []).append((i, position))
  return users


def _one(node: Node, position: int) -> float | None:
  """+-1 if the node adds that to its operand: scales are `1 + w` in some models."""
  if node.op not in ('add', 'sub') or (node.op == 'sub' and position == 1):
    return None
  other = node.inputs[1 - position]
  if not isinstance(other, Const) or np.size(other.value) != 1:
    return None
  value = float(np.asarray(other.value).reshape(()))
  value = -value if node.op == 'sub' else value
  return value if abs(value) == 1.0 else None


def contacts(graph: Graph) -> dict[int, Contact]:
  """The contact of each piece."""
  users = consumers(graph)
  return {var: _contact(graph, users, var) for var in graph.pieces}


def _contact(graph: Graph, users, var: int) -> Contact:
  shape, chain, spread = graph.pieces[var].shape, [], False
  node, position, index = None, 0, len(graph.nodes)
  while users.get(var):
    index, position = users[var][0]
    node = graph.nodes[index]
    offset = _one(node, position)
    if offset is not None and not spread:
      chain.append(('add', offset))
    elif node.op not in LAYOUT:
      break
    new = graph.avals[node.outputs[0]].shape
    spread |= math.prod(new) != math.prod(shape)
    if not spread and node.op == 'transpose':
      chain.append(('transpose', tuple(node.params['permutation'])))
    elif not spread and new != shape:
      chain.append(('reshape', shape, new))
    shape = shape if spread else new
    var = node.outputs[0]
  if node is None or node.op in LAYOUT:
    return Contact(index, 'output', (), shape, None)
  kind, perm, final = _layout(node, position, shape, spread)
  if perm is not None and perm != tuple(range(len(perm))):
    chain.append(('transpose', perm))
    shape = tuple(shape[p] for p in perm)
  if final != shape:
    chain.append(('reshape', shape, final))
  others = [r for i, r in enumerate(node.inputs) if i != position]
  return Contact(index, kind, tuple(chain), final, others[0] if others else None)


def _layout(node: Node, position: int, shape, spread: bool):
  """`(kind, axes in the canonical order, canonical shape)` of an operand."""
  if node.op == 'dot_general' and not spread:
    contract, batch = node.params['dimension_numbers']
    mine, other = contract[position], contract[1 - position]
    summed = [m for _, m in sorted(zip(other, mine, strict=True))]
    batched = list(batch[position])
    free = [a for a in range(len(shape)) if a not in summed and a not in batched]
    perm = (*batched, *summed, *free)
    sizes = [math.prod(shape[a] for a in group) for group in (batched, summed, free)]
    return 'dot', perm, tuple(sizes if batched else sizes[1:])
  if node.op == 'conv_general_dilated' and position == 1 and not spread:
    out, into, *spatial = node.params['dimension_numbers'].rhs_spec
    perm = (*spatial, into, out)
    kept = [shape[a] for a in spatial if shape[a] != 1]
    return 'conv', perm, (*kept, shape[into], shape[out])
  if node.op == 'gather' and position == 0 and not spread:
    return 'gather', None, shape
  return node.op, None, (math.prod(shape),)


def _label(node: Node) -> tuple:
  if node.op == 'conv_general_dilated':
    return (
      node.op,
      tuple(node.params['window_strides']),
      tuple(node.params['padding']),
    )
  if node.op == 'integer_pow':
    return (node.op, node.params['y'])
  return (node.op,)


def colours(graphs: Iterable[Graph], rounds: int = _ROUNDS) -> list[dict[int, tuple]]:
  """For each graph: piece -> its colours, one per round."""
  graphs = list(graphs)
  table: dict[Any, int] = {}

  def intern(key) -> int:
    return table.setdefault(key, len(table))

  views = [_Skeleton(g) for g in graphs]
  states = [v.start(intern) for v in views]
  history: list[dict[int, list]] = [{p: [] for p in g.pieces} for g in graphs]
  for _ in range(rounds):
    states = [v.refine(s, intern) for v, s in zip(views, states, strict=True)]
    for past, state in zip(history, states, strict=True):
      for piece, colors in past.items():
        colors.append(state[piece])
  return [{p: tuple(c) for p, c in past.items()} for past in history]


class _Skeleton:
  """A graph with layout operations and the `+ 1` of scales looked through."""

  def __init__(self, graph: Graph):
    self.graph = graph
    self.alias: dict[int, Any] = {}
    self.nodes = []
    for node in graph.nodes:
      through = node.op in LAYOUT
      for position in (0, 1) if len(node.inputs) == 2 else ():
        r = self.resolve(node.inputs[position])
        if r in graph.pieces and _one(node, position) is not None:
          through, node = True, dataclasses.replace(node, inputs=[r])
          break
      if through:
        self.alias[node.outputs[0]] = self.resolve(node.inputs[0])
      else:
        self.nodes.append((node, [self.resolve(r) for r in node.inputs]))
    self.users: dict[int, list] = {}
    for node, inputs in self.nodes:
      for position, r in enumerate(inputs):
        if isinstance(r, int):
          place = 0 if node.op in _COMMUTATIVE else position
          self.users.setdefault(r, []).append((node.outputs[0], place))
    self.ends: dict[int, list] = {}
    for i, r in enumerate(graph.outputs):
      self.ends.setdefault(self.resolve(r), []).append(i)
    for r in graph.state.values():
      self.ends.setdefault(self.resolve(r), []).append(-1)

  def resolve(self, r):
    if isinstance(r, Const):
      return r if np.size(r.value) != 1 else _Scalar(float(np.ravel(r.value)[0]))
    return self.alias.get(r, r)

  def start(self, intern) -> dict[int, int]:
    state = {v: intern('piece') for v in self.graph.pieces}
    state.update({v: intern(('input', i)) for v, i in self.graph.args.items()})
    for node, _ in self.nodes:
      state.update({v: intern(_label(node)) for v in node.outputs})
    return state

  def refine(self, state, intern) -> dict[int, int]:
    def color(r):
      if isinstance(r, int):
        return state.get(r, -1)
      return intern(r if isinstance(r, _Scalar) else ('const', np.shape(r.value)))

    def around(v):
      return (
        tuple(sorted((state[u], p) for u, p in self.users.get(v, ()))),
        tuple(sorted(self.ends.get(v, ()))),
      )

    new = {v: intern(('piece', around(v))) for v in self.graph.pieces}
    new.update({v: intern(('input', i, around(v))) for v, i in self.graph.args.items()})
    for node, inputs in self.nodes:
      before = [color(r) for r in inputs]
      before = sorted(before) if node.op in _COMMUTATIVE else before
      for v in node.outputs:
        new[v] = intern((_label(node), tuple(before), around(v)))
    return new


@dataclasses.dataclass(frozen=True)
class _Scalar:
  """A scalar constant, equal by value."""

  value: float


def agreement(a: tuple, b: tuple) -> int:
  """Number of rounds after which two pieces still have one colour."""
  for i, (x, y) in enumerate(zip(a, b, strict=True)):
    if x != y:
      return i
  return len(a)
