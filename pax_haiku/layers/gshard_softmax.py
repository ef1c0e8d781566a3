"""The tied embedding and softmax of the GShard models."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import cross_entropy, linears, shared_softmax
from pax_haiku.layers.embeddings import shard_vectors

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
NestedMap = py_utils.NestedMap


class GShardSharedEmbeddingSoftmax(base_layer.BaseLayer):
  """Embedding table `[num_classes, input_dims]` that also gives bias-free logits.

  The table starts as a unit Gaussian; embeddings are not scaled, logits are
  `inputs / sqrt(input_dims) * table^T`. https://arxiv.org/abs/2006.16668

  Attributes:
    input_dims: size of an embedding.
    num_classes: number of classes V.
    use_tgt_labels_size_as_loss_denominator: divide the loss by the number of examples,
      padded ones too; else by the sum of their weights.
    soft_cap_logits: bounds the logits to `c tanh(logits / c)`; 0 or None: unbounded.
    logits_abs_max: then clips them to plus or minus this; 0 or None: not.
    z_loss_weight: weight of the mean of `(log sum exp logits)^2`, an auxiliary loss
      (which is reported even with weight 0).
    label_smoothing_prob: in training, a target `t` becomes `t (1 - p + p / V) +
      (1 - t) p / V`, probabilities too.
  """

  input_dims: int = 0
  num_classes: int = 0
  use_tgt_labels_size_as_loss_denominator: bool = True
  soft_cap_logits: float | None = 0.0
  logits_abs_max: float | None = 0.0
  z_loss_weight: float = 0.0
  label_smoothing_prob: float = 0.0

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of logits and of embeddings.

    Attributes:
      emb_out_split_dims_mapping: of the vectors that `emb_lookup` returns.
      extend_step_out: of the logits of one decoding step.
    """

    emb_out_split_dims_mapping: SplitDimsMapping = None
    extend_step_out: SplitDimsMapping = None

  def setup(self) -> None:
    self.create_child(
      'embedding',
      pax_fiddle.Config(
        linears.Linear,
        input_dims=self.num_classes,
        output_dims=self.input_dims,
        params_init=base_layer.WeightInit.Gaussian(1.0),
        weight_split_dims_mapping=self.weight_split_dims_mapping.clone(),
        activation_split_dims_mapping=self.activation_split_dims_mapping.clone(),
      ),
    )

  def emb_lookup(self, ids: JTensor) -> JTensor:
    """Embeds integers `[...]` as `[..., input_dims]`; ids out of range give zeros."""
    one_hot = jax.nn.one_hot(ids, self.num_classes, dtype=self.fprop_dtype)
    vectors = linears.project_last_dim(one_hot, self.embedding.theta.w)
    return shard_vectors(self, vectors)

  def extend_step(self, ids: JTensor, *, time_step: JTensor) -> JTensor:
    """Embeds the ids of one decoding step; `time_step` is not used."""
    return self.emb_lookup(ids)

  def get_logits(self, inputs: JTensor, input_ids: JTensor | None = None) -> JTensor:
    """Logits `[..., num_classes]` of `inputs [..., input_dims]`."""
    scaled = inputs * self.input_dims**-0.5
    weight = jnp.transpose(self.embedding.theta.w)
    logits = shared_softmax.shard_logits(
      self, linears.project_last_dim(scaled, weight)
    )
    logits = cross_entropy.soft_cap(logits, self.soft_cap_logits)
    if self.logits_abs_max:
      logits = jnp.clip(logits, -self.logits_abs_max, self.logits_abs_max)
    return logits

  def __call__(
    self,
    inputs: JTensor,
    class_weights: JTensor,
    class_ids: JTensor | None = None,
    class_probabilities: JTensor | None = None,
    input_ids: JTensor | None = None,
  ) -> NestedMap:
    """Cross entropy against ids or probabilities.

    Args:
      inputs: `[..., input_dims]`.
      class_weights: `[..., 1]`, weight of each example.
      class_ids: `[..., 1]`.
      class_probabilities: `[..., num_classes]`; used in place of `class_ids`.
      input_ids: not used.

    Returns:
      A NestedMap with `logits` and `log_probs` `[..., num_classes]` and the scalar
      `total_xent` in the inputs' dtype, `per_example_argmax [...]`,
      `per_example_xent [...]`, `total_weight`, `avg_xent_weight` (the denominator) and
      `avg_xent`.

    Raises:
      ValueError: no targets, or ids of the wrong shape.
    """
    logits = self.get_logits(inputs).astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    targets = class_probabilities
    if targets is None:
      targets = cross_entropy.one_hot_targets(self, class_ids, self.num_classes)
    raw_targets = targets
    smoothing = self.label_smoothing_prob > 0.0 and not self.do_eval
    if smoothing:
      off = self.label_smoothing_prob / self.num_classes
      on = 1.0 - self.label_smoothing_prob + off
      targets = on * targets + off * (1.0 - targets)

    total_weight = jnp.sum(class_weights, dtype=jnp.float32)
    if self.use_tgt_labels_size_as_loss_denominator:
      denominator = jnp.sum(jnp.ones_like(class_weights), dtype=jnp.float32)
    else:
      denominator = total_weight

    def losses(targets):
      xent = -jnp.sum(
        log_probs * jax.lax.stop_gradient(targets), axis=-1, dtype=jnp.float32
      )
      total = cross_entropy.weighted_sum(xent, class_weights)
      return xent, total, total / denominator

    xent, total_xent, avg_xent = losses(targets)
    if smoothing:
      self.add_summary(
        'avg_xent_prior_to_label_smoothing', losses(raw_targets)[2].astype(inputs.dtype)
      )
    z_term = cross_entropy.squared_log_partition(logits) * class_weights
    z_loss = self.z_loss_weight * (jnp.sum(z_term) / denominator)
    self.add_summary('aux_z_loss', z_loss)
    self.add_aux_loss('aux_z_loss', z_loss)
    argmax = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))
    return NestedMap(
      logits=logits.astype(inputs.dtype),
      log_probs=log_probs.astype(inputs.dtype),
      per_example_argmax=argmax.astype(jnp.int32),
      per_example_xent=xent.astype(jnp.float32),
      total_xent=total_xent.astype(inputs.dtype),
      total_weight=total_weight,
      avg_xent_weight=denominator,
      avg_xent=avg_xent.astype(jnp.float32),
    )
