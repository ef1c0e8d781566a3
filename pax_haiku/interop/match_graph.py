"""The dataflow graph of a model: its jaxpr, flat.

Bodies of jit, remat and custom derivatives are inlined. Scans are unrolled, so that a
stack of layers and a list of layers give the same graph; one that would be too long
stays one node. What does not reach an output is dropped.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop.match_model import Model

_INLINED = frozenset(
  {
    'pjit',
    'jit',
    'closed_call',
    'core_call',
    'remat',
    'remat2',
    'checkpoint',
    'custom_jvp_call',
    'custom_vjp_call',
    'custom_vjp_call_jaxpr',
    'name_call',
  }
)
_BODIES = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
_MAX_UNROLLED = 20000  # nodes of one scan


@dataclasses.dataclass(frozen=True)
class Const:
  """A value that the program holds."""

  value: Any


@dataclasses.dataclass
class Node:
  """One operation.

  Attributes:
    op: the primitive's name, or 'index' and 'stack' where a scan was unrolled.
    params: the primitive's parameters.
    inputs: numbers of variables, or Consts.
    outputs: numbers of variables.
    call: computes the outputs from the inputs, as lists.
  """

  op: str
  params: dict[str, Any]
  inputs: list[Any]
  outputs: list[int]
  call: Callable[[list], list]


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of an entry that the program uses by itself: all of it, or a slice.

  Attributes:
    name: the entry.
    expr: the part as an expression of the entry.
    shape: of the part.
  """

  name: str
  expr: ex.Expr
  shape: tuple[int, ...]


@dataclasses.dataclass
class Graph:
  """A model's program.

  Attributes:
    nodes: in order of execution.
    pieces: variable -> the part of an entry that it is.
    args: variable -> its number among the inputs' leaves.
    outputs: variables or Consts of the output's leaves.
    state: entry name -> variable of its updated value.
    avals: variable -> shape and dtype.
    unread: entries that no output depends on.
    key: variable of the random key.
    random: whether anything live reads it.
  """

  nodes: list[Node]
  pieces: dict[int, Piece]
  args: dict[int, int]
  outputs: list[Any]
  state: dict[str, Any]
  avals: dict[int, Any]
  unread: list[str]
  key: int
  random: bool = False


class Builder:
  """Walks a jaxpr and lists its operations.

  Attributes:
    nodes: in order of execution.
    avals: variable -> shape and dtype.
    kept: variables that are not dropped, even if no output depends on them.
    iterations: where the walk is: `(body, i)` of each scan around it.
    long: lengths of the scans that are too long to be unrolled.
  """

  def __init__(self):
    self.nodes: list[Node] = []
    self.avals: dict[int, Any] = {}
    self.kept: list[int] = []
    self.iterations: tuple[tuple[Any, int], ...] = ()
    self.long: list[int] = []

  def new(self, aval) -> int:
    self.avals[len(self.avals)] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return len(self.avals) - 1

  def emit(self, op, params, inputs, avals, call) -> list[int]:
    outputs = [self.new(aval) for aval in avals]
    self.nodes.append(Node(op, params, list(inputs), outputs, call))
    return outputs

  def walk(self, jaxpr, consts: list, inputs: list) -> list:
    """References of the outputs of an open jaxpr."""
    env = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
      return Const(atom.val) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
      values = [read(a) for a in eqn.invars]
      env.update(zip(eqn.outvars, self.equation(eqn, values), strict=True))
    return [read(a) for a in jaxpr.outvars]

  def equation(self, eqn, inputs: list) -> list:
    name = eqn.primitive.name
    body = next((eqn.params[k] for k in _BODIES if k in eqn.params), None)
    if name in _INLINED and body is not None:
      return self.walk(*_open(body), inputs)
    if name == 'scan':
      size = len(body.jaxpr.eqns) + eqn.params['num_carry'] + len(inputs)
      if eqn.params['length'] * size <= _MAX_UNROLLED:
        return self.unroll(eqn.params, inputs)
      self.long.append(eqn.params['length'])

    def call(values, primitive=eqn.primitive, params=eqn.params):
      out = primitive.bind(*values, **params)
      return list(out) if primitive.multiple_results else [out]

    return self.emit(name, eqn.params, inputs, [v.aval for v in eqn.outvars], call)

  def unroll(self, params, inputs: list) -> list:
    jaxpr, consts = _open(params['jaxpr'])
    fixed, carried = params['num_consts'], params['num_carry']
    length, xs = params['length'], inputs[fixed + carried :]
    carry = inputs[fixed : fixed + carried]
    used = {a for e in jaxpr.eqns for a in e.invars if isinstance(a, core.Var)}
    used.update(a for a in jaxpr.outvars if isinstance(a, core.Var))
    collected: list[list] = [[None] * length for _ in jaxpr.outvars[carried:]]
    order = range(length)
    for i in reversed(order) if params['reverse'] else order:
      parts = [
        self.emit(
          'index',
          {'i': i, 'size': length},
          [x],
          [var.aval],
          lambda values, i=i: [jnp.asarray(values[0])[i]],
        )[0]
        if var in used
        else Const(None)
        for x, var in zip(xs, jaxpr.invars[fixed + carried :], strict=True)
      ]
      outside, self.iterations = self.iterations, (*self.iterations, (jaxpr, i))
      out = self.walk(jaxpr, consts, inputs[:fixed] + carry + parts)
      self.iterations = outside
      carry = out[:carried]
      for rows, row in zip(collected, out[carried:], strict=True):
        rows[i] = row
    stacked = [
      self.emit(
        'stack',
        {},
        rows,
        [jax.ShapeDtypeStruct((length, *var.aval.shape), var.aval.dtype)],
        lambda values: [jnp.stack([jnp.asarray(v) for v in values])],
      )[0]
      for rows, var in zip(collected, jaxpr.outvars[carried:], strict=True)
    ]
    return carry + stacked


def _open(body):
  """`(jaxpr, constants)` of an open or closed jaxpr."""
  if isinstance(body, core.ClosedJaxpr):
    return body.jaxpr, [Const(c) for c in body.consts]
  return body, []


def trace(model: Model, args, kwargs, builder: Builder | None = None) -> Graph:
  """The graph of `model` on inputs of these shapes; `builder` walks the jaxpr."""
  builder = builder or Builder()
  entries = model.entries

  def function(entries, inputs, key):
    args, kwargs = inputs
    return model.run(entries, key, args, kwargs)

  closed, shapes = jax.make_jaxpr(function, return_shape=True)(
    entries, (args, kwargs), jax.random.PRNGKey(0)
  )
  variables = [builder.new(v.aval) for v in closed.jaxpr.invars]
  outputs = builder.walk(*_open(closed), variables)
  names = sorted(entries)  # the order in which JAX flattens a dict
  pieces = {
    v: Piece(n, ex.Ref(n), builder.avals[v].shape)
    for v, n in zip(variables, names, strict=False)
  }
  arrays = {v: i for i, v in enumerate(variables[len(names) : -1])}
  count = len(jax.tree.leaves(shapes[0]))
  state = dict(zip(sorted(shapes[1]), outputs[count:], strict=True))
  graph = Graph(
    builder.nodes,
    pieces,
    arrays,
    outputs[:count],
    state,
    builder.avals,
    [],
    variables[-1],
  )
  _drop_unused(graph, builder.kept)
  graph.random = any(graph.key in node.inputs for node in graph.nodes)
  _split(graph)
  return graph


def _drop_unused(graph: Graph, kept: list[int]) -> None:
  live = {r for r in [*graph.outputs, *graph.state.values()] if isinstance(r, int)}
  live.update(kept)
  passed = {graph.pieces[r].name for r in live if r in graph.pieces}
  used_nodes = []
  for node in reversed(graph.nodes):
    if any(v in live for v in node.outputs):
      live.update(r for r in node.inputs if isinstance(r, int))
      used_nodes.append(node)
  graph.nodes = used_nodes[::-1]
  used = {r for n in graph.nodes for r in n.inputs if isinstance(r, int)}
  graph.unread = [p.name for v, p in graph.pieces.items() if v not in used]
  graph.unread += sorted(
    passed - set(graph.unread) - {p.name for v, p in graph.pieces.items() if v in used}
  )
  graph.pieces = {v: p for v, p in graph.pieces.items() if v in used}


def _cut(node: Node, piece: Piece) -> Piece | None:
  """The part of `piece` that an 'index' or 'slice' node takes, None for others."""
  if node.op == 'index':
    i, size = node.params['i'], node.params['size']
    return Piece(piece.name, ex.Index(piece.expr, i, size), piece.shape[1:])
  if node.op == 'slice' and not any(s != 1 for s in node.params['strides'] or ()):
    start, stop = node.params['start_indices'], node.params['limit_indices']
    cut = [a for a, size in enumerate(piece.shape) if stop[a] - start[a] != size]
    if len(cut) == 1:
      (a,) = cut
      part = ex.Slice(piece.expr, a, start[a], stop[a], piece.shape[a])
      shape = tuple(b - a for a, b in zip(start, stop, strict=True))
      return Piece(piece.name, part, shape)
  return None


def _split(graph: Graph) -> None:
  """Replaces entries that are only used in disjoint slices by these slices.

  Slices of slices are split again: stacks in stacks, gates in a stack.
  """
  passed = {v for v in [*graph.outputs, *graph.state.values()] if isinstance(v, int)}
  pending = set(graph.pieces)
  while pending:
    users: dict[int, list[Node]] = {}
    for node in graph.nodes:
      for r in node.inputs:
        if isinstance(r, int) and r in pending:
          users.setdefault(r, []).append(node)
    dropped, pending = set(), set()
    for var, nodes in users.items():
      piece = graph.pieces[var]
      alone = Piece(piece.name, ex.Ref(piece.name), piece.shape)
      cuts = [_cut(n, alone) for n in nodes]
      if var in passed or None in cuts or not _tiles(cuts, piece.shape):
        continue
      del graph.pieces[var]
      for node in nodes:
        graph.pieces[node.outputs[0]] = _cut(node, piece)
        pending.add(node.outputs[0])
        dropped.add(id(node))
    graph.nodes = [n for n in graph.nodes if id(n) not in dropped]


def _tiles(parts: list[Piece], shape) -> bool:
  """Whether the parts cover the whole, each element once."""
  whole = np.arange(int(np.prod(shape))).reshape(shape)
  found = [p.expr.forward(lambda n: whole).ravel() for p in parts]
  return len(parts) > 1 and np.array_equal(
    np.sort(np.concatenate(found)), whole.ravel()
  )


def dependencies(graph: Graph) -> tuple[dict[int, int], dict[int, bool]]:
  """Per variable: the pieces it depends on, as a bit mask over `graph.pieces` in
  order, and whether it depends on an input."""
  masks = {v: 1 << i for i, v in enumerate(graph.pieces)}
  fed = dict.fromkeys(graph.args, True)
  for node in graph.nodes:
    mask, from_inputs = 0, False
    for r in node.inputs:
      if isinstance(r, int):
        mask |= masks.get(r, 0)
        from_inputs |= fed.get(r, False)
    for v in node.outputs:
      masks[v], fed[v] = mask, from_inputs
  return masks, fed
