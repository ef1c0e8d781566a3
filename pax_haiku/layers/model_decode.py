"""How a LanguageModel generates tokens: its batches and settings for the loops."""

from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import (
  base_layer,
  beam_search,
  decoder_hparams,
  decoder_utils,
  flat_beam_search,
  pax_fiddle,
  py_utils,
  pytypes,
  sample_decode,
)
from pax_haiku.decoding import mesh
from pax_haiku.layers import native_decode
from pax_haiku.layers.decode_settings import (
  check,
  check_vanilla,
  finish,
  no_loop,
  sampler,
  steps_range,
)
from pax_haiku.layers.transformer_lm import LanguageModelType

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
DecoderHParams = decoder_hparams.DecoderHParams

# Settings of sampling that a batch may hold, instead of the decoder's or besides them.
_INSTEAD = ('temperature', 'eos_id', 'cf_guidance_scale')
_BESIDES = (
  'per_example_max_decode_steps',
  'per_example_top_p',
  'per_example_top_k',
  'gumbel_prng_key',
  'enforce_sample_constraints',
  'num_per_token_logprobs',
)


def _prefix_lengths(task: Any, batch: NestedMap) -> JTensor:
  if 'prefix_lengths' in batch:
    return batch.prefix_lengths
  if task.model_type == LanguageModelType.PREFIX and 'inputs_indicator' in batch:
    return jnp.sum(batch.inputs_indicator.astype(jnp.int32), axis=1)
  return jnp.sum(1 - batch.paddings.astype(jnp.int32), axis=1)


def prepare_decode_data(
  task: Any, batch: NestedMap, params: DecoderHParams
) -> NestedMap:
  """See `LanguageModel._prepare_decode_data`."""
  lengths = _prefix_lengths(task, batch)
  ids, paddings = jnp.asarray(batch.ids), jnp.asarray(batch.paddings)
  count, length = ids.shape
  extra = batch.get('extra_input_kwargs', {}) if params.use_extra_input_kwargs else {}
  if not params.fprop_for_prefix:
    return NestedMap(
      seqlen=params.seqlen,
      start_time_step=0,
      input_ids=ids,
      input_paddings=paddings,
      fprop_input_ids=jnp.zeros([count, 1], ids.dtype),
      fprop_input_paddings=jnp.ones([count, 1], paddings.dtype),
      fprop_segment_ids=None,
      fprop_segment_pos=None,
      causal_attention_mask=None,
      state_padding_size=params.seqlen - 1,
      prefix_lengths=lengths,
      extra_input_kwargs=extra,
    )
  ids, paddings = sample_decode.right_align_prefix_ids(ids, lengths, paddings.dtype)
  fewest, most = steps_range(params)
  prefix = None
  if task.model_type == LanguageModelType.PREFIX:
    if 'inputs_indicator' in batch:
      prefix = 1 - batch.inputs_indicator
    else:
      prefix = (jnp.arange(length) >= lengths[:, jnp.newaxis]).astype(jnp.int32)
    prefix = decoder_utils.right_align_tensors(prefix, lengths)
  return NestedMap(
    seqlen=length + most,
    start_time_step=length - 1,
    input_ids=jnp.pad(ids, [(0, 0), (0, fewest)]),
    input_paddings=jnp.pad(paddings, [(0, 0), (0, fewest)], constant_values=1),
    fprop_input_ids=ids,
    fprop_input_paddings=paddings,
    fprop_segment_ids=(1 - paddings).astype(jnp.int32),
    fprop_segment_pos=sample_decode.right_align_segment_position(lengths, length),
    causal_attention_mask=prefix,
    state_padding_size=fewest,
    prefix_lengths=lengths,
    extra_input_kwargs=extra,
  )


def _transform(model: Any, function) -> None:
  model.transform_decode_state(function)


def _lazy_broadcast(model: Any, num_suffix_samples: int, suffix_length: int) -> None:
  model.lazy_broadcast_prefix(num_suffix_samples, suffix_length)


def _extend_step(model: Any, ids: JTensor, segment_pos: JTensor | None) -> JTensor:
  return model.extend_step(ids, segment_pos=segment_pos).logits


def _without_last(data: NestedMap) -> NestedMap:
  """What the forward call gets if the loop runs the last token of the prefix, too."""
  ids, paddings = data.fprop_input_ids, data.fprop_input_paddings
  if ids.shape[1] == 1:
    shorter = {
      'fprop_input_ids': jnp.zeros_like(ids),
      'fprop_input_paddings': jnp.ones_like(paddings),
    }
  else:
    names = 'input_ids input_paddings segment_ids segment_pos'
    names = [*(f'fprop_{name}' for name in names.split()), 'causal_attention_mask']
    shorter = {k: data[k][:, :-1] for k in names if data[k] is not None}
  return NestedMap(data, **shorter)


class _Decoding:
  """One call of `decode`: what its forward call and its loops share."""

  def __init__(self, task: Any, params: DecoderHParams, data: NestedMap):
    self.task, self.params, self.data = task, params, data
    self.lazy = _lazy_broadcast if params.lazy_prefix_broadcast else None
    self.transpose = params.decode_loop_mesh_axes_transpose
    self.pspecs = None
    if self.transpose and not task.is_initializing():
      self.pspecs = self._partition_specs()
    self.mesh = {
      'decode_loop_mesh_axes_transpose': self.transpose,
      'model_var_pspecs': self.pspecs,
    }

  def _partition_specs(self) -> Any:
    lm = self.task.lm._pax_unbound_copy()
    if lm.mesh_shape is None or lm.mesh_axis_names is None:
      raise ValueError(
        f'{self.task._pax_describe()}: decode_loop_mesh_axes_transpose needs a mesh; '
        'set ici_mesh_shape and mesh_axis_names of the task.'
      )
    # Their shapes alone matter: tracers could not enter another trace.
    args, kwargs = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype) if hasattr(x, 'shape') else x,
      self._fprop_arguments(self.data),
    )
    metadata = lm.abstract_init_with_metadata(*args, **kwargs)
    return base_layer.var_partition_specs(metadata, lm.mesh_shape, lm.mesh_axis_names)

  @staticmethod
  def _fprop_arguments(data: NestedMap):
    return (data.fprop_input_ids, data.fprop_input_paddings), dict(
      segment_ids=data.fprop_segment_ids,
      segment_pos=data.fprop_segment_pos,
      start_time_step=data.start_time_step,
      causal_attention_mask=data.causal_attention_mask,
      **data.extra_input_kwargs,
    )

  def fprop(self, model: Any, ids=None, paddings=None) -> None:
    """The forward call that fills the caches; what the loops give it is not needed."""
    args, kwargs = self._fprop_arguments(self.data)
    model(*args, **kwargs)

  def fprop_without_last(self, model: Any, ids, paddings) -> None:
    args, kwargs = self._fprop_arguments(_without_last(self.data))
    model(*args, **kwargs)

  def flat_beam(self) -> NestedMap:
    params, data, lm = self.params, self.data, self.task.lm
    self.fprop(lm)
    lm = mesh.maybe_reshard_mdl_for_decode(lm, self.transpose, self.pspecs, _transform)
    with mesh.maybe_decode_mesh_transpose(lm, self.transpose):
      lm.transform_decode_state(decoder_utils.pad_state_fn(data.state_padding_size))
      try:
        result = flat_beam_search.flat_beam_search(
          lm,
          _extend_step,
          data.input_ids,
          data.input_paddings,
          data.seqlen,
          beam_size=params.beam_size,
          fprop_dtype=self.task.fprop_dtype,
          max_decode_steps=params.max_decode_steps,
          eos_id=params.eos_id,
          length_norm_alpha=params.length_norm_alpha,
        )
      except ValueError as error:
        error.add_note(
          'Flat beam search gives the model ids [batch, beam_size] at each step, which '
          'no attention takes, here as in Praxis. BeamSearchHParams works.'
        )
        raise
      if params.process_result_fn is not None:
        result = params.process_result_fn(lm, result)
      return result

  def beam(self) -> NestedMap:
    return beam_search.beam_search(
      self.task.lm,
      _extend_step,
      self.fprop,
      _transform,
      self.data.fprop_input_ids,
      self.data.fprop_input_paddings,
      self.params,
      process_result_fn=self.params.process_result_fn,
      lazy_broadcast_prefix_fn=self.lazy,
      **self.mesh,
    )

  def _common(self) -> dict[str, Any]:
    """Arguments of greedy decoding and sampling."""
    return {
      'fprop_fn': self.fprop,
      'transform_state_fn': _transform,
      'fprop_for_prefix': self.params.fprop_for_prefix,
      'max_prefix_len': (
        self.data.fprop_input_ids.shape[1] if self.params.fprop_for_prefix else None
      ),
      'max_decode_steps': self.params.max_decode_steps,
      'prefix_lengths': self.data.prefix_lengths,
      'process_result_fn': self.params.process_result_fn,
      **self.mesh,
    }

  def greedy(self) -> NestedMap:
    return sample_decode.greedy_decode(
      self.task.lm,
      _extend_step,
      self.data.input_ids,
      self.data.input_paddings,
      self.data.seqlen,
      eos_id=self.params.eos_id,
      **self._common(),
    )

  def vanilla(self, batch: NestedMap) -> NestedMap:
    params, data, lm = self.params, self.data, self.task.lm
    check_vanilla(self.task, params)
    result = sample_decode.vanilla_sample_decode(
      lm,
      self.fprop_without_last,
      _extend_step,
      _transform,
      sampler(params, batch),
      data.fprop_input_ids,
      data.fprop_input_paddings,
      temperature=batch.get('temperature', params.temperature),
      gumbel_prng_key=batch.get('gumbel_prng_key'),
      max_decode_steps=steps_range(params)[1],
      eos_id=batch.get('eos_id', params.eos_id),
      **self.mesh,
    )
    if params.process_result_fn is not None:
      result = params.process_result_fn(lm, result)
    return result

  def sample(self, batch: NestedMap, result_callback, raw_state: bool) -> NestedMap:
    params = self.params
    constraint = params.sample_constraint
    if isinstance(constraint, pax_fiddle.Config):  # built, as Praxis wants it, or not
      constraint = base_layer.instantiate(constraint)
    return sample_decode.sample_decode(
      self.task.lm,
      _extend_step,
      lazy_broadcast_prefix_fn=self.lazy,
      next_token_sampler=sampler(params, batch),
      prefix_ids=self.data.input_ids,
      prefix_paddings=self.data.input_paddings,
      seq_len=self.data.seqlen,
      num_samples=params.num_samples,
      result_callback=result_callback,
      return_result_for_suffix_score=raw_state,
      sort_samples=params.sort_samples,
      top_k_recall_target=params.top_k_recall_target,
      early_exit=params.early_exit,
      use_top_k_for_logprobs=params.use_top_k_for_logprobs,
      controlled_decoding=params.controlled_decoding,
      return_entropy_score='return_entropy_score' in batch,
      optimize_eos=params.optimize_eos,
      sample_constraint=constraint,
      **{name: batch.get(name, getattr(params, name)) for name in _INSTEAD},
      **{name: batch.get(name) for name in _BESIDES},
      **self._common(),
    )


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
  check(task, params)
  if task.model_type == LanguageModelType.BIDIRECTIONAL:
    raise NotImplementedError(
      f'{task._pax_describe()}: a bidirectional model cannot decode step by step.'
    )
  flat = isinstance(params, decoder_hparams.FlatBeamSearchHParams)
  beam = isinstance(params, decoder_hparams.BeamSearchHParams) and not flat
  if beam and not params.fprop_for_prefix:
    raise AssertionError(f'{task._pax_describe()}: beam search needs fprop_for_prefix.')
  data = task._prepare_decode_data(batch, params)
  if native_decode.is_native(task):
    return native_decode.decode(
      task,
      lambda: task.lm(data.fprop_input_ids, data.fprop_input_paddings),
      decode_language_model,
      params,
      batch,
      result_callback,
      return_result_for_suffix_score,
    )
  samples = isinstance(params, decoder_hparams.SampleDecoderHParams)
  if samples and params.cf_guidance_scale is not None:
    data = task._prepare_guidance_decode_data(data)
  decoding = _Decoding(task, params, data)
  if flat:
    result = decoding.flat_beam()
  elif beam:
    result = decoding.beam()
  elif samples and params.vanilla_sample_decode:
    result = decoding.vanilla(batch)
  elif samples:
    result = decoding.sample(batch, result_callback, return_result_for_suffix_score)
  elif isinstance(params, decoder_hparams.GreedyDecoderHParams):
    result = decoding.greedy()
  else:
    raise no_loop(task, params)
  return finish(result, batch, batch.ids.shape[0])
