"""Checks of what users give to the decoding loops, with errors made for them.

Values that are not known while tracing cannot be checked.
"""

from collections.abc import Sequence

import jax
import numpy as np


def known(x) -> np.ndarray | None:
  """`x` as a numpy array if its value is known now, else None."""
  if x is None or isinstance(x, jax.core.Tracer):
    return None
  return np.asarray(x)


def check_temperature(temperature) -> None:
  """Raises a ValueError for a temperature below 0."""
  value = known(temperature)
  if value is not None and (value < 0).any():
    raise ValueError(
      f'temperature must be >= 0, found {value.min()}. 0 is greedy decoding, 1 samples '
      "from the model's own distribution."
    )


def check_top_k(top_k: int, vocab: int) -> None:
  """Raises a ValueError for a top_k that is negative or beyond the vocabulary."""
  if top_k < 0 or top_k > vocab:
    raise ValueError(
      f'top_k must be between 0 (sample from all tokens) and the size of the '
      f'vocabulary, {vocab}, found {top_k}. It is `k` of SampleDecoderHParams.'
    )


def check_top_p(top_p) -> None:
  """Raises a ValueError for a top_p outside [0, 1]."""
  value = known(top_p)
  if value is not None and not ((value >= 0) & (value <= 1)).all():
    raise ValueError(
      f'top_p must be in [0, 1], found {value.tolist()}. It is `p` of '
      'SampleDecoderHParams; 0.0 keeps the likeliest token, None or 1.0 all.'
    )


def check_eos_ids(eos_ids: Sequence[int], vocab: int) -> None:
  """Raises a ValueError for an end-of-sequence id that is no token."""
  wrong = [int(i) for i in eos_ids if not 0 <= i < vocab]
  if wrong:
    raise ValueError(
      f'eos_id {wrong} lies outside the vocabulary: the model gives logits of {vocab} '
      f'tokens, 0 to {vocab - 1}. Set eos_id of the decoder to the end-of-sequence id '
      'of the tokenizer, or to None to decode to the last step.'
    )


def check_seq_len(seq_len: int) -> None:
  """Raises a ValueError unless the length is positive."""
  if seq_len <= 0:
    raise ValueError(
      f'The sequence length for decoding must be > 0, found {seq_len}. It is `seqlen` '
      'of the decoder and counts the prefix.'
    )


def check_positive(name: str, value) -> None:
  """Raises a ValueError unless `value` is an int >= 1."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
    raise ValueError(f'{name} must be an int >= 1, found {value!r}.')


def check_prefix(prefix_ids, prefix_paddings, prefix_lengths, seq_len: int) -> None:
  """Raises a ValueError for prefixes of the wrong shape, or longer than `seq_len`.

  Args:
    prefix_ids: `[B, P]`.
    prefix_paddings: `[B, P]`, or None.
    prefix_lengths: `[B]`, or None.
    seq_len: length of the output.
  """
  shape = np.shape(prefix_ids)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(
      f'prefix_ids must be [batch, length], neither of them 0, found shape {shape}.'
    )
  if prefix_paddings is not None and np.shape(prefix_paddings) != shape:
    raise ValueError(
      f'prefix_paddings must have the shape of prefix_ids, {shape}, found '
      f'{np.shape(prefix_paddings)}.'
    )
  if prefix_lengths is None:
    return
  if np.shape(prefix_lengths) != shape[:1]:
    raise ValueError(
      f'prefix_lengths must be [batch], {shape[:1]}, found shape '
      f'{np.shape(prefix_lengths)}.'
    )
  lengths = known(prefix_lengths)
  if lengths is None:
    return
  if (lengths < 0).any() or (lengths > shape[1]).any():
    raise ValueError(
      f'prefix_lengths must be between 0 and the length of prefix_ids, {shape[1]}, '
      f'found {lengths.tolist()}.'
    )
  if (lengths > seq_len).any():
    raise ValueError(
      f'A prefix is longer than the output: prefix_lengths {lengths.tolist()}, '
      f'sequence length {seq_len}. Raise `seqlen` of the decoder, or shorten the '
      'prefix.'
    )


class CacheLengths:
  """Sees how long the decode caches are, as functions that change them run.

  With lazy prefix broadcast it is disabled: the caches hold but a part of the sequence.
  """

  def __init__(self, enabled: bool = True):
    self.enabled = enabled
    self.longest: int | None = None

  def watch(self, transform_fn):
    """`transform_fn`, with the lengths of its results noted."""
    if not self.enabled:
      return transform_fn
    self.longest = None

    def watched(x, batch_dim, time_dim):
      out = transform_fn(x, batch_dim, time_dim)
      if time_dim is not None and time_dim >= 0 and np.ndim(out) > time_dim:
        self.longest = max(self.longest or 0, out.shape[time_dim])
      return out

    return watched

  def check(self, steps: int, what: str) -> None:
    """Raises a ValueError if a loop of `steps` time steps does not fit."""
    if self.longest is not None and self.longest < steps:
      raise ValueError(
        f'{what}: the sequence is longer than the decode cache: decoding writes time '
        f'steps 0 to {steps - 1}, the longest cache has {self.longest}. Lower '
        'max_decode_steps or the sequence length, or run the prefix (fprop_fn) with '
        'the length that max_prefix_len says.'
      )


def check_at_most(name: str, value: int, what: str, limit: int) -> None:
  """Raises a ValueError if `value` exceeds a limit."""
  if value > limit:
    raise ValueError(f'{name} must be at most {what}, {limit}, found {value}.')
