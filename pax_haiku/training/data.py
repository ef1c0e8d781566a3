"""Splits and batches of in-memory examples, as functions of seed and step alone.

Examples are a mapping of arrays that share the first axis, [N, ...]. There is no
iterator with a hidden position: the batch of step 1000 can be had without the 999
before it, which is what makes a resumed run equal to an uninterrupted one.
"""

import functools
from collections.abc import Iterator, Mapping

import numpy as np

Examples = Mapping[str, np.ndarray]


def size(examples: Examples) -> int:
  """Returns N; ValueError when the arrays disagree about it or there are none."""
  sizes = {name: len(array) for name, array in examples.items()}
  if len(set(sizes.values())) != 1:
    raise ValueError(
      f'Examples need arrays with one common first axis, but their lengths are {sizes}.'
    )
  return next(iter(sizes.values()))


def take(examples: Examples, indices: np.ndarray) -> dict[str, np.ndarray]:
  """Returns the examples at `indices`, [len(indices), ...] each."""
  return {name: array[indices] for name, array in examples.items()}


def split(
  examples: Examples, held_out: float, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Splits examples at random into a training set and a held-out set.

  Args:
    examples: N examples.
    held_out: Fraction of N to hold out, rounded to whole examples.
    seed: Determines the choice.

  Returns:
    Training examples and held-out examples.

  Raises:
    ValueError: One of the two would be empty.
  """
  count = size(examples)
  held_out_count = round(count * held_out)
  if not 0 < held_out_count < count:
    raise ValueError(
      f'Holding out {held_out} of {count} examples leaves one side empty; '
      'choose a fraction between 0 and 1 that leaves at least one example on each.'
    )
  order = np.random.default_rng(seed).permutation(count)
  return take(examples, order[held_out_count:]), take(examples, order[:held_out_count])


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(count)


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
  """Returns which of `count` examples make up the batch of `step`, [batch_size].

  Each epoch is an order of its own, and a batch may take the end of one epoch and the
  start of the next: every example is seen equally often.
  """
  first = step * batch_size
  epochs = range(first // count, (first + batch_size - 1) // count + 1)
  orders = np.concatenate([_order(count, seed, epoch) for epoch in epochs])
  offset = first - epochs[0] * count
  return orders[offset : offset + batch_size]


def batch_at(
  examples: Examples, batch_size: int, seed: int, step: int
) -> dict[str, np.ndarray]:
  """Returns the shuffled training batch of `step`: its examples, all of weight 1.

  `weights` is float32 [batch_size]; a name that examples must not use.
  """
  batch = take(examples, batch_indices(size(examples), batch_size, seed, step))
  return {**batch, 'weights': np.ones(batch_size, np.float32)}


def epoch(examples: Examples, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Yields all examples once, in order, in batches of one shape.

  The last batch is filled up with copies of the first example, of weight 0.
  """
  count = size(examples)
  for first in range(0, count, batch_size):
    indices = np.arange(first, first + batch_size)
    real = indices < count
    batch = take(examples, np.where(real, indices, 0))
    yield {**batch, 'weights': real.astype(np.float32)}
