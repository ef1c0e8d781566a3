"""Losses of the models that predict tokens."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, py_utils, pytypes

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap


def predictions(
  layer: base_layer.BaseLayer, activations: JTensor, input_ids: JTensor | None
) -> NestedMap:
  """Logits of `activations [..., D]`, with log probabilities and probabilities."""
  extra = {} if input_ids is None else {'input_ids': input_ids}
  logits = layer.softmax.get_logits(inputs=activations, **extra)
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  probs = jax.nn.softmax(logits.astype(jnp.float32))
  return NestedMap(
    logits=logits,
    log_probs=log_probs.astype(logits.dtype),
    probs=probs.astype(logits.dtype),
  )


def softmax_loss(
  layer: base_layer.BaseLayer,
  activations: JTensor,
  labels: NestedMap,
  input_ids: JTensor | None,
) -> NestedMap:
  """What `layer.softmax` returns for labels, with losses by token and sequence.

  Args:
    layer: has a child `softmax`.
    activations: `[B, T, D]`.
    labels: `class_weights [B, T]`, and `class_ids [B, T]` or `class_probabilities
      [B, T, V]`, or both.
    input_ids: `[B, T]`, for softmaxes that use them; or None.
  """
  ids = labels.get('class_ids')
  extra = {} if input_ids is None else {'input_ids': input_ids[..., jnp.newaxis]}
  out = layer.softmax(
    activations,
    labels.class_weights[..., jnp.newaxis],
    class_ids=None if ids is None else ids[..., jnp.newaxis],
    class_probabilities=labels.get('class_probabilities'),
    **extra,
  )
  weights = labels.class_weights.astype(jnp.float32)
  out.per_token_xent = out.per_example_xent * weights
  out.per_sequence_xent = jnp.sum(out.per_token_xent, axis=-1)
  return out


def add_aux_losses(layer: base_layer.BaseLayer, out: NestedMap) -> None:
  """Adds the auxiliary losses of all layers below `layer` to `out.total_loss`.

  They are those of the collection `aux_loss` as it stands; if that is not collected
  (not mutable in `apply`) there are none.
  """
  collected = layer.variables.get(base_layer.AUX_LOSS, {})
  losses = jax.tree.leaves(
    collected, is_leaf=lambda x: isinstance(x, base_layer.AuxLossStruct)
  )
  losses = [x for x in losses if isinstance(x, base_layer.AuxLossStruct)]
  if losses:
    value = sum(jnp.sum(x.value) for x in losses)
    weight = sum(jnp.sum(x.weight) for x in losses)
  else:
    value = weight = jnp.zeros((), layer.fprop_dtype)
  layer.add_summary('total_aux_loss', value)
  layer.add_summary('total_aux_loss_weight', weight)
  out.aux_loss, out.aux_loss_weight = value, weight
  out.total_loss = out.total_loss + value


def negative_entropy(
  layer: base_layer.BaseLayer, logits: JTensor, class_weights: JTensor
) -> JTensor:
  """Weighted mean of `sum p log p` over tokens, with summaries."""
  logits = logits.astype(jnp.float32)
  total = jnp.sum(class_weights)
  per_token = jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits), axis=-1)
  mean = jnp.sum(per_token * class_weights) / total
  share = jnp.mean(logits, axis=-1) * class_weights / total
  layer.add_summary('per_token_logits', share)
  layer.add_summary('avg_entropy_loss', mean)
  return mean
