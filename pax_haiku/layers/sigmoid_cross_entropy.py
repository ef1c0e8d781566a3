"""Logistic cross entropy for examples that can belong to several classes."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import cross_entropy, linears
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
NestedMap = py_utils.NestedMap


class SigmoidCrossEntropy(base_layer.BaseLayer):
  """Logits `inputs W + b` and the sum of the classes' logistic losses.

  Attributes:
    input_dims: size of the last axis of the inputs.
    num_classes: number of classes.
    soft_cap_logits: bounds the logits to `c tanh(logits / c)`; 0 or None: unbounded.
      No effect without `feed_forward_tpl`.
    bias_init: initial bias.
    feed_forward_tpl: projects to logits; None: the inputs are the logits.
  """

  input_dims: int = 0
  num_classes: int = 0
  soft_cap_logits: float | None = 0.0
  bias_init: float | None = 0.0
  feed_forward_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)

  def setup(self) -> None:
    if self.feed_forward_tpl is not None:
      self.create_child('logits_ffn', cross_entropy.logits_ffn_config(self))
    elif self.input_dims != self.num_classes:
      raise ValueError(
        f'{describe(self)}: without feed_forward_tpl the inputs are the logits, so '
        f'input_dims={self.input_dims} must equal num_classes={self.num_classes}.'
      )

  def get_logits(self, inputs: JTensor) -> JTensor:
    """Logits `[..., num_classes]` of `inputs [..., input_dims]`."""
    if self.feed_forward_tpl is None:
      return inputs
    return cross_entropy.soft_cap(self.logits_ffn(inputs), self.soft_cap_logits)

  def logits_to_logp(self, logits: JTensor) -> JTensor:
    """Log probability of each class, in float32."""
    return jax.nn.log_sigmoid(logits.astype(jnp.float32))

  def __call__(
    self,
    inputs: JTensor,
    class_weights: JTensor,
    class_ids: JTensor | None = None,
    class_probabilities: JTensor | None = None,
  ) -> NestedMap:
    """Cross entropy against ids or probabilities.

    Args:
      inputs: `[..., input_dims]`.
      class_weights: `[..., num_classes]`, weight of each class of each example, or
        `[..., 1]`, weight of each example.
      class_ids: `[..., 1]`, the one class of each example.
      class_probabilities: `[..., num_classes]`; used in place of `class_ids`.

    Returns:
      A NestedMap with `logits` and `log_probs` `[..., num_classes]`,
      `per_example_argmax [...]`, `per_example_xent [...]` and the scalars
      `total_xent`, `total_weight` (the sum of `class_weights`) and `avg_xent`
      (`total_xent / (total_weight + 1e-6)`). All but the float32 `total_weight` and the
      argmax are in the inputs' dtype.

    Raises:
      ValueError: no targets, ids with a single class, or weights of the wrong shape.
    """
    targets = class_probabilities
    if targets is None:
      if class_ids is not None and self.num_classes == 1:
        raise ValueError(
          f'{describe(self)}: class_ids with num_classes=1 say nothing. Give '
          'class_probabilities.'
        )
      targets = jax.lax.stop_gradient(
        cross_entropy.one_hot_targets(self, class_ids, self.num_classes)
      )
    if class_weights.shape[-1] == self.num_classes:
      per_class, per_example = class_weights, 1.0
    elif class_weights.shape[-1] == 1:
      per_class, per_example = 1.0, jnp.squeeze(class_weights, -1)
    else:
      raise ValueError(
        f'{describe(self)}: expected class_weights [..., 1] or [..., num_classes='
        f'{self.num_classes}] for inputs of shape {inputs.shape}, found shape '
        f'{class_weights.shape}.'
      )
    logits = self.get_logits(inputs).astype(jnp.float32)
    xent = (
      jnp.maximum(logits, 0)
      - logits * targets
      + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    )
    xent = jnp.sum(per_class * xent, axis=-1, dtype=jnp.float32)
    total_xent = jnp.sum(xent * per_example, dtype=jnp.float32)
    total_weight = jnp.sum(class_weights, dtype=jnp.float32)
    argmax = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))
    dtype = inputs.dtype
    return NestedMap(
      logits=logits.astype(dtype),
      log_probs=self.logits_to_logp(logits).astype(dtype),
      per_example_argmax=argmax.astype(jnp.int32),
      per_example_xent=xent.astype(dtype),
      total_xent=total_xent.astype(dtype),
      total_weight=total_weight,
      avg_xent=(total_xent / (total_weight + 1e-6)).astype(dtype),
    )
