"""Functions for `transform_decode_state`: `(array, batch_dim, time_dim) -> array`.

A negative dim says that the array has no such axis; then it stays as it is.
"""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer
from pax_haiku.decoding import alignment
from pax_haiku.decoding.types import JTensor

DecodeStateTransformFn = base_layer.DecodeStateTransformFn


def pad_state_fn(state_padding_size: int) -> DecodeStateTransformFn:
  """Adds zeros for `state_padding_size` time steps at the end."""

  def pad(x, batch_dim, time_dim):
    del batch_dim
    if time_dim < 0:
      return x
    widths = [(0, 0)] * x.ndim
    widths[time_dim] = (0, state_padding_size)
    return jnp.pad(x, widths)

  return pad


def slice_state_fn(slice_start: int, slice_limit: int) -> DecodeStateTransformFn:
  """Keeps the time steps `slice_start:slice_limit`; negative: from the end."""

  def cut(x, batch_dim, time_dim):
    del batch_dim
    if time_dim < 0:
      return x
    length = x.shape[time_dim]
    start, limit = (i + length if i < 0 else i for i in (slice_start, slice_limit))
    return jax.lax.slice_in_dim(x, start, limit, axis=time_dim)

  return cut


def batch_broadcast_state_fn(multiplier: int) -> DecodeStateTransformFn:
  """Repeats each row of the batch `multiplier` times: a, a, b, b."""

  def repeat(x, batch_dim, time_dim):
    del time_dim
    return x if batch_dim < 0 else jnp.repeat(x, multiplier, axis=batch_dim)

  return repeat


def right_align_state_fn(seq_lengths: JTensor) -> DecodeStateTransformFn:
  """Moves the first `seq_lengths [B]` time steps of each row to the end."""

  def align(x, batch_dim, time_dim):
    del batch_dim
    if time_dim < 0:
      return x
    return alignment.right_align_tensors(x, seq_lengths, time_dim)

  return align
