"""One run of the fuzzer: both sides, the search, and what it prints."""

import pathlib
import warnings
from typing import Any

import jax
from absl import logging
from praxis_compare import store

from praxis_fuzz import build, compare, oracle, paste, search, trees

CLEAR_EVERY = 200  # trees; compiled functions pile up otherwise


class Judge:
  """Computes a tree on both sides at once and compares."""

  def __init__(self, other: oracle.Oracle) -> None:
    self._side = build.Side('pax_haiku')
    self._other = other
    self._count = 0

  def both(self, tree: dict[str, Any]) -> tuple[store.Results, store.Results]:
    self._count += 1
    if self._count % CLEAR_EVERY == 0:
      jax.clear_caches()
    self._other.ask(tree)
    return build.run(self._side, tree), self._other.answer()

  def __call__(self, tree: dict[str, Any]) -> compare.Verdict:
    return compare.judge(tree, *self.both(tree))


def run(*, python: str, pkg: str, folder: str, seed: int, minutes: float, depth: int,
        max_trees: int | None, save: pathlib.Path | None) -> int:
  """Exit status: 1 if a tree differed, else 0."""
  logging.set_verbosity(logging.ERROR)
  warnings.simplefilter('ignore')

  def say(line: str) -> None:
    print(line, flush=True)

  with oracle.Oracle(python, folder, pkg) as other:
    versions = other.versions()
    version = versions.get(pkg.replace('_', '-'), '')
    say(f'{pkg} {version} (jax {versions["jax"]}) against pax_haiku '
        f'(jax {jax.__version__}), seed {seed}')
    judge = Judge(other)

    def found(finding: search.Finding) -> None:
      number = len(hunt.findings)
      name = f'fuzz_seed{seed}_{number}'
      rows = [f'{r.mode} {r.section}: {r.note}' for r in finding.verdict.failed]
      source = paste.test_source(
          finding.tree, judge.both(finding.tree)[1], name,
          f'Differed in: {finding.verdict.signature}.', version)
      say('\n'.join(['', f'--- failure {number} ---', *rows, '', source]))
      if save:
        (save / f'test_{name}.py').write_text(source)

    hunt = search.Search(judge, trees.trees(depth), seed=seed, seconds=60 * minutes,
                         max_trees=max_trees, found=found, progress=say)
    hunt.run()
  for (ours, theirs), times in hunt.counts.pairs.most_common():
    note = '' if ours == theirs else f'; {pkg}: {theirs}'
    say(f'  {times:4d} x both raised {ours}{note}')
  say(hunt.counts.text())
  return 1 if hunt.findings else 0
