"""How a SequenceModel generates targets: its batches and settings for the loops."""

from typing import Any

import jax.numpy as jnp

from pax_haiku import (
  beam_search,
  decoder_hparams,
  py_utils,
  pytypes,
  sample_decode,
)
from pax_haiku.layers import native_decode
from pax_haiku.layers.decode_settings import (
  check,
  check_unread,
  finish,
  no_loop,
  sampler,
)

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
DecoderHParams = decoder_hparams.DecoderHParams

# Settings that would change what is decoded and that no loop of a SequenceModel reads,
# here as in Praxis, with the values that leave them out. Greedy decoding does not read
# max_decode_steps either; but Pax code gives it, besides seqlen.
_UNREAD = {
  decoder_hparams.DecoderHParams: {
    'fprop_for_prefix': False,
    'lazy_prefix_broadcast': False,
    'use_extra_input_kwargs': False,
    'decode_loop_mesh_axes_transpose': None,
  },
  decoder_hparams.SampleDecoderHParams: {
    'vanilla_sample_decode': False,
    'optimize_eos': False,
    'sample_constraint': None,
    'override_next_token_sampler_params': True,
  },
}


def _extend_step(task: Any, ids: JTensor, segment_pos: JTensor | None) -> JTensor:
  return task.model.extend_step(ids).logits


def _transform(task: Any, function) -> None:
  task.model.transform_decode_state(function)


def decode_sequence_model(task: Any, params: DecoderHParams, batch: NestedMap):
  """See `SequenceModel.decode_with_params`.

  The loops run the task, not its model, so that random keys are drawn in its name.

  Raises:
    ValueError: the settings are not of decoding, lack a length, or hold something that
      is not read.
    NotImplementedError: there is no loop for the settings, or they ask for
      classifier-free guidance.
  """
  if isinstance(params, DecoderHParams):
    for cls, fields in _UNREAD.items():
      if isinstance(params, cls):
        check_unread(task, params, fields, 'decoding of a sequence model')
  check(task, params)
  if isinstance(params, decoder_hparams.FlatBeamSearchHParams):
    raise NotImplementedError(
      f'{task._pax_describe()}: flat beam search starts from the last id of a prefix '
      'alone, which a sequence model cannot. Use BeamSearchHParams.'
    )
  samples = isinstance(params, decoder_hparams.SampleDecoderHParams)
  searches = isinstance(params, decoder_hparams.BeamSearchHParams)
  data = NestedMap(
    input_ids=batch.src.ids,
    input_paddings=batch.src.paddings,
    target_ids=jnp.asarray(batch.tgt.ids),
    target_paddings=jnp.asarray(batch.tgt.paddings),
    prefix_lengths=batch.get('prefix_lengths'),
  )

  def fprop_fn(task, ids=None, paddings=None) -> None:
    del ids, paddings
    first, first_paddings = data.target_ids[:, :1], data.target_paddings[:, :1]
    if searches:
      first_paddings = jnp.ones_like(first_paddings)
    if 'encoder_output' in data:
      task.model.fprop_with_encoder_output(
        data.encoder_output, data.input_paddings, first, first_paddings
      )
    else:
      task.model(data.input_ids, data.input_paddings, first, first_paddings)

  if native_decode.is_native(task):
    return native_decode.decode(
      task, lambda: fprop_fn(task), decode_sequence_model, params, batch
    )
  if samples and params.cf_guidance_scale is not None:
    data = task._prepare_guidance_decode_data(data)
  if searches:
    result = beam_search.beam_search(
      task,
      _extend_step,
      fprop_fn,
      _transform,
      data.target_ids[:, :1],
      jnp.ones_like(data.target_paddings[:, :1]),
      params,
      process_result_fn=params.process_result_fn,
    )
    return finish(result, batch, batch.tgt.ids.shape[0])
  common = {
    'seq_len': params.seqlen,
    'fprop_fn': fprop_fn,
    'prefix_lengths': data.prefix_lengths,
    'eos_id': params.eos_id,
    'transform_state_fn': _transform,
    'process_result_fn': params.process_result_fn,
  }
  if samples:
    result = sample_decode.sample_decode(
      task,
      _extend_step,
      lazy_broadcast_prefix_fn=None,
      next_token_sampler=sampler(params),
      prefix_ids=data.target_ids,
      prefix_paddings=data.target_paddings,
      num_samples=params.num_samples,
      temperature=params.temperature,
      max_decode_steps=params.max_decode_steps,
      cf_guidance_scale=params.cf_guidance_scale,
      controlled_decoding=params.controlled_decoding,
      sort_samples=params.sort_samples,
      top_k_recall_target=params.top_k_recall_target,
      use_top_k_for_logprobs=params.use_top_k_for_logprobs,
      early_exit=params.early_exit,
      **common,
    )
  elif isinstance(params, decoder_hparams.GreedyDecoderHParams):
    result = sample_decode.greedy_decode(
      task, _extend_step, data.target_ids, data.target_paddings, **common
    )
  else:
    raise no_loop(task, params)
  return finish(result, batch, batch.tgt.ids.shape[0])
