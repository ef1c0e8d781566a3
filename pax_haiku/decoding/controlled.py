"""Blockwise decoding: after each block, the samples kept are continued by new ones.

Within a block of `interval` steps, `num_samples` rows are decoded. The caches of the
rows then keep the first of every `block_num_samples`, which the sampler has made the
best (it reorders the rows in the state of the loop), and are lazily broadcast again.
"""

from pax_haiku.core import lifted_loop
from pax_haiku.decoding import sample_loop
from pax_haiku.decoding.types import ControlledDecodingHParams, NestedMap


def check(settings: ControlledDecodingHParams, max_decode_steps) -> None:
  """Raises a ValueError unless the settings make blocks."""
  if settings.block_num_samples <= 0:
    raise ValueError(
      'controlled_decoding.block_num_samples must be > 0, found '
      f'{settings.block_num_samples}.'
    )
  if not settings.interval:
    return
  if not isinstance(max_decode_steps, int):
    raise ValueError(
      'With controlled_decoding.interval, max_decode_steps must be an int, found '
      f'{max_decode_steps!r}.'
    )
  if settings.interval < 0 or max_decode_steps % settings.interval:
    raise ValueError(
      f'max_decode_steps ({max_decode_steps}) must be a multiple of '
      f'controlled_decoding.interval ({settings.interval}).'
    )


def keep_first(block_num_samples: int):
  """Keeps the first of every `block_num_samples` rows of lazily broadcast caches."""

  def keep(x, batch_dim, time_dim):
    del batch_dim
    if time_dim < 2:
      return x
    axis = time_dim - 1
    index = (slice(None),) * axis + (slice(None, None, block_num_samples),)
    return x[index]

  return keep


def run(
  model,
  body,
  state: NestedMap,
  seq_len: int,
  settings: ControlledDecodingHParams,
  stages: list[int],
  transform_state_fn,
  lazy_broadcast_prefix_fn,
) -> NestedMap:
  """Runs the blocks; returns the last state."""
  ends = stages
  if settings.interval:
    ends = list(range(settings.interval, stages[0] + 1, settings.interval))
  start = state.step
  for i, end in enumerate(ends):
    if i:
      transform_state_fn(model, keep_first(settings.block_num_samples))
      lazy_broadcast_prefix_fn(model, settings.block_num_samples, end - ends[i - 1])
    last = min(seq_len - 1, start + end)
    go_on = sample_loop.go_on_until(last)
    state = lifted_loop.while_loop(model, go_on, body, state)
  return state
