"""Moving the filled part of each row to the left or to the right."""

import jax
import jax.numpy as jnp

from pax_haiku.decoding.types import JTensor


def _shifted(row: JTensor, start, before: int, after: int, pad_value) -> JTensor:
  """`row [T, ...]`, padded on axis 0, from `start` on, as long as it was."""
  widths = [(before, after)] + [(0, 0)] * (row.ndim - 1)
  padded = jnp.pad(row, widths, constant_values=row.dtype.type(pad_value))
  return jax.lax.dynamic_slice_in_dim(padded, start, row.shape[0], axis=0)


def right_align_tensors(x: JTensor, lengths: JTensor, align_dim: int = 1) -> JTensor:
  """Moves the first entries of each row to its end; zeros come in front.

  Args:
    x: `[B, T, ...]`.
    lengths: `[B]`, how many entries each row has.
    align_dim: axis of time. Only 1 is of use: rows are moved along their first axis.

  Returns:
    `[B, T, ...]`: `[a, b, 0, 0]` of length 2 becomes `[0, 0, a, b]`.

  Raises:
    ValueError: `x` has no axis `align_dim`.
  """
  if align_dim >= x.ndim:
    raise ValueError(
      f'right_align_tensors: align_dim must be smaller than the rank of x, found '
      f'align_dim={align_dim} and x of shape {x.shape}.'
    )
  steps = x.shape[align_dim]

  def align(row, length):
    padded = jnp.pad(row, [(steps, 0)] + [(0, 0)] * (row.ndim - 1))
    return jax.lax.dynamic_slice_in_dim(padded, length, steps, axis=0)

  return jax.vmap(align)(x, lengths)


def left_align_tensor(
  x: JTensor, prefix_lengths: JTensor, max_prefix_len: int, pad_value: float = 0.0
) -> JTensor:
  """Moves rows whose prefix is right-aligned to the left.

  Args:
    x: `[B, T]`; of its first `max_prefix_len` entries the last `prefix_lengths` count.
    prefix_lengths: `[B]`.
    max_prefix_len: length of the part that holds the prefix.
    pad_value: what fills the end.

  Returns:
    `[B, T]`: `[0, 0, p, q, x, y]` of prefix length 2 in 4 becomes
    `[p, q, x, y, pad, pad]`.

  Raises:
    ValueError: `x` is not of rank 2.
  """
  if x.ndim != 2:
    raise ValueError(
      f'left_align_tensor: x must be [batch, time], found shape {x.shape}.'
    )
  shift = max_prefix_len - prefix_lengths
  return jax.vmap(lambda row, s: _shifted(row, s, 0, max_prefix_len, pad_value))(
    x, shift
  )


def left_align_kv_cache(
  x: JTensor,
  prefix_lengths: JTensor,
  max_prefix_len: int,
  pad_value: float = 0.0,
  batch_size: int = 1,
) -> JTensor:
  """`left_align_tensor` for caches, of the first `batch_size` rows.

  Args:
    x: `[B, T, N, H]` or `[B, T, H]`.
    prefix_lengths: `[B]`.
    max_prefix_len: length of the part that holds the prefix.
    pad_value: what fills the end.
    batch_size: number of rows to align, B.

  Raises:
    ValueError: `x` is of another rank.
  """
  if x.ndim not in (3, 4):
    raise ValueError(
      'left_align_kv_cache: x must be [batch, time, heads, dims] or [batch, time, '
      f'dims], found shape {x.shape}.'
    )
  for i in range(batch_size):
    shift = max_prefix_len - prefix_lengths[i]
    x = x.at[i].set(_shifted(x[i], shift, 0, max_prefix_len, pad_value))
  return x


def concat_suffix_and_left_align(
  decoded_tensors: JTensor,
  suffix_tensors: JTensor,
  decode_end_indices: JTensor,
  prefix_lengths: JTensor,
  max_prefix_len: int,
  num_samples: int,
  num_suffix: int,
  pad_value: float,
) -> JTensor:
  """Puts suffixes behind decoded rows, and aligns the whole to the left.

  Args:
    decoded_tensors: `[B * num_samples, T]`, prefix right-aligned.
    suffix_tensors: `[B * num_samples * num_suffix, S]`.
    decode_end_indices: `[B * num_samples]`, where a row's suffix begins.
    prefix_lengths: `[B * num_samples]`.
    max_prefix_len: length of the part that holds the prefix.
    num_samples: samples of each example.
    num_suffix: suffixes of each sample.
    pad_value: what fills the end.

  Returns:
    `[B, num_suffix, num_samples, T + S]`.
  """
  rows, suffix_length = suffix_tensors.shape
  decoded, ends, lengths = (
    jnp.repeat(x, num_suffix, axis=0)
    for x in (decoded_tensors, decode_end_indices, prefix_lengths)
  )
  fill = decoded.dtype.type(pad_value)
  decoded = jnp.pad(decoded, [(0, 0), (0, suffix_length)], constant_values=fill)
  joined = jax.vmap(
    lambda row, suffix, at: jax.lax.dynamic_update_slice_in_dim(row, suffix, at, 0)
  )(decoded, suffix_tensors, ends)
  aligned = left_align_tensor(joined, lengths, max_prefix_len, pad_value)
  batch = rows // (num_samples * num_suffix)
  aligned = jnp.reshape(aligned, (batch, num_samples, num_suffix, -1))
  return jnp.swapaxes(aligned, 1, 2)


def right_align_segment_position(lengths: JTensor, max_length: int) -> JTensor:
  """Positions of right-aligned rows: max(0, i - (max_length - length)), `[B, T]`."""
  start = max_length - lengths[:, None]
  return jnp.maximum(jnp.arange(max_length, dtype=jnp.int32) - start, 0)


def right_align_prefix_ids(
  prefix_ids: JTensor, prefix_lengths: JTensor, paddings_dtype
) -> tuple[JTensor, JTensor]:
  """Right-aligned ids with their paddings.

  Args:
    prefix_ids: `[B, P]`.
    prefix_lengths: `[B]`.
    paddings_dtype: dtype of the paddings.

  Returns:
    ids and paddings (1 in front of the prefix, else 0), both `[B, P]`.
  """
  length = prefix_ids.shape[-1]
  start = length - prefix_lengths[:, None]
  paddings = (jnp.arange(length) < start).astype(paddings_dtype)
  return right_align_tensors(prefix_ids, prefix_lengths), paddings
