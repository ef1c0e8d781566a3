"""LanguageModel: the task of predicting the next token."""

import jax.numpy as jnp

from pax_haiku import base_model, decoder_hparams, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import (
  decode_text,
  embedding_softmax,
  model_decode,
  model_metrics,
  transformer_lm,
)

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
LanguageModelType = transformer_lm.LanguageModelType
LayerTpl = pax_fiddle.Config[base_model.BaseModel]


class LanguageModel(base_model.BaseModel):
  """Predicts tokens with a `TransformerLm`.

  A batch is a NestedMap of `[B, T]`: `ids`, `labels` (the next ids), `paddings` (1 at
  padded ones; left out if there are none), `weights` (of labels), and for packed input
  `segment_ids` and `segment_pos`; also `inputs_indicator` (1 at the prefix) for a
  prefix model, and `eval_sample_weights` [B].

  Attributes:
    lm_tpl: the model; its `model_type` is overwritten.
    return_predictions: return all predictions by example.
    decoder_tpl: settings of `decode`.
    model_type: what a token may attend to.
    count_tokens: count the tokens of training.
    apply_eval_sample_weights: weigh tokens by their examples' `eval_sample_weights`.
    report_strict_acc: report how many examples have all tokens right.
  """

  lm_tpl: LayerTpl = pax_fiddle.template_field(transformer_lm.TransformerLm)
  return_predictions: bool = False
  decoder_tpl: decoder_hparams.DecoderHParams = pax_fiddle.instance_field(
    decoder_hparams.GreedyDecoderHParams
  )
  model_type: LanguageModelType = LanguageModelType.CAUSAL
  count_tokens: bool = False
  apply_eval_sample_weights: bool = False
  report_strict_acc: bool = False

  def setup(self) -> None:
    self.create_child('lm', self.lm_tpl.clone().set(model_type=self.model_type))
    if self.count_tokens:
      self.create_child(
        'token_counter', pax_fiddle.Config(embedding_softmax.TokenCounter)
      )

  def _prepare_predict_data(self, input_batch: NestedMap) -> NestedMap:
    """Arguments of the model for a batch."""
    weights = input_batch.weights
    if self.apply_eval_sample_weights and 'eval_sample_weights' in input_batch:
      weights = model_metrics.merge_weights(weights, input_batch.eval_sample_weights)
    prefix = None
    if self.model_type == LanguageModelType.BIDIRECTIONAL:
      prefix = jnp.zeros_like(input_batch.ids)
    elif self.model_type == LanguageModelType.PREFIX:
      prefix = 1 - input_batch.inputs_indicator
    data = NestedMap(
      inputs=input_batch.ids,
      paddings=input_batch.get('paddings'),
      labels=NestedMap(class_ids=input_batch.labels, class_weights=weights),
      causal_attention_mask=prefix,
    )
    if self.lm_tpl.packed_input:
      data.segment_ids = input_batch.segment_ids
      data.segment_pos = input_batch.segment_pos
      if 'segment_mask' in input_batch:
        data.segment_mask = input_batch.segment_mask
    return data

  def compute_predictions(self, input_batch: NestedMap) -> NestedMap:
    """What the model returns for a batch, see `TransformerLm.compute_loss`."""
    data = self._prepare_predict_data(input_batch)
    if self.count_tokens:
      paddings = data.paddings
      if paddings is None:
        paddings = jnp.zeros(data.inputs.shape, jnp.float32)
      self.token_counter(data.inputs, paddings)
    return self.lm(**data)

  def compute_loss(self, predictions: NestedMap, input_batch: NestedMap):
    """Metrics, see `model_metrics.compute_xent_loss_helper`."""
    return model_metrics.compute_xent_loss_helper(
      predictions,
      input_batch,
      self.return_predictions,
      self.apply_eval_sample_weights,
      self.report_strict_acc,
    )

  def _prepare_decode_data(
    self, input_batch: NestedMap, decoder_params: decoder_hparams.DecoderHParams
  ) -> NestedMap:
    """What decoding gets for a batch; a subclass may add to it or change it.

    Args:
      input_batch: `ids` and `paddings` `[B, P]`; `prefix_lengths` `[B]` if the paddings
        do not say them; `inputs_indicator` `[B, P]` of a prefix model.
      decoder_params: settings.

    Returns:
      NestedMap of the arguments of the forward call that comes first:
      `fprop_input_ids`, `fprop_input_paddings`, and, or None, `fprop_segment_ids`,
      `fprop_segment_pos`, `causal_attention_mask`, all `[B, L]`, `start_time_step` and
      the dict `extra_input_kwargs`; and of those of the loop: `input_ids`,
      `input_paddings`, `prefix_lengths` `[B]`, the length of the output `seqlen`, and
      `state_padding_size`, by how much the caches grow.
    """
    return model_decode.prepare_decode_data(self, input_batch, decoder_params)

  def _prepare_guidance_decode_data(self, decode_data: NestedMap) -> NestedMap:
    """Adds the unconditional examples of classifier-free guidance. Override this.

    Args:
      decode_data: what `_prepare_decode_data` returned.

    Returns:
      The same with each example followed by its unconditional one.
    """
    raise NotImplementedError(
      f'{self._pax_describe()}: LanguageModel does not support guidance. '
      'A subclass can: _prepare_guidance_decode_data makes the unconditional examples.'
    )

  def decode(
    self,
    input_batch: NestedMap,
    result_callback=None,
    return_result_for_suffix_score: bool = False,
  ):
    """Generates tokens as `decoder_tpl` says, see `decode_with_params`."""
    return self.decode_with_params(
      self.decoder_tpl, input_batch, result_callback, return_result_for_suffix_score
    )

  def decode_with_params(
    self,
    decoder_params: decoder_hparams.DecoderHParams,
    input_batch: NestedMap,
    result_callback=None,
    return_result_for_suffix_score: bool = False,
  ):
    """Generates tokens that follow the batch's `ids`.

    Args:
      decoder_params: settings; their class says how.
      input_batch: `ids` and `paddings` `[B, P]`.
      result_callback: a `StreamingResultCallback`, or None.
      return_result_for_suffix_score: return the state of the loop as it is.

    Returns:
      (metrics, NestedMap of results, {}).
    """
    return model_decode.decode_language_model(
      self, decoder_params, input_batch, result_callback, return_result_for_suffix_score
    )

  def process_decode_out(self, input_obj, decode_out: NestedMap):
    """Detokenizes what `decode` returned; on the host."""
    return decode_text.process_language_model_output(input_obj, decode_out)
