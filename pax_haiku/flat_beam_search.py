"""Beam search with all beams in one flat buffer, `beam_size * seq_len` entries.

Entry `t * K + k` of the buffer is the id that beam `k` held at step `t`. A mask over
the buffer says for each hypothesis which entries make up its history, so neither ids
nor caches are reordered. The search starts from the last id of each prefix alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.core import lifted_loop
from pax_haiku.decoding import beam_math, checks, types
from pax_haiku.decoding.types import NestedMap

JTensor = pytypes.JTensor


def init_loop_var(
  target_prefix_ids: JTensor, beam_size: int, seq_len: int, fprop_dtype: Any
) -> NestedMap:
  """The state before the loop: one live hypothesis, none ended.

  Args:
    target_prefix_ids: `[B, P]`.
    beam_size: K.
    seq_len: T.
    fprop_dtype: dtype of scores and masks.

  Returns:
    NestedMap with step, output_ids `[T, B, K]`, beam_mask and end_mask `[B, K, K * T]`,
    and, `[B, K]`, hyp_scores, end_scores, end_scores_norm, done.
  """
  batch = target_prefix_ids.shape[0]
  beams, buffer = (batch, beam_size), beam_size * seq_len
  ids = jnp.zeros((seq_len, *beams), jnp.int32)
  own = jax.nn.one_hot(jnp.arange(beam_size), buffer)
  none_ended = jnp.full(beams, -1e9, fprop_dtype)
  order = jnp.arange(beam_size, dtype=fprop_dtype)
  return NestedMap(
    step=jnp.zeros([], jnp.int32),
    output_ids=ids.at[0].set(target_prefix_ids[:, -1:].astype(jnp.int32)),
    beam_mask=jnp.zeros((*beams, buffer), fprop_dtype) + own,
    hyp_scores=jnp.zeros(beams, fprop_dtype) - order * 1e9,
    end_mask=jnp.zeros((*beams, buffer), fprop_dtype),
    end_scores=none_ended,
    end_scores_norm=none_ended,
    done=jnp.zeros(beams, bool),
  )


def update_beam_mask(
  beam_mask: JTensor, hyp_id: JTensor, time_step: JTensor | int | None
) -> JTensor:
  """Masks of the hypotheses that continue `hyp_id`, with their entry of `time_step`.

  Args:
    beam_mask: `[B, K, K * T]`.
    hyp_id: `[B, K]`.
    time_step: of the new entries; None: there are none.
  """
  beam, buffer = beam_mask.shape[1:]
  one_hot = jax.nn.one_hot(hyp_id, beam)
  beam_mask = jnp.einsum('bkt,bjk->bjt', beam_mask, one_hot)
  if time_step is not None:
    entries = jnp.arange(beam) + time_step * beam
    beam_mask = beam_mask + jax.nn.one_hot(entries, buffer)
  return beam_mask


def get_final_output_ids(beam_mask: JTensor, output_ids: JTensor) -> JTensor:
  """The ids that the masks select, int32 `[B, K, T]`.

  Args:
    beam_mask: `[B, K, K * T]`.
    output_ids: `[B, K, T]`, of each beam at each step.
  """
  batch, beam, length = output_ids.shape
  mask = jnp.reshape(beam_mask, (batch, beam, length, beam))
  return jnp.einsum('bkt,bntk->bnt', output_ids, mask).astype(jnp.int32)


def update_topk_scores_with_eos(
  end_hyps: tuple[JTensor, JTensor, JTensor],
  cur_hyps: tuple[JTensor, JTensor, JTensor],
) -> tuple[JTensor, JTensor, JTensor]:
  """The best of the ended hypotheses, old and new, by normalised score.

  Args:
    end_hyps: (masks `[B, K, K * T]`, scores `[B, K]`, normalised scores `[B, K]`).
    cur_hyps: the same for those that end now.
  """
  mask, scores, norms = (
    jnp.concatenate(pair, axis=1) for pair in zip(end_hyps, cur_hyps, strict=True)
  )
  best, order = jax.lax.top_k(norms, end_hyps[0].shape[1])
  one_hot = jax.nn.one_hot(order, norms.shape[1])
  mask = jnp.einsum('bkt,bjk->bjt', mask, one_hot)
  return mask, jnp.einsum('bk,bjk->bj', scores, one_hot), best


def post_process(result: NestedMap, eos_id: int, max_decoding_steps: int) -> NestedMap:
  """Reads the ids of the ended hypotheses and puts end-of-sequence behind them.

  Args:
    result: last state of the loop.
    eos_id: the end-of-sequence id.
    max_decoding_steps: upper bound of the lengths.

  Returns:
    `result` with output_ids `[B, K, T]`, decode_lengths and scores `[B, K]`; without
    step, done, end_scores_norm.
  """
  ids = jnp.transpose(result.output_ids, (1, 2, 0))
  ids = get_final_output_ids(result.end_mask, ids)
  lengths = jnp.sum(result.end_mask, axis=-1)
  end = jax.nn.one_hot(lengths, ids.shape[-1], dtype=jnp.int32)
  result.output_ids = ids + eos_id * end * (lengths < max_decoding_steps)[..., None]
  lengths = jnp.minimum(lengths + 1, max_decoding_steps)
  result.decode_lengths = lengths.astype(jnp.int32)
  result.scores = result.end_scores_norm
  del result.step, result.done, result.end_scores_norm
  return result


def flat_beam_search(
  model: base_layer.BaseLayerApi,
  extend_step_fn: types.ExtendStepFn,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  seq_len: int,
  beam_size: int,
  fprop_dtype: Any,
  max_decode_steps: int | None = None,
  eos_id: int | None = None,
  length_norm_alpha: float = 0.8,
) -> NestedMap:
  """Searches from the last id of each prefix.

  Args:
    model: a bound layer; call this from one of its methods. In the loop the function
      gets a twin of it, and must use that. It cannot draw random numbers.
    extend_step_fn: `(model, ids [B, K], None) -> scores [B * K, V]`, taken for
      log-probabilities as they are.
    prefix_ids: `[B, P]`.
    prefix_paddings: not used.
    seq_len: length of the output, T.
    beam_size: K.
    fprop_dtype: dtype of scores and masks.
    max_decode_steps: upper bound of the lengths; T if None.
    eos_id: the end-of-sequence id.
    length_norm_alpha: as in `length_norm`.

  Returns:
    NestedMap with output_ids `[B, K, T]`, decode_lengths and scores `[B, K]`, and the
    loop's beam_mask, hyp_scores, end_mask, end_scores.

  Raises:
    ValueError: the arguments do not fit each other or the vocabulary.
  """
  del prefix_paddings
  checks.check_seq_len(seq_len)
  checks.check_positive('beam_size', beam_size)
  checks.check_prefix(prefix_ids, None, None, seq_len)
  if eos_id is None or not isinstance(eos_id, int):
    raise ValueError(f'flat_beam_search needs one eos_id, found {eos_id!r}.')
  steps = max_decode_steps or seq_len
  checks.check_at_most('max_decode_steps', steps, 'seq_len', seq_len)
  state = init_loop_var(prefix_ids, beam_size, seq_len, fprop_dtype)
  dtypes = jax.tree.map(jnp.result_type, state)

  def body(model, state):
    step = state.step
    logits = extend_step_fn(model, state.output_ids[step], None)
    vocab = logits.shape[-1]
    checks.check_eos_ids([eos_id], vocab)
    checks.check_at_most('beam_size', beam_size, 'the size of the vocabulary', vocab)
    logits = jnp.reshape(logits, (*state.hyp_scores.shape, vocab))
    scores = state.hyp_scores + logits[:, :, eos_id]
    norms = scores / beam_math.length_norm(step + 1, length_norm_alpha)
    state.end_mask, state.end_scores, state.end_scores_norm = (
      update_topk_scores_with_eos(
        (state.end_mask, state.end_scores, state.end_scores_norm),
        (state.beam_mask, state.hyp_scores, norms),
      )
    )
    _, ids, state.hyp_scores, chosen = beam_math.two_stage_topk(
      logits, state.hyp_scores, [eos_id]
    )
    state.beam_mask = update_beam_mask(state.beam_mask, chosen // beam_size, step + 1)
    new_ids = jnp.where(state.done, 0, beam_math.gather_output_id(ids, chosen))
    state.done = state.done | (new_ids == eos_id)
    state.output_ids = state.output_ids.at[step + 1].set(new_ids)
    state.step += 1
    return jax.tree.map(lambda x, dtype: jnp.asarray(x, dtype), state, dtypes)

  state = lifted_loop.while_loop(
    model,
    lambda s: (s.step < seq_len - 1) & ~jnp.all(s.done),
    body,
    state,
    split_rngs=(),
  )
  return post_process(state, eos_id, steps)
