"""Beam search over a model with decode caches."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.core import lifted_loop
from pax_haiku.decoder_hparams import BeamSearchHParams
from pax_haiku.decoding import (
  alignment,
  beam_step,
  checks,
  mesh,
  sample_inputs,
  state_fns,
  types,
)
from pax_haiku.decoding.types import JTensor, NestedMap

# (logits [B * K, V] float32, model, ids, segment_pos, state) -> log-probabilities
ComputeLogprobsFn = Callable[
  [JTensor, base_layer.BaseLayerApi, JTensor, JTensor, NestedMap], JTensor
]


def default_compute_logprobs_fn(
  logits: JTensor,
  model: base_layer.BaseLayerApi,
  extend_ids: JTensor,
  segment_pos: JTensor,
  decode_loop_state: NestedMap,
) -> JTensor:
  """log_softmax of the logits."""
  del model, extend_ids, segment_pos, decode_loop_state
  return jax.nn.log_softmax(logits)


def broadcast_beam_dim(x: JTensor, beam_dim: int, beam_size: int) -> JTensor:
  """Repeats `x` `beam_size` times on a new axis `beam_dim`."""
  return jnp.repeat(jnp.expand_dims(x, beam_dim), beam_size, axis=beam_dim)


def check_settings(settings: BeamSearchHParams) -> None:
  """Raises a ValueError for settings that make no beam."""
  checks.check_positive('beam_size', settings.beam_size)
  if settings.tokens_per_beam is not None:
    checks.check_positive('tokens_per_beam', settings.tokens_per_beam)
  if settings.max_decode_steps is None:
    raise ValueError(
      'beam_search needs max_decode_steps, the number of steps after the prefix; it is '
      'None in the settings.'
    )
  if settings.eos_id is None:
    raise ValueError(
      'beam_search needs eos_id: only hypotheses that have ended are returned.'
    )


def beam_search(
  model: base_layer.BaseLayerApi,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  fprop_fn: types.FPropFn,
  transform_state_fn: types.TransformStateFn,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  beam_search_hparams: BeamSearchHParams,
  compute_logprobs_fn: ComputeLogprobsFn = default_compute_logprobs_fn,
  decode_loop_mesh_axes_transpose: dict[str, str] | None = None,
  model_var_pspecs: pytypes.Nested | None = None,
  process_result_fn: types.ProcessResultFn | None = None,
  lazy_broadcast_prefix_fn: types.LazyBroadcastPrefixFn | None = None,
) -> NestedMap:
  """Fills the decode caches by a forward call, and searches.

  Args:
    model: a bound layer; call this from one of its methods. In the loop the functions
      get a twin of it, and must use that.
    extend_step_fn: `(model, ids [B * K], segment_pos [B * K][, state]) -> logits
      [B * K, V]`.
    fprop_fn: `(model, ids, paddings)`: fills the caches.
    transform_state_fn: `(model, fn)`: applies `fn` to all decode caches.
    prefix_ids: `[B, P]`, right-aligned.
    prefix_paddings: `[B, P]`, 1 where there is no prefix.
    beam_search_hparams: the settings; K is its beam_size.
    compute_logprobs_fn: log-probabilities from logits.
    decode_loop_mesh_axes_transpose, model_var_pspecs: see decoding/mesh.py.
    process_result_fn: `(model, result) -> result`, run last.
    lazy_broadcast_prefix_fn: `(model, K, length)`; None: caches are repeated.

  Returns:
    NestedMap, for the K best hypotheses that ended, best first:
    output_ids, logprobs: `[B, K, P + steps]`, left-aligned, end-of-sequence included.
    scores: `[B, K]`, divided by `length_norm`; -1e9 where fewer than K ended.
    decode_lengths: `[B, K]`, prefix and end-of-sequence included.
    prefix_lengths, original_lengths: `[B, K]`. prefix_ids: `[B, 1, P]`.
    Besides, the loop's hyp_ids, done, end_logprobs and segment_pos.

  Raises:
    ValueError: the settings do not fit the vocabulary or the caches.
  """
  check_settings(beam_search_hparams)
  fprop_fn(model, prefix_ids, prefix_paddings)
  model = mesh.maybe_reshard_mdl_for_decode(
    model, decode_loop_mesh_axes_transpose, model_var_pspecs, transform_state_fn
  )
  with mesh.maybe_decode_mesh_transpose(model, decode_loop_mesh_axes_transpose):
    result = beam_search_after_prefix_fprop(
      model,
      extend_step_fn,
      transform_state_fn,
      prefix_ids,
      prefix_paddings,
      beam_search_hparams,
      compute_logprobs_fn,
      lazy_broadcast_prefix_fn,
    )
    if process_result_fn is not None:
      result = process_result_fn(model, result)
    return result


def beam_search_after_prefix_fprop(
  model: base_layer.BaseLayerApi,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  transform_state_fn: types.TransformStateFn,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  beam_search_hparams: BeamSearchHParams,
  compute_logprobs_fn: ComputeLogprobsFn = default_compute_logprobs_fn,
  lazy_broadcast_prefix_fn: types.LazyBroadcastPrefixFn | None = None,
) -> NestedMap:
  """`beam_search` where the caches hold the prefix already.

  The arguments are those of `beam_search`.
  """
  settings = beam_search_hparams
  check_settings(settings)
  checks.check_prefix(prefix_ids, prefix_paddings, None, 1)
  stages = sample_inputs.decode_stages(settings.max_decode_steps, 0)
  beam = settings.beam_size
  batch, max_prefix_len = prefix_ids.shape
  seq_len = stages[-1] + max_prefix_len
  eos = settings.eos_id
  eos = list(eos) if isinstance(eos, Sequence) else [eos]
  caches = checks.CacheLengths(lazy_broadcast_prefix_fn is None)
  if lazy_broadcast_prefix_fn is not None:
    # The prefix's last token moves into the beams' part: it is the first input.
    transform_state_fn(model, state_fns.slice_state_fn(0, -1))
    lazy_broadcast_prefix_fn(model, beam, stages[0] + 1)
  else:
    pad = state_fns.pad_state_fn(stages[0])
    transform_state_fn(model, caches.watch(pad))
    transform_state_fn(model, state_fns.batch_broadcast_state_fn(beam))

  lengths = jnp.sum(1 - prefix_paddings.astype(jnp.int32), axis=1)
  lengths = broadcast_beam_dim(lengths, 1, beam)
  body = beam_step.BeamStep(
    extend_step_fn=types.coerce_to_expanded_extend_step_fn(extend_step_fn),
    compute_logprobs_fn=compute_logprobs_fn,
    transform_state_fn=transform_state_fn,
    settings=settings,
    eos=eos,
    prefix_lengths=lengths,
    max_prefix_len=max_prefix_len,
    caches_have_beam_axis=lazy_broadcast_prefix_fn is not None,
  )
  state = _first_state(prefix_ids, lengths, seq_len, beam)

  def go_on_until(last):
    if settings.early_exit:
      return lambda s: (s.step < last) & ~jnp.all(s.done)
    return lambda s: s.step < last

  for i, steps in enumerate(stages):
    if i:
      grow = state_fns.pad_state_fn(steps - stages[i - 1])
      transform_state_fn(model, caches.watch(grow))
    last = max_prefix_len + steps - 1
    caches.check(last, 'beam_search')
    state = lifted_loop.while_loop(model, go_on_until(last), body, state)
  return _finish(state, prefix_ids, lengths, max_prefix_len)


def _first_state(
  prefix_ids: JTensor, lengths: JTensor, seq_len: int, beam: int
) -> NestedMap:
  """The state before the loop: one live hypothesis, none ended."""
  batch, max_prefix_len = prefix_ids.shape
  shape = (batch, beam, seq_len)
  prefix = broadcast_beam_dim(prefix_ids.astype(jnp.int32), 1, beam)
  output_ids = jnp.zeros(shape, jnp.int32).at[:, :, :max_prefix_len].set(prefix)
  order = jnp.arange(beam, dtype=jnp.float32)
  return NestedMap(
    output_ids=output_ids,
    logprobs=jnp.ones(shape, jnp.float32),
    hyp_scores=jnp.zeros(shape[:2], jnp.float32) - order * 1e9,
    hyp_ids=jnp.zeros(shape[:2], jnp.int32),
    done=jnp.zeros(shape[:2], bool),
    end_ids=output_ids,
    end_decode_lengths=jnp.full_like(lengths, seq_len),
    end_scores_norm=jnp.full(shape[:2], -1e9, jnp.float32),
    end_logprobs=jnp.zeros(shape, jnp.float32),
    start_step=max_prefix_len - 1,
    step=max_prefix_len - 1,
    segment_pos=jnp.reshape(lengths - 1, (-1,)),
  )


def _finish(
  state: NestedMap, prefix_ids: JTensor, lengths: JTensor, max_prefix_len: int
) -> NestedMap:
  """The result from the last state: what ended, left-aligned."""

  def align(x):
    flat = jnp.reshape(x, (-1, x.shape[-1]))
    flat = alignment.left_align_tensor(flat, jnp.reshape(lengths, -1), max_prefix_len)
    return jnp.reshape(flat, x.shape)

  result = state
  result.output_ids = align(state.end_ids)
  result.logprobs = align(state.end_logprobs)
  result.scores = state.end_scores_norm
  result.decode_lengths = state.end_decode_lengths
  result.original_lengths = result.prefix_lengths = lengths
  prefix = alignment.left_align_tensor(prefix_ids, lengths[:, 0], max_prefix_len)
  result.prefix_ids = prefix[:, None]
  del result.end_ids, result.end_decode_lengths, result.end_scores_norm
  del result.hyp_scores, result.step, result.start_step
  return result
