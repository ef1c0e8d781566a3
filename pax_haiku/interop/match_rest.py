"""What numbers did not decide: by role, by shape, by name, or not at all."""

import collections
from collections.abc import Iterable

import numpy as np

from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop import match_roles, match_trials
from pax_haiku.interop.match_candidates import Candidate, Side, name_similarity

_CLEARLY = 0.15  # by how much the best name must be better than the next
_CLOSE = 0.5


_ALIKE = {'sub': 'add', 'add_any': 'add', 'div': 'mul'}


def by_order(source: Side, target: Side, search) -> set[int]:
  """Maps pieces that numbers did not decide as the n-th of their kind to the n-th.

  Only where both programs have as many pieces of that kind and shape left over, or
  where the order of all kinds leaves no choice. Adds to `search.found`.

  Returns:
    The target's pieces that were mapped.
  """

  def left(side, taken):
    kinds: dict[tuple, list[int]] = {}
    for v in sorted(side.graph.pieces, key=lambda v: side.contacts[v].node):
      contact = side.contacts[v]
      if v not in taken and contact.kind != 'output':
        kind = _ALIKE.get(contact.kind, contact.kind)
        kinds.setdefault((kind, contact.shape), []).append(v)
    return kinds

  taken = set(search.found) | set(search.constants)
  used = {v for v, _ in search.uses} | {
    v
    for v in source.graph.pieces
    if np.dtype(source.graph.avals[v].dtype).kind in 'biu'
  }
  ours, theirs = left(target, taken), left(source, used)
  mapped = {}
  for kind, mine in ours.items():
    if len(theirs.get(kind, ())) == len(mine):
      mapped.update(zip(mine, theirs[kind], strict=True))
  pairs = {t: c.sources[0] for t, c in search.found.items()} | mapped
  mapped.update(_between(source, target, ours, theirs, pairs))
  for t, s in mapped.items():
    x = target.contacts[t].original(source.canonical(s))
    search.found[t] = Candidate(x, ((s, None),))
  return set(mapped)


def _between(source, target, ours, theirs, pairs) -> dict[int, int]:
  """What lies between pairs that are known, where its place leaves no choice.

  Both programs are sequences of kinds; of the longest common subsequences, pairs that
  no other one pairs otherwise.
  """

  def sequence(side, kinds, known):
    tokens = {v: kind for kind, found in kinds.items() for v in found} | known
    order = sorted(tokens, key=lambda v: side.contacts[v].node)
    return order, [tokens[v] for v in order]

  mine, a = sequence(target, ours, {t: ('pair', t) for t in pairs})
  other, b = sequence(source, theirs, {s: ('pair', t) for t, s in pairs.items()})
  ahead, behind = _common(a, b), _common(a[::-1], b[::-1])[::-1, ::-1]
  best = ahead[-1, -1]
  fit = [
    (i, j)
    for i, x in enumerate(a)
    for j, y in enumerate(b)
    if x == y and ahead[i, j] + 1 + behind[i + 1, j + 1] == best
  ]
  counts = collections.Counter(('t', i) for i, _ in fit)
  counts.update(('s', j) for _, j in fit)
  return {
    mine[i]: other[j]
    for i, j in fit
    if a[i][0] != 'pair' and counts['t', i] == counts['s', j] == 1
  }


def _common(a: list, b: list) -> np.ndarray:
  """Lengths of the longest common subsequences of all beginnings of two lists."""
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      table[i + 1, j + 1] = (
        table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
      )
  return table


def complete(
  mapping: mapping_lib.Mapping, sides: list[Side], search
) -> match_trials.Options:
  """Adds rules for the target's remaining entries, or lists their candidates.

  Returns:
    What the ambiguous ones may be made of.
  """
  source, target = sides
  ours, theirs = target.model.entries, source.model.entries
  roles = _Roles(source, target)
  while True:
    mapped = {r.name for r in mapping.rules if r.way != 'back'}
    used = {n for r in mapping.rules if r.way != 'back' for n in r.expr.names()}
    used |= {r.name for r in mapping.rules if r.way == 'back'}
    open_ = [n for n in ours if n not in mapped]
    free = [n for n in theirs if n not in used]
    fits = {n: [f for f in free if roles.fit(n, f)] for n in open_}
    rule = _decide(fits, roles)
    if rule is None:
      break
    mapping.rules.append(rule)
  for name in open_:
    what = 'which of them?' if fits[name] else 'nothing in the source fits'
    mapping.ambiguous.append(
      mapping_lib.Ambiguous(
        name, tuple(sorted(fits[name], key=lambda f: -name_similarity(name, f))), what
      )
    )
  mapping.unused.extend(free)
  sort_rules(mapping, ours)
  return {n: roles.options(n, fits[n], free) for n in open_}


def sort_rules(mapping: mapping_lib.Mapping, entries: Iterable[str]) -> None:
  """In the order of the target's entries, rules of the way back behind them."""
  order = {n: i for i, n in enumerate(entries)}
  behind = len(order)
  mapping.rules.sort(key=lambda r: (r.way == 'back', order.get(r.name, behind)))


def _decide(fits: dict[str, list[str]], roles: '_Roles') -> mapping_lib.Rule | None:
  """The safest of the rules that can be made; None if there is none."""
  rivals = {f: [n for n in fits if f in fits[n]] for fs in fits.values() for f in fs}
  for name, found in fits.items():
    deep = {f: roles.agreement(name, f) for f in found}
    best = max(deep.values(), default=0)
    first = [f for f in found if deep[f] == best]
    if (
      best >= 2
      and len(first) == 1
      and all(
        roles.agreement(n, first[0]) < best for n in rivals[first[0]] if n != name
      )
    ):
      note = f'{mapping_lib.BY_ROLE}, to depth {best}'
      return mapping_lib.Rule(name, roles.expr(name, first[0]), note)
  for name, found in fits.items():
    if len(found) == 1 and len(rivals[found[0]]) == 1:
      return mapping_lib.Rule(name, roles.expr(name, found[0]), mapping_lib.BY_SHAPE)
  for name, found in fits.items():
    best = _best_by_name(name, found)
    if best is not None and _best_by_name(best, rivals[best]) == name:
      return mapping_lib.Rule(name, roles.expr(name, best), mapping_lib.BY_NAME)
  return None


def _best_by_name(name: str, others: list[str]) -> str | None:
  """The one name that is clearly the most alike."""
  ranked = sorted(((name_similarity(name, o), o) for o in others), reverse=True)
  if not ranked or ranked[0][0] < _CLOSE:
    return None
  if len(ranked) > 1 and ranked[0][0] - ranked[1][0] < _CLEARLY:
    return None
  return ranked[0][1]


class _Roles:
  """Which whole entries fit each other, and how."""

  def __init__(self, source: Side, target: Side):
    self.entries = source.model.entries, target.model.entries
    self.sides = source, target
    self.pieces = tuple(
      {p.name: v for v, p in s.graph.pieces.items() if isinstance(p.expr, ex.Ref)}
      for s in self.sides
    )

  def _variables(self, name: str, other: str) -> tuple[int, int] | None:
    """The pieces of an entry of the target and one of the source, if both are read."""
    t, s = self.pieces[1].get(name), self.pieces[0].get(other)
    return None if t is None or s is None else (t, s)

  def fit(self, name: str, other: str) -> bool:
    a, b = self.entries[1][name], self.entries[0][other]
    if (
      name.startswith('params:') != other.startswith('params:')
      or np.asarray(a).dtype.kind != np.asarray(b).dtype.kind
    ):
      return False
    pair = self._variables(name, other)
    if pair is None:
      return _squeezed(a) == _squeezed(b)
    contacts = self.sides[1].contacts[pair[0]], self.sides[0].contacts[pair[1]]
    return contacts[0].shape == contacts[1].shape

  def agreement(self, name: str, other: str) -> int:
    pair = self._variables(name, other)
    if pair is None:
      return 0
    return match_roles.agreement(
      self.sides[1].colours[pair[0]], self.sides[0].colours[pair[1]]
    )

  def expr(self, name: str, other: str) -> ex.Expr:
    pair = self._variables(name, other)
    if pair is None:
      return ex.reshape(
        ex.Ref(other), np.shape(self.entries[0][other]), np.shape(self.entries[1][name])
      )
    return self.sides[1].contacts[pair[0]].original(self.sides[0].canonical(pair[1]))

  def options(self, name: str, fits: list[str], free: list[str]) -> list[ex.Expr]:
    """Entries that fit; if there are none, others of that size in any layout."""
    if fits:
      return [self.expr(name, other) for other in fits]
    wanted = np.asarray(self.entries[1][name])
    found = []
    for other in free:
      have = np.asarray(self.entries[0][other])
      alike = name.startswith('params:') == other.startswith('params:')
      if alike and have.dtype.kind == wanted.dtype.kind:
        found += match_trials.arrangements(other, have.shape, wanted.shape)
    return found


def _squeezed(x) -> tuple[int, ...]:
  return tuple(n for n in np.shape(x) if n != 1)
