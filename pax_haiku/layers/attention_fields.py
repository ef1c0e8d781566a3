"""What a `DotProductAttention` consists of: its fields, children and shardings."""

from collections.abc import Mapping

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops, stochastics
from pax_haiku.layers.attention_cache import AttentionCache
from pax_haiku.layers.attention_projection import (
  AttentionProjection,
  CombinedQKVProjectionLayer,
)
from pax_haiku.layers.causal_conv import CausalDepthwiseConv1D
from pax_haiku.layers.describe import describe
from pax_haiku.layers.per_dim_scale import PerDimScale
from pax_haiku.layers.rotary import RotaryPositionalEmbedding

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SplitDimsMapping = pytypes.SplitDimsMapping


def head_size(layer: base_layer.BaseLayer) -> int:
  """The layer's `dim_per_head`, which may follow from `hidden_dim` and `num_heads`.

  Raises:
    AssertionError: `hidden_dim` is not set, or the heads do not divide it.
  """
  if layer.dim_per_head is not None:
    return layer.dim_per_head
  if layer.hidden_dim % layer.num_heads:
    raise AssertionError(
      f'{describe(layer)}: num_heads={layer.num_heads} must divide hidden_dim='
      f'{layer.hidden_dim}, or set dim_per_head.'
    )
  return layer.hidden_dim // layer.num_heads


def input_sizes(layer: base_layer.BaseLayer) -> tuple[int, int, int]:
  """Sizes of queries, keys and values, from `input_dim`, a number or a dict.

  Raises:
    AssertionError: one is missing, or `hidden_dim` is not set.
  """
  if not layer.hidden_dim:
    raise AssertionError(
      f'{describe(layer)}: hidden_dim must be set, found {layer.hidden_dim}.'
    )
  sizes = layer.input_dim
  if isinstance(sizes, Mapping):
    names = ('query', 'key', 'value')
    if missing := [n for n in names if not sizes.get(n)]:
      raise AssertionError(
        f'{describe(layer)}: input_dim needs sizes of query, key and value; '
        f'{", ".join(missing)} not set in {dict(sizes)}.'
      )
    return tuple(sizes[n] for n in names)
  if not sizes:
    raise AssertionError(
      f'{describe(layer)}: input_dim must be set, found {sizes}.'
    )
  return sizes, sizes, sizes


def output_projection(
  layer: base_layer.BaseLayer, input_dim: int, permute: bool
) -> LayerTpl:
  """The template of the child `post`.

  Args:
    layer: whose fields count.
    input_dim: size of what `post` returns.
    permute: bring the sharding of `[D, N, H]` into the order of `[N, H, D]`.
  """
  tpl = layer.proj_tpl.clone().set(
    input_dim=input_dim,
    num_heads=layer.num_heads,
    dim_per_head=head_size(layer),
    is_output_projection=True,
    use_bias=layer.use_bias,
    use_nhd_shape=layer.output_proj_use_nhd_shape,
  )
  wt = layer.weight_split_dims_mapping.proj
  if permute and layer.output_proj_use_nhd_shape and wt is not None and len(wt) == 3:
    wt = [wt[1], wt[2], wt[0]]
  tpl.weight_split_dims_mapping.wt = wt
  return tpl


class AttentionFields(AttentionCache):
  """Fields, children and shardings of `DotProductAttention`, which see."""

  input_dim: int | dict[str, int] = 0
  hidden_dim: int = 0
  num_heads: int = 1
  dim_per_head: int | None = None
  dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  atten_dropout_prob: float = 0.0
  proj_tpl: LayerTpl = pax_fiddle.template_field(AttentionProjection)
  dconv_qkv: bool = False
  dconv_kernel_size: int = 3
  internal_gshard_gaussian_init: bool = False
  combine_qkv: bool = False
  combined_qkv_proj_tpl: LayerTpl = pax_fiddle.template_field(
    CombinedQKVProjectionLayer
  )
  use_bias: bool = True
  output_proj_use_nhd_shape: bool = False
  internal_enable_query_scale: bool = True
  internal_enable_per_dim_scale: bool = True
  scale_query_by_dim_per_head: bool = False
  scale_logits_by_head_dims: bool = False
  atten_logit_cap: float = 0.0
  use_rotary_position_emb: bool = False
  consolidate_rope_key_state: bool = False
  rotary_position_emb_tpl: LayerTpl | None = pax_fiddle.template_field(
    RotaryPositionalEmbedding
  )
  cast_rotary_position_emb: bool = True
  relative_bias_tpl: LayerTpl | None = None
  attention_extra_logit: float | None = None
  ngrammer_tpl: LayerTpl | None = None
  decode_cache: bool = True
  attention_mask_summary: bool = False
  zero_fully_masked: bool = False
  qk_einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)
  pv_einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)
  per_dim_scale_tpl: LayerTpl = pax_fiddle.template_field(PerDimScale)
  causal_depthwise_conv1d_tpl: LayerTpl = pax_fiddle.template_field(
    CausalDepthwiseConv1D
  )
  ln_tpl: LayerTpl | None = None
  decoding_maybe_shard_projections: bool = False

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the weights.

    Attributes:
      proj: of all projections, `[D, N, H]`.
      dconv: of the causal convolutions, `[N, H]`.
    """

    proj: SplitDimsMapping = None
    dconv: SplitDimsMapping = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the activations.

    Attributes:
      blnh: of what has heads, `[batch, length, heads, dims]`.
      bld: of the outputs, `[batch, length, dims]`.
    """

    blnh: SplitDimsMapping = None
    bld: SplitDimsMapping = None

  # -- Children ---------------------------------------------------------------

  def _create_projections(self, sizes: tuple[int, int, int]) -> None:
    heads = dict(num_heads=self.num_heads, dim_per_head=head_size(self))
    proj = self.weight_split_dims_mapping.proj
    if self.combine_qkv:
      if len(set(sizes)) > 1:
        raise AssertionError(
          f'{describe(self)}: combine_qkv needs inputs of one size, found input_dim='
          f'{self.input_dim}.'
        )
      tpl = self.combined_qkv_proj_tpl.clone().set(
        input_dim=sizes[0], use_bias=self.use_bias, **heads
      )
      tpl.weight_split_dims_mapping.wt = proj
      self.create_child('combined_qkv', tpl)
      return
    fans = (sizes[0] * heads['dim_per_head'], sizes[1], sizes[2])
    for name, size, fan in zip(('query', 'key', 'value'), sizes, fans, strict=True):
      tpl = self.proj_tpl.clone().set(input_dim=size, use_bias=self.use_bias, **heads)
      tpl.weight_split_dims_mapping.wt = proj
      if self.internal_gshard_gaussian_init:
        tpl.params_init = base_layer.WeightInit.Gaussian(fan**-0.5)
      self.create_child(name, tpl)

  def _create_rotary_position_emb(self, layer_tpl: LayerTpl, dim_per_head: int) -> None:
    self.create_child(
      'rotary_position_emb',
      layer_tpl.clone().set(
        embedding_dims=dim_per_head, cast_as_fprop_dtype=self.cast_rotary_position_emb
      ),
    )

  def setup(self) -> None:
    sizes, dim = input_sizes(self), head_size(self)
    if self.consolidate_rope_key_state and (
      self.dconv_qkv or not self.use_rotary_position_emb
    ):
      raise AssertionError(
        f'{describe(self)}: consolidate_rope_key_state needs use_rotary_position_emb '
        'and no dconv_qkv.'
      )
    self._create_projections(sizes)
    if self.use_rotary_position_emb:
      self._create_rotary_position_emb(self.rotary_position_emb_tpl, dim)
    if self.relative_bias_tpl is not None:
      self.create_child(
        'relative_bias', self.relative_bias_tpl.clone().set(num_heads=self.num_heads)
      )
    if self.dconv_qkv:
      conv = self.causal_depthwise_conv1d_tpl.clone().set(
        kernel_size=self.dconv_kernel_size, hidden_dims=[self.num_heads, dim]
      )
      conv.weight_split_dims_mapping.wt = self.weight_split_dims_mapping.dconv
      for name in ('dconv_q', 'dconv_k', 'dconv_v'):
        self.create_child(name, conv)
    if self.ln_tpl is not None:
      for name in ('layer_norm_q', 'layer_norm_k'):
        self.create_child(name, self.ln_tpl.clone().set(dim=dim))
    if self.ngrammer_tpl is not None:
      self.create_child('ngrammer', self.ngrammer_tpl)
    if self.internal_enable_query_scale and self.internal_enable_per_dim_scale:
      self.create_child('per_dim_scale', self.per_dim_scale_tpl.clone().set(dim=dim))
    self.create_child(
      'atten_dropout',
      self.dropout_tpl.clone().set(keep_prob=1.0 - self.atten_dropout_prob),
    )
    post = output_projection(self, sizes[0], permute=True)
    if self.internal_gshard_gaussian_init:
      post.params_init = base_layer.WeightInit.Gaussian((self.num_heads * dim) ** -0.5)
    self.create_child('post', post)
    self.create_child('qk_einsum', self.qk_einsum_tpl)
    self.create_child('pv_einsum', self.pv_einsum_tpl)

  # -- Sharding ---------------------------------------------------------------

  def _maybe_shard(self, x: JTensor, mapping: SplitDimsMapping) -> JTensor:
    return base_layer.maybe_shard(x, mapping, self.mesh_axis_names)

  def _shard_blnh(self, x: JTensor) -> JTensor:
    """Shards `[B, L, N, H]`."""
    return self._maybe_shard(x, self.activation_split_dims_mapping.blnh)

  def _shard_bnh(self, x: JTensor) -> JTensor:
    """Shards `[B, N, H]`, what has heads in one decoding step."""
    blnh = self.activation_split_dims_mapping.blnh
    return self._maybe_shard(x, blnh and [blnh[0], blnh[2], blnh[3]])

  def _shard_bnh_as_bld(self, x: JTensor) -> JTensor:
    """Shards `[B, N, H]`, its batch as that of outputs, if both mappings are set."""
    blnh = self.activation_split_dims_mapping.blnh
    bld = self.activation_split_dims_mapping.bld
    return self._maybe_shard(x, blnh and bld and [bld[0], blnh[2], blnh[3]])

  def _shard_bld(self, x: JTensor) -> JTensor:
    """Shards `[B, L, D]`."""
    return self._maybe_shard(x, self.activation_split_dims_mapping.bld)

  def _shard_bd(self, x: JTensor) -> JTensor:
    """Shards `[B, D]`, outputs of one decoding step."""
    bld = self.activation_split_dims_mapping.bld
    return self._maybe_shard(x, bld and [bld[0], bld[2]])

  def _shard_cache(self, x: JTensor) -> JTensor:
    return self._shard_blnh(x)
