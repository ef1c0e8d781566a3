"""Local attention that knows distances: Transformer-XL's, a learned bias, slopes."""

import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import xl_attention
from pax_haiku.layers.describe import describe
from pax_haiku.layers.local_attention import LocalSelfAttention

JTensor = pytypes.JTensor


def _check_blocks(layer: LocalSelfAttention) -> None:
  """Raises a ValueError if the layer is not to compute in blocks."""
  if layer.simulated:
    raise ValueError(f'{describe(layer)}: this layer has no simulated variant.')


class LocalSelfAttentionXL(LocalSelfAttention):
  """Local self-attention with the logits of Transformer-XL, see `xl_attention`.

  Attributes:
    rel_pos_emb_dim: size of the sinusoid of a distance. Must be set.
  """

  rel_pos_emb_dim: int = 0

  def setup(self) -> None:
    super().setup()
    _check_blocks(self)
    xl_attention.create_relative_positional_embedding(self)

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    _, left, _ = self._window()
    to_key, to_distance = xl_attention.biased_queries(self, query)
    rows, context = query.shape[2], key.shape[2]
    # Query w and key c of a block are w - c + left - 1 apart; the longest one first.
    distance = jnp.arange(rows + left - 2, left - context - 1, -1)
    embedding = xl_attention.distance_embedding(self, distance)
    by_distance = jnp.einsum('buwnh,fnh->bnuwf', to_distance, embedding)
    logits = self.qk_einsum('buwnh,bucnh->bnuwc', to_key, key)
    return logits + xl_attention.skew(by_distance, context)

  def extend_step(
    self,
    query_vec: JTensor,
    *,
    atten_mask: JTensor,
    time_step: JTensor,
    segment_pos: JTensor | None,
    is_cross_attention: bool = False,
  ) -> JTensor:
    """Not implemented, as in Pax."""
    raise NotImplementedError(
      f'{describe(self)}: this layer cannot decode step by step.'
    )


class LocalSelfAttentionRelativeBias(LocalSelfAttention):
  """Local self-attention with a learned bias for each head and distance in a block.

  With `P = 2 W + left_context + right_context - 2` biases a head, the logit of query
  `w` and key `c` of a block's context gets number `(c - w + W - 2) mod P` (all keys
  number `P - 2` if `W = 1`), as in Pax. `block_size` W must be set.
  """

  def setup(self) -> None:
    super().setup()
    _check_blocks(self)
    if self.block_size is None:
      raise ValueError(f'{describe(self)}: block_size must be set, found None.')
    block, left, right = self._window()
    self.create_variable(
      'pos_emb_compressed',
      base_layer.WeightHParams(shape=[self.num_heads, 2 * block + left + right - 2]),
    )

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    rows, context = query.shape[2], key.shape[2]
    size = context + rows - 1
    number = np.arange(context) - np.arange(rows)[:, np.newaxis] + rows - 2
    if rows == 1:
      number = np.full_like(number, size - 2)
    biases = self.theta.pos_emb_compressed
    self.add_summary('pos_emb_compressed', lambda: jnp.sum(biases))
    bias = biases[:, number % size]
    return super()._atten_logits(query, key) + bias[:, jnp.newaxis]


class LocalSelfAttentionAlibi(LocalSelfAttention):
  """Local self-attention with a fixed slope over distance for each head.

  https://arxiv.org/abs/2108.12409: head `n = 1 ... N` adds `2 ** (-8 n / N) (c - w + W
  - 1)` for query `w` and key `c` of a block's context. N must be a power of two.
  """

  def setup(self) -> None:
    super().setup()
    _check_blocks(self)
    if self.num_heads & (self.num_heads - 1):
      raise TypeError(
        f'{describe(self)}: num_heads must be a power of two, found {self.num_heads}.'
      )

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    rows, context = query.shape[2], key.shape[2]
    distance = np.arange(context) - np.arange(rows)[:, np.newaxis] + rows - 1
    slope = 2.0 ** (-8.0 * np.arange(1, self.num_heads + 1) / self.num_heads)
    logits = super()._atten_logits(query, key)
    # In float32, as in Pax: logits of bfloat16 are float32 from here on.
    bias = jnp.asarray(slope[:, np.newaxis, np.newaxis] * distance, jnp.float32)
    return logits + bias[:, jnp.newaxis]
