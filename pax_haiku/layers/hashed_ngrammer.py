"""Ngrammer: embeddings of bigrams, whose ids are hashed into a table for each head."""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import embeddings, ngram_heads, ngram_ids
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


class Ngrammer(base_layer.BaseLayer):
  """Adds to the embedding of a token what is learned of its bigram.

      x_i = emb_layer_norm_i(x_i)                                  # per head i
      e_i = ngram_layer_norm_i(ngram_table_i[hash_i(id, id before)])
      x_i = concat(x_i[:-E], e_i)       # or x_i + e_i, without concat_ngrams

  N-Grammer, https://arxiv.org/abs/2207.06366, of ids or of clusters (see `VQNgrammer`).
  Shapes: B batch, L length, N heads, H dims per head, E dims of a bigram.

  Attributes:
    ngram_vocab_size: rows of a head's table. Bigrams share rows, different ones in each
      head.
    unigram_vocab_size: number of ids.
    ngram_emb_dim: E; at most H with `concat_ngrams`, else H.
    concat_ngrams: put bigrams in place of the last features of a head, or add them.
    num_heads: N.
    dim_per_head: H.
  """

  ngram_vocab_size: int = 768 * 256
  unigram_vocab_size: int = 0
  ngram_emb_dim: int = 8
  concat_ngrams: bool = True
  num_heads: int = 0
  dim_per_head: int = 0

  def setup(self) -> None:
    ngram_heads.check_positive(
      self, AssertionError, 'unigram_vocab_size', 'num_heads', 'dim_per_head'
    )
    ngram_heads.check_ngram_dim(self, AssertionError)
    found = len(self._primes())
    if found < self.num_heads:
      raise ValueError(
        f'{describe(self)}: each of the {self.num_heads} heads hashes with a prime '
        f'between ngram_vocab_size = {self.ngram_vocab_size} and twice that, but there '
        f'are {found}; take a larger ngram_vocab_size.'
      )
    heads = range(self.num_heads)
    table = pax_fiddle.Config(
      embeddings.Embedding,
      num_classes=self.ngram_vocab_size,
      input_dims=self.ngram_emb_dim,
      params_init=self.params_init,
    )
    table.weight_split_dims_mapping.wt = self.weight_split_dims_mapping.wt
    self.create_children('ngram_table', [table.clone() for _ in heads])
    norms = ngram_heads.layer_norms
    self.create_children('ngram_layer_norm', norms(self.num_heads, self.ngram_emb_dim))
    self.create_children('emb_layer_norm', norms(self.num_heads, self.dim_per_head))

  def _primes(self) -> tuple[int, ...]:
    return ngram_ids.primes_above(self.ngram_vocab_size, self.num_heads)

  def __call__(
    self,
    input_ids: JTensor,
    input_embs: JTensor,
    paddings: JTensor | None = None,
    segment_pos: JTensor | None = None,
    merge_heads: bool = True,
    pair_ids: JTensor | None = None,
    emb_var: JTensor | None = None,
    **kwargs,
  ) -> JTensor:
    """Adds bigrams to embeddings.

    Args:
      input_ids: `[B, L]`, or `[B, L, N]` if each head has ids of its own.
      input_embs: `[B, L, N H]` or `[B, L, N, H]`.
      paddings: `[B, L]`, 1 where the result is to be 0.
      segment_pos: `[B, L]`, positions in segments of packed examples: a bigram doesn't
        reach over the start of a segment.
      merge_heads: return `[B, L, N H]`, else `[B, L, N, H]`.
      pair_ids: `[B, N, L]`, the position of the other token of a bigram, L for none;
        None: the position before.
      emb_var: not used.
      **kwargs: not used.

    Raises:
      ValueError: shapes do not fit.
    """
    x = ngram_heads.split(self, self._cast_to_fprop_dtype(input_embs))
    shape = () if input_ids is None else jnp.shape(input_ids)
    if shape not in (x.shape[:2], x.shape[:3]):
      raise ValueError(
        f'{describe(self)}: expected input_ids {list(x.shape[:2])} or '
        f'{list(x.shape[:3])}, as input_embs are, found '
        f'{"None" if input_ids is None else f"shape {shape}"}.'
      )
    ngrams = []
    for i, prime in enumerate(self._primes()):
      ids = ngram_ids.get_bigram_ids(
        input_ids if len(shape) == 2 else input_ids[:, :, i],
        self.unigram_vocab_size,
        segment_pos,
        None if pair_ids is None else pair_ids[:, i],
      )
      ids = ngram_ids.hashed(ids, i, prime, self.ngram_vocab_size)
      ngrams.append(self.ngram_layer_norm[i](self.ngram_table[i](ids)))
    x = ngram_heads.normalize(self.emb_layer_norm, x)
    ngrams = jnp.stack(ngrams, axis=2)
    return ngram_heads.combine(self, x, ngrams, paddings, merge_heads)
