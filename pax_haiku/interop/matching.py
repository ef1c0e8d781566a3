"""match: finds which parameters of two models are the same, without their names."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop import (
  match_averages,
  match_graph,
  match_model,
  match_proof,
  match_rest,
  match_roles,
  match_search,
)
from pax_haiku.interop.match_candidates import Side
from pax_haiku.interop.match_model import Model


def match(
  source: Any,
  target: Any,
  *args,
  source_variables: Any = None,
  target_variables: Any = None,
  do_eval: bool | None = None,
  tolerance: float = 1e-4,
  prove: bool = True,
  seed: int = 0,
  **kwargs,
) -> mapping_lib.Mapping:
  """The mapping between the variables of two models that compute the same function.

  The values of the variables do not matter: they are replaced by random ones. Neither
  do names, except to choose between what nothing else tells apart.

  Args:
    source: the original: an `hk.transform` pair, a function that uses Haiku modules, a
      Pax layer or a config.
    target: its port, likewise.
    *args, **kwargs: inputs that both take. Random ones tell more than constant ones.
    source_variables, target_variables: variables of each: `(params, state)` of Haiku,
      collections of Pax; None: from `init`.
    do_eval: runs Pax layers in this context; None: in the surrounding one.
    tolerance: largest difference of two outputs that count as equal, as a fraction of
      the largest output.
    prove: perturb each entry of the source and see that the outputs stay together.
    seed: of the random variables.

  Returns:
    The mapping, with a note on each rule: 'proved' (perturbing that entry of the source
    and what it maps to moves both outputs alike), 'by values' (intermediate values
    agree, but the output does not tell, or does not agree), 'by role', 'by shape',
    'by trial' (the outputs agree with no other), 'by name'. Entries that several
    candidates fit are listed, not guessed.

  Raises:
    ValueError: a model is not deterministic, does not take the inputs, or the outputs
      have different sizes.
  """
  models = [
    match_model.as_model(
      fn, variables, args=args, kwargs=kwargs, do_eval=do_eval, name=f'the {name} model'
    )
    for fn, variables, name in (
      (source, source_variables, 'source'),
      (target, target_variables, 'target'),
    )
  ]
  return match_models(*models, args, kwargs, tolerance, prove, seed)


def match_models(
  source: Model,
  target: Model,
  args=(),
  kwargs=None,
  tolerance: float = 1e-4,
  prove: bool = True,
  seed: int = 0,
) -> mapping_lib.Mapping:
  """As `match`, on two `Model`s."""
  kwargs = kwargs or {}
  sides = [_side(m, args, kwargs) for m in (source, target)]
  colors = match_roles.colours(s.graph for s in sides)
  sides = [
    dataclasses.replace(s, colours=c) for s, c in zip(sides, colors, strict=True)
  ]
  entries = match_model.randomized(source.entries, seed)
  match_averages.settle(entries)
  constants = _constants(sides[1])
  inputs = jax.tree.leaves((args, kwargs))
  search = match_search.Search(*sides, entries, inputs, constants)
  search.run()
  ordered = match_rest.by_order(*sides, search)
  mapping = _mapping(sides, search, ordered)
  match_averages.complete(mapping, source.entries, target.entries)
  options = match_rest.complete(mapping, sides, search)
  if prove:
    match_proof.prove(
      mapping,
      source,
      target,
      args,
      kwargs,
      entries,
      tolerance,
      _twins(sides[0]),
      options,
    )
  return mapping


def _twins(side: Side) -> list[tuple[str, str]]:
  """Neighbouring entries of one shape whose roles cannot be told apart."""
  alike: dict[Any, list[str]] = {}
  for v, piece in side.graph.pieces.items():
    if isinstance(piece.expr, ex.Ref):
      alike.setdefault((side.colours[v], piece.shape), []).append(piece.name)
  return [pair for names in alike.values() for pair in itertools.pairwise(names)]


def _side(model: Model, args, kwargs) -> Side:
  graph = match_graph.trace(model, args, kwargs)
  if graph.random:
    match_model.check_deterministic(model, args, kwargs)
  masks, fed = match_graph.dependencies(graph)
  return Side(model, graph, match_roles.contacts(graph), masks, fed, {})


def _constants(side: Side) -> dict[int, Any]:
  """Values of pieces that aren't numbers to be matched: counters and the like."""
  entries = dict(side.model.entries)
  match_averages.settle(entries)
  return {
    v: p.expr.forward(lambda n: np.asarray(entries[n]))
    for v, p in side.graph.pieces.items()
    if not jnp.issubdtype(side.graph.avals[v].dtype, jnp.inexact)
  }


def _mapping(sides, search, ordered) -> mapping_lib.Mapping:
  """Rules for the entries all of whose pieces were found."""
  source, target = sides
  mapping = mapping_lib.Mapping(
    source_form=source.model.form, target_form=target.model.form
  )
  pieces: dict[str, list[int]] = {}
  for v, piece in target.graph.pieces.items():
    pieces.setdefault(piece.name, []).append(v)
  for name, parts in pieces.items():
    if all(v in search.found for v in parts):
      expr = assemble(
        [(target.graph.pieces[v].expr, search.found[v].expr) for v in parts]
      )
      note = mapping_lib.BY_VALUES
      if ordered.intersection(parts):
        note = mapping_lib.BY_ROLE + ', in order of execution'
      mapping.rules.append(mapping_lib.Rule(name, expr, note))
  order = {n: i for i, n in enumerate(target.model.entries)}
  mapping.rules.sort(key=lambda r: order[r.name])
  return mapping


def assemble(parts: list[tuple[ex.Expr, ex.Expr]]) -> ex.Expr:
  """An entry from `(where the part is in it, what the part is made of)`."""
  depth = max(_depth(where) for where, _ in parts)
  if not depth:
    return parts[0][1]
  groups: dict[ex.Expr, list] = {}
  rest = [(where, x) for where, x in parts if _depth(where) < depth]
  for where, x in parts:
    if _depth(where) == depth:
      groups.setdefault(where.x, []).append((where, x))
  return assemble(rest + [(where, _joined(found)) for where, found in groups.items()])


def _depth(where: ex.Expr) -> int:
  return 0 if isinstance(where, ex.Ref) else 1 + _depth(where.x)


def _joined(parts: list[tuple[ex.Expr, ex.Expr]]) -> ex.Expr:
  """One array from all its elements or slices."""
  if isinstance(parts[0][0], ex.Index):
    return ex.stack([x for _, x in sorted(parts, key=lambda p: p[0].i)])
  parts = sorted(parts, key=lambda p: p[0].start)
  sizes = [where.stop - where.start for where, _ in parts]
  return ex.concat([x for _, x in parts], parts[0][0].axis, sizes)
