"""Who works on what and when in a pipeline; how batches and keys are split."""

import dataclasses
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.core import constants, lifted
from pax_haiku.core import run as run_lib

JTensor = pytypes.JTensor


class Works(NamedTuple):
  """What the stages do in an iteration; arrays `[L]`.

  Attributes:
    stages: 0 ... L - 1.
    micro: the microbatch, in range also where there is no work.
    rounds: the round, in range too.
    valid: whether there is work.
  """

  stages: JTensor
  micro: JTensor
  rounds: JTensor
  valid: JTensor


@dataclasses.dataclass(frozen=True)
class Schedule:
  """In iteration t, stage s does the work t - s: microbatch and round of that number.

  Attributes:
    stages: L.
    microbatches: M.
    rounds: R, how often a microbatch passes all stages.
    batch: examples, or M if they are split already.
    streams: contiguous parts of the batch, each with its own microbatches.
    is_split: False: inputs come as microbatches.
  """

  stages: int
  microbatches: int
  rounds: int
  batch: int
  streams: int
  is_split: bool

  @property
  def iterations(self) -> int:
    return self.microbatches * self.rounds + self.stages - 1

  # -- Batches ----------------------------------------------------------------------

  def split(self, tree: Any) -> Any:
    """`[batch, ...]` to `[M, size, ...]`; with one stream, b goes to b % M."""
    if not self.is_split:
      return tree
    per_stream = self.microbatches // self.streams

    def one(x: JTensor) -> JTensor:
      rest = x.shape[1:]
      x = x.reshape(self.streams, -1, per_stream, *rest)
      x = jnp.swapaxes(x, 1, 2)
      return x.reshape(self.microbatches, -1, *rest)

    return jax.tree.map(one, tree)

  def join(self, tree: Any) -> Any:
    """The inverse of `split`."""
    if not self.is_split:
      return tree
    per_stream = self.microbatches // self.streams

    def one(x: JTensor) -> JTensor:
      rest = x.shape[2:]
      x = x.reshape(self.streams, per_stream, -1, *rest)
      x = jnp.swapaxes(x, 1, 2)
      return x.reshape(self.batch, *rest)

    return jax.tree.map(one, tree)

  # -- Iterations -------------------------------------------------------------------

  def works(self, t: JTensor | int) -> Works:
    """What the stages do in iteration t (or iterations `[T, 1]`)."""
    stages = jnp.arange(self.stages)
    number = t - stages
    last = self.microbatches * self.rounds - 1
    inside = jnp.clip(number, 0, last)
    return Works(
      stages,
      inside % self.microbatches,
      inside // self.microbatches,
      (number >= 0) & (number <= last),
    )

  def shift(self, buffer: Any, first: Any) -> Any:
    """What the stages read: the first `first`, others what came out before them."""
    return jax.tree.map(
      lambda x, new: jnp.concatenate([new[jnp.newaxis], x[:-1]]), buffer, first
    )

  def first_input(self, micro: Any, waiting: Any, t: JTensor) -> Any:
    """What the first stage reads: inputs, in later rounds what waits."""
    index = t % self.microbatches

    def one(x: JTensor, back: JTensor) -> JTensor:
      if self.rounds == 1:
        return x[jnp.minimum(t, self.microbatches - 1)]
      return jnp.where(t < self.microbatches, x[index], back[index])

    return jax.tree.map(one, micro, waiting)

  def keep_waiting(self, waiting: Any, last: Any, t: JTensor) -> Any:
    """Keeps what the last stage returned, for the next round."""
    if self.rounds == 1:
      return waiting
    number = t - (self.stages - 1)
    index = jnp.maximum(number, 0) % self.microbatches

    def one(x: JTensor, new: JTensor) -> JTensor:
      return x.at[index].set(jnp.where(number >= 0, new, x[index]))

    return jax.tree.map(one, waiting, last)

  # -- What is written ----------------------------------------------------------------

  def mean_by_round(self, x: JTensor) -> JTensor:
    """Means over microbatches: `[T, L, ...]`, 0 without work, to `[R, L, ...]`."""
    rounds, count = self.rounds, self.microbatches
    number = jnp.arange(rounds * count)[:, jnp.newaxis]
    stages = jnp.arange(self.stages)
    x = x[number + stages, stages]  # [R M, L, ...]
    return jnp.mean(x.reshape(rounds, count, *x.shape[1:]), axis=1)

  def by_stage(self, x: JTensor) -> JTensor:
    """`[T, L, size, ...]` to `[L, M size, ...]`, without what was no work.

    Other shapes stay as they are.
    """
    if x.ndim < 3:
      return x
    number = jnp.arange(self.microbatches)[:, jnp.newaxis]
    stages = jnp.arange(self.stages)
    x = jnp.swapaxes(x[number + stages, stages], 0, 1)  # [L, M, size, ...]
    return x.reshape(self.stages, -1, *x.shape[3:])


# -- Keys -----------------------------------------------------------------------------


def root_streams(run: run_lib.Run) -> lifted.Streams:
  """The keys of a run, as they are."""
  return lifted.Streams(
    None if run.native else dict(run.rngs), hk.maybe_next_rng_key()
  )


def split_streams(
  streams: lifted.Streams, num: int, split_params: bool
) -> tuple[lifted.Streams, lifted.Streams]:
  """(keys split into `num`, keys that all share); see `lifted.Streams.split`."""
  key = streams.haiku
  scanned = lifted.Streams(None, None if key is None else jax.random.split(key, num))
  shared = lifted.Streams(None, None)
  if streams.pax is not None:
    scanned.pax, shared.pax = {}, {}
    for name, root in streams.pax.items():
      if name == constants.RANDOM or (name == constants.PARAMS and split_params):
        scanned.pax[name] = jax.random.split(root, num)
      elif name == constants.PARAMS:
        shared.pax[name] = root
  return scanned, shared
