"""Transformer layers: a facade under their Pax name."""

from pax_haiku.layers.moe import TransformerFeedForwardMoe
from pax_haiku.layers.pipelined_transformer import PipelinedTransformer
from pax_haiku.layers.repeated_transformer import (
  PipelineCompatibleStackedTransformerRepeated,
  StackedTransformerRepeated,
)
from pax_haiku.layers.stacked_transformer import StackedTransformer
from pax_haiku.layers.transformer import Transformer
from pax_haiku.layers.transformer_feedforward import TransformerFeedForward
from pax_haiku.layers.transformer_masks import (
  compute_attention_masks_for_extend_step,
  compute_attention_masks_for_fprop,
)

__all__ = [
  'PipelineCompatibleStackedTransformerRepeated',
  'PipelinedTransformer',
  'StackedTransformer',
  'StackedTransformerRepeated',
  'Transformer',
  'TransformerFeedForward',
  'TransformerFeedForwardMoe',
  'compute_attention_masks_for_extend_step',
  'compute_attention_masks_for_fprop',
]
