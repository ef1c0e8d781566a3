"""Looks for trees on which the two sides differ, and shrinks what it finds."""

import collections
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st

from praxis_fuzz import compare, shrink

Tree = dict[str, Any]
BATCH = 40  # trees per run of hypothesis, which varies what it drew before
COMPOSITE = ('fuzz.', 'repeats.', 'sequential.')
SHRINKING = 'found a difference ({}), shrinking it'


@dataclasses.dataclass
class Finding:
  """A failure: the smallest tree that shows it, and what failed there."""

  tree: Tree
  verdict: compare.Verdict

  def explains(self, tree: Tree, verdict: compare.Verdict) -> bool:
    """Whether another failure may well be the same one again."""
    mine = parts(self.tree)
    # A library layer in a composite one is mostly there because something has to be.
    mine = {p for p in mine if '.' not in p or p.startswith(COMPOSITE)} or mine
    return verdict.signature == self.verdict.signature and mine <= parts(tree)


@dataclasses.dataclass
class Counts:
  """How many trees came out how. `repeated` failed like an earlier finding;
  `pairs` are the errors (ours, theirs) of the trees that raised on both sides."""

  equal: int = 0
  excused: int = 0
  raised: int = 0
  failed: int = 0
  repeated: int = 0
  pairs: collections.Counter = dataclasses.field(default_factory=collections.Counter)

  @property
  def tried(self) -> int:
    return self.equal + self.excused + self.raised + self.failed + self.repeated

  def text(self) -> str:
    text = (f'{self.tried} trees: {self.equal} equal, {self.raised} skipped (both '
            f'raised), {self.failed} failed')
    more = [f'{self.repeated} failed like an earlier one'] * bool(self.repeated)
    more += [f'{self.excused} with an excused difference'] * bool(self.excused)
    return ', '.join([text, *more])


def parts(node: Any) -> set[str]:
  """Layers and operations of a tree, by name."""
  if isinstance(node, dict):
    own = {node['layer']} if 'layer' in node else set()
    return own.union(*map(parts, node.values())) if node else own
  if isinstance(node, list):
    own = {node[0]} if node and isinstance(node[0], str) else set()
    return own.union(*map(parts, node)) if node else own
  return set()


class Search:
  """Draws trees and checks each, until `seconds` are over.

  Args:
    check: the verdict on a tree.
    strategy: where trees come from.
    seed: the same seed draws the same trees (as many as there is time for).
    seconds: how long to draw; shrinking a failure found late may take
      `shrink_seconds` more.
    max_trees: stop after so many.
    found: called with each new finding.
    progress: called with a line of text now and then.
  """

  def __init__(self, check: Callable[[Tree], compare.Verdict],
               strategy: st.SearchStrategy[Tree], *, seed: int, seconds: float,
               shrink_seconds: float = 90.0, max_trees: int | None = None,
               found: Callable[[Finding], None] = lambda finding: None,
               progress: Callable[[str], None] = lambda line: None) -> None:
    self._check, self._strategy, self._seed = check, strategy, seed
    self._end, self._shrink_seconds = time.monotonic() + seconds, shrink_seconds
    self._start = self._said = time.monotonic()
    self._max_trees = max_trees
    self._found, self._progress = found, progress
    self._seen: set[str] = set()
    self.findings: list[Finding] = []
    self.counts = Counts()

  def _over(self) -> bool:
    return (time.monotonic() > self._end
            or (self._max_trees or float('inf')) <= self.counts.tried)

  def run(self) -> list[Finding]:
    """All findings, each shrunk and of another kind than those before."""
    batch = 0
    while not self._over():
      self._run_batch(self._seed * 1_000_003 + batch)
      batch += 1
    return self.findings

  def _run_batch(self, seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BATCH, deadline=None, database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(self._strategy)
    def batch(tree: Tree) -> None:
      key = json.dumps(tree, sort_keys=True)
      if key not in self._seen and not self._over():
        self._seen.add(key)
        self._examine(tree)

    batch()

  def _examine(self, tree: Tree) -> None:
    verdict = self._check(tree)
    new = verdict.failed and not any(f.explains(tree, verdict) for f in self.findings)
    self._count(verdict, bool(new))
    if not new:
      return
    self._progress(SHRINKING.format(verdict.signature))
    end = time.monotonic() + self._shrink_seconds
    verdicts = {}

    def fails(candidate: Tree) -> bool:
      found = self._check(candidate)
      if found.failed and found.signature == verdict.signature:
        verdicts['smallest'] = found
        return True
      return False

    small = shrink.shrink(tree, fails, lambda: time.monotonic() > end)
    self.findings.append(Finding(small, verdicts.get('smallest', verdict)))
    self._found(self.findings[-1])

  def _count(self, verdict: compare.Verdict, new: bool) -> None:
    counts = self.counts
    if verdict.failed:
      counts.failed += new
      counts.repeated += not new
    elif verdict.raised:
      counts.raised += 1
      counts.pairs[verdict.raised] += 1
    elif verdict.excused:
      counts.excused += 1
    else:
      counts.equal += 1
    now = time.monotonic()
    if now - self._said > 15:
      self._said = now
      self._progress(f'{now - self._start:.0f} s, {counts.text()}')
