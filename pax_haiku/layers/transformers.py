"""Transformer layers: a facade under their Pax name."""

from pax_haiku.layers.moe import TransformerFeedForwardMoe
from pax_haiku.layers.transformer_feedforward import TransformerFeedForward

__all__ = ['TransformerFeedForward', 'TransformerFeedForwardMoe']
