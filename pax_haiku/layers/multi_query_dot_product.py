"""Multi-query and grouped-query attention, with Pax's cache and options."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import py_utils, pytypes
from pax_haiku.layers import (
  attention_checks,
  attention_core,
  base_ops,
  fused_attention,
  structured_masks,
)
from pax_haiku.layers.attention_blocks import _padded_slice
from pax_haiku.layers.describe import describe
from pax_haiku.layers.multi_query_fields import MultiQueryFields
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

JTensor = pytypes.JTensor


class MultiQueryDotProductAttention(MultiQueryFields):
  """Attention of N heads of queries to one head of keys and values, or to K.

  https://arxiv.org/abs/1911.02150; with K heads https://arxiv.org/abs/2305.13245: head
  `n` of the queries attends to head `n // (N / K)`. Formula and options are those of
  `DotProductAttention`; queries are scaled by a constant.

  Attributes:
    input_dim: D, or a dict of the sizes of 'query', 'key' and 'value'.
    hidden_dim: N H, if `dim_per_head` is None. Must be set in any case.
    num_heads: N.
    num_kv_heads: K, a divisor of N.
    dim_per_head: H; None: `hidden_dim / num_heads`.
    dropout_tpl: the dropout of probabilities. All K groups share its mask.
    atten_dropout_prob: its probability.
    proj_tpl: the projections to several heads, and back.
    headless_proj_tpl: the projections to one head.
    internal_gshard_gaussian_init: not used; there for Pax's sake.
    use_bias: biases in all projections.
    output_proj_use_nhd_shape: store the weight of `post` as `[N, H, D]`.
    internal_enable_query_scale: not used; there for Pax's sake.
    atten_logit_cap: bound the logits to `c tanh(logits / c)`; not if 0.
    use_rotary_position_emb: rotate queries and keys by their positions.
    consolidate_rope_key_state: cache rotated keys only.
    rotary_position_emb_tpl: the rotation.
    relative_bias_tpl: a bias by distance; needs segment positions in the call.
    attention_extra_logit: one more logit in the denominator of the softmax.
    dconv_qkv, combine_qkv: must be False.
    decode_cache: write the decode cache.
    qk_einsum_tpl: does the product of queries and keys.
    pv_einsum_tpl: does the product of probabilities and values.
    scale_query_by_dim_per_head: scale by `dim_per_head ** -0.5` if that is set; else by
      `(hidden_dim / num_heads) ** -0.5`.
    chunked_attn_num_seq_split: above 1, compute so many pieces of the sequence one
      after the other, each with the keys up to its end. Causal in effect, up to the
      mask; the mask is added, extra logit and einsum templates are not used, and there
      are no probabilities.
    zero_fully_masked: give zeros (before `post`) for queries that see no key.
    local_window_size: `(left, right)`: hide keys more than so many before or after.
  """

  # -- The formula ------------------------------------------------------------

  def _scale_query(self, query: JTensor) -> JTensor:
    if self.scale_query_by_dim_per_head and self.dim_per_head is not None:
      dim = self.dim_per_head
    else:
      dim = self.hidden_dim // self.num_heads
    return query * dim**-0.5

  def _cap_logits(self, logits: JTensor) -> JTensor:
    return attention_core.cap_logits(logits, self.atten_logit_cap)

  def _log_softmax_with_extra_logit(self, logits: JTensor) -> JTensor:
    return attention_core.log_softmax_with_extra_logit(
      logits, self.attention_extra_logit
    )

  def _softmax(self, logits: JTensor) -> JTensor:
    if self.attention_extra_logit is None:
      return jax.nn.softmax(logits, axis=-1)
    return jnp.exp(self._log_softmax_with_extra_logit(logits))

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    """`[B, N, T, S]` of `[B, N, T, H]` and `[B, S, H]`."""
    return self.qk_einsum('BNTH,BSH->BNTS', query, key)

  def _fused_hindrance(self) -> str | None:
    """What keeps a fused kernel from computing this layer; None: nothing."""
    cls, ours = type(self), MultiQueryDotProductAttention
    for name in ('_atten_logits', '_atten_context', '_cap_logits'):
      if getattr(cls, name) is not getattr(ours, name):
        return f'{cls.__name__} has a method {name} of its own'
    for name in ('qk_einsum', 'pv_einsum'):
      if type(getattr(self, name)) is not base_ops.EinsumOp:
        return f'{name}_tpl is not EinsumOp'
    for name, plain in (
      ('atten_logit_cap', 0.0),
      ('attention_extra_logit', None),
      ('relative_bias_tpl', None),
      ('zero_fully_masked', False),
      ('local_window_size', None),
      ('chunked_attn_num_seq_split', 1),
    ):
      if getattr(self, name) != plain:
        return f'{name} is set'
    at_eval = getattr(self.atten_dropout, 'dropout_at_eval', True)
    if self.atten_dropout_prob and (at_eval or not self.do_eval):
      return 'there is dropout'
    return None

  def _with_window(
    self, mask: AttentionMask, length: int, key_length: int
  ) -> AttentionMask:
    """The mask, merged with that of the local window."""
    if self.local_window_size is None:
      return mask
    left, right = self.local_window_size
    distance = jnp.arange(length)[:, jnp.newaxis] - jnp.arange(key_length)
    large = py_utils.get_large_negative_number(jnp.float32)
    window = jnp.where((distance > left) | (distance < -right), large, 0.0)
    return jnp.minimum(structured_masks.as_array(mask, length, key_length), window)

  def _atten_context(
    self,
    query: JTensor,
    key: JTensor,
    value: JTensor,
    atten_mask: AttentionMask,
    relative_bias: JTensor | None = None,
  ) -> tuple[JTensor, JTensor | None]:
    """Attention to one head of keys and values.

    Args:
      query: `[B, T, N, H]`, scaled.
      key: `[B, S, H]`.
      value: `[B, S, H]`.
      atten_mask: `[1|B, 1, 1|T, S]`, or a structured one.
      relative_bias: `[1|B, N, T, S]` or None.

    Returns:
      `[B, T, N, H]` and `[B, N, T, S]`.
    """
    query = jnp.swapaxes(query, 1, 2)
    if self.chunked_attn_num_seq_split > 1:
      encoded, probs = self._chunked(query, key, value, atten_mask, relative_bias), None
    else:
      logits = self._atten_logits(query, key)
      if relative_bias is not None:
        logits += relative_bias
      logits = checkpoint_name(logits, 'logits')
      logits = self._cap_logits(logits).astype(jnp.float32)
      logits = structured_masks.apply_mask(logits, atten_mask)
      probs = self._softmax(logits).astype(key.dtype)
      probs = self.atten_dropout(probs)
      encoded = self.pv_einsum('BNTS,BSH->BNTH', probs, value)
    if self.zero_fully_masked:
      blind = structured_masks.fully_masked_rows(
        atten_mask, query.shape[2], key.shape[1]
      )
      encoded *= attention_core.keep(blind, encoded.dtype)
    return checkpoint_name(jnp.swapaxes(encoded, 1, 2), 'context'), probs

  def _chunked(
    self,
    query: JTensor,
    key: JTensor,
    value: JTensor,
    atten_mask: AttentionMask,
    relative_bias: JTensor | None,
  ) -> JTensor:
    """`[B, N, T, H]`, piece by piece; each attends to the keys up to its end."""
    length, pieces = query.shape[2], self.chunked_attn_num_seq_split
    mask = structured_masks.as_array(atten_mask, length, key.shape[1])
    if length % pieces or key.shape[1] != length or mask.shape[2] != length:
      raise AssertionError(
        f'{describe(self)}: chunked_attn_num_seq_split={pieces} needs as many queries '
        f'as keys, a multiple of it, and a mask for each query; found {length} queries,'
        f' {key.shape[1]} keys and a mask of shape {list(mask.shape)}.'
      )
    size, window = length // pieces, self.local_window_size
    out = []
    for end in range(size, length + 1, size):
      rows = slice(end - size, end)
      start = 0 if window is None else max(0, end - size - window[0])
      columns = slice(start, end)
      logits = jnp.einsum('BNTH,BSH->BNTS', query[:, :, rows], key[:, columns])
      if relative_bias is not None:
        logits += relative_bias[:, :, rows, columns]
      logits = checkpoint_name(logits, 'logits')
      logits = self._cap_logits(logits).astype(jnp.float32)
      logits += mask[:, :, rows, columns]
      probs = jax.nn.softmax(logits, axis=-1).astype(key.dtype)
      probs = self.atten_dropout(probs)
      out.append(jnp.einsum('BNTS,BSH->BNTH', probs, value[:, columns]))
    return jnp.concatenate(out, axis=2)

  def _dot_atten(
    self,
    query: JTensor,
    key: JTensor,
    value: JTensor,
    atten_mask: AttentionMask,
    relative_bias: JTensor | None = None,
  ) -> tuple[JTensor, JTensor | None]:
    """Attention of projected sequences.

    Args:
      query: `[B, T, N, H]`.
      key: `[B, S, H]`, or `[B, S, K, H]`.
      value: as `key`.
      atten_mask: `[1|B, 1, 1|T, S]`, or a structured one.
      relative_bias: `[1|B, N, T, S]` or None.

    Returns:
      `[B, T, N, H]`, and probabilities (None if chunked, or from a fused kernel):
      `[B, N, T, S]`; for K > 1 the probabilities `[B, K, N / K, T, S]` reshaped to
      `[B, T, N, S]`, as in Pax.
    """
    query, key, value = (
      self._shard_blnh(query),
      self._shard_kv(key),
      self._shard_kv(value),
    )
    attention_checks.check_call(self, query, key, value, atten_mask, relative_bias)
    batch, length, heads, dim = query.shape
    query = self._scale_query(query)
    kv_heads = self.num_kv_heads
    if isinstance(atten_mask, StructuredMask):
      keys, values = key, value
      if kv_heads == 1:
        keys, values = key[:, :, jnp.newaxis], value[:, :, jnp.newaxis]
      encoded = fused_attention.attend(
        self, query, keys, values, atten_mask, self._fused_hindrance()
      )
      if encoded is not None:
        return self._shard_blnh(checkpoint_name(encoded, 'context')), None
    atten_mask = self._with_window(atten_mask, length, key.shape[1])
    if kv_heads == 1:
      encoded, probs = self._atten_context(query, key, value, atten_mask, relative_bias)
      return self._shard_blnh(encoded), probs
    # One group of queries and its head of keys at a time, the same code for each.
    query = jnp.reshape(query, (batch, length, kv_heads, heads // kv_heads, dim))
    bias_axis = None
    if relative_bias is not None:
      bias_axis, shape = 1, relative_bias.shape
      relative_bias = jnp.reshape(relative_bias, (shape[0], kv_heads, -1, *shape[2:]))
    chunked = self.chunked_attn_num_seq_split > 1
    encoded, probs = jax.vmap(
      self._atten_context,
      in_axes=(2, 2, 2, None, bias_axis),
      out_axes=(2, None if chunked else 1),
    )(query, key, value, atten_mask, relative_bias)
    encoded = jnp.reshape(encoded, (batch, length, heads, dim))
    if probs is not None:
      probs = jnp.reshape(probs, (batch, length, heads, -1))
    return self._shard_blnh(encoded), probs

  # -- Whole sequences --------------------------------------------------------

  def _rotated_key_state(self) -> str:
    consolidated = self.consolidate_rope_key_state
    return 'key_state' if consolidated else 'key_post_rotary_pos_emb'

  def _project_qkv(
    self, query_vec: JTensor, key_vec: JTensor, value_vec: JTensor
  ) -> tuple[JTensor, JTensor, JTensor]:
    return (
      checkpoint_name(self.query(query_vec), 'query_proj'),
      checkpoint_name(self.key(key_vec), 'key_proj'),
      checkpoint_name(self.value(value_vec), 'value_proj'),
    )

  def __call__(
    self,
    query_vec: JTensor,
    key_vec: JTensor,
    value_vec: JTensor,
    atten_mask: AttentionMask,
    query_segment_pos: JTensor | None = None,
    key_segment_pos: JTensor | None = None,
  ) -> tuple[JTensor, JTensor | None]:
    """Attends; arguments and results are those of `DotProductAttention`.

    The layout of the probabilities is that of `_dot_atten`.
    """
    query, key, value = self._project_qkv(
      *map(self._replicate_last, (query_vec, key_vec, value_vec))
    )
    keep = self._fprop_update_decode_state
    if not self.consolidate_rope_key_state:
      keep('key_state', key)
    keep('value_state', value)
    if self.use_rotary_position_emb:
      query = self.rotary_position_emb(query, query_segment_pos)
      key = self.rotary_position_emb(key, key_segment_pos)
      keep(self._rotated_key_state(), key)
    relative_bias = None
    if self.relative_bias_tpl is not None:
      relative_bias = self.relative_bias(query_segment_pos, key_segment_pos)
    encoded, probs = self._dot_atten(query, key, value, atten_mask, relative_bias)
    out = self._shard_bld(self.post(encoded))
    return checkpoint_name(out, 'out_proj'), probs

  # -- Decoding ---------------------------------------------------------------

  def _dot_atten_one_step_from_qkv(
    self,
    query: JTensor,
    key: JTensor,
    value: JTensor,
    atten_mask: JTensor,
    relative_bias: JTensor | None,
    time_step: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """Attention of Q new queries to one head of the cache.

    Args:
      query: `[B, Q, N, H]`, scaled.
      key: `[B, S, H]`.
      value: `[B, S, H]`.
      atten_mask: `[1|B, 1, 1|Q, S]`.
      relative_bias: `[1|B, N, 1, S]` or None.
      time_step: of the first query.

    Returns:
      `[B, Q, N, H]` and `[B, N, Q, S]`.
    """
    if self.local_window_size is not None:
      left, right = self.local_window_size
      start, size = time_step - left, left + 1 + right
      large = py_utils.get_large_negative_number(jnp.float32)
      key = _padded_slice(key, start, size, 1, 0)
      value = _padded_slice(value, start, size, 1, 0)
      atten_mask = _padded_slice(atten_mask, start, size, 3, large)
      if relative_bias is not None:
        relative_bias = _padded_slice(relative_bias, start, size, 3, 0)
    logits = self._atten_logits(jnp.swapaxes(query, 1, 2), key)
    if relative_bias is not None:
      logits += relative_bias
    logits = self._cap_logits(logits).astype(jnp.float32)
    logits = structured_masks.apply_mask(logits, atten_mask)
    probs = self._softmax(logits).astype(key.dtype)
    encoded = self.pv_einsum('BNTS,BSH->BNTH', probs, value)
    if self.zero_fully_masked:
      blind = structured_masks.fully_masked_rows(
        atten_mask, query.shape[1], key.shape[1]
      )
      encoded *= attention_core.keep(blind, encoded.dtype)
    return jnp.swapaxes(encoded, 1, 2), probs

  def _dot_atten_one_step(
    self,
    query: JTensor,
    key_state_name: str,
    value_state_name: str,
    atten_mask: JTensor,
    relative_bias: JTensor | None = None,
    time_step: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """Attention of new queries to the cache.

    Args:
      query: `[B, Q, N, H]`.
      key_state_name: name of the cached keys `[B, S, H]` or `[B, S, K, H]`.
      value_state_name: name of the cached values.
      atten_mask: `[1|B, 1, 1|Q, S]`.
      relative_bias: `[1|B, N, 1, S]` or None.
      time_step: of the first query.

    Returns:
      `[B, Q, N, H]` and the probabilities.
    """
    key = self._shard_kv(self.get_decode_state(key_state_name))
    value = self._shard_kv(self.get_decode_state(value_state_name))
    batch, length, heads, dim = query.shape
    if key.shape[0] != batch:
      raise ValueError(
        f'{describe(self)}: the batch of the query ({batch}) must be that of the cache '
        f'({key.shape[0]}).'
      )
    attention_checks.check_mask(self, atten_mask, batch, length, key.shape[1])
    query = self._scale_query(query)
    kv_heads = self.num_kv_heads
    if kv_heads == 1:
      return self._dot_atten_one_step_from_qkv(
        query, key, value, atten_mask, relative_bias, time_step
      )
    query = jnp.reshape(query, (batch, length, kv_heads, heads // kv_heads, dim))
    bias_axis = None
    if relative_bias is not None:
      bias_axis, shape = 1, relative_bias.shape
      relative_bias = jnp.reshape(relative_bias, (shape[0], kv_heads, -1, *shape[2:]))
    encoded, probs = jax.vmap(
      self._dot_atten_one_step_from_qkv,
      in_axes=(2, 2, 2, None, bias_axis, None),
      out_axes=(2, 1),
    )(query, key, value, atten_mask, relative_bias, time_step)
    return jnp.reshape(encoded, (batch, length, heads, dim)), probs

  def _rotate_step(self, x: JTensor, position: JTensor) -> JTensor:
    """Rotates `[B, Q, N, H]` or `[B, Q, H]`; `position [B]` is that of the last."""
    windowed = x if x.ndim == 4 else x[:, :, jnp.newaxis]
    return jnp.reshape(
      self.rotary_position_emb.extend_step(windowed, position), x.shape
    )

  def extend_step(
    self,
    query_vec: JTensor,
    *,
    atten_mask: JTensor,
    time_step: JTensor,
    segment_pos: JTensor | None,
    is_cross_attention: bool = False,
  ) -> JTensor:
    """Attends from new tokens to the cache, after adding them to it. No dropout.

    Args:
      query_vec: `[B, D]`, or `[B, Q, D]` for several tokens (not with K > 1).
      atten_mask: `[1|B, 1, S]`, or `[1|B, 1, 1|Q, S]` for several tokens, over the S
        time steps of the cache.
      time_step: where in the cache the (first) token belongs, a scalar.
      segment_pos: positions `[B]`, or `[B, Q]`, of which the last column counts; None:
        from `time_step` on.
      is_cross_attention: leave the cache as it is.

    Returns:
      The shape of `query_vec`.

    Raises:
      NotImplementedError: several tokens with `relative_bias_tpl`.
      ValueError: shapes do not fit, or `time_step` is known to be outside the cache.
    """
    single = query_vec.ndim == 2
    if not single and (query_vec.ndim != 3 or self.num_kv_heads > 1):
      allowed = '[batch, dims]'
      if self.num_kv_heads == 1:
        allowed += ' or [batch, tokens, dims]'
      raise ValueError(
        f'{describe(self)}: query_vec must be {allowed}, found shape '
        f'{query_vec.shape}.'
      )
    if not single and self.relative_bias_tpl is not None:
      raise NotImplementedError(
        f'{describe(self)}: with relative_bias_tpl, extend_step takes one token at a '
        f'time, found query_vec of shape {query_vec.shape}.'
      )
    attention_checks.check_scalar(self, time_step)
    if single:
      query_vec = query_vec[:, jnp.newaxis]
      atten_mask = self._with_query_axis(atten_mask)
    batch, length = query_vec.shape[:2]
    query = self.query(query_vec)
    key_name = 'key_state'
    if self.use_rotary_position_emb:
      position = segment_pos
      if position is None:
        position = jnp.broadcast_to(jnp.asarray(time_step) + length - 1, (batch,))
      elif position.ndim == 2:
        position = position[:, -1]
      query = self._rotate_step(query, position)
      key_name = self._rotated_key_state()

    def extend(name: str, x: JTensor) -> None:
      state = self._shard_cache(self.extend_decode_state(name, x, time_step, 1))
      self.update_decode_state(name, state)

    if not is_cross_attention:
      key = self.key(query_vec)
      extend('value_state', self.value(query_vec))
      if not self.consolidate_rope_key_state:
        extend('key_state', key)
      if self.use_rotary_position_emb:
        extend(key_name, self._rotate_step(key, position))
    relative_bias = None
    if self.relative_bias_tpl is not None:
      relative_bias = self.relative_bias.extend_step(
        self.decoding_state_sequence_length(), time_step
      )
    encoded, _ = self._dot_atten_one_step(
      query, key_name, 'value_state', atten_mask, relative_bias, time_step
    )
    out = self.post(encoded)
    return self._shard_bd(jnp.squeeze(out, 1)) if single else self._shard_bld(out)

  def _with_query_axis(self, atten_mask: JTensor) -> JTensor:
    """`[1|B, 1, S]` to `[1|B, 1, 1, S]`."""
    if getattr(atten_mask, 'ndim', None) != 3:
      raise ValueError(
        f'{describe(self)}: in extend_step of one token atten_mask must be an array '
        f'[1 or batch, 1, length of the cache], found '
        f'{getattr(atten_mask, "shape", type(atten_mask).__name__)}.'
      )
    return atten_mask[:, :, jnp.newaxis]
