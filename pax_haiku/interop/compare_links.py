"""Which parts of the variables of two models are the same."""

from collections.abc import Mapping as MappingType
from typing import Any

import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop.match_graph import Piece

Links = dict[str, set]
Pieces = MappingType[str, Piece] | None


def links(
  mapping: mapping_lib.Mapping,
  source: tuple[Pieces, MappingType[str, Any]],
  target: tuple[Pieces, MappingType[str, Any]],
) -> tuple[Links, Links]:
  """What ties the variables of two models, so that points can be told to be alike.

  Args:
    mapping: of the two models.
    source: parts of entries that the source uses by themselves, by name, and its
      entries. None for the parts: entries count as a whole.
    target: likewise.

  Returns:
    For the source and for the target, by the names of parts (or of entries): hashable
    links. Parts of which elements are mapped to one another have one in common.
  """
  rules = [r for r in mapping.rules if r.way != 'back']
  if source[0] is None or target[0] is None:
    whole: Links = {}
    for rule in rules:
      for name in rule.expr.names():
        whole.setdefault(name, set()).add(rule.name)
    return whole, {r.name: {r.name} for r in rules}
  names = [['', *pieces] for pieces, _ in (source, target)]
  theirs, ours = _numbered(*source), _numbered(*target)
  found: tuple[Links, Links] = {}, {}
  for rule in rules:
    there = np.asarray(rule.expr.forward(theirs.__getitem__, True)).ravel()
    pairs = zip(there.tolist(), ours[rule.name].ravel().tolist(), strict=True)
    for pair in set(pairs):
      if all(pair):
        for side, table, number in zip(found, names, pair, strict=True):
          side.setdefault(table[number], set()).add(pair)
  return found


def _numbered(pieces: MappingType[str, Piece], entries) -> dict[str, np.ndarray]:
  """Entries, in the place of each element the number of the part that it is in.

  Numbers start at 1; what no part has is 0.
  """
  numbers = {n: np.zeros(np.shape(x), np.int64) for n, x in entries.items()}
  for i, piece in enumerate(pieces.values()):
    whole = numbers[piece.name]
    places = np.arange(whole.size).reshape(whole.shape)
    whole.flat[piece.expr.forward(lambda n, p=places: p).ravel()] = i + 1
  return numbers
