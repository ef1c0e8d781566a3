"""What modules return in each iteration of the loops around them.

The program is run operation by operation with its scans unrolled, as `match` sees it.
Custom derivatives stay what they are.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from pax_haiku.core import shared_trace
from pax_haiku.interop import capture as capture_lib
from pax_haiku.interop import capture_points, match_graph
from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop.capture import Captured, Point
from pax_haiku.interop.match_model import Model

_OWN_DERIVATIVE = ('custom_jvp_call', 'custom_vjp_call', 'custom_vjp_call_jaxpr')


@dataclasses.dataclass(frozen=True)
class _Seen:
  """A mark that the program passes in some iteration."""

  mark: capture_points.Mark
  made_by: int  # the variable that was marked
  variable: int
  iterations: tuple[tuple[Any, int], ...]


class _Builder(match_graph.Builder):
  """Keeps marks, and calls with derivatives of their own as one operation."""

  def __init__(self, marker: capture_points.Marker):
    super().__init__()
    self.marker = marker
    self.seen: list[_Seen] = []
    self._jaxpr: Any = None

  def walk(self, jaxpr, consts: list, inputs: list) -> list:
    outside, self._jaxpr = self._jaxpr, jaxpr
    result = super().walk(jaxpr, consts, inputs)
    self._jaxpr = outside
    return result

  def equation(self, eqn, inputs: list) -> list:
    name = eqn.primitive.name
    if name in _OWN_DERIVATIVE:
      call = _call(self._jaxpr, eqn)
      return self.emit(name, {}, inputs, [v.aval for v in eqn.outvars], call)
    mark = self.marker.find(eqn.params['name']) if name == 'name' else None
    if mark is None:
      return super().equation(eqn, inputs)
    avals = [v.aval for v in eqn.outvars]
    (variable,) = self.emit('mark', {}, inputs, avals, list)
    if mark.shape == avals[0].shape:  # else it is inside of a vmap
      self.kept.append(variable)
      made_by = inputs[0] if isinstance(inputs[0], int) else -1
      self.seen.append(_Seen(mark, made_by, variable, self.iterations))
    return [variable]


def _call(jaxpr, eqn):
  """A function that runs one equation of a jaxpr, with its own derivative."""
  names = [a for a in eqn.invars if isinstance(a, core.Var)]
  distinct = list(dict.fromkeys(names))
  alone = jaxpr.replace(
    constvars=[], invars=distinct, outvars=list(eqn.outvars), eqns=[eqn]
  )
  run = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))

  def call(values):
    pairs = zip(eqn.invars, values, strict=True)
    given = {a: v for a, v in pairs if isinstance(a, core.Var)}
    return run(*(given[a] for a in distinct))

  return call


def _in_order(seen: list[_Seen]) -> list[_Seen]:
  """The arrays that one call returned in the order in which they were computed."""
  ordered: list[_Seen] = []
  for _, same in itertools.groupby(seen, lambda s: (s.mark.call, s.iterations)):
    ordered.extend(sorted(same, key=lambda s: s.made_by))
  return ordered


def _points(builder: _Builder) -> list[Point]:
  """The marks in order of execution, labelled by module and iteration."""
  marker = builder.marker
  marker.settle()
  shown = [marker.shown(s.mark) for s in builder.seen]
  inside: dict[Any, list[str]] = {}  # names of modules in each loop's body
  for name, seen in zip(shown, builder.seen, strict=True):
    for body, _ in seen.iterations:
      inside.setdefault(id(body), []).append(name)
  depths = {body: max(1, _common(names)) for body, names in inside.items()}
  points: list[Point] = []
  counts: dict[tuple, int] = {}
  for name, seen in zip(shown, builder.seen, strict=True):
    parts = name.split('/')
    for body, i in seen.iterations:
      parts[depths[id(body)] - 1] += f'[{i}]'
    mark, label = seen.mark, '/'.join(parts)
    if mark.method:
      label += f'.{mark.method}'
    key = label, mark.part
    counts[key] = count = counts.get(key, 0) + 1
    label += f'#{count}' if count > 1 else ''
    label += '' if mark.part is None else f'[{mark.part}]'
    aval = builder.avals[seen.variable]
    points.append(
      Point(
        name,
        label,
        mark.kind,
        aval.shape,
        aval.dtype,
        usual=mark.method is None,
        root=mark.root,
        iterations=tuple(i for _, i in seen.iterations),
      )
    )
  return points


def _common(names: Sequence[str]) -> int:
  """Length of the longest beginning that paths share."""
  columns = zip(*(name.split('/') for name in names), strict=False)
  count = 0
  for column in columns:
    if len(set(column)) > 1:
      break
    count += 1
  return count


def piece_name(piece: match_graph.Piece) -> str:
  """`params:stack/w[2]`, for a part of an entry."""

  def index(expr) -> str:
    if isinstance(expr, ex.Index):
      return f'{index(expr.x)}[{expr.i}]'
    if isinstance(expr, ex.Slice):
      return f'{index(expr.x)}[{":," * expr.axis}{expr.start}:{expr.stop}]'
    return ''

  return piece.name + index(piece.expr)


def capture(
  model: Model,
  entries: Mapping[str, Any],
  args,
  kwargs,
  *,
  gradients: bool = True,
  seed: int = 0,
) -> Captured:
  """As `capture.capture`, with a point for each iteration of a loop.

  `Point.entries` are then parts of entries, where a program uses parts.
  """
  marker = capture_points.Marker(model.form, capture_points.modules_of(model.entries))

  def call(tree, rng, args, kwargs):
    with hk.intercept_methods(marker), shared_trace.each_by_itself():
      return model.call(tree, rng, args, kwargs)

  builder = _Builder(marker)
  watched = dataclasses.replace(model, call=call)
  graph = match_graph.trace(watched, args, kwargs, builder)
  builder.seen = _in_order(builder.seen)
  points, pieces = _points(builder), list(graph.pieces.values())
  masks, _ = match_graph.dependencies(graph)
  names = [piece_name(p) for p in pieces]
  points = [
    dataclasses.replace(point, entries=frozenset(_chosen(names, masks[s.variable])))
    for point, s in zip(points, builder.seen, strict=True)
  ]
  where = {s.variable: p.label for p, s in zip(points, builder.seen, strict=True)}
  inputs = jax.tree.leaves((args, kwargs))
  floats, others = capture_lib.split_floats(entries)

  def loss(floats, perturbations):
    values = _run(graph, {**floats, **others}, inputs, where, perturbations)
    read = lambda r: values[r] if isinstance(r, int) else jnp.asarray(r.value)  # noqa: E731
    leaves = [read(r) for r in graph.outputs]
    state = {n: read(r) for n, r in graph.state.items()}
    found = [values[s.variable] for s in builder.seen]
    return capture_lib.weighted_sum(leaves, seed), (found, leaves, state)

  by_entry, by_point = {}, {}
  if gradients:
    nothing = {p.label: jnp.zeros(p.shape, p.dtype) for p in points}
    run = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (by_entry, by_point), (values, leaves, state) = run(floats, nothing)
  else:
    _, (values, leaves, state) = loss(floats, {})
  found = (values, leaves, state, by_entry, by_point)
  return Captured(
    points,
    *jax.tree.map(np.asarray, found),
    order=_order(graph),
    pieces=dict(zip(names, pieces, strict=True)),
    long=tuple(builder.long),
  )


def _chosen(names: list[str], mask: int) -> list[str]:
  return [name for i, name in enumerate(names) if mask >> i & 1]


def _order(graph: match_graph.Graph) -> dict[str, int]:
  """When entries, and parts of them, are first used."""
  order: dict[str, int] = {}
  for i, node in enumerate(graph.nodes):
    for r in node.inputs:
      if isinstance(r, int) and r in graph.pieces:
        order.setdefault(graph.pieces[r].name, i)
        order.setdefault(piece_name(graph.pieces[r]), i)
  return order


def _run(graph, entries, inputs, where, perturbations) -> dict[int, Any]:
  """Values of all variables of a graph."""
  values = {
    v: p.expr.forward(lambda n: jnp.asarray(entries[n]))
    for v, p in graph.pieces.items()
  }
  values.update({v: inputs[i] for v, i in graph.args.items()})
  values[graph.key] = jax.random.PRNGKey(0)
  for node in graph.nodes:
    given = [values[r] if isinstance(r, int) else r.value for r in node.inputs]
    for v, value in zip(node.outputs, node.call(given), strict=True):
      label = where.get(v)
      values[v] = value + perturbations[label] if label in perturbations else value
  return values
