"""The proof of a mapping: perturb an entry, and both outputs move alike."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import match_averages, match_model, match_rest, match_trials
from pax_haiku.interop.match_model import Model

_MAX_TWINS = 50  # pairs that are tried
_ROUNDING = 1e-7  # of float32, as a fraction
_CLEAR = 20  # an effect is clear if it is so many times the error


class _Runner:
  """A model's outputs and updated state as flat float64 arrays."""

  def __init__(self, model: Model, args, kwargs):
    key = jax.random.PRNGKey(0)
    self._call = jax.jit(lambda entries: model.run(entries, key, args, kwargs))

  def __call__(self, entries) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    out, state = self._call(entries)
    floats = [np.asarray(x) for x in jax.tree.leaves(out)]
    return floats, {n: np.asarray(x) for n, x in state.items()}


def compare_outputs(ours: list, theirs: list) -> float:
  """Largest difference as a fraction of the largest value of each output.

  Raises:
    ValueError: their numbers or sizes differ.
  """
  shapes = [[np.shape(x) for x in side] for side in (ours, theirs)]
  if [np.size(x) for x in ours] != [np.size(x) for x in theirs]:
    raise ValueError(
      f'the outputs cannot be compared: the target gives arrays of shapes {shapes[0]}, '
      f'the source of shapes {shapes[1]}; wrap the models in functions that return the '
      'same arrays in the same order'
    )
  return max((difference(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def difference(a, b) -> float:
  """max |a - b| / max |b|, elements in order; inf where one is not finite."""
  a, b = (np.ravel(np.asarray(x)) for x in (a, b))
  if not jnp.issubdtype(b.dtype, jnp.inexact):
    return 0.0 if np.array_equal(a, b) else np.inf
  a, b = a.astype(np.float64), b.astype(np.float64)
  if np.array_equal(a, b, equal_nan=True):
    return 0.0
  if not np.isfinite(a).all() or not np.isfinite(b).all():
    return np.inf
  return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def prove(
  mapping: mapping_lib.Mapping,
  source: Model,
  target: Model,
  args,
  kwargs,
  entries: dict[str, Any],
  tolerance: float,
  twins: Sequence[tuple[str, str]] = (),
  options: match_trials.Options | None = None,
) -> None:
  """Marks the rules that are proved, in place.

  Args:
    mapping: as found.
    source, target: the two models.
    args, kwargs: inputs.
    entries: random values of the source's entries.
    tolerance: largest difference of outputs that count as equal.
    twins: pairs of the source's entries with equal roles; those that can be swapped
      without changing the outputs are noted.
    options: what ambiguous entries may be made of, to be tried.
  """
  run_source, run_target = (_Runner(m, args, kwargs) for m in (source, target))
  reference = run_source(entries)

  def gap(rules) -> float:
    trial = _Answers(mapping_lib.Mapping(rules), run_target)
    return trial.distance(trial.target(entries), reference)

  match_trials.decide(mapping, options or {}, entries, gap, tolerance)
  match_rest.sort_rules(mapping, target.entries)
  known = mapping_lib.Mapping(mapping.rules)
  answers = _Answers(known, run_target)
  base = answers.target(entries)
  compare_outputs(base[0], reference[0])  # refuses outputs of different sizes
  far = answers.distance(base, reference)
  if far > tolerance:
    mapping.remarks.append(
      f'nothing is proved: with these rules the outputs differ by {far:.1e} of their '
      'size; a rule is wrong, or the models compute different functions'
    )
    return
  proved: dict[str, bool] = {}
  changed = match_model.randomized(entries, 1)
  match_averages.settle(changed, counter=3)
  for names in _units(mapping, entries):
    trial = {**entries, **{n: changed[n] for n in names}}
    theirs = run_source(trial)
    error = answers.distance(answers.target(trial), theirs)
    noise = max(error, far, _ROUNDING)
    agree = error <= tolerance and answers.moved(theirs, reference) > _CLEAR * noise
    proved.update(dict.fromkeys(names, agree))
  for i, rule in enumerate(mapping.rules):
    names = rule.expr.names()
    if rule.way != 'back' and names and all(proved.get(n) for n in names):
      rest = rule.note.partition(';')[2]
      note = mapping_lib.PROVED + (f';{rest}' if rest else '')
      mapping.rules[i] = dataclasses.replace(rule, note=note)
    elif rule.note == mapping_lib.BY_VALUES:
      still = [n for n in names if not proved.get(n)]
      note = f'{rule.note}, the output does not depend on {" and ".join(still)}'
      mapping.rules[i] = dataclasses.replace(rule, note=note)
  for pair in twins[:_MAX_TWINS]:
    if all(proved.get(n) for n in pair):
      _note_swap(mapping, pair, answers, entries, reference, max(far, _ROUNDING))


def _note_swap(mapping, pair, answers, entries, reference, noise) -> None:
  """Says so if two entries of the source may as well be mapped the other way round."""
  a, b = pair
  swapped = answers.target({**entries, a: entries[b], b: entries[a]})
  if answers.distance(swapped, reference) > 5 * noise:
    return
  for i, rule in enumerate(mapping.rules):
    if rule.way != 'back' and rule.expr.names() in ([a], [b]):
      other = b if rule.expr.names() == [a] else a
      note = f'{rule.note}; could as well be {other}'
      mapping.rules[i] = dataclasses.replace(rule, note=note)


def _units(mapping, entries) -> list[list[str]]:
  """Source entries to perturb: one at a time, moving averages with their twins."""
  used = [n for r in mapping.rules if r.way != 'back' for n in r.expr.names()]
  averages = match_averages.groups(entries)
  units = {}
  for name in used:
    group = next((p for p in averages if name.startswith(p)), None)
    if group is not None:
      units[group] = match_averages.values(entries, group)
      if name.endswith('counter'):
        units[name] = [name]
    elif jnp.issubdtype(np.asarray(entries[name]).dtype, jnp.inexact):
      units[name] = [name]
  return list(units.values())


class _Answers:
  """What the target gives for entries of the source, and whether that is the same."""

  def __init__(self, mapping: mapping_lib.Mapping, run: _Runner):
    self.mapping, self.run = mapping, run

  def target(self, entries):
    return self.run(self.mapping.forward(entries))

  def distance(self, ours, theirs) -> float:
    """Of outputs, and of the state that the rules map to the target."""
    far = compare_outputs(ours[0], theirs[0])
    for rule in self.mapping.rules:
      names = rule.expr.names()
      if (
        rule.way == '='
        and rule.name in ours[1]
        and names
        and all(n in theirs[1] for n in names)
      ):
        there = rule.expr.forward(lambda n: theirs[1][n])
        far = max(far, difference(ours[1][rule.name], there))
    return far

  def moved(self, new, old) -> float:
    """How far the source's outputs and state are from what they were."""
    far = compare_outputs(new[0], old[0])
    for name in new[1]:
      far = max(far, difference(new[1][name], old[1][name]))
    return far
