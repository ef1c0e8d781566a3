"""Masks of a stack of transformer blocks, as arrays and in structured form."""

import dataclasses

import jax.numpy as jnp

from pax_haiku import py_utils, pytypes
from pax_haiku.layers import attentions
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

JTensor = pytypes.JTensor


def _require(value, name: str, why: str):
  if value is None:
    raise AssertionError(f'Attention masks: {name} must be given {why}.')
  return value


def compute_attention_masks_for_fprop(
  inputs: JTensor,
  paddings: JTensor | None = None,
  causal_attention: bool | None = False,
  segment_mask: JTensor | None = None,
  cross_inputs: JTensor | None = None,
  cross_paddings: JTensor | None = None,
  cross_segment_mask: JTensor | None = None,
  fold_padding_with_segment_mask: bool | None = False,
) -> tuple[JTensor, JTensor | None]:
  """Array masks for a call on whole sequences.

  Args:
    inputs: `[B, T, D]`.
    paddings: `[B, T]`, 1 at padded steps.
    causal_attention: hide the future.
    segment_mask: `[B, 1, T, T]`.
    cross_inputs: `[B, S, D]`, for cross attention.
    cross_paddings: `[B, S]`.
    cross_segment_mask: `[B, 1, T, S]`.
    fold_padding_with_segment_mask: `segment_mask` hides the padding already;
      `paddings` are not used.

  Returns:
    The mask of self-attention, `[B, 1, 1|T, T]`, and that of cross attention,
    `[B, 1, 1|T, S]`, or None without `cross_inputs`.

  Raises:
    AssertionError: an argument that is needed is None.
  """
  if fold_padding_with_segment_mask:
    mask = _require(segment_mask, 'segment_mask', 'if paddings are folded into it')
  else:
    paddings = _require(paddings, 'paddings', 'unless they are in the segment_mask')
    mask = attentions.convert_paddings_to_mask(paddings, inputs.dtype)
    if segment_mask is not None:
      mask = attentions.merge_masks(mask, segment_mask)
  if causal_attention:
    mask = attentions.merge_masks(mask, attentions.causal_mask(inputs))
  cross_mask = None
  if cross_inputs is not None:
    _require(cross_paddings, 'cross_paddings', 'with cross_inputs')
    cross_mask = attentions.convert_paddings_to_mask(cross_paddings, cross_inputs.dtype)
    if cross_segment_mask is not None:
      cross_mask = jnp.minimum(cross_mask, cross_segment_mask)
  return mask, cross_mask


def compute_attention_masks_for_extend_step(
  time_step: JTensor,
  seq_len: int,
  segment_mask: JTensor | None = None,
  cross_paddings: JTensor | None = None,
  cross_segment_mask: JTensor | None = None,
) -> tuple[JTensor, JTensor | None]:
  """Array masks for one decoding step.

  Args:
    time_step: the step, a scalar; later keys are hidden.
    seq_len: length S of the cache.
    segment_mask: `[B, 1, S]`.
    cross_paddings: `[B, R]`, for cross attention to R keys.
    cross_segment_mask: `[B, 1, R]`.

  Returns:
    The mask of self-attention `[1|B, 1, S]`, and that of cross attention
    `[B, 1, 1, R]`, or None without `cross_paddings`.
  """
  hidden = jnp.arange(seq_len) > time_step
  large = py_utils.get_large_negative_number(jnp.float32)
  mask = (hidden.astype(jnp.float32) * large)[jnp.newaxis, jnp.newaxis]
  if segment_mask is not None:
    mask = attentions.merge_masks(mask, segment_mask)
  cross_mask = None
  if cross_paddings is not None:
    cross_mask = attentions.convert_paddings_to_mask(cross_paddings)
    if cross_segment_mask is not None:
      cross_mask = jnp.minimum(cross_mask, cross_segment_mask[:, jnp.newaxis])
  return mask, cross_mask


def structured_masks(
  paddings: JTensor | None,
  causal_attention: bool,
  segment_mask: StructuredMask | None,
  cross_inputs: JTensor | None,
  cross_paddings: JTensor | None,
  cross_segment_mask: StructuredMask | None,
  fold_padding_with_segment_mask: bool,
) -> tuple[StructuredMask, StructuredMask | None]:
  """What `compute_attention_masks_for_fprop` says, without an array.

  Args are the same, but segment masks are structured; `paddings` may be None if there
  are none.
  """
  if fold_padding_with_segment_mask:
    mask = _require(segment_mask, 'segment_mask', 'if paddings are folded into it')
  else:
    mask = segment_mask or StructuredMask()
    mask = dataclasses.replace(mask, paddings=paddings)
  if causal_attention:
    mask = dataclasses.replace(mask, causal=True, causal_attention_mask=None)
  cross_mask = None
  if cross_inputs is not None:
    _require(cross_paddings, 'cross_paddings', 'with cross_inputs')
    cross_mask = cross_segment_mask or StructuredMask()
    cross_mask = dataclasses.replace(cross_mask, paddings=cross_paddings)
  return mask, cross_mask


def is_structured(mask: AttentionMask | None) -> bool:
  """Whether a mask is None or structured: no array."""
  return mask is None or isinstance(mask, StructuredMask)


def segment_mask_for_extend_step(
  time_step: JTensor, segment_pos: JTensor, seq_len: int
) -> JTensor:
  """Hides what lies before the current segment of each example.

  Args:
    time_step: the step, a scalar.
    segment_pos: `[B]`, position of that step in its segment.
    seq_len: length S of the cache.

  Returns:
    `[B, 1, S]`.
  """
  start = time_step - segment_pos
  hidden = jnp.arange(seq_len) < start[:, jnp.newaxis]
  large = py_utils.get_large_negative_number(jnp.float32)
  return (hidden.astype(jnp.float32) * large)[:, jnp.newaxis]
