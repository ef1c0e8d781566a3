"""Metrics of the models that predict tokens, and small helpers of models."""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
WeightedScalars = pytypes.WeightedScalars


def merge_weights(per_token: JTensor, per_example: JTensor) -> JTensor:
  """Weights of tokens `[B, T]` times those of their examples `[B]`."""
  if per_example.ndim != 1 or per_token.shape[:1] != per_example.shape:
    raise ValueError(
      'Weights of examples must have shape [batch], those of tokens [batch, time]; '
      f'found {per_example.shape} and {per_token.shape}.'
    )
  return per_token * per_example[:, jnp.newaxis]


def _strict_accuracy(hits: JTensor, weights: JTensor, batch: NestedMap):
  """(fraction of examples without a wrong token, number of examples)."""
  if 'eval_sample_weights' in batch:
    examples = batch.eval_sample_weights.astype(jnp.float32)
  else:
    examples = jnp.ones(hits.shape[:1], jnp.float32)
  examples = (examples > 0).astype(jnp.float32)
  right = jnp.all(jnp.logical_or(hits, weights == 0), axis=-1).astype(jnp.float32)
  number = jnp.sum(examples)
  return jnp.sum(right * examples) / jnp.maximum(number, 1.0), number


def compute_xent_loss_helper(
  predictions: NestedMap,
  input_batch: NestedMap,
  return_predictions: bool,
  apply_eval_sample_weights: bool = False,
  report_strict_acc: bool = False,
) -> tuple[WeightedScalars, NestedMap]:
  """Metrics of predicted tokens.

  Args:
    predictions: what a `TransformerLm` or `TransformerEncoderDecoder` returns.
    input_batch: `labels`, `weights` `[B, T]`, and maybe `eval_sample_weights` [B].
    return_predictions: return `predictions` as second result.
    apply_eval_sample_weights: weigh tokens by their examples, too.
    report_strict_acc: report how many examples have all tokens right.

  Returns:
    {name: (value, weight)}, and by example `labels` and `scores` (log probabilities).

  Raises:
    AttributeError: the predictions lack `aux_loss`, because of `skip_aux_loss`.
  """
  if 'aux_loss' not in predictions:
    raise AttributeError(
      'The predictions have no aux_loss, which metrics report. Set '
      'skip_aux_loss=False in the model, or add aux_loss and aux_loss_weight.'
    )
  labels, weights = input_batch.labels, input_batch.weights
  has_examples = 'eval_sample_weights' in input_batch
  if apply_eval_sample_weights and has_examples:
    weights = merge_weights(weights, input_batch.eval_sample_weights)
  number = predictions.total_weight
  hits = labels == predictions.per_example_argmax
  accuracy = jnp.sum(hits * weights) / jnp.maximum(number, 1)
  weight = number.astype(predictions.avg_xent.dtype)
  xent_weight = predictions.get('avg_xent_weight', weight)
  one = jnp.array(1.0, weight.dtype)
  metrics = NestedMap(
    total_loss=(predictions.total_loss, weight),
    avg_xent=(predictions.avg_xent, xent_weight),
    aux_loss=(predictions.aux_loss, jnp.array(1.0, predictions.aux_loss.dtype)),
    log_pplx=(predictions.avg_xent, xent_weight),
    fraction_of_correct_next_step_preds=(accuracy, weight),
    num_predictions=(number, one),
  )
  if report_strict_acc:
    metrics.acc_strict = _strict_accuracy(hits, weights, input_batch)
  if return_predictions:
    return metrics, predictions
  by_example = NestedMap(labels=labels, scores=-predictions.per_sequence_xent)
  if apply_eval_sample_weights and has_examples:
    by_example.eval_sample_weights = input_batch.eval_sample_weights
  return metrics, by_example


def add_hist(
  layer: base_layer.BaseLayer, name: str, expression: JTensor, verbosity: int = 2
) -> None:
  """Adds a histogram summary."""
  layer.add_summary(
    name, expression, summary_type=base_layer.SummaryType.HISTOGRAM, verbosity=verbosity
  )


def template_has_type(template, cls: type) -> bool:
  """Whether `template` is an instance of `cls`, or a config of exactly `cls`."""
  if isinstance(template, pax_fiddle.Config):
    return template.cls == cls
  return isinstance(template, cls)
