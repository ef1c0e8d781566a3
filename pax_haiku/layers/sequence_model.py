"""SequenceModel: the task of predicting a target sequence from a source sequence."""

from pax_haiku import base_model, decoder_hparams, pax_fiddle, py_utils
from pax_haiku.layers import (
  decode_text,
  model_metrics,
  sequence_decode,
  transformer_encoder_decoder,
)

NestedMap = py_utils.NestedMap
LayerTpl = pax_fiddle.Config[base_model.BaseModel]


class SequenceModel(base_model.BaseModel):
  """Predicts targets with a `TransformerEncoderDecoder`.

  A batch is a NestedMap of `src` (`ids`, `paddings`, each `[B, S]`) and `tgt` (`ids`,
  `labels`, `paddings`, `weights`, each `[B, T]`), both with `segment_ids` and
  `segment_pos` for packed input.

  Attributes:
    model_tpl: the model.
    return_predictions: return all predictions by example.
    decoder_tpl: settings of `decode`.
    label_smoothing_prob: that of the softmax; None: as its template has it.
  """

  model_tpl: LayerTpl = pax_fiddle.template_field(
    transformer_encoder_decoder.TransformerEncoderDecoder
  )
  return_predictions: bool = False
  decoder_tpl: decoder_hparams.DecoderHParams = pax_fiddle.instance_field(
    decoder_hparams.GreedyDecoderHParams
  )
  label_smoothing_prob: float | None = None

  def setup(self) -> None:
    tpl = self.model_tpl.clone()
    if self.label_smoothing_prob is not None:
      tpl.softmax_tpl.label_smoothing_prob = self.label_smoothing_prob
    self.create_child('model', tpl)

  def compute_predictions(self, input_batch: NestedMap) -> NestedMap:
    """What the model returns for a batch, see `TransformerEncoderDecoder`."""
    src, tgt = input_batch.src, input_batch.tgt
    packed = {}
    if self.model_tpl.packed_input:
      packed = {
        'input_segment_ids': src.segment_ids,
        'input_segment_pos': src.segment_pos,
        'target_segment_ids': tgt.segment_ids,
        'target_segment_pos': tgt.segment_pos,
      }
    return self.model(
      inputs=src.ids,
      input_paddings=src.paddings,
      targets=tgt.ids,
      target_paddings=tgt.paddings,
      labels=NestedMap(class_ids=tgt.labels, class_weights=tgt.weights),
      **packed,
    )

  def compute_loss(self, predictions: NestedMap, input_batch: NestedMap):
    """Metrics of the targets, see `model_metrics.compute_xent_loss_helper`."""
    return model_metrics.compute_xent_loss_helper(
      predictions, input_batch.tgt, self.return_predictions
    )

  def encode(self, input_batch: NestedMap) -> NestedMap:
    """Encodes `ids [B, S]` with `paddings`: `embeddings [B, S, D]`."""
    encoded = self.model.encode(input_batch.ids, input_batch.paddings)
    return NestedMap(embeddings=encoded)

  def _prepare_guidance_decode_data(self, decode_data: NestedMap) -> NestedMap:
    """Adds the unconditional examples of classifier-free guidance. Override this.

    Args:
      decode_data: `input_ids` and `input_paddings` `[B, S]`, `target_ids` and
        `target_paddings` `[B, T]`, `prefix_lengths` `[B]` or None.

    Returns:
      The same with each example followed by its unconditional one; `encoder_output`
      `[2 B, S, D]`, if there, is decoded in place of what the encoder returns.
    """
    raise NotImplementedError(
      f'{self._pax_describe()}: SequenceModel does not support guidance. '
      'A subclass can: _prepare_guidance_decode_data makes the unconditional examples.'
    )

  def decode(self, input_batch: NestedMap):
    """Generates targets as `decoder_tpl` says."""
    return self.decode_with_params(input_batch, self.decoder_tpl)

  def decode_with_params(
    self, input_batch: NestedMap, decoder_params: decoder_hparams.DecoderHParams
  ):
    """Generates targets of the batch's sources.

    Args:
      input_batch: `src` and `tgt`; the first ids of `tgt`, `prefix_lengths` `[B]` of
        them if the batch has those, are given, the others are not read.
      decoder_params: settings; their class says how. The output is `seqlen` long;
        `max_decode_steps` does not limit greedy decoding.

    Returns:
      (metrics, NestedMap of results, {}).
    """
    return sequence_decode.decode_sequence_model(self, decoder_params, input_batch)

  def process_decode_out(self, input_obj, decode_out: NestedMap):
    """Detokenizes what `decode` returned; on the host."""
    return decode_text.process_sequence_model_output(input_obj, decode_out)
