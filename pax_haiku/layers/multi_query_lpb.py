"""Multi-query attention whose samples share the cache of their prefix."""

import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.layers import lazy_prefix
from pax_haiku.layers.describe import describe
from pax_haiku.layers.lpb_attention import step_mask
from pax_haiku.layers.multi_query_dot_product import MultiQueryDotProductAttention

JTensor = pytypes.JTensor


class MultiQueryDotProductAttentionLPB(MultiQueryDotProductAttention):
  """`MultiQueryDotProductAttention` with lazy prefix broadcast; one head of keys.

  See `lazy_prefix` for what it caches. As in Pax, `extend_step` adds the mask to the
  logits, and does not use `zero_fully_masked` and `local_window_size`.
  """

  transform_decode_state = lazy_prefix.transform_decode_state
  lazy_broadcast_prefix = lazy_prefix.lazy_broadcast_prefix
  right_align_decode_state_with_prefix = (
    lazy_prefix.right_align_decode_state_with_prefix
  )
  decoding_state_sequence_length = lazy_prefix.decoding_state_sequence_length

  def _check_fields(self) -> None:
    super()._check_fields()
    if self.num_kv_heads != 1:
      raise NotImplementedError(
        f'{describe(self)}: num_kv_heads must be 1, found {self.num_kv_heads}.'
      )

  @property
  def _broadcast_prefixes_count(self) -> int:
    return lazy_prefix.prefix_count(self)

  def _shard_blh(self, x: JTensor) -> JTensor:
    return self._maybe_shard(x, self.activation_split_dims_mapping.blh)

  def _shard_cache(self, x: JTensor) -> JTensor:
    """Shards `[B, n_0, ..., L, H]`, samples left whole."""
    blh = self.activation_split_dims_mapping.blh
    if blh is None:
      return x
    return self._maybe_shard(x, [blh[0], *[None] * (x.ndim - 3), *blh[1:]])

  def _dot_atten_one_step(
    self,
    query: JTensor,
    key_state_name: str,
    value_state_name: str,
    atten_mask: JTensor,
    relative_bias: JTensor | None = None,
    time_step: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """As of the base class, with B examples times samples."""
    query = self._scale_query(query)
    keys = lazy_prefix.chunks(self, key_state_name)
    values = lazy_prefix.chunks(self, value_state_name)
    length = sum(key.shape[1] for key in keys)
    mask = step_mask(self, atten_mask, query.shape[0], length, query.shape[1], False)

    def softmax(logits):
      if relative_bias is not None:
        logits += relative_bias
      logits = self._cap_logits(logits).astype(jnp.float32)
      return self._softmax(logits + mask).astype(keys[0].dtype)

    return lazy_prefix.attend(query, keys, values, softmax)

  def extend_decode_state(
    self, name: str, value: JTensor, time_step: JTensor, time_dim: int
  ) -> JTensor:
    """The state `name` with the values of new steps written into it (not yet kept).

    Args:
      name: of the state.
      value: `[B, ...]`, B examples times samples.
      time_step: of the first, counted from the first prefix on.
      time_dim: not used.
    """
    dims = lazy_prefix.batch_dims(self)
    value = jnp.reshape(value, (*dims, *value.shape[1:]))
    local = time_step - lazy_prefix.prefix_length(self)
    return super().extend_decode_state(name, value, local, len(dims))

  def extend_step(
    self,
    query_vec: JTensor,
    *,
    atten_mask: JTensor,
    time_step: JTensor,
    segment_pos: JTensor | None,
    is_cross_attention: bool = False,
  ) -> JTensor:
    """As of the base class, with B examples times samples.

    `atten_mask` spans the time steps of all prefixes and the samples' own part.
    """
    lazy_prefix.check_queries(self, query_vec)
    return super().extend_step(
      query_vec,
      atten_mask=atten_mask,
      time_step=time_step,
      segment_pos=segment_pos,
      is_cross_attention=is_cross_attention,
    )
