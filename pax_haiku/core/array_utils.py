"""Numeric helpers: masks and paddings, padding to shapes, sequences of given lengths.

A mask holds large negative numbers where a position is hidden and 0 elsewhere; a
padding holds 1 where a position is padded and 0 elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def get_large_negative_number(dtype: Any) -> jax.Array:
  """-0.7 times the largest number of `dtype`, as a scalar of that dtype.

  It stands for minus infinity in masks: the sum of two of them stays finite after
  the factor 1/2 that `apply_mask_to_logits` uses. 64-bit dtypes become 32-bit ones
  unless jax runs with x64.

  Raises:
    ValueError: `dtype` is neither floating nor a signed integer.
  """
  dtype = jnp.dtype(jax.dtypes.canonicalize_dtype(dtype))
  if jnp.issubdtype(dtype, jnp.inexact):
    largest = float(jnp.finfo(dtype).max)
  elif jnp.issubdtype(dtype, jnp.signedinteger):
    largest = int(jnp.iinfo(dtype).max)
  else:
    raise ValueError(
        'get_large_negative_number needs a floating or signed integer dtype, '
        f'not {dtype}.'
    )
  return jnp.asarray(-0.7 * largest, dtype=dtype)


def apply_mask_to_logits(logits: jax.Array, mask: jax.Array) -> jax.Array:
  """Replaces hidden logits by a large negative number.

  Args:
    logits: any shape.
    mask: broadcastable to `logits`; 0 keeps, a large negative number hides.
  """
  large_negative = get_large_negative_number(logits.dtype)
  return jnp.where(mask >= large_negative * 0.5, logits, large_negative)


def l2_normalize(
    x: jax.Array, axis: int | Sequence[int] = -1, epsilon: float = 1e-12
) -> jax.Array:
  """x / sqrt(sum(x^2) + epsilon), the sum taken along `axis`."""
  return x / jnp.sqrt(jnp.sum(x * x, axis=axis, keepdims=True) + epsilon)


def apply_padding(
    inputs: jax.Array,
    padding: jax.Array,
    pad_value: Any = None,
    use_select: bool = True,
    axis: int | None = None,
) -> jax.Array:
  """Replaces padded positions.

  Args:
    inputs: any shape.
    padding: broadcastable to `inputs`, 1 where padded.
    pad_value: the replacement; 0 if None.
    use_select: selects by `padding > 0`. Otherwise multiplies: inputs (1 - padding)
      + pad_value padding.
    axis: the dim of `inputs` where the dims of `padding` from `axis` on begin; behind
      them ones are added, or dims of size 1 left out, so that both end together.
  """
  if axis is not None:
    rank = len(inputs.shape[axis:])
    tail = (*padding.shape[axis:], *(1,) * rank)[:rank]
    padding = jnp.reshape(padding, (*padding.shape[:axis], *tail))
  if use_select:
    return jnp.where(padding > 0, 0 if pad_value is None else pad_value, inputs)
  padding = padding.astype(inputs.dtype)
  result = inputs * (1 - padding)
  if pad_value is not None:
    result += jnp.asarray(pad_value, inputs.dtype) * padding
  return result


def pad_or_trim_to(
    x: jax.Array | None, shape: Sequence[int], pad_val: Any = 0
) -> jax.Array | None:
  """Pads each dim of `x` at its end, or cuts it off there, to `shape`.

  Raises:
    AssertionError: `shape` has another rank than `x`.
  """
  if x is None:
    return None
  if x.ndim != len(shape):
    raise AssertionError(
        f'pad_or_trim_to cannot change the rank: from {x.shape} to {tuple(shape)}.'
    )
  widths = [(0, max(new - old, 0)) for old, new in zip(x.shape, shape, strict=True)]
  x = jnp.pad(x, widths, constant_values=pad_val)
  return x[tuple(slice(new) for new in shape)]


# --- sequences ---


def sequence_mask(lengths: Any, maxlen: int, dtype: Any = jnp.bool_) -> jax.Array:
  """1 at the first `lengths` positions of a new last dim of size `maxlen`."""
  lengths = jnp.asarray(lengths)
  return (jnp.arange(maxlen) < lengths[..., None]).astype(dtype)


def sequence_paddings(
    lengths: Any, maxlen: int, dtype: Any = jnp.float32
) -> jax.Array:
  """1 behind the first `lengths` positions of a new last dim of size `maxlen`."""
  return (~sequence_mask(lengths, maxlen)).astype(dtype)


def _take_along_time(x: jax.Array, positions: jax.Array) -> jax.Array:
  """x[b, positions[b, t], ...] for each b and t."""
  positions = jnp.reshape(positions, positions.shape + (1,) * (x.ndim - 2))
  return jnp.take_along_axis(x, positions, axis=1)


def flip_sequence(inputs: jax.Array, lengths: jax.Array) -> jax.Array:
  """Reverses the valid beginning of each sequence, and by itself the rest.

  Args:
    inputs: [b, t, ...].
    lengths: [b], number of valid positions.
  """
  t = inputs.shape[1]
  return _take_along_time(inputs, (lengths[:, None] - 1 - jnp.arange(t)) % t)


def concat_sequences_with_padding(
    input0: jax.Array, paddings0: jax.Array, input1: jax.Array, paddings1: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Puts the second sequence right behind the valid part of the first.

  Args:
    input0: [b, t0, ...].
    paddings0: [b, t0], padded at the end.
    input1: [b, t1, ...].
    paddings1: [b, t1], padded at the end.

  Returns:
    Values [b, t0 + t1, ...] and paddings [b, t0 + t1].
  """
  t0, t1 = input0.shape[1], input1.shape[1]
  length0 = jnp.sum(1 - paddings0, axis=1, keepdims=True).astype(jnp.int32)
  t = jnp.arange(t0 + t1)
  # Valid part of the first, all of the second, the padded rest of the first.
  behind = t - length0
  positions = jnp.where(
      behind < 0, t, jnp.where(behind < t1, t0 + behind, t - t1)
  )
  values = jnp.concatenate([input0, input1], axis=1)
  paddings = jnp.concatenate([paddings0, paddings1], axis=1)
  return _take_along_time(values, positions), _take_along_time(paddings, positions)


def append_eos(
    x: jax.Array, paddings: jax.Array, eos_id: int, extend_if_overflow: bool = True
) -> tuple[jax.Array, jax.Array]:
  """Adds an end-of-sequence id to each sequence that does not end with one.

  The output's length depends on values, so this cannot be jitted.

  Args:
    x: [b, t], ids.
    paddings: [b, t], padded at the end.
    eos_id: the id to add; padded positions are filled with it, too.
    extend_if_overflow: where a full sequence needs the id, output t + 1 positions.
      Otherwise such a sequence stays as it is.

  Returns:
    Ids and paddings, [b, t] or [b, t + 1].
  """
  t = x.shape[1]
  lengths = jnp.sum(1 - paddings, axis=1).astype(jnp.int32)
  last = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
  needed = (last != eos_id) | (lengths == 0)
  new_lengths = lengths + needed
  size = t
  if extend_if_overflow and bool(jnp.any(new_lengths > t)):
    size = t + 1
  valid = sequence_mask(lengths, size)
  ids = jnp.where(valid, pad_or_trim_to(x, (x.shape[0], size)), eos_id)
  return ids, sequence_paddings(new_lengths, size, paddings.dtype)


# --- batches split over devices ---


def reshape_with_outer_batch_size(array: Any, outer_bs: int) -> Any:
  """[b, ...] -> [outer_bs, b / outer_bs, ...].

  Raises:
    ValueError: `outer_bs` does not divide b.
  """
  batch = array.shape[0]
  if batch % outer_bs:
    raise ValueError(
        f'outer_bs should be a factor of batch_size; got {outer_bs} and {batch}.'
    )
  return array.reshape((outer_bs, batch // outer_bs) + array.shape[1:])


def combine_inner_and_outer_batches(array: Any) -> Any:
  """[n, b, ...] -> [n b, ...]."""
  return array.reshape((-1,) + array.shape[2:])


def reshard(array: Any) -> Any:
  """[b, ...] -> [local devices, b / local devices, ...]."""
  return reshape_with_outer_batch_size(array, jax.local_device_count())


def unshard(array: Any) -> Any:
  """[local devices, b, ...] -> [local devices b, ...]."""
  return combine_inner_and_outer_batches(array)


def total_num_vars(variables: Any) -> int:
  """Number of elements of all arrays in a tree."""
  return sum(int(np.prod(np.shape(v))) for v in jax.tree.leaves(variables))
