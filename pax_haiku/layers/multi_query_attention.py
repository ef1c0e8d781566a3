"""Attention whose queries share keys and values. A facade."""

from pax_haiku.layers.multi_query_dot_product import MultiQueryDotProductAttention
from pax_haiku.layers.multi_query_lpb import MultiQueryDotProductAttentionLPB
from pax_haiku.layers.multi_query_projection import OneHeadedAttentionProjection

__all__ = [
  'MultiQueryDotProductAttention',
  'MultiQueryDotProductAttentionLPB',
  'OneHeadedAttentionProjection',
]
