"""Attention layers and masks, under the names of the Pax module. A facade."""

from pax_haiku.layers.attention_blocks import (
  _make_local_mask,
  _padded_slice,
  convert_to_block,
  extract_block_context,
  shift_1d,
)
from pax_haiku.layers.attention_masks import (
  causal_mask,
  causal_segment_mask,
  convert_paddings_to_mask,
  limited_context_mask,
  merge_masks,
  segment_mask,
)
from pax_haiku.layers.attention_projection import (
  AttentionProjection,
  CombinedQKVProjectionLayer,
)
from pax_haiku.layers.causal_conv import CausalDepthwiseConv1D
from pax_haiku.layers.dot_product_attention import DotProductAttention
from pax_haiku.layers.fused_attention import (
  attention_implementation,
  get_attention_implementation,
  right_padding,
  set_attention_implementation,
)
from pax_haiku.layers.local_attention import LocalSelfAttention
from pax_haiku.layers.local_attention_kinds import (
  LocalSelfAttentionAlibi,
  LocalSelfAttentionRelativeBias,
  LocalSelfAttentionXL,
)
from pax_haiku.layers.lpb_attention import DotProductAttentionWithLPB
from pax_haiku.layers.per_dim_scale import PerDimScale
from pax_haiku.layers.relative_bias import RelativeBias
from pax_haiku.layers.structured_masks import StructuredMask
from pax_haiku.layers.xl_attention import (
  DotProductAttentionXL,
  create_relative_positional_embedding,
)

__all__ = [
  'AttentionProjection',
  'CausalDepthwiseConv1D',
  'CombinedQKVProjectionLayer',
  'DotProductAttention',
  'DotProductAttentionWithLPB',
  'DotProductAttentionXL',
  'LocalSelfAttention',
  'LocalSelfAttentionAlibi',
  'LocalSelfAttentionRelativeBias',
  'LocalSelfAttentionXL',
  'PerDimScale',
  'RelativeBias',
  'StructuredMask',
  '_make_local_mask',
  '_padded_slice',
  'attention_implementation',
  'causal_mask',
  'causal_segment_mask',
  'convert_paddings_to_mask',
  'convert_to_block',
  'create_relative_positional_embedding',
  'extract_block_context',
  'get_attention_implementation',
  'limited_context_mask',
  'merge_masks',
  'right_padding',
  'segment_mask',
  'set_attention_implementation',
  'shift_1d',
]
