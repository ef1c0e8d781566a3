"""What the softmax layers share: targets, soft cap, weighted means, the z term."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import activations
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


def logits_ffn_config(layer: base_layer.BaseLayer) -> pax_fiddle.Config:
  """The layer's `feed_forward_tpl`, set up as its projection to logits."""
  return layer.feed_forward_tpl.clone().set(
    input_dims=layer.input_dims,
    output_dims=layer.num_classes,
    activation_tpl=pax_fiddle.Config(activations.Identity),
    bias_init=layer.bias_init,
    weight_split_dims_mapping=layer.weight_split_dims_mapping.clone(),
    activation_split_dims_mapping=layer.activation_split_dims_mapping.clone(),
  )


def soft_cap(logits: JTensor, cap: float | None) -> JTensor:
  """`cap * tanh(logits / cap)`; the logits themselves if `cap` is None or 0."""
  return cap * jnp.tanh(logits / cap) if cap else logits


def one_hot_targets(
  layer: base_layer.BaseLayer, class_ids: JTensor | None, num_classes: int
) -> JTensor:
  """`class_ids [..., 1]` as float32 one-hot vectors `[..., num_classes]`.

  Raises:
    ValueError: there are no ids, or their last axis is not of size 1.
  """
  if class_ids is None:
    raise ValueError(
      f'{describe(layer)}: give class_ids or class_probabilities; both are None.'
    )
  if class_ids.ndim < 1 or class_ids.shape[-1] != 1:
    raise ValueError(
      f'{describe(layer)}: expected class_ids [..., 1], found shape {class_ids.shape}.'
    )
  return jax.nn.one_hot(jnp.squeeze(class_ids, -1), num_classes, dtype=jnp.float32)


def weighted_sum(per_example: JTensor, weights: JTensor) -> JTensor:
  """Scalar float32 sum of `per_example [...] * weights [..., 1]`."""
  return jnp.sum(per_example[..., jnp.newaxis] * weights, dtype=jnp.float32)


def squared_log_partition(logits: JTensor) -> JTensor:
  """`(log sum exp(logits))^2` over the last axis, which stays with size 1.

  Its weighted mean is the z loss, which keeps logits from drifting
  (https://arxiv.org/abs/2204.02311, section 5).
  """
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
  return jnp.square(jnp.log(total) + largest)
