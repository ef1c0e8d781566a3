"""Boolean masks (True where hidden), rotation and dropout as functions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku import py_utils, pytypes

JTensor = pytypes.JTensor


def causal_mask(seqlen: int) -> JTensor:
  """Hides the future: `[1, 1, seqlen, seqlen]`."""
  position = jnp.arange(seqlen)
  return (position[:, jnp.newaxis] < position)[jnp.newaxis, jnp.newaxis]


def segment_mask(
  segment_ids: JTensor, src_segment_ids: JTensor | None = None
) -> JTensor:
  """Hides keys of other segments: ids `[B, T]` and `[B, S]` to `[B, 1, T, S]`."""
  if src_segment_ids is None:
    src_segment_ids = segment_ids
  hidden = segment_ids[:, :, jnp.newaxis] != src_segment_ids[:, jnp.newaxis]
  return hidden[:, jnp.newaxis]


def attention_mask(segment_ids: JTensor) -> JTensor:
  """Hides the future and other segments: ids `[B, T]` to `[B, 1, T, T]`."""
  return segment_mask(segment_ids) | causal_mask(segment_ids.shape[1])


def padding_mask(paddings: JTensor) -> JTensor:
  """Hides padded keys: `[B, S]` to `[B, 1, 1, S]`."""
  return paddings[:, jnp.newaxis, jnp.newaxis]


def apply_mask(logits: JTensor, atten_mask: JTensor) -> JTensor:
  """Replaces logits by a large negative number where the mask is not 0 (False)."""
  large = py_utils.get_large_negative_number(logits.dtype)
  return jnp.where(atten_mask != 0, large, logits)


def apply_rope(
  inputs: JTensor,
  min_timescale: int,
  max_timescale: int,
  position: JTensor | None = None,
) -> JTensor:
  """Rotates pairs of features, as `RotaryPositionalEmbedding` does.

  Args:
    inputs: `[B, S, ..., H]`, H even.
    min_timescale: of the first pair.
    max_timescale: of the pair that would follow the last.
    position: `[B, S]`; None: `0 ... S - 1`.

  Returns:
    The shape and dtype of `inputs`.

  Raises:
    ValueError: H is odd.
  """
  dim = inputs.shape[-1]
  if dim % 2:
    raise ValueError(
      f'apply_rope: the last axis must be even, found inputs of shape {inputs.shape}.'
    )
  if position is None:
    position = jnp.arange(inputs.shape[1])[jnp.newaxis]
  fraction = 2 * jnp.arange(dim // 2) / dim
  timescale = min_timescale * (max_timescale / min_timescale) ** fraction
  position = jnp.expand_dims(position, tuple(range(2, inputs.ndim)))
  angle = position / timescale
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  x1, x2 = jnp.split(inputs, 2, axis=-1)
  parts = [x1 * cos - x2 * sin, x2 * cos + x1 * sin]
  return jnp.concatenate([part.astype(inputs.dtype) for part in parts], axis=-1)


def apply_dropout(
  x: JTensor,
  prng_key: JTensor,
  dropout_prob: float,
  broadcast_dims: Sequence[int] = (),
) -> JTensor:
  """`x mask / (1 - p)`, entries of the mask being 1 with probability `1 - p`, else 0.

  Args:
    x: any shape.
    prng_key: random key.
    dropout_prob: p.
    broadcast_dims: axes along which entries share their fate.
  """
  shape = list(x.shape)
  for dim in broadcast_dims:
    shape[dim] = 1
  mask = jax.random.bernoulli(prng_key, 1.0 - dropout_prob, shape)
  return x * mask / (1.0 - dropout_prob)
