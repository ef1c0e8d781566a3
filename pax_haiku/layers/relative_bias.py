"""A learned bias of attention logits for each bucket of distances (T5)."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


class RelativeBias(base_layer.BaseLayer):
  """Adds `wrb[head, bucket(key position - query position)]` to logits.

  https://arxiv.org/abs/1910.10683, section 2.1. The first half of the buckets holds one
  distance each; the others grow logarithmically up to
  `relative_attention_max_distance`, and the last takes all beyond.

  Attributes:
    num_heads: number of heads N.
    use_length_as_position: in training, take `0 ... length - 1` for the positions,
      whatever is given.
    relative_attention_num_buckets: number of buckets.
    relative_attention_max_distance: see above.
    bidirectional: have the half of the buckets for keys after the query; else these
      count as distance 0.
    use_xavier_init: start from Xavier numbers; else from a Gaussian of standard
      deviation `1 / sqrt(num_heads * buckets)`.
  """

  num_heads: int = 1
  use_length_as_position: bool = True
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  bidirectional: bool = False
  use_xavier_init: bool = False

  def setup(self) -> None:
    shape = [self.num_heads, self.relative_attention_num_buckets]
    if self.use_xavier_init:
      start = base_layer.WeightInit.Xavier()
    else:
      start = base_layer.WeightInit.Gaussian((shape[0] * shape[1]) ** -0.5)
    self.create_variable(
      'wrb', base_layer.WeightHParams(shape=shape, init=start)
    )

  def _relative_position_bucket(self, relative_position: JTensor) -> JTensor:
    """Buckets (int32) of integers `key position - query position`."""
    buckets = self.relative_attention_num_buckets
    distance = -relative_position
    first = 0
    if self.bidirectional:
      buckets //= 2
      first = (distance < 0).astype(jnp.int32) * buckets
      distance = jnp.abs(distance)
    else:
      distance = jnp.maximum(distance, 0)
    exact = buckets // 2
    longest = jnp.asarray(self.relative_attention_max_distance, self.dtype)
    growth = jnp.log(distance.astype(self.dtype) / exact) / jnp.log(longest / exact)
    far = exact + (growth * (buckets - exact)).astype(jnp.int32)
    far = jnp.minimum(far, buckets - 1)
    return first + jnp.where(distance < exact, distance, far)

  def _bias(self, query_position: JTensor, key_position: JTensor) -> JTensor:
    """`[B, N, T, S]` of positions `[B, T]` and `[B, S]`."""
    relative = key_position[:, jnp.newaxis] - query_position[:, :, jnp.newaxis]
    one_hot = jax.nn.one_hot(
      self._relative_position_bucket(relative),
      self.relative_attention_num_buckets,
      dtype=self.fprop_dtype,
    )
    return jnp.einsum('NX,BTSX->BNTS', self.theta.wrb, one_hot)

  def __call__(
    self, query_segment_pos: JTensor, key_segment_pos: JTensor | None = None
  ) -> JTensor:
    """Biases of all pairs of query and key.

    Args:
      query_segment_pos: `[B, T]`, positions of the queries.
      key_segment_pos: `[B, S]`; None: those of the queries.

    Returns:
      `[B, N, T, S]`, or `[1, N, T, S]` in training with `use_length_as_position`.

    Raises:
      ValueError: `query_segment_pos` is None.
    """
    if query_segment_pos is None:
      raise ValueError(
        f'{describe(self)}: query_segment_pos must be [batch, time], found None.'
      )
    if key_segment_pos is None:
      key_segment_pos = query_segment_pos
    if self.use_length_as_position and not self.do_eval:
      query_segment_pos = jnp.arange(query_segment_pos.shape[1])[jnp.newaxis]
      key_segment_pos = jnp.arange(key_segment_pos.shape[1])[jnp.newaxis]
    return self._bias(query_segment_pos, key_segment_pos)

  def extend_step(
    self, seq_length: int, time_step: int | JTensor | None = None
  ) -> JTensor:
    """Biases of one query at `time_step`, a scalar, to `seq_length` keys.

    For evaluation: in training with `use_length_as_position` the query counts as at
    position 0, as in Pax.

    Returns:
      `[1, N, 1, seq_length]`.
    """
    query = jnp.reshape(jnp.asarray(time_step), (1, 1))
    return self(query, jnp.arange(seq_length)[jnp.newaxis])
