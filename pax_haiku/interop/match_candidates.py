"""What a piece of the target may be made of: one piece of the source, several, a part.

Each candidate is a guess that the search tries out on numbers; the order is the order
of plausibility.
"""

import dataclasses
import difflib
import itertools
import re
from collections.abc import Iterator

from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop import match_graph, match_roles
from pax_haiku.interop.match_model import Model

_MAX_PARTS = 4
_HEADS = (2, 3, 4, 5, 6, 8, 12, 16, 32)


@dataclasses.dataclass
class Side:
  """A model with what is known about its program."""

  model: Model
  graph: match_graph.Graph
  contacts: dict[int, match_roles.Contact]
  masks: dict[int, int]
  fed: dict[int, bool]
  colours: dict[int, tuple]

  def bit(self, var: int) -> int:
    return self.masks[var]

  def canonical(self, var: int) -> ex.Expr:
    return self.contacts[var].canonical(self.graph.pieces[var].expr)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A guess.

  Attributes:
    expr: the target's piece as an expression of the source's entries.
    uses: (source piece, part) pairs that it takes; part None for all of it.
    spec: how it was composed, for the bias that follows.
  """

  expr: ex.Expr
  uses: tuple[tuple[int, tuple[int, int] | None], ...]
  spec: tuple | None = None

  @property
  def sources(self) -> tuple[int, ...]:
    return tuple(var for var, _ in self.uses)


def name_similarity(a: str, b: str) -> float:
  """0 to 1, by the words of two names."""
  first, second = (
    re.findall(r'[a-z]+|\d+', n.partition(':')[2].lower()) for n in (a, b)
  )
  return difflib.SequenceMatcher(None, first, second).ratio()


def is_free(uses: set, var: int, part=None) -> bool:
  """Whether nothing has taken a source piece, or that part of it."""
  if (var, None) in uses:
    return False
  parts = [p for v, p in uses if v == var]
  return (
    not parts
    if part is None
    else all(p[1] <= part[0] or part[1] <= p[0] for p in parts)
  )


def _squeezed(shape) -> tuple[int, ...]:
  return tuple(n for n in shape if n != 1)


class Candidates:
  """Candidates for pieces of `target` among pieces of `source`."""

  def __init__(self, source: Side, target: Side):
    self.source, self.target = source, target
    self._order = sorted(source.graph.pieces, key=lambda v: source.contacts[v].node)

  def _rank(self, t: int, s: int) -> tuple:
    a, b = self.target.contacts[t], self.source.contacts[s]
    pieces = self.target.graph.pieces[t], self.source.graph.pieces[s]
    return (
      -match_roles.agreement(self.target.colours[t], self.source.colours[s]),
      a.kind != b.kind,
      b.node,
      -name_similarity(*(p.name for p in pieces)),
    )

  def singles(self, t: int, uses: set) -> list[Candidate]:
    """One piece of the same canonical shape, the most alike first."""
    shape = self.target.contacts[t].shape
    fit = [
      s
      for s in self._order
      if self.source.contacts[s].shape == shape and is_free(uses, s)
    ]
    fit.sort(key=lambda s: self._rank(t, s))
    return [
      Candidate(self._expr(t, self.source.canonical(s)), ((s, None),)) for s in fit
    ] + self._as_stored(t, uses)

  def _as_stored(self, t: int, uses: set) -> list[Candidate]:
    """Pieces of the same shape that are used in other ways, such as a table of
    positions that is added in one program and multiplied with a matrix of ones in the
    other."""
    piece, contact = self.target.graph.pieces[t], self.target.contacts[t]
    out = []
    for s in self._order:
      other = self.source.graph.pieces[s]
      if (
        _squeezed(other.shape) == _squeezed(piece.shape)
        and self.source.contacts[s].shape != contact.shape
        and is_free(uses, s)
      ):
        x = ex.reshape(other.expr, other.shape, piece.shape)
        out.append(Candidate(x, ((s, None),)))
    return out

  def _expr(self, t: int, canonical: ex.Expr) -> ex.Expr:
    return self.target.contacts[t].original(canonical)

  def reused(self, t: int, uses: set) -> list[Candidate]:
    """Matrices that are in use already: tied in the source, separate in the target."""
    contact = self.target.contacts[t]
    if len(contact.shape) < 2:
      return []
    out = []
    for s in self._order:
      shape = self.source.contacts[s].shape
      if is_free(uses, s):
        continue
      x = self.source.canonical(s)
      if shape == contact.shape:
        out.append(Candidate(self._expr(t, x), ((s, None),)))
      if len(shape) == 2 and shape[::-1] == contact.shape:
        out.append(Candidate(self._expr(t, ex.transpose(x, (1, 0))), ((s, None),)))
    return out

  def composed(self, t: int, uses: set, meets=None) -> Iterator[Candidate]:
    """Several pieces joined, a part of one, or one with its blocks in another order.

    Args:
      t: the target's piece, a matrix.
      uses: what is taken.
      meets: predicate on source pieces: meets the same input as `t` does.
    """
    shape = self.target.contacts[t].shape
    if self.target.contacts[t].kind != 'dot' or len(shape) != 2:
      return
    mats = [
      s
      for s in self._order
      if self.source.contacts[s].kind == 'dot'
      and len(self.source.contacts[s].shape) == 2
    ]
    for axis in (1, 0):
      near = [s for s in mats if axis == 0 or meets is None or meets(s)]
      yield from self._joined(t, uses, near, axis)
      yield from self._parts(t, uses, near, axis)
    yield from self._permuted(t, uses, mats)

  def _joined(self, t, uses, mats, axis) -> Iterator[Candidate]:
    shape = self.target.contacts[t].shape
    contacts = self.source.contacts
    fit = [
      s
      for s in mats
      if is_free(uses, s)
      and contacts[s].shape[1 - axis] == shape[1 - axis]
      and contacts[s].shape[axis] < shape[axis]
    ]
    for count in range(2, _MAX_PARTS + 1):
      for start in range(len(fit) - count + 1):
        group = fit[start : start + count]
        sizes = [contacts[s].shape[axis] for s in group]
        if sum(sizes) != shape[axis]:
          continue
        for heads in self._interleavings(sizes, axis):
          for order in itertools.permutations(range(count)):
            yield self.join(t, [group[i] for i in order], axis, heads)

  def _interleavings(self, sizes, axis) -> list[int]:
    equal = axis == 1 and len(set(sizes)) == 1
    return [1] + [h for h in _HEADS if equal and sizes[0] % h == 0 and h < sizes[0]]

  def join(self, t: int, parts: list[int], axis: int, heads: int) -> Candidate:
    """Parts one after the other on the last axes, `heads` groups of each in turn."""
    rank = len(self.target.contacts[t].shape)
    axis = axis if rank == 2 else 0
    shapes = [self.source.contacts[s].shape for s in parts]
    xs = [self.source.canonical(s) for s in parts]
    if heads == 1:
      x = ex.concat(xs, axis, [shape[axis] for shape in shapes])
    else:
      width = shapes[0][-1] // heads
      split = [(*shape[:-1], heads, width) for shape in shapes]
      xs = [ex.reshape(x, a, b) for x, a, b in zip(xs, shapes, split, strict=True)]
      x = ex.concat(xs, len(split[0]) - 1, [width] * len(parts))
      whole = (*split[0][:-1], width * len(parts))
      x = ex.reshape(x, whole, self.target.contacts[t].shape)
    return Candidate(
      self._expr(t, x),
      tuple((s, None) for s in parts),
      ('join', tuple(parts), heads) if axis or rank == 1 else None,
    )

  def _parts(self, t, uses, mats, axis) -> Iterator[Candidate]:
    shape = self.target.contacts[t].shape
    for s in mats:
      whole = self.source.contacts[s].shape
      if whole[1 - axis] != shape[1 - axis] or whole[axis] <= shape[axis]:
        continue
      starts = range(0, whole[axis] - shape[axis] + 1, shape[axis])
      for start in dict.fromkeys([*starts, whole[axis] - shape[axis]]):
        if is_free(uses, s, (start, start + shape[axis])):
          yield self.part(t, s, axis, start, 1)
      for heads in self._interleavings([shape[axis]], axis)[1:]:
        count = whole[axis] // shape[axis]
        for i in range(count if whole[axis] % shape[axis] == 0 else 0):
          if is_free(uses, s, (i * shape[axis], (i + 1) * shape[axis])):
            yield self.part(t, s, axis, i * shape[axis], heads)

  def part(self, t: int, s: int, axis: int, start: int, heads: int) -> Candidate:
    """A slice of a piece; with `heads`, that slice of each of as many groups."""
    shape, whole = self.target.contacts[t].shape, self.source.contacts[s].shape
    axis = axis if len(whole) == 2 else 0
    x, size, stop = self.source.canonical(s), whole[axis], start + shape[axis]
    if heads == 1:
      x = ex.Slice(x, axis, start, stop, size)
    else:
      split = (*whole[:-1], heads, size // heads)
      x = ex.Slice(
        ex.reshape(x, whole, split),
        len(split) - 1,
        start // heads,
        stop // heads,
        size // heads,
      )
      x = ex.reshape(x, (*split[:-1], shape[axis] // heads), shape)
    return Candidate(
      self._expr(t, x),
      ((s, (start, stop)),),
      ('part', s, start, heads) if axis or len(whole) == 1 else None,
    )

  def _permuted(self, t, uses, mats) -> Iterator[Candidate]:
    shape = self.target.contacts[t].shape
    for s in mats:
      if self.source.contacts[s].shape != shape or not is_free(uses, s):
        continue
      for blocks in (4, 3, 2):
        if shape[1] % blocks == 0:
          for order in list(itertools.permutations(range(blocks)))[1:]:
            yield self.permute(t, s, order)

  def permute(self, t: int, s: int, order: tuple[int, ...]) -> Candidate:
    """The blocks of the last axis in another order: gates of recurrent cells."""
    shape = self.source.contacts[s].shape
    axis, width = len(shape) - 1, shape[-1] // len(order)
    x = self.source.canonical(s)
    blocks = [ex.Slice(x, axis, i * width, (i + 1) * width, shape[-1]) for i in order]
    x = ex.Concat(tuple(blocks), axis, (width,) * len(order))
    return Candidate(self._expr(t, x), ((s, None),), ('permute', s, order))

  def following(self, t: int, spec: tuple, uses: set) -> list[Candidate]:
    """The vector that goes with a composed matrix: its bias, composed alike."""
    if len(self.target.contacts[t].shape) != 1:
      return []
    kind, what, *rest = spec
    parts = [self._follower(s) for s in (what if kind == 'join' else (what,))]
    if None in parts:
      return []
    widths = [self.source.contacts[p].shape[0] for p in parts]
    (size,) = self.target.contacts[t].shape
    if kind == 'join' and sum(widths) == size:
      if all(is_free(uses, p) for p in parts):
        return [self.join(t, parts, 0, rest[0])]
    if kind == 'part' and widths[0] > size:
      return [self.part(t, parts[0], 0, rest[0], rest[1])]
    if kind == 'permute' and widths[0] == size and is_free(uses, parts[0]):
      return [self.permute(t, parts[0], rest[0])]
    return []

  def _follower(self, s: int) -> int | None:
    """The first vector that is added to what piece `s` is multiplied into."""
    bit, width = self.source.bit(s), self.source.contacts[s].shape[-1]
    for v in self._order:
      contact = self.source.contacts[v]
      after = contact.node > self.source.contacts[s].node
      partner = contact.partner if isinstance(contact.partner, int) else None
      if (
        contact.kind == 'add'
        and contact.shape == (width,)
        and after
        and partner is not None
        and self.source.masks.get(partner, 0) & bit
      ):
        return v
    return None
