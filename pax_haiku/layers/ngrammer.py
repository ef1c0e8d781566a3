"""N-gram embeddings, under the name that Pax gives this module."""

from pax_haiku.layers.bregman_ngrammer import (
  BregmanCompression,
  BregmanNgrammer,
  NgrammerStub,
)
from pax_haiku.layers.hashed_ngrammer import Ngrammer
from pax_haiku.layers.ngram_ids import get_bigram_ids
from pax_haiku.layers.vector_quantization import VectorQuantization
from pax_haiku.layers.vq_ngrammer import VQNgrammer

__all__ = [
  'BregmanCompression',
  'BregmanNgrammer',
  'Ngrammer',
  'NgrammerStub',
  'VQNgrammer',
  'VectorQuantization',
  'get_bigram_ids',
]
