"""VQNgrammer: embeddings of bigrams of clusters, which embeddings are sorted into."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import ngram_heads
from pax_haiku.layers.describe import describe
from pax_haiku.layers.hashed_ngrammer import Ngrammer
from pax_haiku.layers.vector_quantization import (
  VectorQuantization,
  squared_distances,
)

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit

_BLOCK = 8192  # Rows of the embedding table that are sorted into clusters at a time.


def most_attended(scores: JTensor, causal: bool) -> JTensor:
  """Where each query looks most, `[B, N, L]`, by attention scores `[B, N, L, L]`.

  With `causal` only keys before the query count, and the first query gets L.
  """
  if not causal:
    return jnp.argmax(scores, axis=-1)
  length = scores.shape[-1]
  before = jnp.tri(length, k=-1, dtype=bool)
  pairs = jnp.argmax(jnp.where(before, scores, -jnp.inf), axis=-1)
  return jnp.where(jnp.arange(length) == 0, length, pairs)


class VQNgrammer(base_layer.BaseLayer):
  """Adds to an embedding what is learned of the bigram of its clusters.

  Each head of an embedding is given the id of the nearest of K means, which follow the
  embeddings (see `VectorQuantization`); bigrams of these ids are embedded as by
  `Ngrammer`. https://arxiv.org/abs/2207.06366.

  For a table of embeddings the cluster of each token can be kept in a cache, to be read
  in evaluation instead of the means.

  Shapes: B batch, L length, N heads, H dims per head.

  Attributes:
    ngram_vocab_size: rows of a head's table of bigrams.
    unigram_vocab_size: number of tokens, for the cache; 0: there is no cache.
    ngram_emb_dim: dims of a bigram; at most H with `concat_ngrams`, else H.
    ngram_using_attention_scores: pair a token with the one that it attends to most, not
      with the one before.
    causal_attention: only tokens before count for that.
    concat_ngrams: put bigrams in place of the last features of a head, or add them.
    num_clusters: K.
    num_heads: N.
    decay: how much of a mean stays in an update.
    epsilon: keeps the update from a division by zero.
    dim_per_head: H.
    use_cached_input_ids_to_cluster_ids: read the cache; in evaluation only.
    enable_cache_updates: write the clusters of what is seen in training to the cache.
    full_update_cache_frequency: renew the whole cache every so many steps of training;
      0: never.
    full_update_cache_steps: renew it at these steps, too.
    prenormalize: divide heads by their length before they are sorted into clusters.
  """

  ngram_vocab_size: int = 768 * 256
  unigram_vocab_size: int = 0
  ngram_emb_dim: int = 8
  ngram_using_attention_scores: bool = False
  causal_attention: bool = True
  concat_ngrams: bool = False
  num_clusters: int = 0
  num_heads: int = 0
  decay: float = 0.999
  epsilon: float = 1e-6
  dim_per_head: int = 0
  use_cached_input_ids_to_cluster_ids: bool = False
  enable_cache_updates: bool = True
  full_update_cache_frequency: int = 0
  full_update_cache_steps: tuple[int, ...] = ()
  prenormalize: bool = False

  @classmethod
  def set_canonical_sharding_params(
    cls,
    vqngrammer_p: LayerTpl,
    *,
    replica_axis,
    data_axis,
    mdl_axis,
    ici_mesh_shape,
    dcn_mesh_shape,
    mesh_axis_names,
    training_optimized,
  ) -> LayerTpl:
    """Sets a template's mesh, and shards the tables' rows over the model axis.

    Args:
      vqngrammer_p: a template of this class, which is changed and returned.
      replica_axis: not used.
      data_axis: mesh axis of the tables' features.
      mdl_axis: mesh axis of their rows.
      ici_mesh_shape: shape of the mesh in a slice.
      dcn_mesh_shape: shape of the mesh of slices, or None.
      mesh_axis_names: the names of the axes.
      training_optimized: not used.
    """
    vqngrammer_p.ici_mesh_shape = ici_mesh_shape
    vqngrammer_p.dcn_mesh_shape = dcn_mesh_shape
    vqngrammer_p.mesh_axis_names = mesh_axis_names
    vqngrammer_p.weight_split_dims_mapping.wt = [mdl_axis, data_axis]
    return vqngrammer_p

  def setup(self) -> None:
    ngram_heads.check_positive(
      self, AssertionError, 'num_clusters', 'num_heads', 'dim_per_head'
    )
    ngram_heads.check_ngram_dim(self, AssertionError)
    heads = {'num_heads': self.num_heads, 'dim_per_head': self.dim_per_head}
    self.create_child(
      'vq_layer',
      pax_fiddle.Config(
        VectorQuantization,
        num_clusters=self.num_clusters,
        decay=self.decay,
        epsilon=self.epsilon,
        prenormalize=self.prenormalize,
        params_init=self.params_init,
        **heads,
      ),
    )
    ngram_layer = pax_fiddle.Config(
      Ngrammer,
      ngram_vocab_size=self.ngram_vocab_size,
      unigram_vocab_size=self.num_clusters,
      ngram_emb_dim=self.ngram_emb_dim,
      concat_ngrams=self.concat_ngrams,
      params_init=self.params_init,
      **heads,
    )
    ngram_layer.weight_split_dims_mapping.wt = self.weight_split_dims_mapping.wt
    self.create_child('ngram_layer', ngram_layer)
    full_updates = self.full_update_cache_frequency or self.full_update_cache_steps
    needs_cache = self.use_cached_input_ids_to_cluster_ids or full_updates
    if needs_cache and self.unigram_vocab_size <= 0:
      raise AssertionError(
        f'{describe(self)}: a cache of clusters has a row for each token: set '
        'unigram_vocab_size to the number of tokens.'
      )
    if self.unigram_vocab_size > 0:
      self.create_variable(
        'input_id_to_cluster_id_cache',
        WeightHParams(
          shape=[self.unigram_vocab_size, self.num_heads],
          dtype=jnp.int32,
          init=WeightInit.Constant(0),
        ),
        trainable=False,
      )
    if full_updates and not self.do_eval:
      self.create_variable(
        'count',
        WeightHParams(shape=[], dtype=jnp.int32, init=WeightInit.Constant(0)),
        trainable=False,
      )

  # -- Clusters and their cache -----------------------------------------------------

  def _clusters(self, x: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Ids of clusters `[B, L, N]` of embeddings."""
    distances, _ = self.vq_layer(x, paddings)
    return jnp.argmin(distances, axis=-1)

  def _cached_clusters(self, input_ids: JTensor) -> JTensor:
    if not self.do_eval:
      raise AssertionError(
        f'{describe(self)}: use_cached_input_ids_to_cluster_ids is for evaluation; in '
        'training it would keep the clusters from being learned.'
      )
    return self.get_var('input_id_to_cluster_id_cache')[(input_ids,)]

  def _all_clusters(self, emb_var: JTensor, means: JTensor) -> JTensor:
    """Clusters `[V, N]` of embeddings `[V, D]`, block by block."""
    clusters = []
    for start in range(0, emb_var.shape[0], _BLOCK):
      x = self.vq_layer.vectors(emb_var[jnp.newaxis, start : start + _BLOCK])
      clusters.append(jnp.argmin(squared_distances(x, means)[0], axis=-1))
    return jnp.concatenate(clusters)

  def _update_cache(
    self, input_ids: JTensor | None, clusters: JTensor, emb_var: JTensor | None
  ) -> None:
    """Writes what training has seen, and the whole if it is time for that."""
    cache = self.get_var('input_id_to_cluster_id_cache')
    if self.enable_cache_updates and input_ids is not None:
      cache = cache.at[input_ids].set(clusters)
    frequency, steps = self.full_update_cache_frequency, self.full_update_cache_steps
    if frequency or steps:
      if emb_var is None or emb_var.shape[0] != self.unigram_vocab_size:
        raise AssertionError(
          f'{describe(self)}: to renew the cache, emb_var must be the table of '
          f'embeddings [{self.unigram_vocab_size}, {self.num_heads * self.dim_per_head}'
          f'], found {emb_var if emb_var is None else emb_var.shape}.'
        )
      count = self.get_var('count')
      now = jnp.isin(count, jnp.asarray(steps, jnp.int32))
      if frequency:
        now |= count % frequency == 0
      cache = jax.lax.cond(
        now,
        lambda cache, *table: self._all_clusters(*table),
        lambda cache, *table: cache,
        *(cache, emb_var, self.vq_layer.get_var('means')),
      )
      self.update_var('count', count + 1)
    self.update_var('input_id_to_cluster_id_cache', cache)

  # -- Calls ------------------------------------------------------------------------

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
    """Adds bigrams of clusters to embeddings.

    Args:
      input_ids: `[B, L]`, tokens; None without a cache.
      input_embs: `[B, L, N H]` or `[B, L, N, H]`.
      paddings: `[B, L]`, 1 where the result is to be 0.
      segment_pos: `[B, L]`, positions in segments of packed examples: a bigram doesn't
        reach over the start of a segment.
      merge_heads: return `[B, L, N H]`, else `[B, L, N, H]`.
      attention_scores: `[B, N, L, L]`, with `ngram_using_attention_scores`.
      emb_var: `[unigram_vocab_size, N H]`, all embeddings, to renew the cache.
      check_time_step_zero: where token and embedding are zero, there is no token yet:
        give it cluster 0, as if it weren't there.

    Raises:
      ValueError: there are no attention scores, or shapes do not fit.
      AssertionError: the cache can't be used.
    """
    if self.use_cached_input_ids_to_cluster_ids:
      clusters = self._cached_clusters(input_ids)
    else:
      clusters = self._clusters(input_embs, paddings)
    pair_ids = None
    if self.ngram_using_attention_scores:
      self._check_scores(attention_scores, 'attention_scores')
      pair_ids = most_attended(attention_scores, self.causal_attention)
    if check_time_step_zero:
      axes = tuple(range(2, input_embs.ndim))
      there = (input_ids != 0) | jnp.any(input_embs != 0, axis=axes)
      clusters *= there[..., jnp.newaxis]
    if not self.do_eval and self.unigram_vocab_size > 0:
      self._update_cache(input_ids, clusters, emb_var)
    return self.ngram_layer(
      clusters, input_embs, paddings, segment_pos, merge_heads, pair_ids
    )

  def _check_scores(self, scores: JTensor | None, name: str) -> None:
    if scores is None:
      raise ValueError(
        f'{describe(self)}: with ngram_using_attention_scores, {name} must be given.'
      )

  def extend_step(
    self,
    input_embs: JTensor,
    step: int | JTensor,
    merge_heads: bool | None = True,
    attention_score: JTensor | None = None,
  ) -> JTensor:
    """Adds its bigram to one of the embeddings so far.

    Args:
      input_embs: `[B, L, N H]` or `[B, L, N, H]`; what comes after `step` has no part.
      step: which one, a scalar.
      merge_heads: return `[B, N H]`, else `[B, N, H]`.
      attention_score: `[B, N, L]`, with `ngram_using_attention_scores`.

    Raises:
      ValueError: there are no attention scores, or they aren't causal.
    """
    input_embs = jnp.asarray(input_embs)
    clusters = self._clusters(input_embs)  # [B, L, N]
    pair = jnp.maximum(step - 1, 0)
    if self.ngram_using_attention_scores:
      self._check_scores(attention_score, 'attention_score')
      if not self.causal_attention:
        raise ValueError(
          f'{describe(self)}: extend_step needs causal_attention: what comes after the '
          'step is not known yet.'
        )
      before = jnp.arange(attention_score.shape[-1]) < step
      scores = jnp.where(before, attention_score, -jnp.inf)
      pair = jnp.argmax(scores, axis=-1)[:, jnp.newaxis]  # [B, 1, N]
      partner = jnp.take_along_axis(clusters, pair, axis=1)
    else:
      partner = clusters[:, pair][:, jnp.newaxis]
    partner = jnp.where(step > 0, partner, 0)
    own = clusters[:, step][:, jnp.newaxis]
    both = jnp.concatenate([partner, own], axis=1)
    x = input_embs[:, step][:, jnp.newaxis]
    x = jnp.concatenate([x, x], axis=1)  # The partner's isn't looked at.
    return self.ngram_layer(both, x, merge_heads=merge_heads)[:, 1]
