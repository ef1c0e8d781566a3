"""One step of beam search: the hypotheses that end, and those that go on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku.decoding import beam_math, checks, stopping
from pax_haiku.decoding.types import (
  ExpandedExtendStepFn,
  JTensor,
  NestedMap,
  TransformStateFn,
)

# ids [B, K, T], lengths [B, K], scores [B, K], log-probabilities [B, K, T]
GlobalBeam = tuple[JTensor, JTensor, JTensor, JTensor]


def _take(x: JTensor, indices: JTensor) -> JTensor:
  """`x [B, M, ...]` at `indices [B, K]` of axis 1."""
  return jax.vmap(lambda row, i: row[i])(x, indices)


def update_global_beam(end_hyps: GlobalBeam, cur_hyps: GlobalBeam) -> GlobalBeam:
  """The best of the ended hypotheses, old and new.

  Args:
    end_hyps: (ids `[B, K, T]`, lengths `[B, K]`, scores `[B, K]`, log-probabilities
      `[B, K, T]`) so far.
    cur_hyps: the same for those that end now.

  Returns:
    The K best by score; of equal ones, the old.
  """
  ids, lengths, scores, logprobs = (
    jnp.concatenate(pair, axis=1) for pair in zip(end_hyps, cur_hyps, strict=True)
  )
  best, order = jax.lax.top_k(scores, end_hyps[2].shape[1])
  return _take(ids, order), _take(lengths, order), best, _take(logprobs, order)


def shuffle_state(
  x: JTensor, hyp_id: JTensor, use_one_hot_matmul: bool = False
) -> JTensor:
  """Reorders the beams of an array.

  Args:
    x: `[B, K, ...]`; of a smaller rank it stays as it is.
    hyp_id: `[B, K]`, for each place the beam to put there.
    use_one_hot_matmul: by a product with a one-hot matrix.
  """
  if jnp.ndim(x) < 2:
    return x
  if not use_one_hot_matmul:
    return _take(x, hyp_id)
  one_hot = jax.nn.one_hot(hyp_id, hyp_id.shape[1], dtype=x.dtype)
  return jnp.einsum('bk...,bjk->bj...', x, one_hot)


@dataclasses.dataclass
class BeamStep:
  """The body of the beam search loop, with all that does not change in it.

  Attributes:
    extend_step_fn: `(model, ids, segment_pos, state) -> logits [B * K, V]`.
    compute_logprobs_fn: log-probabilities from float32 logits.
    transform_state_fn: `(model, fn)`: applies `fn` to all decode caches.
    settings: BeamSearchHParams.
    eos: ids that end a hypothesis.
    prefix_lengths: `[B, K]`.
    max_prefix_len: length of the right-aligned prefixes.
    caches_have_beam_axis: caches are `[B, K, ...]`, not `[B * K, ...]`.
  """

  extend_step_fn: ExpandedExtendStepFn
  compute_logprobs_fn: Any
  transform_state_fn: TransformStateFn
  settings: Any
  eos: list[int]
  prefix_lengths: JTensor
  max_prefix_len: int
  caches_have_beam_axis: bool

  def __call__(self, model, state: NestedMap) -> NestedMap:
    """From ids at `state.step`, the state with those at the next step."""
    logprobs = self._logprobs(model, state)
    self._end(state, logprobs)
    self._continue(model, state, logprobs)
    state.step += 1
    state.segment_pos += 1
    return state

  def _logprobs(self, model, state: NestedMap) -> JTensor:
    """`[B, K, V]`; without ends before min_decode_steps."""
    ids = jnp.reshape(state.output_ids[:, :, state.step], (-1,))
    logits = self.extend_step_fn(model, ids, state.segment_pos, state)
    vocab = logits.shape[-1]
    checks.check_eos_ids(self.eos, vocab)
    checks.check_at_most(
      'tokens_per_beam', self._tokens, 'the size of the vocabulary', vocab
    )
    logprobs = self.compute_logprobs_fn(
      logits.astype(jnp.float32), model, ids, state.segment_pos, state
    )
    logprobs = jnp.reshape(logprobs, (*state.hyp_scores.shape, -1))
    least = self.settings.min_decode_steps
    if least > 0:
      is_early = state.step < self.max_prefix_len - 1 + least
      blocked = logprobs.at[:, :, jnp.array(self.eos)].set(-1e20)
      logprobs = jnp.where(is_early, blocked, logprobs)
    return logprobs

  @property
  def _tokens(self) -> int:
    tokens = self.settings.tokens_per_beam
    return self.settings.beam_size if tokens is None else tokens

  def _end(self, state: NestedMap, logprobs: JTensor) -> None:
    """Lets each hypothesis end here, by its best end, and keeps the best ended ones."""
    at = (slice(None), slice(None), state.step + 1)
    scores = jnp.full_like(state.hyp_scores, -1e9)
    ids, ends = state.output_ids[at], state.logprobs[at]
    for eos_id in self.eos:
      score = state.hyp_scores + logprobs[:, :, eos_id]
      is_better = score > scores
      scores = jnp.maximum(scores, score)
      ids = jnp.where(is_better, eos_id, ids)
      ends = jnp.where(is_better, logprobs[:, :, eos_id], ends)
    length = state.step + 2 - self.max_prefix_len
    alpha = self.settings.length_norm_alpha
    (
      state.end_ids,
      state.end_decode_lengths,
      state.end_scores_norm,
      state.end_logprobs,
    ) = update_global_beam(
      (
        state.end_ids,
        state.end_decode_lengths,
        state.end_scores_norm,
        state.end_logprobs,
      ),
      (
        state.output_ids.at[at].set(ids),
        length + self.prefix_lengths,
        scores / beam_math.length_norm(length, alpha),
        state.logprobs.at[at].set(ends),
      ),
    )

  def _continue(self, model, state: NestedMap, logprobs: JTensor) -> None:
    """Makes the best continuations the hypotheses, and reorders what is theirs."""
    settings = self.settings
    blocked = [] if settings.early_exit else self.eos
    _, ids, state.hyp_scores, chosen = beam_math.two_stage_topk(
      logprobs, state.hyp_scores, blocked, self._tokens
    )
    hyp_id = state.hyp_ids = chosen // self._tokens
    new_ids = beam_math.gather_output_id(ids, chosen)
    new_logprobs = beam_math.gather_logprobs(logprobs, hyp_id, new_ids)
    new_ids = new_ids + settings.output_id_offset

    def shuffle(x):
      return shuffle_state(x, hyp_id, settings.use_matmul_beam_shuffle)

    def shuffle_cache(x, batch_dim, time_dim):
      del time_dim
      if self.caches_have_beam_axis:
        return shuffle(x)
      if batch_dim < 0:
        return x
      batch, beam = hyp_id.shape
      split = (*x.shape[:batch_dim], batch, beam, *x.shape[batch_dim + 1 :])
      return jnp.reshape(shuffle(jnp.reshape(x, split)), x.shape)

    self.transform_state_fn(model, shuffle_cache)
    at = (slice(None), slice(None), state.step + 1)
    state.output_ids = shuffle(state.output_ids).at[at].set(new_ids)
    state.logprobs = shuffle(state.logprobs).at[at].set(new_logprobs)
    ended = stopping.has_any_eos(new_ids, self.eos)
    state.done = shuffle(state.done) | ended
