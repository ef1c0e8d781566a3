"""Conversion with a base: what did not change comes back bit for bit.

A checkpoint goes to another model, is trained there, and comes back. Rules that add
constants round on the way, and moving averages lose their counters. The base is the
checkpoint that once was converted. Its elements from which the other way makes exactly
the numbers that are there now are kept; the rest is computed.
"""

from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from typing import Any

import numpy as np

from pax_haiku.interop import moving_averages
from pax_haiku.interop.mapping_expr import MappingError

_MOST_NAMES = 4  # that a message lists


def convert(
  mapping: Any,
  entries: MappingType[str, Any],
  base: MappingType[str, Any],
  *,
  back: bool = False,
) -> dict[str, np.ndarray]:
  """As `mapping.forward` or `backward`, with the base's numbers where they still hold.

  Args:
    mapping: a `Mapping` of the two models.
    entries: `{entry name: array}` of one model.
    base: all entries of the other model, whose dtypes the result has.
    back: `entries` are the target's, the base and the result the source's.

  Raises:
    MappingError: the base is of another model, or as `forward` and `backward`.
  """
  mapping.check_decided()
  base = {n: np.asarray(x) for n, x in base.items()}
  entries = {n: np.asarray(x) for n, x in entries.items()}
  image = _image(mapping, base, back)
  _check_shapes(image, entries)
  same = {n: _same_bits(entries[n], x) for n, x in image.items() if n in entries}
  if back:
    kept = _back(mapping, same)
    made = mapping.backward(entries, kept=kept)
  else:
    kept = _forth(mapping, same)
    made = mapping.forward(entries)
  _settle_one_way(mapping, base, same, kept, 'back' if back else 'forth')
  out = {n: _merged(n, x, base[n], kept.get(n)) for n, x in made.items()}
  unused = mapping.unused if back else ()
  return {**out, **{n: base[n] for n in unused if n in base}}


def _image(mapping, base, back: bool) -> dict[str, np.ndarray]:
  """What the base is in the form of the entries.

  Raises:
    MappingError: it is no checkpoint of that model.
  """
  wanted = mapping.known(not back)
  optional = set(mapping.unused)
  problems = _named('missing', wanted - set(base) - optional)
  problems += _named('surplus', set(base) - wanted)
  if not problems:
    try:
      other = mapping.forward if back else mapping.backward
      return other(base)
    except MappingError as error:
      problems.append(str(error))
  raise MappingError('the base is of another model: ' + '; '.join(problems))


def _named(what: str, names: set[str]) -> list[str]:
  """Some of the names, and how many there are: another model lacks most."""
  if not names:
    return []
  more = len(names) - _MOST_NAMES
  listed = ', '.join(sorted(names)[:_MOST_NAMES])
  return [f'{what} {listed}' + (f' and {more} more' if more > 0 else '')]


def _check_shapes(image, entries) -> None:
  problems = [
    f'{n} has shape {entries[n].shape}, by the base {x.shape}'
    for n, x in image.items()
    if n in entries and entries[n].shape != x.shape
  ]
  if problems:
    raise MappingError('the base is of another model: ' + '; '.join(problems))


def _same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Where two arrays of one shape have the same bits, in the dtype of the first."""
  pair = (np.ascontiguousarray(x.astype(a.dtype)) for x in (a, b))
  a_bytes, b_bytes = (
    x.reshape(-1).view(np.uint8).reshape(*x.shape, x.itemsize) for x in pair
  )
  return (a_bytes == b_bytes).all(-1).reshape(a.shape)


def _back(mapping, same) -> dict[str, np.ndarray]:
  """Which elements of the source all of whose images are the same."""
  kept: dict[str, np.ndarray] = {}

  def put(name, index, shape, value):
    kept.setdefault(name, np.ones(shape, bool))[index] &= value

  for rule in mapping.rules:
    if rule.way == '=' and rule.name in same:
      rule.expr.backward(same[rule.name], put, True)
  return kept


def _forth(mapping, same) -> dict[str, np.ndarray]:
  """Which elements of the target are made of elements that are the same."""
  return {
    r.name: np.asarray(r.expr.forward(same.__getitem__, True)).astype(bool)
    for r in mapping.rules
    if r.way == '=' and all(n in same for n in r.expr.names())
  }


def _settle_one_way(mapping, base, same, kept, way: str) -> None:
  """Decides on entries that have no rule the other way, in place: all or nothing.

  The counter of a moving average belongs to its values, and what is no function of the
  entries stays as it was.
  """
  for names, behind in _one_way(mapping, base, way):
    whole = all(same[n].all() for n in behind if n in same)
    whole &= all(kept[n].all() for n in names if n in kept)
    kept.update({n: np.full(base[n].shape, whole) for n in names if n in base})


def _one_way(mapping, base, way: str) -> Iterator[tuple[list[str], list[str]]]:
  """`(entries that go together, what they are made of)`."""
  behind = {r.name: r.expr.names() for r in mapping.rules if r.way == way}
  for prefix in moving_averages.groups(base):
    names = moving_averages.members(base, prefix)
    if any(n in behind for n in names):
      yield names, [m for n in names for m in behind.pop(n, [])]
  yield from (([name], made_of) for name, made_of in behind.items())


def _merged(name: str, made: np.ndarray, old: np.ndarray, kept) -> np.ndarray:
  if made.shape != old.shape:
    raise MappingError(
      f'the base is of another model: {name} has shape {old.shape}, by the mapping '
      f'{made.shape}'
    )
  made = made.astype(old.dtype)
  return made if kept is None else np.where(kept, old, made)
