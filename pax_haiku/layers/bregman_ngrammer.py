"""BregmanNgrammer: soft bigrams of the coefficients that BregmanPCA finds."""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import bregman_fields, ngram_heads
from pax_haiku.layers.bregman import BregmanPCA

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams

# Fields that are handed on to the layers inside.
_PCA = (
  'num_components activation_type negative_slope mean_beta coefficients_lr '
  'coefficients_beta coefficients_steps components_lr components_beta start_step '
  'end_step constant_lr_schedule'
).split()


def _given(layer: base_layer.BaseLayer, *names: str) -> dict:
  return {name: getattr(layer, name) for name in names}


class BregmanCompression(bregman_fields.PcaFields):
  """A `BregmanPCA` for each head.

  Attributes:
    num_heads: N.
    dim_per_head: H.
    num_components: C, coefficients for a head.
    others: see `bregman_fields.PcaFields`.
  """

  num_heads: int = 0
  dim_per_head: int = 0

  def setup(self) -> None:
    ngram_heads.check_positive(self, ValueError, 'num_heads', 'dim_per_head')
    pca = pax_fiddle.Config(
      BregmanPCA, input_dims=self.dim_per_head, **_given(self, *_PCA)
    )
    self.create_children('bregman_layers', [pca.clone() for _ in range(self.num_heads)])

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Finds the coefficients of each head.

    Args:
      inputs: `[B, L, N H]` or `[B, L, N, H]`.
      paddings: `[B, L]`. As in Pax the components learn where it is 1, and from
        everything if it is None.

    Returns:
      `[B, L, N, C]`.
    """
    x = ngram_heads.split(self, self._cast_to_fprop_dtype(inputs))
    rows = x.reshape((-1,) + x.shape[2:])
    mask = None if paddings is None else paddings.reshape([-1, 1])
    coefficients = [
      pca(rows[:, i], mask)[1] for i, pca in enumerate(self.bregman_layers)
    ]
    return jnp.stack(coefficients, axis=1).reshape(x.shape[:3] + (-1,))


class BregmanNgrammer(bregman_fields.PcaFields):
  """Adds to an embedding what is learned of it and of the one before it.

  With c the coefficients of a head at a position and b those at the one before (at the
  first: its own), by `BregmanPCA`:

      scores_v = sum_jk b_j correlation_jkv c_k
      e = ngram_layer_norm(scores . embedding_table)

  which is put into the embedding as by `Ngrammer`.
  Shapes: B batch, L length, N heads, H dims per head, E dims of a bigram, V scores, C
  coefficients.

  Attributes:
    ngram_vocab_size: V.
    ngram_emb_dim: E; at most H with `concat_ngrams`, else H.
    concat_ngrams: put bigrams in place of the last features of a head, or add them.
    num_heads: N.
    dim_per_head: H.
    num_components: C, at most H.
    others: see `bregman_fields.PcaFields`.
  """

  ngram_vocab_size: int = 768 * 256
  ngram_emb_dim: int = 8
  concat_ngrams: bool = True
  num_heads: int = 0
  dim_per_head: int = 0

  def setup(self) -> None:
    sizes = 'ngram_vocab_size ngram_emb_dim num_heads dim_per_head num_components'
    ngram_heads.check_positive(self, ValueError, *sizes.split())
    ngram_heads.check_ngram_dim(self, ValueError)
    if self.num_components > self.dim_per_head:
      raise ValueError(
        f'{self._pax_describe()}: num_components must be at most dim_per_head = '
        f'{self.dim_per_head}, found {self.num_components}.'
      )

    def create(name: str, shape: list[int]) -> None:
      sync = base_layer.WeightHParamsCollection.REQUIRES_MEAN_SYNC
      self.create_variable(name, WeightHParams(shape=shape, collections=[sync]))

    scores, heads = self.ngram_vocab_size, self.num_heads
    create('correlation', [self.num_components] * 2 + [scores, heads])
    create('embedding_table', [scores, self.ngram_emb_dim, heads])
    norms = ngram_heads.layer_norms
    self.create_children('emb_layer_norm', norms(heads, self.dim_per_head))
    self.create_children('ngram_layer_norm', norms(heads, self.ngram_emb_dim))
    compression = pax_fiddle.Config(
      BregmanCompression, **_given(self, 'num_heads', 'dim_per_head', *_PCA)
    )
    self.create_child('bregman_compression_layer', compression)

  def __call__(
    self,
    input_ids: JTensor | None,
    input_embs: JTensor,
    paddings: JTensor | None = None,
    merge_heads: bool = True,
    **kwargs,
  ) -> JTensor:
    """Adds soft bigrams to embeddings.

    Args:
      input_ids: not used.
      input_embs: `[B, L, N H]` or `[B, L, N, H]`.
      paddings: `[B, L]`, 1 where the result is to be 0; see `BregmanCompression`, too.
      merge_heads: return `[B, L, N H]`, else `[B, L, N, H]`.
      **kwargs: not used.
    """
    x = ngram_heads.split(self, self._cast_to_fprop_dtype(input_embs))
    own = self.bregman_compression_layer(x, paddings)
    before = jnp.concatenate([own[:, :1], own[:, :-1]], axis=1)
    correlation, table = self.theta.correlation, self.theta.embedding_table
    ngrams = []
    for i, norm in enumerate(self.ngram_layer_norm):
      products = jnp.einsum('BLJ,BLK->BLJK', before[:, :, i], own[:, :, i])
      scores = jnp.einsum('BLJK,JKV->BLV', products, correlation[..., i])
      ngrams.append(norm(jnp.einsum('BLV,VE->BLE', scores, table[..., i])))
    x = ngram_heads.normalize(self.emb_layer_norm, x)
    ngrams = jnp.stack(ngrams, axis=2)
    return ngram_heads.combine(self, x, ngrams, paddings, merge_heads)


class NgrammerStub(base_layer.BaseLayer):
  """Does what n-grammers do to embeddings apart from n-grams: it normalizes each head.

  Attributes:
    dim_per_head: H.
    num_heads: N.
  """

  dim_per_head: int = 0
  num_heads: int = 0

  def setup(self) -> None:
    ngram_heads.check_positive(self, AssertionError, 'num_heads', 'dim_per_head')
    norms = ngram_heads.layer_norms(self.num_heads, self.dim_per_head)
    self.create_children('emb_layer_norm', norms)

  def __call__(
    self,
    input_ids: JTensor | None,
    input_embs: JTensor,
    paddings: JTensor | None = None,
    segment_pos: JTensor | None = None,
    merge_heads: bool = True,
    attention_scores: JTensor | None = None,
    emb_var: JTensor | None = None,
    check_time_step_zero: bool = False,
  ) -> JTensor:
    """Normalizes the heads of embeddings; see `VQNgrammer` for the arguments."""
    x = ngram_heads.split(self, self._cast_to_fprop_dtype(input_embs))
    x = ngram_heads.normalize(self.emb_layer_norm, x)
    return ngram_heads.finish(x, paddings, merge_heads)

  def extend_step(
    self,
    input_embs: JTensor,
    step: int | JTensor,
    merge_heads: bool | None = True,
    attention_score: JTensor | None = None,
  ) -> JTensor:
    """Normalizes one of `[B, L, N H]` or `[B, L, N, H]`: `[B, N H]` or `[B, N, H]`."""
    x = jnp.asarray(input_embs)[:, step][:, jnp.newaxis]
    return self(None, x, merge_heads=merge_heads)[:, 0]
