"""Attention masks as arrays: 0 where a query sees a key, a large negative number else.

Axes are `[batch, heads, query, key]`, of size 1 where a mask does not depend on one.
Masks of one kind are merged by the minimum: whatever one of them hides is hidden. A
query that sees nothing attends to all keys equally, see `attention_core`.
"""

import jax.numpy as jnp

from pax_haiku import py_utils, pytypes

JTensor = pytypes.JTensor


def limited_context_mask(
  left_context: int | None,
  right_context: int | None,
  time_size: int,
  dtype=jnp.float32,
  column_time_size: int | None = None,
) -> JTensor:
  """Lets query `r` see the keys `r - left_context + 1, ..., r + right_context`.

  Args:
    left_context: number of keys up to the query's own position, that one included;
      None: all.
    right_context: number of keys behind it; None: all.
    time_size: number of queries T.
    dtype: of the mask.
    column_time_size: number of keys S; None: `time_size`.

  Returns:
    `[T, S]`.
  """
  columns = time_size if column_time_size is None else column_time_size
  longest = max(time_size, columns)
  left = longest if left_context is None else left_context
  right = longest if right_context is None else right_context
  key = jnp.arange(columns)[jnp.newaxis]
  query = jnp.arange(time_size)[:, jnp.newaxis]
  hidden = (key + left <= query) | (query < key - right)
  return hidden.astype(dtype) * py_utils.get_large_negative_number(dtype)


def causal_mask(input_t: JTensor) -> JTensor:
  """Hides the future.

  Args:
    input_t: floats `[B, T, ...]`; only length and dtype count.

  Returns:
    `[1, 1, T, T]` in the dtype of `input_t`.

  Raises:
    AssertionError: `input_t` is not of a floating dtype.
  """
  if not jnp.issubdtype(input_t.dtype, jnp.floating):
    raise AssertionError(
      'causal_mask makes a mask of the dtype of its argument, which must be floating; '
      f'found {input_t.dtype}.'
    )
  position = jnp.arange(input_t.shape[1])
  hidden = position[:, jnp.newaxis] < position
  large = py_utils.get_large_negative_number(input_t.dtype)
  return (hidden.astype(input_t.dtype) * large)[jnp.newaxis, jnp.newaxis]


def segment_mask(
  segment_ids: JTensor,
  source_segment_ids: JTensor | None = None,
  dtype=jnp.float32,
) -> JTensor:
  """Hides keys of another segment than the query's.

  Args:
    segment_ids: `[B, T]`, of the queries.
    source_segment_ids: `[B, S]`, of the keys; None: those of the queries.
    dtype: of the mask.

  Returns:
    `[B, 1, T, S]`.
  """
  if source_segment_ids is None:
    source_segment_ids = segment_ids
  hidden = segment_ids[:, :, jnp.newaxis] != source_segment_ids[:, jnp.newaxis]
  large = py_utils.get_large_negative_number(dtype)
  return hidden.astype(dtype)[:, jnp.newaxis] * large


def _hide_queries_too(key_mask: JTensor) -> JTensor:
  """`[B, 1, 1, T]` to `[B, 1, T, T]`: a hidden position sees nothing either."""
  return jnp.minimum(jnp.swapaxes(key_mask, 2, 3), key_mask)


def merge_masks(a: JTensor, b: JTensor) -> JTensor:
  """Hides what either mask hides.

  A mask that has one row for all queries, where the other has one for each, is taken
  for paddings of queries and keys alike: its hidden positions see nothing.

  Args:
    a: `[1|B, 1, 1|T, T]`.
    b: the same.

  Returns:
    `[1|B, 1, 1|T, T]`.

  Raises:
    AssertionError: the shapes do not fit.
  """
  shapes = f'{a.shape} and {b.shape}'
  if a.shape[2] != b.shape[2]:
    if a.shape[2] == 1:
      a = _hide_queries_too(a)
    elif b.shape[2] == 1:
      b = _hide_queries_too(b)
  if a.shape[1:] != b.shape[1:]:
    raise AssertionError(
      'merge_masks: masks must agree in all axes but the batch, and may have size 1 in '
      f'axis 2 (queries) where queries are keys; found the shapes {shapes}.'
    )
  return jnp.minimum(a, b)


def causal_segment_mask(
  segment_ids: JTensor,
  dtype=jnp.float32,
  causal_attention_mask: JTensor | None = None,
) -> JTensor:
  """Hides the future, and keys of other segments.

  Args:
    segment_ids: `[B, T]`.
    dtype: of the mask.
    causal_attention_mask: `[B, T]`, 0 for keys that all queries of their segment see
      (as of a prefix), 1 for the rest; None: all ones.

  Returns:
    `[B, 1, T, T]`.
  """
  future = causal_mask(jnp.zeros((1, segment_ids.shape[1]), dtype))
  if causal_attention_mask is not None:
    future = future * causal_attention_mask[:, jnp.newaxis, jnp.newaxis]
  return merge_masks(segment_mask(segment_ids, dtype=dtype), future)


def convert_paddings_to_mask(paddings: JTensor, dtype=jnp.float32) -> JTensor:
  """Hides padded keys: `[B, T]`, 1 where padded, to `[B, 1, 1, T]`."""
  large = py_utils.get_large_negative_number(dtype)
  return paddings[:, jnp.newaxis, jnp.newaxis] * large
