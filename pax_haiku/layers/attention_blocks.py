"""Time axes cut into blocks with context, for attention to a window around a query."""

from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import pytypes

JTensor = pytypes.JTensor


def _pad_axis(x: JTensor, axis: int, before: int, after: int, value: Any) -> JTensor:
  """`x` with entries of `value` put before and after along an axis."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (before, after)
  return jnp.pad(x, widths, constant_values=value)


def shift_1d(inputs: JTensor, offset: int, axis: int) -> JTensor:
  """Moves entries along an axis, without wrapping; zeros fill the gap.

  Args:
    inputs: any shape.
    offset: by how many places; negative: towards the front.
    axis: which axis, not negative.
  """
  size = inputs.shape[axis]
  moved = _pad_axis(inputs, axis, max(offset, 0), max(-offset, 0), 0)
  return jax.lax.slice_in_dim(moved, max(-offset, 0), max(-offset, 0) + size, axis=axis)


def convert_to_block(
  x: JTensor, block_size: int, padding_val: float = 0.0
) -> JTensor:
  """Cuts `[B, T, ...]` into blocks `[B, U, W, ...]`, `U = ceil(T / W)`.

  Args:
    x: `[B, T, ...]`.
    block_size: W.
    padding_val: fills the last block.

  Raises:
    ValueError: `block_size` is less than 1.
  """
  if block_size < 1:
    raise ValueError(f'block_size must be at least 1, got {block_size}.')
  padded = _pad_axis(x, 1, 0, -x.shape[1] % block_size, padding_val)
  blocks = padded.shape[1] // block_size
  return jnp.reshape(padded, (x.shape[0], blocks, block_size, *x.shape[2:]))


def extract_block_context(
  x: JTensor,
  block_size: int,
  left_context: int,
  right_context: int,
  padding_val: float = 0.0,
) -> JTensor:
  """Blocks as `convert_to_block` makes them, each with its surroundings.

  Block `i` holds the positions `i W - (left_context - 1), ..., (i + 1) W +
  right_context - 1`.

  Args:
    x: `[B, T, ...]`.
    block_size: W.
    left_context: positions up to a query's own, that one included; 1 to W + 1.
    right_context: positions after it; 0 to W.
    padding_val: stands for positions that do not exist.

  Returns:
    `[B, U, W + left_context - 1 + right_context, ...]`.

  Raises:
    ValueError: a number is out of its range.
  """
  if block_size < 1:
    raise ValueError(f'block_size must be at least 1, got {block_size}.')
  if not 1 <= left_context <= block_size + 1:
    raise ValueError(
      f'left_context must be between 1 and block_size + 1 = {block_size + 1}, got '
      f'{left_context}.'
    )
  if not 0 <= right_context <= block_size:
    raise ValueError(
      f'right_context must be between 0 and block_size = {block_size}, got '
      f'{right_context}.'
    )
  blocks = convert_to_block(x, block_size, padding_val)
  parts = [blocks]
  if left_context > 1:
    before = _pad_axis(blocks, 1, 1, 0, padding_val)[:, :-1]
    parts.insert(0, before[:, :, block_size - (left_context - 1) :])
  if right_context > 0:
    after = _pad_axis(blocks, 1, 0, 1, padding_val)[:, 1:]
    parts.append(after[:, :, :right_context])
  return jnp.concatenate(parts, axis=2)


def _make_local_mask(
  seq_len: int, block_size: int, left_context: int, right_context: int
) -> JTensor:
  """Which key of a block's context each query of the block sees.

  Args:
    seq_len: number of positions T.
    block_size: W.
    left_context: keys up to the query's position, that one included.
    right_context: keys after it.

  Returns:
    Booleans `[U, W, C]`, `U = ceil(T / W)`, `C = W + left_context - 1 +
    right_context`; False also where the query or the key does not exist.
  """
  num_blocks = -(-seq_len // block_size)
  context = block_size + left_context - 1 + right_context
  start = jnp.arange(num_blocks)[:, jnp.newaxis, jnp.newaxis] * block_size
  query = start + jnp.arange(block_size)[:, jnp.newaxis]
  key = start - (left_context - 1) + jnp.arange(context)
  distance = query - key
  inside = (key >= 0) & (key < seq_len) & (query < seq_len)
  return inside & (distance < left_context) & (distance >= -right_context)


def _padded_slice(
  x: JTensor, start_index: JTensor, slice_size: int, axis: int, padding_value: Any
) -> JTensor:
  """`slice_size` entries of `x` along `axis` from `start_index`, which is dynamic.

  Entries before the first and after the last are `padding_value`.
  """
  size = x.shape[axis]
  padded = _pad_axis(x, axis, slice_size, slice_size, padding_value)
  first = jnp.clip(start_index + slice_size, 0, size + slice_size)
  return jax.lax.dynamic_slice_in_dim(padded, first, slice_size, axis)
