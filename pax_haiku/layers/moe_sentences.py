"""Embeddings of sentences, for gates that treat all tokens of a sentence alike."""

import jax.numpy as jnp

from pax_haiku import pytypes

JTensor = pytypes.JTensor


def sentence_embeddings(
  inputs: JTensor, segment_ids: JTensor | None, paddings: JTensor | None
) -> JTensor:
  """Each token's sentence: the mean of the tokens of its segment.

  Args:
    inputs: `[B, T, D]`.
    segment_ids: `[B, T]`, 0 at padding; None: all that is not padded is one segment.
    paddings: `[B, T]` or None.

  Returns:
    `[B, T, D]`, zeros where the segment is 0.
  """
  if segment_ids is None and paddings is None:
    mean = jnp.mean(inputs, axis=1, keepdims=True)
    return jnp.broadcast_to(mean, inputs.shape)
  if segment_ids is None:
    segment_ids = (1 - paddings).astype(jnp.int32)
  same = segment_ids[:, :, jnp.newaxis] == segment_ids[:, jnp.newaxis, :]
  same = (same & (segment_ids != 0)[:, jnp.newaxis, :]).astype(inputs.dtype)
  count = jnp.maximum(jnp.sum(same, axis=-1, keepdims=True), 1)
  return jnp.einsum('bts,bsd->btd', same, inputs) / count
