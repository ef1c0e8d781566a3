"""What a `MultiQueryDotProductAttention` consists of: fields, children, shardings."""

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops, stochastics
from pax_haiku.layers.attention_cache import AttentionCache
from pax_haiku.layers.attention_fields import (
  head_size,
  input_sizes,
  output_projection,
)
from pax_haiku.layers.attention_projection import AttentionProjection
from pax_haiku.layers.describe import describe
from pax_haiku.layers.multi_query_projection import OneHeadedAttentionProjection
from pax_haiku.layers.rotary import RotaryPositionalEmbedding

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SplitDimsMapping = pytypes.SplitDimsMapping


class MultiQueryFields(AttentionCache):
  """Fields, children and shardings of `MultiQueryDotProductAttention`, which see."""

  input_dim: int | dict[str, int] = 0
  hidden_dim: int = 0
  num_heads: int = 1
  num_kv_heads: int = 1
  dim_per_head: int | None = None
  dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  atten_dropout_prob: float = 0.0
  proj_tpl: LayerTpl = pax_fiddle.template_field(AttentionProjection)
  headless_proj_tpl: LayerTpl = pax_fiddle.template_field(OneHeadedAttentionProjection)
  internal_gshard_gaussian_init: bool = False
  use_bias: bool = True
  output_proj_use_nhd_shape: bool = False
  internal_enable_query_scale: bool = True
  atten_logit_cap: float = 0.0
  use_rotary_position_emb: bool = False
  consolidate_rope_key_state: bool = False
  rotary_position_emb_tpl: LayerTpl | None = pax_fiddle.template_field(
    RotaryPositionalEmbedding
  )
  relative_bias_tpl: LayerTpl | None = None
  attention_extra_logit: float | None = None
  dconv_qkv: bool = False
  combine_qkv: bool = False
  decode_cache: bool = True
  qk_einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)
  pv_einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)
  scale_query_by_dim_per_head: bool = False
  chunked_attn_num_seq_split: int = 1
  zero_fully_masked: bool = False
  local_window_size: tuple[int, int] | None = None

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the weights.

    Attributes:
      proj: of projections to heads, `[D, N, H]`.
      dconv: not used.
      proj_headless: of projections to one head, `[D, H]`.
    """

    proj: SplitDimsMapping = None
    dconv: SplitDimsMapping = None
    proj_headless: SplitDimsMapping = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the activations.

    Attributes:
      blnh: of what has heads, `[batch, length, heads, dims]`.
      blh: of keys and values of one head; None: as `blnh` says.
      bld: of the outputs, `[batch, length, dims]`.
      bd: of the outputs of one decoding step; None: as `bld` says.
    """

    blnh: SplitDimsMapping = None
    blh: SplitDimsMapping = None
    bld: SplitDimsMapping = None
    bd: SplitDimsMapping = None

  def _check_fields(self) -> None:
    if self.dconv_qkv or self.combine_qkv:
      raise AssertionError(
        f'{describe(self)}: dconv_qkv and combine_qkv are not supported; use '
        'DotProductAttention for them.'
      )
    if self.consolidate_rope_key_state and not self.use_rotary_position_emb:
      raise AssertionError(
        f'{describe(self)}: consolidate_rope_key_state needs use_rotary_position_emb.'
      )
    if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
      raise AssertionError(
        f'{describe(self)}: num_kv_heads={self.num_kv_heads} must divide num_heads='
        f'{self.num_heads}.'
      )

  def setup(self) -> None:
    self._check_fields()
    sizes, dim = input_sizes(self), head_size(self)
    sharding = self.weight_split_dims_mapping

    def project(name: str, size: int, heads: int) -> None:
      tpl = self.proj_tpl.clone().set(
        input_dim=size, num_heads=heads, dim_per_head=dim, use_bias=self.use_bias
      )
      tpl.weight_split_dims_mapping.wt = sharding.proj
      self.create_child(name, tpl)

    def project_to_one(name: str, size: int) -> None:
      tpl = self.headless_proj_tpl.clone().set(
        input_dim=size, output_dim=dim, use_bias=self.use_bias
      )
      tpl.weight_split_dims_mapping.wt = sharding.proj_headless
      self.create_child(name, tpl)

    for name, size in (('key', sizes[1]), ('value', sizes[2])):
      if self.num_kv_heads == 1:
        project_to_one(name, size)
      else:
        project(name, size, self.num_kv_heads)
    project('query', sizes[0], self.num_heads)
    if self.use_rotary_position_emb:
      self.create_child(
        'rotary_position_emb',
        self.rotary_position_emb_tpl.clone().set(embedding_dims=dim),
      )
    if self.relative_bias_tpl is not None:
      self.create_child(
        'relative_bias', self.relative_bias_tpl.clone().set(num_heads=self.num_heads)
      )
    self.create_child(
      'atten_dropout',
      self.dropout_tpl.clone().set(keep_prob=1.0 - self.atten_dropout_prob),
    )
    self.create_child('post', output_projection(self, sizes[0], permute=False))
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

  def _shard_blh(self, x: JTensor) -> JTensor:
    """Shards `[B, L, H]`, keys and values of one head."""
    sharding = self.activation_split_dims_mapping
    blnh = sharding.blnh
    return self._maybe_shard(x, sharding.blh or (blnh and [blnh[0], blnh[1], blnh[3]]))

  def _shard_kv(self, x: JTensor) -> JTensor:
    """Shards keys or values, `[B, L, H]` or `[B, L, K, H]`."""
    return self._shard_blh(x) if self.num_kv_heads == 1 else self._shard_blnh(x)

  def _shard_bld(self, x: JTensor) -> JTensor:
    """Shards `[B, L, D]`."""
    return self._maybe_shard(x, self.activation_split_dims_mapping.bld)

  def _shard_bd(self, x: JTensor) -> JTensor:
    """Shards `[B, D]`, outputs of one decoding step."""
    sharding = self.activation_split_dims_mapping
    bld = sharding.bld
    return self._maybe_shard(x, sharding.bd or (bld and [bld[0], bld[2]]))

  def _replicate_last(self, x: JTensor) -> JTensor:
    """Inputs `[B, L, D]` sharded as `bld`, their last axis whole."""
    bld = self.activation_split_dims_mapping.bld
    return self._maybe_shard(x, bld and [bld[0], bld[1], None])

  def _shard_cache(self, x: JTensor) -> JTensor:
    return self._shard_kv(x)
