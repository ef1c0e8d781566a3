"""Intermediate outputs of a model by module, and gradients with respect to them."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from pax_haiku import base_layer
from pax_haiku.core import shared_trace
from pax_haiku.interop import match_graph
from pax_haiku.interop.match_model import Model

_BASES = frozenset(dir(hk.Module)) | frozenset(dir(base_layer.BaseLayer))


@dataclasses.dataclass(frozen=True)
class Point:
  """One array that a module's method returned.

  Attributes:
    module: the module's name; without the root's for Pax layers.
    label: the module's name, with method, number of the call and of the array where
      these are not the usual ones.
    kind: the module's class.
    shape, dtype: of the array.
    entries: the variables that it depends on.
    usual: whether `__call__` returned it.
    root: whether it is what the outermost layer returned, the model's own output.
    iterations: numbers of the loops' iterations that it is of, from the outermost.
  """

  module: str
  label: str
  kind: str
  shape: tuple[int, ...]
  dtype: Any
  entries: frozenset[str] = frozenset()
  usual: bool = True
  root: bool = False
  iterations: tuple[int, ...] = ()


def is_watched(method: str) -> bool:
  """Whether a method is one of those whose outputs are compared."""
  return method == '__call__' or not (method.startswith('_') or method in _BASES)


class _Recorder:
  """Notes what methods return, and adds perturbations to it."""

  def __init__(self, form: str, perturbations: Mapping[str, Any]):
    self.form, self.perturbations = form, perturbations
    self.points: list[Point] = []
    self.values: list[Any] = []
    self._seen: dict[str, int] = {}
    self.inside: set[str] = set()
    self._active: list[str] = ['']
    self._root: str | None = None
    self._trace = core.get_opaque_trace_state()

  def __call__(self, method, args, kwargs, context):
    name = context.method_name
    usual = name == '__call__'
    if not is_watched(name):
      return method(*args, **kwargs)
    full = context.module.module_name
    if self.form == 'pax' and self._root is None:
      self._root = full
    if core.get_opaque_trace_state() != self._trace:
      self.inside.update(self._active)
      # Inside a scan, a vmap, ...: no array of the whole program.
      return method(*args, **kwargs)
    module = full
    if self.form == 'pax' and full.startswith(self._root + '/'):
      module = full[len(self._root) + 1 :]
    self._active.append(module)
    out = method(*args, **kwargs)
    self._active.pop()
    label = module if usual else f'{module}.{name}'
    self._seen[label] = count = self._seen.get(label, 0) + 1
    label = label if count == 1 else f'{label}#{count}'
    leaves, treedef = jax.tree.flatten(out)
    several = sum(map(is_float, leaves)) > 1
    for i, leaf in enumerate(leaves):
      if is_float(leaf):
        where = f'{label}[{i}]' if several else label
        kind = type(context.module).__name__
        self.points.append(
          Point(
            module,
            where,
            kind,
            leaf.shape,
            leaf.dtype,
            usual=usual,
            root=full == self._root,
          )
        )
        if where in self.perturbations:
          leaves[i] = leaf + self.perturbations[where]
        self.values.append(leaf)
    return jax.tree.unflatten(treedef, leaves)


def is_float(x) -> bool:
  """Whether this is an array of floating-point numbers."""
  return isinstance(x, jax.Array | np.ndarray) and bool(
    jnp.issubdtype(x.dtype, jnp.floating)
  )


@contextlib.contextmanager
def _recording(model: Model, perturbations) -> Iterator[_Recorder]:
  recorder = _Recorder(model.form, perturbations)
  with hk.intercept_methods(recorder), shared_trace.each_by_itself():
    yield recorder


@dataclasses.dataclass
class Captured:
  """One run of a model.

  Attributes:
    points: what was captured, in order of execution.
    values: their arrays.
    outputs: leaves of the output.
    state: entry name -> updated value.
    gradients: entry name -> gradient of a loss.
    point_gradients: label -> gradient of the loss.
    order: entry name -> when it is first used.
    inside: modules around loops and the like in which modules run, that have no points;
      '' is the whole model.
    pieces: parts of entries by the names that `Point.entries` has; None: these are
      whole entries.
    long: lengths of loops that were to be unrolled, but are too long.
  """

  points: list[Point]
  values: list[np.ndarray]
  outputs: list[np.ndarray]
  state: dict[str, np.ndarray]
  gradients: dict[str, np.ndarray]
  point_gradients: dict[str, np.ndarray]
  order: dict[str, int]
  inside: frozenset[str] = frozenset()
  pieces: dict[str, match_graph.Piece] | None = None
  long: tuple[int, ...] = ()


def points_of(
  model: Model, args, kwargs
) -> tuple[list[Point], dict[str, int], frozenset[str]]:
  """The points with the variables that each depends on; first uses of variables;
  modules around loops."""
  noted: list[Point] = []
  inside: frozenset[str] = frozenset()

  def call(tree, rng, args, kwargs):
    nonlocal inside
    with _recording(model, {}) as recorder:
      _, state = model.call(tree, rng, args, kwargs)
    noted[:] = recorder.points
    inside = frozenset(recorder.inside)
    return recorder.values, state

  watched = dataclasses.replace(model, call=call)
  graph = match_graph.trace(watched, args, kwargs)
  masks, _ = match_graph.dependencies(graph)
  pieces = list(graph.pieces.values())
  points = []
  for point, r in zip(noted, graph.outputs, strict=True):
    mask = masks.get(r, 0) if isinstance(r, int) else 0
    names = {p.name for i, p in enumerate(pieces) if mask >> i & 1}
    points.append(dataclasses.replace(point, entries=frozenset(names)))
  order: dict[str, int] = {}
  for i, node in enumerate(graph.nodes):
    for r in node.inputs:
      if isinstance(r, int) and r in graph.pieces:
        order.setdefault(graph.pieces[r].name, i)
  return points, order, inside


def split_floats(entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Floating-point entries and others."""
  floats = {
    n: x for n, x in entries.items() if jnp.issubdtype(jnp.result_type(x), jnp.floating)
  }
  return floats, {n: x for n, x in entries.items() if n not in floats}


def weighted_sum(leaves: list[Any], seed: int) -> jax.Array:
  """The loss: all outputs, weighted by random numbers."""
  total = jnp.float32(0)
  for i, leaf in enumerate(leaves):
    if is_float(leaf):
      generator = np.random.default_rng((seed, i))
      weights = generator.normal(size=leaf.size).astype(np.float32)
      total += jnp.vdot(weights, leaf.ravel().astype(jnp.float32))
  return total


def capture(
  model: Model,
  entries: Mapping[str, Any],
  args,
  kwargs,
  *,
  gradients: bool = True,
  seed: int = 0,
) -> Captured:
  """Runs a model and captures what its modules return.

  Args:
    model: the model.
    entries: its variables.
    args, kwargs: its inputs.
    gradients: also of a loss, the sum of the outputs weighted by random numbers.
    seed: of these numbers, which depend on the outputs' sizes only.
  """
  points, order, inside = points_of(model, args, kwargs)
  floats, others = split_floats(entries)
  nothing = {p.label: jnp.zeros(p.shape, p.dtype) for p in points}
  rng = jax.random.PRNGKey(0)

  def loss(floats, perturbations):
    with _recording(model, perturbations) as recorder:
      out, state = model.run({**floats, **others}, rng, args, kwargs)
    leaves = jax.tree.leaves(out)
    return weighted_sum(leaves, seed), (recorder.values, leaves, state)

  if gradients:
    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (by_entry, by_point), (values, leaves, state) = run(floats, nothing)
  else:
    _, (values, leaves, state) = jax.jit(loss)(floats, {})
    by_entry, by_point = {}, {}
  as_numpy = lambda tree: jax.tree.map(np.asarray, tree)  # noqa: E731
  return Captured(
    points,
    as_numpy(values),
    as_numpy(leaves),
    as_numpy(state),
    as_numpy(by_entry),
    as_numpy(by_point),
    order,
    inside,
  )
