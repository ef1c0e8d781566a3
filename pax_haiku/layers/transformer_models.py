"""Models made of transformer blocks: a facade under their Pax name."""

from pax_haiku.layers.id_checks import checked_ids
from pax_haiku.layers.transformer_encoder_decoder import TransformerEncoderDecoder
from pax_haiku.layers.transformer_lm import LanguageModelType, TransformerLm

__all__ = [
  'LanguageModelType',
  'TransformerEncoderDecoder',
  'TransformerLm',
  'checked_ids',
]
