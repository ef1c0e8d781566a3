"""Moving averages: Haiku keeps three entries for what Pax keeps one.

`hk.ExponentialMovingAverage` has `hidden` (the plain average, which starts at zero),
`counter` (steps so far) and `average = hidden / (1 - decay ** counter)`. Pax keeps the
plain average. With a large counter all three agree, and training goes on alike.
"""

from collections.abc import Mapping as MappingType
from typing import Any

import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_expr as ex

LONG = 1_000_000  # steps after which nothing is left of the start
_KEYS = ('average', 'hidden', 'counter')


def groups(entries: MappingType[str, Any]) -> list[str]:
  """Prefixes of entries that are such triples."""
  return [
    n.removesuffix('average')
    for n in entries
    if n.endswith('/average')
    and all(n.removesuffix('average') + k in entries for k in _KEYS)
  ]


def settle(entries: dict[str, Any], counter: int = LONG) -> None:
  """Makes all averages old: `hidden` equals `average`, in place."""
  for prefix in groups(entries):
    entries[prefix + 'hidden'] = entries[prefix + 'average']
    steps = np.asarray(entries[prefix + 'counter'])
    entries[prefix + 'counter'] = np.full_like(steps, counter)


def complete(
  mapping: mapping_lib.Mapping,
  source: MappingType[str, Any],
  target: MappingType[str, Any],
) -> None:
  """Adds what follows from one matched entry of a triple to its others, in place."""
  theirs, ours = groups(source), groups(target)
  rules = {r.name: r for r in mapping.rules}
  for rule in list(mapping.rules):
    names = rule.expr.names()
    if len(names) != 1:
      continue
    before = next(
      (p for p in theirs if names[0] in (p + 'average', p + 'hidden')), None
    )
    after = next((p for p in ours if rule.name in (p + 'average', p + 'hidden')), None)
    if before and after:
      _both(mapping, rules, rule, before, after)
    elif before:
      _shrink(mapping, rules, rule, before, source)
    elif after:
      _grow(mapping, rules, rule, after, target)


def _add(mapping, rules, name, expr, note, way='=') -> None:
  if (way, name) not in rules and (way != '=' or name not in rules):
    rule = mapping_lib.Rule(name, expr, note, way)
    rules[(way, name)] = rule
    if way != 'back':
      rules[name] = rule
    mapping.rules.append(rule)


def _both(mapping, rules, rule, before, after) -> None:
  """A triple for a triple: the same key of the same average."""
  old = rule.expr.names()[0]
  key = rule.name.removeprefix(after)
  if old != before + key:  # they had equal values
    mapping.rules[mapping.rules.index(rule)] = mapping_lib.Rule(
      rule.name, _renamed(rule.expr, before + key), rule.note
    )
  for other in _KEYS:
    expr = ex.Ref(before + other)
    if other != 'counter':
      expr = _renamed(rule.expr, before + other)
    _add(mapping, rules, after + other, expr, f'{rule.note}; goes with {key}')


def _shrink(mapping, rules, rule, before, source) -> None:
  """Three entries of the source for one of the target."""
  at = mapping.rules.index(rule)
  expr = _renamed(rule.expr, before + 'average')
  mapping.rules[at] = mapping_lib.Rule(rule.name, expr, rule.note)
  back = _inverse(expr, rule.name, source[before + 'average'])
  _add(mapping, rules, before + 'hidden', back, 'the average itself', 'back')
  _add(
    mapping,
    rules,
    before + 'counter',
    _long(source[before + 'counter']),
    'an old average',
    'back',
  )


def _grow(mapping, rules, rule, after, target) -> None:
  """One entry of the source for three of the target."""
  if rule.name != after + 'average':
    mapping.rules.remove(rule)
    rules.pop(rule.name, None)
    _add(mapping, rules, after + 'average', rule.expr, rule.note)
  _add(mapping, rules, after + 'hidden', rule.expr, 'the average itself', 'forth')
  _add(
    mapping,
    rules,
    after + 'counter',
    _long(target[after + 'counter']),
    'an old average',
    'forth',
  )


def _long(counter) -> ex.Expr:
  counter = np.asarray(counter)
  return ex.Full(LONG, counter.shape, str(counter.dtype))


def _renamed(expr: ex.Expr, name: str) -> ex.Expr:
  """The same layout operations on another entry."""
  if isinstance(expr, ex.Ref):
    return ex.Ref(name)
  return type(expr)(
    _renamed(expr.x, name), **{f: v for f, v in vars(expr).items() if f != 'x'}
  )


def _inverse(expr: ex.Expr, target: str, like) -> ex.Expr:
  """What the source's array is, from the target's entry."""
  steps, shape = [], np.shape(like)
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
      raise ex.MappingError(f'{target}: an average of shape {shape} made by {step}')
  return result
