"""Multi-head attention: the call on whole sequences, and one step of decoding."""

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import (
  attention_checks,
  attention_core,
  base_ops,
  fused_attention,
  structured_masks,
)
from pax_haiku.layers.attention_fields import AttentionFields, head_size
from pax_haiku.layers.describe import describe
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

JTensor = pytypes.JTensor


class DotProductAttention(AttentionFields):
  """Multi-head dot-product attention (https://arxiv.org/abs/1706.03762, section 3.2).

      q, k, v = query(x), key(y), value(y)                # per head
      probs = softmax(mask(cap(scale(q) k^T + bias)))     # float32, cast to k's dtype
      out = post(dropout(probs) v)

  Shapes: B batch, T queries, S keys, D model, N heads, H dims per head.

  Attributes:
    input_dim: D, or a dict of the sizes of 'query', 'key' and 'value'.
    hidden_dim: N H, if `dim_per_head` is None. Must be set in any case.
    num_heads: N.
    dim_per_head: H; None: `hidden_dim / num_heads`.
    dropout_tpl: the dropout of probabilities.
    atten_dropout_prob: its probability.
    proj_tpl: the projections.
    dconv_qkv: convolve queries, keys and values with the past (Primer).
    dconv_kernel_size: taps of these convolutions.
    internal_gshard_gaussian_init: start the projections (combined ones excepted) from
      Gaussians as GShard does.
    combine_qkv: one weight for queries, keys and values, of the same input.
    combined_qkv_proj_tpl: that projection.
    use_bias: biases in all projections.
    output_proj_use_nhd_shape: store the weight of `post` as `[N, H, D]`.
    internal_enable_query_scale: scale queries at all.
    internal_enable_per_dim_scale: by a learned scale for each dimension; else by a
      constant.
    scale_query_by_dim_per_head: that constant is `dim_per_head ** -0.5` if that is set;
      else `(hidden_dim / num_heads) ** -0.5`.
    scale_logits_by_head_dims: multiply logits, bias included, by `H ** -0.5`.
    atten_logit_cap: bound the logits to `c tanh(logits / c)`; not if 0.
    use_rotary_position_emb: rotate queries and keys by their positions.
    consolidate_rope_key_state: cache rotated keys only. Not with `dconv_qkv`.
    rotary_position_emb_tpl: the rotation.
    cast_rotary_position_emb: cast what it gives to `fprop_dtype`.
    relative_bias_tpl: a bias by distance.
    attention_extra_logit: one more logit in the denominator of the softmax.
    ngrammer_tpl: applied to the result before `post`.
    decode_cache: write the decode cache.
    attention_mask_summary: add the mask as a summary.
    zero_fully_masked: give zeros (before `post`) for queries that see no key.
    qk_einsum_tpl: does the product of queries and keys.
    pv_einsum_tpl: does the product of probabilities and values.
    per_dim_scale_tpl: the learned scale.
    causal_depthwise_conv1d_tpl: the convolutions.
    ln_tpl: normalization of queries and keys, after the rotation. As in Pax it is
      applied in the call only, not in `extend_step`.
    decoding_maybe_shard_projections: in `extend_step` shard projections and the result
      before `post`, too, their batch as the mapping `bld` says.
  """

  # Whether extend_step uses scale_logits_by_head_dims and zero_fully_masked.
  _step_like_call = True

  # -- The formula ------------------------------------------------------------

  def _scale_query(self, query: JTensor) -> JTensor:
    """Scales `[..., N, H]` as the fields say."""
    if not self.internal_enable_query_scale:
      return query
    if self.internal_enable_per_dim_scale:
      return self.per_dim_scale(query)
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

  def _scale_logits(self, logits: JTensor) -> JTensor:
    if not self.scale_logits_by_head_dims:
      return logits
    # A float32 scalar: from here on bfloat16 logits are float32.
    return logits * jnp.float32(1.0 / math.sqrt(head_size(self)))

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    """`[B, N, T, S]` of `[B, T, N, H]` and `[B, S, N, H]`."""
    return self.qk_einsum('BTNH,BSNH->BNTS', query, key)

  def _atten_logits_one_step(
    self, query: JTensor, key: JTensor, step: JTensor | None
  ) -> JTensor:
    """`[B, N, S]` of `[B, N, H]` and `[B, S, N, H]`."""
    return self.qk_einsum('BNH,BSNH->BNS', query, key)

  def _fused_hindrance(self) -> str | None:
    """What keeps a fused kernel from computing this layer; None: nothing."""
    cls, ours = type(self), DotProductAttention
    if (
      cls._atten_logits is not ours._atten_logits
      or cls._cap_logits is not ours._cap_logits
      or cls._log_softmax_with_extra_logit is not ours._log_softmax_with_extra_logit
    ):
      return f'{cls.__name__} has logits of its own'
    for name in ('qk_einsum', 'pv_einsum'):
      if type(getattr(self, name)) is not base_ops.EinsumOp:
        return f'{name}_tpl is not EinsumOp'
    if self.atten_logit_cap > 0.0:
      return 'atten_logit_cap is set'
    if self.attention_extra_logit is not None:
      return 'attention_extra_logit is set'
    if self.relative_bias_tpl is not None:
      return 'relative_bias_tpl is set'
    if self.zero_fully_masked:
      return 'zero_fully_masked is set'
    if self.ngrammer_tpl is not None:
      return 'ngrammer_tpl is set'
    at_eval = getattr(self.atten_dropout, 'dropout_at_eval', True)
    if self.atten_dropout_prob and (at_eval or not self.do_eval):
      return 'there is dropout'
    if (
      self._wants_logit_summaries()
      and fused_attention.get_attention_implementation() == 'auto'
    ):
      return 'summaries of logits are wanted'
    return None

  def _wants_logit_summaries(self) -> bool:
    top = base_layer.JaxContext.top()
    return top is not None and top.summary_verbosity >= 4

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
      key: `[B, S, N, H]`.
      value: `[B, S, N, H]`.
      atten_mask: `[1|B, 1, 1|T, S]`, or a structured one.
      relative_bias: `[1|B, N, T, S]` or None.

    Returns:
      `[B, T, N, H]`, and the probabilities after dropout `[B, N, T, S]` (None from a
      fused kernel).
    """
    query, key, value = map(self._shard_blnh, (query, key, value))
    attention_checks.check_call(self, query, key, value, atten_mask, relative_bias)
    if self.attention_mask_summary:
      array = structured_masks.as_array(atten_mask, query.shape[1], key.shape[1])
      self.add_summary('attention_mask', array)
    query = self._scale_query(query)
    if isinstance(atten_mask, StructuredMask):
      scale = head_size(self) ** -0.5 if self.scale_logits_by_head_dims else 1.0
      encoded = fused_attention.attend(
        self, query, key, value, atten_mask, self._fused_hindrance(), scale
      )
      if encoded is not None:
        return self._shard_blnh(checkpoint_name(encoded, 'context')), None
    logits = self._atten_logits(query, key)
    if relative_bias is not None:
      logits += relative_bias
    logits = self._scale_logits(checkpoint_name(logits, 'logits'))
    if self._wants_logit_summaries():
      masked = structured_masks.apply_mask(logits, atten_mask)
      self.add_summary('max_logit_precap', jnp.max(masked), verbosity=4)
      rms = jnp.sqrt(jnp.mean(jnp.square(logits)).astype(jnp.float32))
      self.add_summary('rms_logits_precap', rms, verbosity=4)
    logits = self._cap_logits(logits).astype(jnp.float32)
    logits = structured_masks.apply_mask(logits, atten_mask)
    probs = self._softmax(logits).astype(key.dtype)
    probs = self.atten_dropout(probs)
    encoded = self.pv_einsum('BNTS,BSNH->BTNH', probs, value)
    if self.zero_fully_masked:
      blind = structured_masks.fully_masked_rows(atten_mask, *logits.shape[-2:])
      # [., 1, ., 1], to be broadcast against [B, T, N, H]
      blind = jnp.swapaxes(blind, 1, 2)
      encoded *= attention_core.keep(blind, encoded.dtype)
    encoded = checkpoint_name(encoded, 'context')
    return self._shard_blnh(encoded), probs

  # -- Whole sequences --------------------------------------------------------

  def _project_qkv(
    self, query_vec: JTensor, key_vec: JTensor, value_vec: JTensor
  ) -> tuple[JTensor, JTensor, JTensor]:
    if not self.combine_qkv:
      return (
        checkpoint_name(self.query(query_vec), 'query_proj'),
        checkpoint_name(self.key(key_vec), 'key_proj'),
        checkpoint_name(self.value(value_vec), 'value_proj'),
      )
    if query_vec is not key_vec or query_vec is not value_vec:
      raise AssertionError(
        f'{describe(self)}: with combine_qkv, query_vec, key_vec and value_vec must be '
        'the same array object. Set combine_qkv=False for cross-attention.'
      )
    return self.combined_qkv(query_vec)

  def __call__(
    self,
    query_vec: JTensor,
    key_vec: JTensor,
    value_vec: JTensor,
    atten_mask: AttentionMask,
    query_segment_pos: JTensor | None = None,
    key_segment_pos: JTensor | None = None,
  ) -> tuple[JTensor, JTensor | None]:
    """Attends.

    Args:
      query_vec: `[B, T, D]`.
      key_vec: `[B, S, D]`; for self-attention the same as `query_vec`.
      value_vec: `[B, S, D]`.
      atten_mask: `[1|B, 1, 1|T, S]`, 0 where the query sees the key and a large
        negative number elsewhere, or a `StructuredMask`.
      query_segment_pos: `[B, T]`, positions of the queries in their segments.
      key_segment_pos: `[B, S]`, those of the keys. None: `0 ... length - 1`.

    Returns:
      `[B, T, D]`, and the probabilities `[B, N, T, S]`, dropout included; None instead
      of these where a fused kernel was used, see `fused_attention`.

    Raises:
      AssertionError, ValueError: shapes do not fit.
    """
    query, key, value = self._project_qkv(query_vec, key_vec, value_vec)
    keep = self._fprop_update_decode_state
    if not self.consolidate_rope_key_state:
      keep('key_state', key)
    keep('value_state', value)
    if self.dconv_qkv:
      keep('query_state', query)
      query = self.dconv_q(query, 1, query_segment_pos)
      key = self.dconv_k(key, 1, key_segment_pos)
      keep('key_post_dconv', key)
      value = self.dconv_v(value, 1, key_segment_pos)
      keep('value_post_dconv', value)
    if self.use_rotary_position_emb:
      query = self.rotary_position_emb(query, query_segment_pos)
      key = self.rotary_position_emb(key, key_segment_pos)
      keep(self._rotated_key_state(), key)
    relative_bias = None
    if self.relative_bias_tpl is not None:
      relative_bias = self.relative_bias(
        attention_core.positions(query_segment_pos, query),
        attention_core.positions(key_segment_pos, key),
      )
    if self.ln_tpl is not None:
      query, key = self.layer_norm_q(query), self.layer_norm_k(key)
    if type(self)._dot_atten is not DotProductAttention._dot_atten:
      # A method of a subclass, which may know arrays only.
      atten_mask = structured_masks.as_array(atten_mask, query.shape[1], key.shape[1])
    encoded, probs = self._dot_atten(query, key, value, atten_mask, relative_bias)
    if self.ngrammer_tpl is not None:
      keep('encoded_pre_ngrammer', encoded)
      encoded = self._ngrammed(encoded, key_segment_pos, probs)
    out = self._shard_bld(self.post(encoded))
    return checkpoint_name(out, 'out_proj'), probs

  def _rotated_key_state(self) -> str:
    consolidated = self.consolidate_rope_key_state
    return 'key_state' if consolidated else 'key_post_rotary_pos_emb'

  def _ngrammed(
    self, encoded: JTensor, segment_pos: JTensor | None, probs: JTensor | None
  ) -> JTensor:
    return self.ngrammer(
      input_ids=None,
      input_embs=encoded,
      segment_pos=segment_pos,
      merge_heads=False,
      attention_scores=self._scores_for_ngrammer(probs),
    )

  def _scores_for_ngrammer(self, probs: JTensor | None) -> JTensor | None:
    """The probabilities, if the n-grammer pairs tokens by them."""
    wanted = getattr(self.ngrammer, 'ngram_using_attention_scores', False)
    return probs if wanted else None

  # -- One step ---------------------------------------------------------------

  def _dot_atten_one_step(
    self,
    query: JTensor,
    key_state_name: str,
    value_state_name: str,
    atten_mask: JTensor,
    relative_bias: JTensor | None = None,
    time_step: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """Attention of one query to the cache.

    Args:
      query: `[B, N, H]`.
      key_state_name: name of the cached keys `[b, S, N, H]`, B a multiple of b.
      value_state_name: name of the cached values.
      atten_mask: `[1|b|B, 1, S]`.
      relative_bias: `[1|B, N, 1, S]` or None.
      time_step: the step, a scalar.

    Returns:
      `[B, N, H]` and probabilities `[B, N, S]`.
    """
    batch, where = query.shape[0], describe(self)
    key = self._shard_blnh(self.get_decode_state(key_state_name))
    value = self._shard_blnh(self.get_decode_state(value_state_name))
    query = self._shard_bnh(query)
    attention_checks.check_step_mask(self, atten_mask, batch, key.shape)
    key = attention_core.repeat_batch(key, batch, where, 'the cache')
    value = attention_core.repeat_batch(value, batch, where, 'the cache')
    if atten_mask.shape[0] not in (1, batch):
      atten_mask = attention_core.repeat_batch(atten_mask, batch, where, 'the mask')
    logits = self._atten_logits_one_step(self._scale_query(query), key, time_step)
    if relative_bias is not None:
      logits += jnp.squeeze(relative_bias, axis=2)
    if self._step_like_call:
      logits = self._scale_logits(logits)
    logits = self._cap_logits(logits).astype(jnp.float32)
    logits = structured_masks.apply_mask(logits, atten_mask)
    probs = self._softmax(logits).astype(key.dtype)
    encoded = self.pv_einsum('BNS,BSNH->BNH', probs, value)
    if self.zero_fully_masked and self._step_like_call:
      blind = structured_masks.fully_masked_rows(atten_mask, 1, key.shape[1])
      encoded *= attention_core.keep(blind, encoded.dtype)
    return self._shard_bnh(encoded), probs

  def extend_step(
    self,
    query_vec: JTensor,
    *,
    atten_mask: JTensor,
    time_step: JTensor,
    segment_pos: JTensor | None,
    is_cross_attention: bool = False,
  ) -> JTensor:
    """Attends from one token to the cache, after adding that token to it.

    There is no dropout, and no normalization of queries and keys (`ln_tpl`).

    Args:
      query_vec: `[B, D]`.
      atten_mask: `[1|B, 1, S]` over the S time steps of the cache.
      time_step: where in the cache the token belongs, a scalar.
      segment_pos: `[B]`, its position for the rotary embedding and the convolutions;
        None: `time_step`.
      is_cross_attention: leave the cache as it is.

    Returns:
      `[B, D]`.

    Raises:
      ValueError: shapes do not fit, or `time_step` is known to be outside the cache.
      AssertionError: there is no cache.
    """
    if query_vec.ndim != 2:
      raise ValueError(
        f'{describe(self)}: extend_step takes one token at a time, query_vec [batch, '
        f'{self.input_dim}], found shape {query_vec.shape}.'
      )
    attention_checks.check_scalar(self, time_step)
    key = value = None
    if self.combine_qkv:
      query, key, value = self.combined_qkv.extend_step(query_vec, time_step=time_step)
    else:
      query = self.query.extend_step(query_vec, time_step=time_step)
      if not is_cross_attention:
        key = self.key.extend_step(query_vec, time_step=time_step)
        value = self.value.extend_step(query_vec, time_step=time_step)
    if self.decoding_maybe_shard_projections:
      projected = (query, key, value)
      for shard in (self._shard_bnh_as_bld, self._shard_bnh):
        projected = [x if x is None else shard(x) for x in projected]
      query, key, value = projected

    def extend(name: str, x: JTensor) -> JTensor:
      state = self._shard_blnh(self.extend_decode_state(name, x, time_step, 1))
      self.update_decode_state(name, state)
      return state

    key_name, value_name = 'key_state', 'value_state'
    cached_key = cached_value = None
    if not is_cross_attention:
      if not self.consolidate_rope_key_state:
        cached_key = extend('key_state', key)
      cached_value = extend('value_state', value)
    if self.dconv_qkv:
      cached_query = extend('query_state', query)
      query = self.dconv_q.extend_step(cached_query, 1, time_step, segment_pos)
      key_name, value_name = 'key_post_dconv', 'value_post_dconv'
      if not is_cross_attention:
        key = self.dconv_k.extend_step(cached_key, 1, time_step, segment_pos)
        value = self.dconv_v.extend_step(cached_value, 1, time_step, segment_pos)
        extend(key_name, key)
        extend(value_name, value)
    if self.use_rotary_position_emb:
      position = segment_pos
      if position is None:
        position = jnp.broadcast_to(jnp.asarray(time_step), (query_vec.shape[0],))
      query = self.rotary_position_emb.extend_step(query, position)
      key_name = self._rotated_key_state()
      if not is_cross_attention:
        extend(key_name, self.rotary_position_emb.extend_step(key, position))
    relative_bias = None
    if self.relative_bias_tpl is not None:
      relative_bias = self.relative_bias.extend_step(
        self.decoding_state_sequence_length(), time_step
      )
    encoded, probs = self._dot_atten_one_step(
      query, key_name, value_name, atten_mask, relative_bias, time_step
    )
    if self.decoding_maybe_shard_projections:
      encoded = self._shard_bnh_as_bld(encoded)
    if self.ngrammer_tpl is not None:
      encoded = self.ngrammer.extend_step(
        extend('encoded_pre_ngrammer', encoded),
        step=time_step,
        merge_heads=False,
        attention_score=self._scores_for_ngrammer(probs),
      )
    return self._shard_bd(self.post.extend_step(encoded, time_step=time_step))
