"""Softmax layers whose projection is the embedding table too."""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import activations, base_ops, cross_entropy, linears, softmax
from pax_haiku.layers.embeddings import lookup_rows, shard_vectors

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SplitDimsMapping = pytypes.SplitDimsMapping


def shard_logits(layer: base_layer.BaseLayer, logits: JTensor) -> JTensor:
  """Shards logits by `out`, those of one step by `extend_step_out` or `out[0], out[2]`.
  """
  ap = layer.activation_split_dims_mapping
  mapping = ap.out
  if logits.ndim == 2:
    if ap.extend_step_out is not None and len(ap.extend_step_out) == 2:
      mapping = ap.extend_step_out
    elif ap.out is not None and len(ap.out) == 3:
      mapping = [ap.out[0], ap.out[2]]
  return base_layer.maybe_shard(logits, mapping, layer.mesh_axis_names)


class SharedEmbeddingSoftmax(softmax.FullSoftmax):
  """FullSoftmax whose weight `[input_dims, num_classes]` also embeds ids.

  Attributes:
    lookup_style: `'index'`, where ids outside the table are clamped, or `'matmul'`,
      where they give zeros.
    scale_sqrt_depth: multiply the embeddings by `sqrt(input_dims)`.
    array_lookup_tpl: does the indexing.
    einsum_tpl: does the product with one-hot vectors.
  """

  lookup_style: str = 'index'
  scale_sqrt_depth: bool = False
  array_lookup_tpl: LayerTpl = pax_fiddle.template_field(base_ops.ArrayLookup)
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of logits and of embeddings.

    Attributes:
      emb_out_split_dims_mapping: of the vectors that `emb_lookup` returns.
      extend_step_out: of the logits of one decoding step.
    """

    emb_out_split_dims_mapping: SplitDimsMapping = None
    extend_step_out: SplitDimsMapping = None

  def setup(self) -> None:
    super().setup()
    self.create_child('array_lookup', self.array_lookup_tpl.clone())
    self.create_child('einsum', self.einsum_tpl.clone())

  def _rows(self, ids: JTensor) -> JTensor:
    table = jnp.transpose(self.logits_ffn.linear.theta.w)
    return lookup_rows(self, table, ids, self.array_lookup, self.einsum)

  def emb_lookup(self, ids: JTensor) -> JTensor:
    """Embeds integers `[...]` as `[..., input_dims]`."""
    vectors = self._rows(ids)
    if self.scale_sqrt_depth:
      vectors *= self.input_dims**0.5
    return shard_vectors(self, vectors)

  def extend_step(self, ids: JTensor, *, time_step: JTensor) -> JTensor:
    """Embeds the ids of one decoding step; `time_step` is not used."""
    return self.emb_lookup(ids)


class NClassMajorSharedEmbeddingSoftmax(SharedEmbeddingSoftmax):
  """SharedEmbeddingSoftmax with the table stored as `w [num_classes, input_dims]`.

  `weight_split_dims_mapping.wt` keeps its meaning `[input_dims, num_classes]`: it is
  reversed for `w`. As in Pax, `feed_forward_tpl`, `array_lookup_tpl` and
  `scale_before_logits` have no effect.

  Attributes:
    einsum_tpl: does the product with one-hot vectors, and the one that gives logits.
    activation_tpl: applied to the biased logits.
    use_bias: has a bias.
  """

  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)
  activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.Identity)
  )
  use_bias: bool = True

  def setup(self) -> None:
    wt = self.weight_split_dims_mapping.wt
    self.create_variable(
      'w',
      base_layer.WeightHParams(
        shape=[self.num_classes, self.input_dims],
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=None if wt is None else [wt[1], wt[0]],
      ),
    )
    if self.use_bias:
      bias = pax_fiddle.Config(
        linears.Bias, dims=self.num_classes, bias_init=self.bias_init
      )
      out = self.activation_split_dims_mapping.out
      if self.mesh_shape is not None and out is not None:
        bias.weight_split_dims_mapping.wt = [out[-1]]
      self.create_child('bias', bias)
    self.create_child('activation', self.activation_tpl.clone())
    self.create_child('einsum', self.einsum_tpl.clone())
    if self.bi_tempered_loss_tpl is not None:
      self.create_child('bi_tempered_loss', self.bi_tempered_loss_tpl.clone())

  def get_logits(self, inputs: JTensor, input_ids: JTensor | None = None) -> JTensor:
    """Logits `[..., num_classes]` of `inputs [..., input_dims]`."""
    logits = self.einsum('...y,zy->...z', inputs, self.theta.w)
    logits = shard_logits(self, logits)
    if self.use_bias:
      logits = self.bias(logits)
    logits = self.activation(logits)
    return cross_entropy.soft_cap(logits, self.soft_cap_logits)

  def _rows(self, ids: JTensor) -> JTensor:
    return lookup_rows(
      self, self.theta.w, ids, lambda table, index: table[index], self.einsum
    )
