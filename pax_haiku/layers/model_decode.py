"""How the tasks generate tokens: their batches and settings for the decoding loops."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from pax_haiku import (
  base_layer,
  beam_search,
  decoder_hparams,
  decoder_utils,
  py_utils,
  pytypes,
  sample_decode,
)
from pax_haiku.layers import native_decode
from pax_haiku.layers.transformer_lm import LanguageModelType

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
DecoderHParams = decoder_hparams.DecoderHParams

# Settings of sampling that a batch may override, and their default outside of settings.
_PER_BATCH = {
  'temperature': None,
  'per_example_max_decode_steps': None,
  'per_example_top_p': None,
  'per_example_top_k': None,
  'eos_id': None,
  'gumbel_prng_key': None,
  'cf_guidance_scale': None,
  'enforce_sample_constraints': None,
  'num_per_token_logprobs': None,
}


@dataclasses.dataclass
class Prefill:
  """What the first forward call of decoding gets, and what the loop begins with.

  Attributes:
    ids, paddings: `[B, L]` of the call.
    segment_ids, segment_pos: `[B, L]` or None.
    causal_attention_mask: `[B, L]` or None.
    start_time_step: where the loop begins in the caches.
    loop_ids, loop_paddings: `[B, ...]`, the prefix as the loop reads it.
    prefix_lengths: `[B]`.
    seqlen: length of the output.
    max_prefix_len: P if the prefix is run by the call, else None.
  """

  ids: JTensor
  paddings: JTensor
  loop_ids: JTensor
  loop_paddings: JTensor
  prefix_lengths: JTensor
  seqlen: int
  segment_ids: JTensor | None = None
  segment_pos: JTensor | None = None
  causal_attention_mask: JTensor | None = None
  start_time_step: int = 0
  max_prefix_len: int | None = None


def _check(layer: base_layer.BaseLayer, params: DecoderHParams) -> None:
  if not isinstance(params, DecoderHParams):
    raise ValueError(
      f'{layer._pax_describe()}: the settings of decoding must be a DecoderHParams, '
      f'found {type(params).__name__}.'
    )
  if params.seqlen <= 0 and not params.fprop_for_prefix:
    raise ValueError(
      f'{layer._pax_describe()}: seqlen of the settings of decoding must be > 0, found '
      f'{params.seqlen}.'
    )
  if params.fprop_for_prefix and not params.max_decode_steps:
    raise ValueError(
      f'{layer._pax_describe()}: fprop_for_prefix needs max_decode_steps.'
    )
  if params.lazy_prefix_broadcast and not params.fprop_for_prefix:
    raise ValueError(
      f'{layer._pax_describe()}: lazy_prefix_broadcast needs fprop_for_prefix.'
    )


def _steps(params: DecoderHParams) -> tuple[int, int]:
  """(fewest, most) steps after the prefix."""
  steps = params.max_decode_steps
  steps = [steps] if isinstance(steps, int) else list(steps)
  return min(steps), max(steps)


def _prefix_lengths(model: Any, batch: NestedMap) -> JTensor:
  if 'prefix_lengths' in batch:
    return batch.prefix_lengths
  if model.model_type == LanguageModelType.PREFIX and 'inputs_indicator' in batch:
    return jnp.sum(batch.inputs_indicator.astype(jnp.int32), axis=1)
  return jnp.sum(1 - batch.paddings.astype(jnp.int32), axis=1)


def _prefill(model: Any, params: DecoderHParams, batch: NestedMap) -> Prefill:
  lengths = _prefix_lengths(model, batch)
  batch_ids, batch_paddings = jnp.asarray(batch.ids), jnp.asarray(batch.paddings)
  if not params.fprop_for_prefix:
    count = batch_ids.shape[0]
    return Prefill(
      ids=jnp.zeros([count, 1], batch_ids.dtype),
      paddings=jnp.ones([count, 1], batch_paddings.dtype),
      loop_ids=batch_ids,
      loop_paddings=batch_paddings,
      prefix_lengths=lengths,
      seqlen=params.seqlen,
    )
  ids, paddings = sample_decode.right_align_prefix_ids(
    batch_ids, lengths, batch_paddings.dtype
  )
  length = ids.shape[1]
  fewest, most = _steps(params)
  prefix = None
  if model.model_type == LanguageModelType.PREFIX:
    if 'inputs_indicator' in batch:
      prefix = 1 - batch.inputs_indicator
    else:
      prefix = (jnp.arange(length) >= lengths[:, jnp.newaxis]).astype(jnp.int32)
    prefix = decoder_utils.right_align_tensors(prefix, lengths)
  return Prefill(
    ids=ids,
    paddings=paddings,
    loop_ids=jnp.pad(ids, [(0, 0), (0, fewest)]),
    loop_paddings=jnp.pad(paddings, [(0, 0), (0, fewest)], constant_values=1),
    prefix_lengths=lengths,
    seqlen=length + most,
    segment_ids=(1 - paddings).astype(jnp.int32),
    segment_pos=sample_decode.right_align_segment_position(lengths, length),
    causal_attention_mask=prefix,
    start_time_step=length - 1,
    max_prefix_len=length,
  )


def _transform(model: Any, function) -> None:
  model.transform_decode_state(function)


def _lazy_broadcast(model: Any, num_suffix_samples: int, suffix_length: int) -> None:
  model.lazy_broadcast_prefix(num_suffix_samples, suffix_length)


def _sampler(params: decoder_hparams.SampleDecoderHParams):
  """The token sampler, its fields overridden if the settings say so."""
  tpl = params.next_token_sampler_tpl.clone()
  if params.override_next_token_sampler_params:
    for field, value in (
      ('top_k', params.k),
      ('top_p', params.p),
      ('global_normalize', params.global_normalize),
      ('top_k_recall_target', params.top_k_recall_target),
      ('use_top_k_for_logprobs', params.use_top_k_for_logprobs),
    ):
      if hasattr(tpl, field):
        setattr(tpl, field, value)
  return base_layer.instantiate(tpl)


def _run_loop(
  layer: base_layer.BaseLayer,
  model: Any,
  params: DecoderHParams,
  batch: NestedMap,
  prefill: Prefill,
  fprop_fn,
  extend_step_fn,
  result_callback=None,
  return_result_for_suffix_score: bool = False,
) -> NestedMap:
  """The loop that the class of the settings names."""
  shared = {
    'decode_loop_mesh_axes_transpose': params.decode_loop_mesh_axes_transpose,
    'process_result_fn': params.process_result_fn,
  }
  lazy = _lazy_broadcast if params.lazy_prefix_broadcast else None
  ids, paddings = prefill.loop_ids, prefill.loop_paddings
  if isinstance(params, decoder_hparams.FlatBeamSearchHParams):
    raise NotImplementedError(
      f'{layer._pax_describe()}: flat beam search gives the model several hypotheses '
      'at once, which no attention here takes. Use BeamSearchHParams, or call '
      'flat_beam_search.flat_beam_search with a model of your own.'
    )
  if isinstance(params, decoder_hparams.BeamSearchHParams):
    return beam_search.beam_search(
      model,
      extend_step_fn,
      fprop_fn,
      _transform,
      prefill.ids,
      prefill.paddings,
      params,
      lazy_broadcast_prefix_fn=lazy,
      **shared,
    )
  common = {
    'fprop_fn': fprop_fn,
    'transform_state_fn': _transform,
    'fprop_for_prefix': params.fprop_for_prefix,
    'max_prefix_len': prefill.max_prefix_len,
    'max_decode_steps': params.max_decode_steps,
    'prefix_lengths': prefill.prefix_lengths,
    **shared,
  }
  if isinstance(params, decoder_hparams.GreedyDecoderHParams):
    return sample_decode.greedy_decode(
      model,
      extend_step_fn,
      ids,
      paddings,
      prefill.seqlen,
      eos_id=params.eos_id,
      **common,
    )
  if not isinstance(params, decoder_hparams.SampleDecoderHParams):
    raise NotImplementedError(
      f'{layer._pax_describe()}: there is no decoding loop for '
      f'{type(params).__name__}.'
    )
  given = {name: batch.get(name, default) for name, default in _PER_BATCH.items()}
  for name in ('temperature', 'eos_id', 'cf_guidance_scale'):
    if given[name] is None:
      given[name] = getattr(params, name)
  if params.vanilla_sample_decode:
    return sample_decode.vanilla_sample_decode(
      model,
      fprop_fn,
      extend_step_fn,
      _transform,
      _sampler(params),
      prefill.ids,
      prefill.paddings,
      temperature=given['temperature'],
      gumbel_prng_key=given['gumbel_prng_key'],
      max_decode_steps=_steps(params)[1],
      eos_id=given['eos_id'],
      decode_loop_mesh_axes_transpose=params.decode_loop_mesh_axes_transpose,
    )
  constraint = params.sample_constraint
  return sample_decode.sample_decode(
    model,
    extend_step_fn,
    lazy_broadcast_prefix_fn=lazy,
    next_token_sampler=_sampler(params),
    prefix_ids=ids,
    prefix_paddings=paddings,
    seq_len=prefill.seqlen,
    num_samples=params.num_samples,
    result_callback=result_callback,
    return_result_for_suffix_score=return_result_for_suffix_score,
    sort_samples=params.sort_samples,
    top_k_recall_target=params.top_k_recall_target,
    early_exit=params.early_exit,
    use_top_k_for_logprobs=params.use_top_k_for_logprobs,
    controlled_decoding=params.controlled_decoding,
    return_entropy_score='return_entropy_score' in batch,
    optimize_eos=params.optimize_eos,
    sample_constraint=(
      None if constraint is None else base_layer.instantiate(constraint)
    ),
    **given,
    **common,
  )


def _finish(result: NestedMap, batch: NestedMap, count: int):
  """(metrics, results with all of the batch, {})."""
  result.update(batch)
  if 'eval_sample_weights' in batch:
    number = jnp.sum(batch.eval_sample_weights)
  else:
    number = jnp.array(count, jnp.float32)
  one = jnp.array(1.0, jnp.float32)
  return NestedMap(num_decoded=(number, one)), result, NestedMap()


def decode_language_model(
  task: Any,
  params: DecoderHParams,
  batch: NestedMap,
  result_callback=None,
  return_result_for_suffix_score: bool = False,
):
  """See `LanguageModel.decode_with_params`.

  Raises:
    ValueError: the settings are not of decoding, or lack a length.
    NotImplementedError: the model is bidirectional, or there is no loop for the
      settings.
  """
  _check(task, params)
  if task.model_type == LanguageModelType.BIDIRECTIONAL:
    raise NotImplementedError(
      f'{task._pax_describe()}: a bidirectional model cannot decode step by step.'
    )
  if isinstance(params, decoder_hparams.BeamSearchHParams) and (
    not params.fprop_for_prefix
  ):
    raise AssertionError(
      f'{task._pax_describe()}: beam search needs fprop_for_prefix.'
    )
  prefill = _prefill(task, params, batch)
  if native_decode.is_native(task):
    return native_decode.decode(
      task,
      lambda: task.lm(prefill.ids, prefill.paddings),
      decode_language_model,
      params,
      batch,
      result_callback,
      return_result_for_suffix_score,
    )
  if getattr(params, 'cf_guidance_scale', None) or 'cf_guidance_scale' in batch:
    prefill = task._prepare_guidance_decode_data(prefill)
  extra = {}
  if params.use_extra_input_kwargs:
    extra = dict(batch.get('extra_input_kwargs', {}))

  def fprop_fn(model, ids, paddings) -> None:
    model(
      prefill.ids,
      prefill.paddings,
      segment_ids=prefill.segment_ids,
      segment_pos=prefill.segment_pos,
      causal_attention_mask=prefill.causal_attention_mask,
      start_time_step=prefill.start_time_step,
      **extra,
    )

  def extend_step_fn(model, ids, segment_pos) -> JTensor:
    return model.extend_step(ids, segment_pos=segment_pos).logits

  result = _run_loop(
    task,
    task.lm,
    params,
    batch,
    prefill,
    fprop_fn,
    extend_step_fn,
    result_callback,
    return_result_for_suffix_score,
  )
  return _finish(result, batch, batch.ids.shape[0])


def decode_sequence_model(task: Any, params: DecoderHParams, batch: NestedMap):
  """See `SequenceModel.decode_with_params`.

  Raises:
    ValueError: the settings are not of decoding, or lack a length.
    NotImplementedError: there is no loop for the settings, or they ask for
      classifier-free guidance.
  """
  _check(task, params)
  searches = isinstance(params, decoder_hparams.BeamSearchHParams)
  if searches and params.fprop_for_prefix:
    raise AssertionError(
      f'{task._pax_describe()}: beam search of a sequence model begins without a '
      'prefix; set fprop_for_prefix=False.'
    )
  if getattr(params, 'cf_guidance_scale', None) is not None:
    batch = task._prepare_guidance_decode_data(batch)
  src, tgt = batch.src, batch.tgt
  target_ids, target_paddings = jnp.asarray(tgt.ids), jnp.asarray(tgt.paddings)
  count = target_ids.shape[0]
  ids, paddings = target_ids[:, :1], target_paddings[:, :1]
  if searches:
    paddings = jnp.ones_like(paddings)
  lengths = batch.get('prefix_lengths')
  prefill = Prefill(
    ids=ids,
    paddings=paddings,
    loop_ids=target_ids,
    loop_paddings=target_paddings,
    prefix_lengths=jnp.zeros([count], jnp.int32) if lengths is None else lengths,
    seqlen=params.seqlen,
  )

  def fprop_fn(model, ids, paddings) -> None:
    model(src.ids, src.paddings, prefill.ids, prefill.paddings)

  if native_decode.is_native(task):
    return native_decode.decode(
      task,
      lambda: fprop_fn(task.model, None, None),
      decode_sequence_model,
      params,
      batch,
    )

  def extend_step_fn(model, ids, segment_pos) -> JTensor:
    return model.extend_step(ids).logits

  result = _run_loop(
    task, task.model, params, batch, prefill, fprop_fn, extend_step_fn
  )
  return _finish(result, batch, count)
