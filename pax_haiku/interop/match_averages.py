"""Moving averages: Haiku keeps three entries for what Pax keeps one.

Pax keeps the plain average, which is Haiku's `hidden`. With a large counter Haiku's
`average` agrees with it, and training goes on alike.
"""

from collections.abc import Mapping as MappingType
from typing import Any

import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop.moving_averages import COUNTER, LONG, groups, values


def settle(entries: dict[str, Any], counter: int = LONG) -> None:
  """Makes all averages old: `hidden` equals `average`, in place."""
  for prefix in groups(entries):
    first, *others = values(entries, prefix)
    entries.update(dict.fromkeys(others, entries[first]))
    steps = np.asarray(entries[prefix + COUNTER])
    entries[prefix + COUNTER] = np.full_like(steps, counter)


def complete(
  mapping: mapping_lib.Mapping,
  source: MappingType[str, Any],
  target: MappingType[str, Any],
) -> None:
  """Adds what follows from one matched value of an average to the rest, in place."""
  theirs, ours = groups(source), groups(target)
  for rule in list(mapping.rules):
    names = rule.expr.names()
    if len(names) != 1:
      continue
    before = next((p for p in theirs if names[0] in values(source, p)), None)
    after = next((p for p in ours if rule.name in values(target, p)), None)
    if before and after:
      _both(mapping, rule, before, after, source, target)
    elif before:
      _shrink(mapping, rule, before, source)
    elif after:
      _grow(mapping, rule, after, target)


def _add(mapping, name, expr, note, way='=') -> None:
  """Adds a rule unless there is one, or nothing to make it of."""
  made = {(r.way == 'back', r.name) for r in mapping.rules}
  if expr is not None and (way == 'back', name) not in made:
    mapping.rules.append(mapping_lib.Rule(name, expr, note, way))


def _replace(mapping, rule, expr) -> None:
  at = mapping.rules.index(rule)
  mapping.rules[at] = mapping_lib.Rule(rule.name, expr, rule.note)


def _both(mapping, rule, before, after, source, target) -> None:
  """An average for an average: each key for its like."""
  key = rule.name.removeprefix(after)
  if before + key in source:  # the values of a settled average are equal
    _replace(mapping, rule, renamed(rule.expr, before + key))
  note = f'{rule.note}; goes with {key}'
  for name in values(target, after):
    like = before + name.removeprefix(after)
    like = like if like in source else values(source, before)[0]
    _add(mapping, name, renamed(rule.expr, like), note)
  _add(mapping, after + COUNTER, ex.Ref(before + COUNTER), note)
  used = {n for r in mapping.rules if r.way != 'back' for n in r.expr.names()}
  for name in values(source, before):
    if name not in used:
      back = _inverse(rule.expr, rule.name)
      _add(mapping, name, back, 'the average itself', 'back')


def _shrink(mapping, rule, before, source) -> None:
  """Several entries of the source for one of the target."""
  first, *others = values(source, before)
  expr = renamed(rule.expr, first)
  _replace(mapping, rule, expr)
  for name in others:
    back = _inverse(expr, rule.name)
    _add(mapping, name, back, 'the average itself', 'back')
  _add(
    mapping,
    before + COUNTER,
    _long(source[before + COUNTER]),
    'an old average',
    'back',
  )


def _grow(mapping, rule, after, target) -> None:
  """One entry of the source for several of the target."""
  first, *others = values(target, after)
  mapping.rules.remove(rule)
  _add(mapping, first, rule.expr, rule.note)
  for name in others:
    _add(mapping, name, rule.expr, 'the average itself', 'forth')
  _add(
    mapping,
    after + COUNTER,
    _long(target[after + COUNTER]),
    'an old average',
    'forth',
  )


def _long(counter) -> ex.Expr:
  counter = np.asarray(counter)
  return ex.Full(LONG, counter.shape, str(counter.dtype))


def renamed(expr: ex.Expr, name: str) -> ex.Expr:
  """The same layout operations on another entry."""
  if isinstance(expr, ex.Ref):
    return ex.Ref(name)
  return type(expr)(
    renamed(expr.x, name), **{f: v for f, v in vars(expr).items() if f != 'x'}
  )


def _inverse(expr: ex.Expr, target: str) -> ex.Expr | None:
  """What the source's array is, from the target's entry."""
  steps = []
  while not isinstance(expr, ex.Ref):
    steps.append(expr)
    expr = expr.x
  result: ex.Expr = ex.Ref(target)
  for step in steps:
    if isinstance(step, ex.Transpose):
      result = ex.transpose(result, np.argsort(step.perm))
    elif isinstance(step, ex.Reshape):
      result = ex.reshape(result, step.new, step.old)
    else:
      return None  # a part of an array
  return result
