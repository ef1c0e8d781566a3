"""The search for a mapping: follow the target's program, and let numbers decide.

The source runs once on random variables. The target runs node by node on the same
inputs. Where a node needs a variable that is not mapped yet, candidates from the source
are tried, the most plausible first: with the right one, the values that follow appear
among the source's values. Pieces that meet at once are tried together. Where all fail,
the search goes back to earlier choices that other candidates fit as well.
"""

import dataclasses
import heapq
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pax_haiku.interop import match_proof, match_roles, match_values
from pax_haiku.interop.match_candidates import Candidate, Candidates, Side
from pax_haiku.interop.match_graph import Const

_TOGETHER = 3  # pieces that are tried at once
_TRIALS = 160  # candidates per place
_RETRIES = 240  # candidates tried by going back, in all
_TOLERANCE = 1e-2  # of outputs: enough to tell a wrong mapping from rounding

Option = dict[int, Candidate]


@dataclasses.dataclass
class _Decision:
  """A choice that was made, with what is left to try in its place."""

  pieces: int
  before: tuple
  options: Iterator[Option]
  join: tuple[int, list[int]]


class Search:
  """Maps pieces of the target to candidates.

  Args:
    source, target: the two sides.
    entries: the source's arrays.
    inputs: leaves of the inputs.
    constants: values of the target's pieces that are not to be mapped (integers).

  Attributes:
    found: target piece -> Candidate.
    failed: pieces where no candidate led to values of the source.
  """

  def __init__(self, source: Side, target: Side, entries, inputs, constants):
    self.source, self.target = source, target
    self.entries, self.constants = entries, constants
    self.candidates = Candidates(source, target)
    self.users = match_roles.consumers(target.graph)
    self.env: dict[int, Any] = {}
    self.found: Option = {}
    self.uses: set = set()
    self.failed: set[int] = set()
    self._decisions: list[_Decision] = []
    self._retries = _RETRIES
    self._index, self._source_env = self._run_source(inputs)
    start = {v: inputs[i] for v, i in target.graph.args.items()} | constants
    self._fed = [
      i for i, n in enumerate(target.graph.nodes) if target.fed[n.outputs[0]]
    ]
    self.env.update(start)
    self.env[target.graph.key] = jax.random.PRNGKey(0)
    self._evaluate(range(len(target.graph.nodes)))

  def _run_source(self, inputs):
    graph = self.source.graph
    env: dict[int, Any] = {v: inputs[i] for v, i in graph.args.items()}
    env[graph.key] = jax.random.PRNGKey(0)
    for v, piece in graph.pieces.items():
      env[v] = piece.expr.forward(lambda n: np.asarray(self.entries[n]))
    match_values.evaluate(graph, env)
    chosen = [v for n in graph.nodes for v in n.outputs]
    chosen = [
      v
      for v in chosen
      if self.source.fed[v] or bin(self.source.masks[v]).count('1') > 1
    ]
    return match_values.Index(env, [*graph.args, *chosen]), env

  def run(self) -> None:
    """Maps what can be mapped."""
    while (join := self._next_join()) is not None:
      options = self._options(join)
      if not self._try(join, options) and not self._go_back(join):
        self.failed.update(join[1])
        self._decisions.clear()
    if not self.failed and not self.outputs_agree():
      self._go_back((len(self.target.graph.nodes), []))

  def outputs_agree(self) -> bool:
    """Whether the target's outputs, as far as they are known, are the source's."""
    ours, theirs = self.target.graph.outputs, self.source.graph.outputs
    for a, b in zip(ours, theirs, strict=False):
      if isinstance(a, int) and isinstance(b, int) and a in self.env:
        x, y = self.env[a], self._source_env[b]
        if np.size(x) == np.size(y) and match_proof.difference(x, y) > _TOLERANCE:
          return False
    return True

  # -- Evaluation --------------------------------------------------------------------

  def _evaluate(self, nodes) -> list[int]:
    """Runs the given nodes and what follows as far as possible; nodes that ran."""
    graph, heap, ran = self.target.graph, list(nodes), []
    heapq.heapify(heap)
    last = -1
    while heap:
      i = heapq.heappop(heap)
      node = graph.nodes[i]
      if i == last or node.outputs[0] in self.env:
        continue
      last = i
      if any(isinstance(r, int) and r not in self.env for r in node.inputs):
        continue
      inputs = [r.value if isinstance(r, Const) else self.env[r] for r in node.inputs]
      self.env.update(zip(node.outputs, node.call(inputs), strict=True))
      ran.append(i)
      for v in node.outputs:
        for user, _ in self.users.get(v, ()):
          heapq.heappush(heap, user)
    return ran

  def _assign(self, option: Option) -> list[int]:
    for t, candidate in option.items():
      value = candidate.expr.forward(lambda n: np.asarray(self.entries[n]))
      self.env[t] = np.asarray(value).astype(self.target.graph.avals[t].dtype)
      self.found[t] = candidate
      self.uses.update(candidate.uses)
    return self._evaluate({u for t in option for u, _ in self.users.get(t, ())})

  def _state(self) -> tuple:
    return dict(self.env), dict(self.found), set(self.uses)

  def _restore(self, state: tuple) -> None:
    self.env, self.found, self.uses = (type(x)(x) for x in state)

  # -- Places ------------------------------------------------------------------------

  def _mask(self, pieces) -> int:
    mask = 0
    for t in pieces:
      mask |= self.target.masks[t]
    return mask

  def _pieces(self, mask: int) -> list[int]:
    return [v for v in self.target.graph.pieces if self.target.masks[v] & mask]

  def _next_join(self):
    """`(node, unmapped pieces that it needs)`: the first that meets known values."""
    dead = self._mask(self.failed)
    for i in self._fed:
      node = self.target.graph.nodes[i]
      if node.outputs[0] in self.env or self.target.masks[node.outputs[0]] & dead:
        continue
      missing = [r for r in node.inputs if isinstance(r, int) and r not in self.env]
      mask = 0
      for r in missing:
        mask |= self.target.masks[r]
      pieces = [t for t in self._pieces(mask) if t not in self.found]
      if pieces:
        return i, pieces
    return None

  def _supported(self, option: Option, ran: list[int]) -> bool:
    """Whether values that depend on each piece of `option` are values of the source
    that depend on what it was mapped to."""
    open_ = set(option)
    for i in ran:
      node = self.target.graph.nodes[i]
      out = node.outputs[0]
      mask = self.target.masks[out]
      near = [t for t in open_ if self.target.masks[t] & mask]
      if not near or not self.target.fed[out]:
        continue
      for s in self._index.find(self.env[out]):
        behind = self.source.masks.get(s, 0)
        for t in near:
          if any(self.source.bit(p) & behind for p in option[t].sources):
            open_.discard(t)
      if not open_:
        return True
    return False

  # -- Choices -----------------------------------------------------------------------

  def _meets(self, t: int):
    """Predicate on source pieces: multiplied with the values that `t` is."""
    partner = self.target.contacts[t].partner
    if not isinstance(partner, int) or partner not in self.env:
      return None
    same = set(self._index.find(self.env[partner]))
    if not same and partner not in self.target.graph.args:
      return None
    arguments = self.target.graph.args.get(partner)

    def meets(s: int) -> bool:
      other = self.source.contacts[s].partner
      return other in same or (
        arguments is not None and self.source.graph.args.get(other) == arguments
      )

    return meets

  def _single_options(self, pieces: list[int], limit: int) -> Iterator[Option]:
    lists = [self.candidates.singles(t, frozenset(self.uses)) for t in pieces]
    if len(pieces) == 1:
      yield from ({pieces[0]: c} for c in lists[0])
      return
    places = [range(min(len(options), limit)) for options in lists]
    for ranks in sorted(itertools.product(*places), key=lambda r: (sum(r), max(r))):
      chosen = [options[r] for options, r in zip(lists, ranks, strict=True)]
      if len({c.uses for c in chosen}) == len(chosen):
        yield dict(zip(pieces, chosen, strict=True))

  def _options(self, join) -> Iterator[Option]:
    """What to try at a place, simple things first."""
    _, pieces = join
    uses = frozenset(self.uses)
    if len(pieces) > _TOGETHER:
      yield from itertools.islice(self._single_options(pieces, 2), _TRIALS)
      return
    limit = {1: 99, 2: 12, 3: 5}[len(pieces)]
    if len(pieces) == 1:
      for spec in self._specs(pieces[0]):
        for c in self.candidates.following(pieces[0], spec, uses):
          yield {pieces[0]: c}
    yield from itertools.islice(self._single_options(pieces, limit), _TRIALS)
    if len(pieces) == 1:
      yield from ({pieces[0]: c} for c in self.candidates.reused(pieces[0], uses))
      composed = self.candidates.composed(pieces[0], uses, self._meets(pieces[0]))
      yield from ({pieces[0]: c} for c in itertools.islice(composed, _TRIALS))

  def _specs(self, t: int) -> list[tuple]:
    """How the matrices were composed whose product `t` meets."""
    partner = self.target.contacts[t].partner
    # Beside a constant (`b + 1`) the product is met later.
    mask = self.target.masks.get(partner, -1) if isinstance(partner, int) else -1
    return [
      c.spec for v, c in self.found.items() if c.spec and self.target.masks[v] & mask
    ][-2:]

  def _followers(self, option: Option, pieces: list[int]) -> Iterator[Option]:
    """Options for the place after one whose values do not show yet."""
    spec = next((c.spec for c in option.values() if c.spec), None)
    uses = frozenset(self.uses)
    if len(pieces) == 1 and spec:
      for c in self.candidates.following(pieces[0], spec, uses):
        yield {pieces[0]: c}
    if len(pieces) == 1 and not spec:
      composed = self.candidates.composed(pieces[0], uses)
      yield from itertools.islice(self._single_options(pieces, 6), 6)
      yield from ({pieces[0]: c} for c in itertools.islice(composed, 24))

  def _test(self, option: Option) -> Option | None:
    """The option, extended if need be, if numbers support it; it stays assigned."""
    state = self._state()
    ran = self._assign(option)
    if self._supported(option, ran):
      return option
    following = self._next_join()
    composed = any(c.spec or len(c.uses) != 1 or c.uses[0][1] for c in option.values())
    if (
      composed
      and following
      and len(option) == 1
      and (
        self.target.masks[self.target.graph.nodes[following[0]].outputs[0]]
        & self._mask(option)
      )
    ):
      middle = self._state()
      for more in self._followers(option, following[1]):
        both = {**option, **more}
        if self._supported(both, ran + self._assign(more)):
          return both
        self._restore(middle)
    self._restore(state)
    return None

  def _try(self, join, options: Iterator[Option], budget: int = 1 << 30) -> bool:
    before = self._state()
    for option in options:
      budget -= 1
      chosen = self._test(option)
      if chosen is not None:
        mask = self._mask(chosen)
        self._decisions.append(_Decision(mask, before, options, join))
        return True
      if budget <= 0:
        break
    return False

  def _go_back(self, join) -> bool:
    """Tries earlier choices again, the latest that matter first."""
    best, decisions = self._state(), list(self._decisions)
    nodes = self.target.graph.nodes
    ends = join[0] == len(nodes)
    mask = -1 if ends else self.target.masks[nodes[join[0]].outputs[0]]
    for depth in range(len(decisions) - 1, -1, -1):
      decision = decisions[depth]
      if not decision.pieces & mask or self._retries <= 0:
        continue
      while self._retries > 0:
        self._restore(decision.before)
        self._decisions = decisions[:depth]
        self._retries -= 8
        if not self._try(decision.join, decision.options, 40):
          break
        if self._advance(join[0]) and (not ends or self.outputs_agree()):
          return True
    self._restore(best)
    self._decisions = decisions
    return False

  def _advance(self, goal: int) -> bool:
    """Goes on until past node `goal`; False if stuck before."""
    while (join := self._next_join()) is not None and join[0] <= goal:
      if not self._try(join, self._options(join)):
        return False
    return True
