"""Where a sequence ends: end-of-sequence ids, stop sequences, the best end."""

import jax
import jax.numpy as jnp

from pax_haiku import py_utils
from pax_haiku.decoding.types import JTensor, NestedMap


def has_any_eos(arr: JTensor, eos_ids) -> JTensor:
  """Where `arr` is one of the ids (one int or several); bools of its shape."""
  ids = jnp.asarray(eos_ids, jnp.int32).reshape(-1)
  return jnp.any(arr[..., None] == ids, axis=-1)


def _ends_with(stop: JTensor, ids: JTensor, step) -> JTensor:
  """Whether `ids [T]` up to and with `step` ends with `stop [L]`; 0 matches all."""
  length = stop.shape[0]
  padded = jnp.pad(ids, (length, 0))
  last = jax.lax.dynamic_slice_in_dim(padded, step + 1, length)
  return jnp.all((stop == 0) | (last == stop))


def end_with_sequences(
  stop_sequences: JTensor, output_ids: JTensor, decode_step
) -> JTensor:
  """Whether each row, up to and with a step, ends with its stop sequence.

  Args:
    stop_sequences: `[B, L]`, padded with 0 on the left; 0 matches any id.
    output_ids: `[B, T]`.
    decode_step: index of the last id, an int or a scalar.

  Returns:
    bool `[B]`.
  """
  return jax.vmap(_ends_with, (0, 0, None))(stop_sequences, output_ids, decode_step)


def end_with_any_sequence_any_position(
  stop_sequence: JTensor, output_ids: JTensor, decode_step: JTensor
) -> JTensor:
  """`end_with_sequences` for several stop sequences and several last indices.

  Args:
    stop_sequence: `[B, S, L]`.
    output_ids: `[B, T]`.
    decode_step: `[B, P]`.

  Returns:
    bool `[B, P, S]`.
  """
  over_stops = jax.vmap(_ends_with, (0, None, None))
  over_steps = jax.vmap(over_stops, (None, None, 0))
  return jax.vmap(over_steps)(stop_sequence, output_ids, decode_step)


def find_first_new_stop_seq_match(
  first_new_decode_idx: JTensor,
  num_new_tokens: int,
  stop_sequences: JTensor,
  sequences: JTensor,
) -> JTensor:
  """Where, among the newest ids of each row, a stop sequence first ends.

  Args:
    first_new_decode_idx: `[B]`, index of the first new id.
    num_new_tokens: number of new ids.
    stop_sequences: `[B, S, L]`, padded with 0 on the left.
    sequences: `[B, T]`.

  Returns:
    `[B]`, relative to the first new id; `num_new_tokens` if there is none.
  """
  steps = first_new_decode_idx[:, None] + jnp.arange(num_new_tokens)
  ends = end_with_any_sequence_any_position(stop_sequences, sequences, steps)
  not_yet = 1 - jnp.any(ends, axis=-1).astype(jnp.int32)
  return jnp.sum(jax.lax.cummin(not_yet, axis=1), axis=-1)


def collect_results_to_optimize_eos(
  result: NestedMap, decode_length_shift: int = 0
) -> NestedMap:
  """Ends each row where its log-probability, with the end counted, is best.

  The score of an end at position `p` is the log-probability of all ids before `p` plus
  that of end-of-sequence at `p`.

  Args:
    result: state of the loop, with `eos_ids`, `eos_logprobs`, `logprobs` and
      `output_ids`, all `[B, T]`; positions up to `start_step` cannot be ends.
    decode_length_shift: subtracted from the lengths.

  Returns:
    A copy in which ids after the end are 0, log-probabilities after it 1.0, and
    `decode_lengths`, `done`, `has_eos` tell of the end.
  """
  result = result.DeepCopy()
  rows, length = result.output_ids.shape
  positions = jnp.arange(length)
  in_prefix = positions <= result.start_step
  before = jnp.where(in_prefix, 0.0, jnp.cumsum(result.logprobs, axis=-1))
  before = jnp.pad(before, [(0, 0), (1, 0)])[:, :-1]
  lowest = py_utils.get_large_negative_number(jnp.float32)
  at_end = jnp.where(in_prefix, lowest, result.eos_logprobs)
  best = jnp.argmax(before + at_end, axis=-1)
  row = jnp.arange(rows)
  after = positions > best[:, None]
  eos_ids = result.eos_ids.astype(result.output_ids.dtype)
  ids = result.output_ids.at[row, best].set(eos_ids[row, best])
  logprobs = result.logprobs.at[row, best].set(result.eos_logprobs[row, best])
  result.output_ids = jnp.where(after, 0, ids)
  result.logprobs = jnp.where(after, 1.0, logprobs)
  result.decode_lengths = best + 1 - decode_length_shift
  result.done = jnp.ones_like(result.done)
  result.has_eos = jnp.ones_like(result.has_eos)
  del result.eos_logprobs, result.eos_ids
  return result
