"""Ids of pairs of tokens, and their hashing into a table of limited size."""

import functools

import jax.numpy as jnp

from pax_haiku import pytypes

JTensor = pytypes.JTensor


def get_bigram_ids(
  ids: JTensor,
  vocab_size: int,
  segment_pos: JTensor | None = None,
  pair_ids: JTensor | None = None,
) -> JTensor:
  """One id for each token and the one it is paired with: `id + partner * vocab_size`.

  The partner is the token before, or the one that `pair_ids` points at; a token without
  one is paired with id 0. The result is int32 (int64 if JAX has that enabled) and wraps
  around if the vocabulary is too big for it.

  Args:
    ids: `[B, L]`, integers.
    vocab_size: number of ids.
    segment_pos: `[B, L]`, positions in segments of packed examples; a token at position
      0 has no partner.
    pair_ids: `[B, L]`, positions of the partners, L for none.

  Returns:
    `[B, L]`.

  Raises:
    AssertionError: `vocab_size` isn't positive.
  """
  if vocab_size <= 0:
    raise AssertionError(
      f'get_bigram_ids: vocab_size must be positive, found {vocab_size}.'
    )
  ids = jnp.asarray(ids, int)
  if pair_ids is None:
    partners = jnp.pad(ids[:, :-1], [(0, 0), (1, 0)])
  else:
    partners = jnp.take_along_axis(jnp.pad(ids, [(0, 0), (0, 1)]), pair_ids, axis=1)
  if segment_pos is not None:
    partners = jnp.where(segment_pos == 0, 0, partners)
  return ids + partners * vocab_size


@functools.cache
def primes_above(number: int, count: int) -> tuple[int, ...]:
  """The first `count` primes p with `number < p < 2 number`, or fewer if there are."""
  found: list[int] = []
  for p in range(max(number + 1, 2), 2 * number):
    if len(found) == count:
      break
    if all(p % d for d in range(2, int(p**0.5) + 1)):
      found.append(p)
  return tuple(found)


def hashed(ids: JTensor, head: int, prime: int, table_size: int) -> JTensor:
  """Rows of a head's table for ids of n-grams, by a hash that differs between heads.

  `((head + 1) (id + 1) mod prime) mod table_size`, in the integers of `ids`.
  """
  return (ids + 1) * (head + 1) % prime % table_size
