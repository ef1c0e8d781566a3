"""Multi-head attention whose samples share the cache of their prefix."""

import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.layers import attention_core, lazy_prefix, structured_masks
from pax_haiku.layers.describe import describe
from pax_haiku.layers.dot_product_attention import DotProductAttention

JTensor = pytypes.JTensor


def step_mask(
  layer, mask: JTensor, total: int, length: int, steps: int, single: bool
) -> JTensor:
  """A mask of one or several steps as `[1|total, 1, 1|steps, length]`.

  The mask may be made for more positions than there are so far.

  Raises:
    ValueError: the mask has another shape.
  """
  if single and mask.ndim == 3:
    mask = mask[:, :, jnp.newaxis]
  if (
    mask.ndim != 4
    or mask.shape[0] not in (1, total)
    or mask.shape[1] != 1
    or mask.shape[2] not in (1, steps)
    or mask.shape[3] < length
  ):
    shape = f'[1 or {total}, 1, {length}]'
    if not single:
      shape = f'[1 or {total}, 1, 1 or {steps}, {length}]'
    raise ValueError(
      f'{describe(layer)}: atten_mask must have shape {shape}, its last axis at least '
      f'as long as all prefixes and the cache together, found {list(mask.shape)}.'
    )
  return mask[..., :length]


class DotProductAttentionWithLPB(DotProductAttention):
  """`DotProductAttention` with lazy prefix broadcast, for several samples a prefix.

  See `lazy_prefix` for what it caches. The numbers are those of attention to prefixes
  and own part in one sequence. As in Pax, `extend_step` does not use
  `scale_logits_by_head_dims`, `ln_tpl` and the einsum templates.
  """

  transform_decode_state = lazy_prefix.transform_decode_state
  lazy_broadcast_prefix = lazy_prefix.lazy_broadcast_prefix
  right_align_decode_state_with_prefix = (
    lazy_prefix.right_align_decode_state_with_prefix
  )
  decoding_state_sequence_length = lazy_prefix.decoding_state_sequence_length

  @property
  def _broadcast_prefixes_count(self) -> int:
    return lazy_prefix.prefix_count(self)

  def _shard_cache(self, x: JTensor) -> JTensor:
    """Shards `[B, n_0, ..., L, N, H]`, samples left whole."""
    blnh = self.activation_split_dims_mapping.blnh
    if blnh is None:
      return x
    samples = [None] * (x.ndim - 4)
    return self._maybe_shard(x, [blnh[0], *samples, *blnh[1:]])

  def _dot_atten_one_step(
    self,
    query: JTensor,
    key_state_name: str,
    value_state_name: str,
    atten_mask: JTensor,
    relative_bias: JTensor | None = None,
    time_step: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """Attention of the samples' queries to prefixes and own part.

    Args:
      query: `[A, N, H]`, A examples times samples, or `[A, Q, N, H]`.
      key_state_name: name of the cached keys.
      value_state_name: name of the cached values.
      atten_mask: `[1|A, 1, S]` or `[1|A, 1, Q, S]`, S of all prefixes and own part.
      relative_bias: `[1|A, N, 1, S]` or None.
      time_step: not used.

    Returns:
      The shape of `query`, and probabilities `[A, N, S]` or `[A, N, Q, S]`.
    """
    single = query.ndim == 3
    query = self._scale_query(query)
    if single:
      query = query[:, jnp.newaxis]
    keys = lazy_prefix.chunks(self, key_state_name)
    values = lazy_prefix.chunks(self, value_state_name)
    length = sum(key.shape[1] for key in keys)
    mask = step_mask(
      self, atten_mask, query.shape[0], length, query.shape[1], single
    )

    def softmax(logits):
      if relative_bias is not None:
        logits += relative_bias
      logits = self._cap_logits(logits).astype(jnp.float32)
      logits = structured_masks.apply_mask(logits, mask)
      return self._softmax(logits).astype(keys[0].dtype)

    encoded, probs = lazy_prefix.attend(query, keys, values, softmax)
    if self.zero_fully_masked:
      blind = structured_masks.fully_masked_rows(mask, query.shape[1], length)
      encoded *= attention_core.keep(jnp.swapaxes(blind, 1, 2), encoded.dtype)
    if single:
      encoded, probs = jnp.squeeze(encoded, 1), jnp.squeeze(probs, 2)
    return encoded, probs

  def _convolve_step(
    self, conv, name: str, state: JTensor, time_step: JTensor, position: JTensor
  ) -> JTensor:
    """One step of a convolution of the state `name`, whose own part is `state`."""
    if lazy_prefix.prefix_count(self):
      before = lazy_prefix.joined_prefixes(self, name, self.dconv_kernel_size - 1)
      before = lazy_prefix.merge_batch(before, lazy_prefix.prefix_count(self))
      state = jnp.concatenate([before, state], axis=1)
      time_step = time_step - lazy_prefix.prefix_length(self) + before.shape[1]
    return conv.extend_step(state, 1, time_step, position)

  def extend_step(
    self,
    query_vec: JTensor,
    *,
    atten_mask: JTensor,
    time_step: JTensor,
    segment_pos: JTensor | None,
  ) -> JTensor:
    """Attends from new tokens of all samples, after adding them to the cache.

    Args:
      query_vec: `[A, D]`, A examples times samples, or `[A, Q, D]`, Q tokens each.
      atten_mask: `[1|A, 1, S]`, or `[1|A, 1, 1|Q, S]` for several tokens, over the S
        time steps of all prefixes and the samples' own part.
      time_step: of the (first) token, a scalar, counted from the first prefix on.
      segment_pos: `[A]` or `[A, Q]`, positions; None: from `time_step` on.

    Returns:
      The shape of `query_vec`.

    Raises:
      NotImplementedError: several tokens with `dconv_qkv`, `relative_bias_tpl` or
        `ngrammer_tpl`, or `ngrammer_tpl` after a broadcast.
      ValueError: shapes do not fit.
    """
    where = describe(self)
    lazy_prefix.check_queries(self, query_vec)
    single = query_vec.ndim == 2
    of_one = ('dconv_qkv', 'relative_bias_tpl', 'ngrammer_tpl')
    if not single and any(getattr(self, name) for name in of_one):
      raise NotImplementedError(
        f'{where}: extend_step takes one token at a time with dconv_qkv, '
        'relative_bias_tpl or ngrammer_tpl, found query_vec of shape '
        f'{query_vec.shape}.'
      )
    if self.ngrammer_tpl is not None and lazy_prefix.prefix_count(self):
      raise NotImplementedError(
        f'{where}: ngrammer_tpl does not go with lazy_broadcast_prefix.'
      )
    if self.combine_qkv:
      query, key, value = self.combined_qkv(query_vec)
    else:
      query, key, value = (p(query_vec) for p in (self.query, self.key, self.value))
    position = segment_pos
    if position is None:
      position = jnp.asarray(time_step)
      if not single:
        position = position + jnp.arange(query_vec.shape[1])
      position = jnp.broadcast_to(position, query_vec.shape[:-1])

    def extend(name: str, x: JTensor) -> JTensor:
      return lazy_prefix.write(self, name, x, time_step)

    key_name, value_name = 'key_state', 'value_state'
    if not self.consolidate_rope_key_state:
      own_key = extend('key_state', key)
    own_value = extend('value_state', value)
    if self.dconv_qkv:
      own_query = extend('query_state', query)
      query, key, value = (
        self._convolve_step(conv, name, own, time_step, position)
        for conv, name, own in (
          (self.dconv_q, 'query_state', own_query),
          (self.dconv_k, 'key_state', own_key),
          (self.dconv_v, 'value_state', own_value),
        )
      )
      key_name, value_name = 'key_post_dconv', 'value_post_dconv'
      extend(key_name, key)
      extend(value_name, value)
    if self.use_rotary_position_emb:
      rotate = self.rotary_position_emb
      if single or position.ndim == 1:
        rotate = rotate.extend_step
      query, key = rotate(query, position), rotate(key, position)
      key_name = self._rotated_key_state()
      extend(key_name, key)
    relative_bias = None
    if self.relative_bias_tpl is not None:
      relative_bias = self.relative_bias.extend_step(
        self.decoding_state_sequence_length(), time_step
      )
    encoded, probs = self._dot_atten_one_step(
      query, key_name, value_name, atten_mask, relative_bias, time_step
    )
    if self.ngrammer_tpl is not None:
      encoded = self.ngrammer.extend_step(
        extend('encoded_pre_ngrammer', encoded),
        step=time_step,
        merge_heads=False,
        attention_score=self._scores_for_ngrammer(probs),
      )
    out = self.post(encoded)
    return self._shard_bd(out) if single else self._shard_bld(out)
