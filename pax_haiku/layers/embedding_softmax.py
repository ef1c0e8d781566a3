"""Embedding and softmax layers, under the name that Pax gives this module."""

from pax_haiku.layers.embeddings import Embedding, TokenCounter
from pax_haiku.layers.gshard_softmax import GShardSharedEmbeddingSoftmax
from pax_haiku.layers.positional import (
  PositionalEmbedding,
  PositionalEmbedding2D,
  TrainablePositionalEmbedding,
)
from pax_haiku.layers.rotary import RotaryPositionalEmbedding
from pax_haiku.layers.shared_softmax import (
  NClassMajorSharedEmbeddingSoftmax,
  SharedEmbeddingSoftmax,
)
from pax_haiku.layers.sigmoid_cross_entropy import SigmoidCrossEntropy
from pax_haiku.layers.softmax import FullSoftmax

__all__ = [
  'Embedding',
  'FullSoftmax',
  'GShardSharedEmbeddingSoftmax',
  'NClassMajorSharedEmbeddingSoftmax',
  'PositionalEmbedding',
  'PositionalEmbedding2D',
  'RotaryPositionalEmbedding',
  'SharedEmbeddingSoftmax',
  'SigmoidCrossEntropy',
  'TokenCounter',
  'TrainablePositionalEmbedding',
]
