"""Scores and choices of beam search."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku.decoding.types import JTensor


def length_norm(t: JTensor, length_norm_alpha: float) -> JTensor:
  """((t + 5) / 5) ** alpha, float32: what scores of length `t` are divided by.

  Source: Wu et al., "Google's Neural Machine Translation System" (2016), eq. 14.
  """
  return jax.lax.pow((jnp.asarray(t, jnp.float32) + 5.0) / 5.0, length_norm_alpha)


def gather_output_id(long_output_ids: JTensor, topk_indices: JTensor) -> JTensor:
  """`long_output_ids [B, M]` at `topk_indices [B, K]`, int32 `[B, K]`."""
  ids = jnp.take_along_axis(long_output_ids, topk_indices, axis=1)
  return ids.astype(jnp.int32)


def gather_logprobs(logprobs: JTensor, hyp_ids: JTensor, ids: JTensor) -> JTensor:
  """`logprobs [B, K, V]` of token `ids [B, K]` after hypothesis `hyp_ids [B, K]`."""
  row = jnp.arange(logprobs.shape[0])[:, None]
  return logprobs[row, hyp_ids, ids]


def two_stage_topk(
  logits: JTensor,
  hyp_scores: JTensor,
  terminal_ids: Sequence[int],
  tokens_per_beam: int | None = None,
) -> tuple[JTensor, JTensor, JTensor, JTensor]:
  """The best continuations: the best of each hypothesis, then the best of these.

  Args:
    logits: `[B, K, V]` or `[B * K, V]`, added to the scores.
    hyp_scores: `[B, K]`.
    terminal_ids: ids that lose 1e9.
    tokens_per_beam: continuations `M` of each hypothesis; K if None.

  Returns:
    scores and ids of each hypothesis' best `[B, K * M]`, and scores and indices (into
    the former) of the best of all `[B, K]`.
  """
  batch, beam = hyp_scores.shape
  num = beam if tokens_per_beam is None else tokens_per_beam
  logits = jnp.reshape(logits, (batch, beam, logits.shape[-1]))
  scores, ids = jax.lax.top_k(logits, num)
  scores = scores + hyp_scores[..., None]
  for terminal_id in terminal_ids:
    scores = scores - 1e9 * (ids == terminal_id).astype(scores.dtype)
  scores = jnp.reshape(scores, (batch, beam * num))
  ids = jnp.reshape(ids, (batch, beam * num))
  best, indices = jax.lax.top_k(scores, beam)
  return scores, ids, best, indices
