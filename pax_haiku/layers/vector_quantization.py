"""VectorQuantization: online k-means of the heads of embeddings."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import ngram_heads

JTensor = pytypes.JTensor
_SUMMARY = 'k_means/centroid'


def squared_distances(x: JTensor, means: JTensor) -> JTensor:
  """`|x - mean|^2`, `[B, L, N, K]`, of `[B, L, N, H]` and means `[N, K, H]`."""
  products = jnp.einsum('BLNH,NKH->BLNK', x, means)
  lengths = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return -2 * products + (lengths + jnp.sum(jnp.square(means), axis=-1))


def normalized(x: JTensor) -> JTensor:
  """Vectors `[..., H]` divided by their length; zeros stay."""
  length = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.where(length > 0.0, length, 1.0)


class VectorQuantization(base_layer.BaseLayer):
  """The nearest of K means to each head of an embedding, and k-means of what is seen.

  In training each mean moves toward the average of the vectors that are nearest to it:

      mean = decay mean + (1 - decay) sum(vectors) / (epsilon + number of them)

  so that a mean without any shrinks. Means aren't trained by gradients.
  Shapes: B batch, L length, N heads, H dims per head.

  Attributes:
    num_clusters: K.
    num_heads: N.
    decay: how much of a mean stays.
    epsilon: keeps from a division by zero.
    dim_per_head: H.
    prenormalize: divide vectors by their length.
  """

  num_clusters: int = 0
  num_heads: int = 0
  decay: float = 0.999
  epsilon: float = 1e-6
  dim_per_head: int = 0
  prenormalize: bool = False

  def setup(self) -> None:
    ngram_heads.check_positive(
      self, AssertionError, 'num_clusters', 'num_heads', 'dim_per_head'
    )
    self.create_variable(
      'means',
      base_layer.WeightHParams(
        shape=[self.num_heads, self.num_clusters, self.dim_per_head],
        collections=[base_layer.WeightHParamsCollection.REQUIRES_MEAN_SYNC],
      ),
      trainable=False,
    )

  def vectors(self, inputs: JTensor) -> JTensor:
    """What is compared with the means, `[B, L, N, H]`, of inputs as in the call."""
    x = ngram_heads.split(self, self._cast_to_fprop_dtype(inputs))
    return normalized(x) if self.prenormalize else x

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None = None,
    summarize_and_update: bool = True,
  ) -> tuple[JTensor, JTensor]:
    """Finds the nearest means.

    Args:
      inputs: `[B, L, N H]` or `[B, L, N, H]`.
      paddings: `[B, L]`, 1 at what isn't to be counted.
      summarize_and_update: write summaries and, in training, the means.

    Returns:
      Squared distances to the means `[B, L, N, K]`, and the nearest mean
      `[B, L, N, H]`, zeros where padded.
    """
    x, means = self.vectors(inputs), self.get_var('means')
    distances = squared_distances(x, means)
    ids = jnp.argmin(distances, axis=-1)
    nearest = jax.nn.one_hot(ids, self.num_clusters)
    if paddings is not None:
      nearest *= 1 - paddings[:, :, jnp.newaxis, jnp.newaxis]
    quantized = jnp.einsum('BLNK,NKH->BLNH', nearest, means)
    if summarize_and_update:
      self._summarize(ids, means)
      if not self.do_eval:
        count = jnp.sum(nearest, axis=(0, 1))  # [N, K]
        self._summarize_counts(count)
        total = jnp.einsum('BLNK,BLNH->NKH', nearest, x)
        new = total / (self.epsilon + count[:, :, jnp.newaxis])
        self.update_var('means', (1 - self.decay) * new + self.decay * means)
    return distances, quantized

  # -- Summaries --------------------------------------------------------------------

  def _summarize(self, ids: JTensor, means: JTensor) -> None:
    self.add_summary(
      f'{_SUMMARY}/cluster_ids',
      (ids / self.num_clusters * 256)[..., jnp.newaxis],
      base_layer.SummaryType.IMAGE,
    )
    length = jnp.linalg.norm(means, axis=-1)
    for name, of in (('avg', jnp.mean), ('min', jnp.min), ('max', jnp.max)):
      self.add_summary(f'{_SUMMARY}/l2_norm_{name}', of(length))

  def _summarize_counts(self, count: JTensor) -> None:
    self.add_summary(f'{_SUMMARY}/avg_cluster_count', jnp.mean(count))
    for i in range(self.num_heads):
      used = count[i] > 0.0
      share = count[i] / jnp.sum(count[i])
      logs = jnp.log(jnp.where(used, share, 1.0))
      logs /= jnp.maximum(1.0, jnp.sum(used).astype(logs.dtype))
      for name, value in (
        ('inactive_clusters_proportion', jnp.mean(~used, dtype=count.dtype)),
        ('max_cluster_proportion', jnp.max(share)),
        ('min_cluster_proportion', jnp.min(share)),
        ('geomean_cluster_proportion', jnp.exp(jnp.sum(logs))),
      ):
        self.add_summary(f'{_SUMMARY}/{name}/head{i}', value)
