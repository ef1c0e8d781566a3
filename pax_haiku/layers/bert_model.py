"""BertModel: the task of predicting masked tokens."""

import jax.numpy as jnp

from pax_haiku import base_model, pax_fiddle, py_utils
from pax_haiku.layers import augmentations, transformer_lm

NestedMap = py_utils.NestedMap
LayerTpl = pax_fiddle.Config[base_model.BaseModel]


class BertModel(base_model.BaseModel):
  """Masks tokens and predicts them (https://arxiv.org/abs/1810.04805).

  A batch is a NestedMap of `[B, T]`: `labels` (the tokens), `paddings`, `segment_ids`,
  `segment_pos`, and maybe `masked_ids` and `masked_pos` (1 at masked tokens).

  Attributes:
    lm_tpl: the model; bidirectional, with packed input.
    label_smoothing_prob: that of the softmax; None: as its template has it.
    mask_token_id: what masked tokens become.
    force_mask_generation: draw masks even if the batch has them.
  """

  lm_tpl: LayerTpl = pax_fiddle.template_field(transformer_lm.TransformerLm)
  label_smoothing_prob: float | None = None
  mask_token_id: int = 0
  force_mask_generation: bool = False

  def setup(self) -> None:
    bidirectional = transformer_lm.LanguageModelType.BIDIRECTIONAL
    if self.lm_tpl.model_type != bidirectional or not self.lm_tpl.packed_input:
      raise AssertionError(
        f'{self._pax_describe()}: lm_tpl must be bidirectional and have packed input, '
        f'found model_type={self.lm_tpl.model_type!r}, packed_input='
        f'{self.lm_tpl.packed_input}.'
      )
    tpl = self.lm_tpl.clone()
    if self.label_smoothing_prob is not None:
      tpl.softmax_tpl.label_smoothing_prob = self.label_smoothing_prob
    self.create_child('lm', tpl)
    self.create_child(
      'mlm_augmenter',
      pax_fiddle.Config(
        augmentations.MaskedLmDataAugmenter,
        vocab_size=tpl.vocab_size,
        mask_token_id=self.mask_token_id,
      ),
    )

  def compute_predictions(self, input_batch: NestedMap) -> NestedMap:
    """What the model returns for masked tokens, and `augmented_labels`, `_pos`."""
    labels, paddings = input_batch.labels, input_batch.paddings
    given = 'masked_ids' in input_batch and 'masked_pos' in input_batch
    if given and not self.force_mask_generation:
      ids, masked = input_batch.masked_ids, input_batch.masked_pos
    else:
      ids, masked = self.mlm_augmenter(labels, paddings)
    predictions = self.lm(
      inputs=ids,
      paddings=paddings,
      labels=NestedMap(class_ids=labels, class_weights=masked),
      segment_ids=input_batch.segment_ids,
      segment_pos=input_batch.segment_pos,
    )
    predictions.augmented_labels = ids
    predictions.augmented_pos = masked
    return predictions

  def compute_loss(self, predictions: NestedMap, input_batch: NestedMap):
    """Metrics of the masked tokens, and by example what was fed and predicted."""
    number = predictions.total_weight
    hits = input_batch.labels == predictions.per_example_argmax
    accuracy = jnp.sum(hits * predictions.augmented_pos) / jnp.maximum(number, 1)
    tokens = jnp.sum(1.0 - input_batch.paddings.astype(jnp.float32))
    sequences = jnp.sum(jnp.max(input_batch.segment_ids, axis=-1), dtype=jnp.float32)
    one = jnp.array(1.0, predictions.avg_xent.dtype)
    weight = number.astype(predictions.avg_xent.dtype)
    metrics = NestedMap(
      total_loss=(predictions.total_loss, weight),
      avg_xent=(predictions.avg_xent, weight),
      aux_loss=(predictions.aux_loss, weight),
      log_pplx=(predictions.avg_xent, weight),
      fraction_of_correct_preds=(accuracy, weight),
      num_predictions=(number, one),
      num_tokens=(tokens, one),
      num_seqs=(sequences, one),
    )
    return metrics, NestedMap(
      augmented_labels=predictions.augmented_labels,
      predicted_labels=predictions.per_example_argmax,
      per_sequence_xent=predictions.per_sequence_xent,
    )
