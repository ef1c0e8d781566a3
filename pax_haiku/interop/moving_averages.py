"""The entries of `hk.ExponentialMovingAverage` among others, by their names.

It keeps `hidden` (the plain average, which starts at zero), `counter` (steps so far)
and `average = hidden / (1 - decay ** counter)`.
"""

from collections.abc import Iterable

COUNTER = 'counter'
_VALUES = ('average', 'hidden')
# Steps after which nothing is left of the start: `1 - decay ** counter` is 1 in float32
# for every decay below 1, and the counter, an int32, can count a billion steps more.
LONG = 1_000_000_000


def groups(entries: Iterable[str]) -> list[str]:
  """Prefixes of entries that are such averages: a counter and one value or both."""
  prefixes = [n.removesuffix(COUNTER) for n in entries if n.endswith('/' + COUNTER)]
  return [p for p in prefixes if values(entries, p)]


def values(entries: Iterable[str], prefix: str) -> list[str]:
  """Names of an average's values."""
  return [prefix + key for key in _VALUES if prefix + key in entries]


def members(entries: Iterable[str], prefix: str) -> list[str]:
  """Names of an average's values and counter."""
  return [*values(entries, prefix), prefix + COUNTER]
