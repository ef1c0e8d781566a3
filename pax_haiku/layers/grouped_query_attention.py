"""Grouped-query attention of einsums, and its masks: booleans, True where hidden."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import (
  attention_cache,
  attention_checks,
  attention_core,
  fused_attention,
)
from pax_haiku.layers import einsum as einsum_lib
from pax_haiku.layers.describe import describe
from pax_haiku.layers.grouped_query_functions import (
  apply_dropout,
  apply_mask,
  apply_rope,
  attention_mask,
  causal_mask,
  padding_mask,
  segment_mask,
)
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

__all__ = [
  'GroupedQueryAttention',
  'apply_dropout',
  'apply_mask',
  'apply_rope',
  'attention_mask',
  'causal_mask',
  'padding_mask',
  'segment_mask',
]

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping


class GroupedQueryAttention(attention_cache.AttentionCache):
  """Attention of N heads of queries to K heads of keys and values.

  https://arxiv.org/abs/2305.13245: head `n` of the queries attends to head
  `n // (N / K)`. Queries are divided by `sqrt(H) atten_temp`.

  Attributes:
    input_dim: D.
    hidden_dim: not used; there for Pax's sake.
    num_heads: N, more than 1.
    num_kv_heads: K, a divisor of N.
    dim_per_head: H.
    atten_dropout_prob: dropout of probabilities, in training.
    atten_temp: see above.
    use_bias: biases in all projections.
    atten_logit_cap: bound the logits to `c tanh(logits / c)`; not if 0.
    rope_min_max_timescales: rotate queries and keys, with these timescales; None: not.
  """

  input_dim: int = 0
  hidden_dim: int = 0
  num_heads: int = 1
  num_kv_heads: int = 1
  dim_per_head: int = 0
  atten_dropout_prob: float = 0.0
  atten_temp: float = 1.0
  use_bias: bool = True
  atten_logit_cap: float = 0.0
  rope_min_max_timescales: tuple[int, int] | None = None

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the weights.

    Attributes:
      dnh: of projections of queries and outputs, `[D, N, H]`.
      dkh: of projections of keys and values, `[D, K, H]`; None: as `dnh`.
    """

    dnh: SplitDimsMapping = None
    dkh: SplitDimsMapping = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the activations.

    Attributes:
      btd: of the outputs.
      btnh: of queries.
      bskh: of keys and values.
    """

    btd: SplitDimsMapping = None
    btnh: SplitDimsMapping = None
    bskh: SplitDimsMapping = None

  decode_cache = True  # not a field: this layer always writes its cache

  def setup(self) -> None:
    n, k, h = self.num_heads, self.num_kv_heads, self.dim_per_head
    if self.input_dim <= 0 or h <= 0:
      raise AssertionError(
        f'{describe(self)}: input_dim and dim_per_head must be set, found '
        f'{self.input_dim} and {h}.'
      )
    if k < 1 or n % k:
      raise AssertionError(
        f'{describe(self)}: num_kv_heads={k} must divide num_heads={n}.'
      )
    dnh = self.weight_split_dims_mapping.dnh
    dkh = self.weight_split_dims_mapping.dkh or dnh

    def project(name: str, eqn: str, shape: list[int], wt: SplitDimsMapping) -> None:
      tpl = pax_fiddle.Config(
        einsum_lib.Einsum, eqn=eqn, w_shape=shape, use_bias=self.use_bias
      )
      tpl.weight_split_dims_mapping.wt = wt
      self.create_child(name, tpl)

    def project_in(name: str, heads: int, wt: SplitDimsMapping) -> None:
      if heads == 1:
        wt = wt and [wt[0], wt[2]]
        project(name, 'BTD,DH->BTH', [self.input_dim, h], wt)
      else:
        project(name, 'BTD,DNH->BTNH', [self.input_dim, heads, h], wt)

    project_in('query', n, dnh)
    project_in('key', k, dkh)
    project_in('value', k, dkh)
    project('post', 'BTNH,DNH->BTD', [self.input_dim, n, h], dnh)

  # -- The formula ------------------------------------------------------------

  def _maybe_shard(self, x: JTensor, mapping: SplitDimsMapping) -> JTensor:
    return base_layer.maybe_shard(x, mapping, self.mesh_axis_names)

  def _shard_cache(self, x: JTensor) -> JTensor:
    return self._maybe_shard(x, self.activation_split_dims_mapping.bskh)

  def _fused_hindrance(self) -> str | None:
    """What keeps a fused kernel from computing this layer; None: nothing."""
    if type(self)._atten_context is not GroupedQueryAttention._atten_context:
      return f'{type(self).__name__} has a method _atten_context of its own'
    if self.atten_logit_cap > 0.0:
      return 'atten_logit_cap is set'
    if self.atten_dropout_prob and not self.do_eval:
      return 'there is dropout'
    return None

  def _atten_context(
    self, query: JTensor, key: JTensor, value: JTensor, atten_mask: AttentionMask
  ) -> tuple[JTensor, JTensor | None]:
    """Attention of projected sequences.

    Args:
      query: `[B, T, N, H]`.
      key: `[B, S, K, H]`.
      value: `[B, S, K, H]`.
      atten_mask: `[1|B, 1|N, 1|T, S]`, or a structured one.

    Returns:
      `[B, T, N, H]` and the probabilities `[B, K, N / K, T, S]`; None instead of these
      from a fused kernel.
    """
    batch, length, heads, dim = query.shape
    key_length, kv_heads = key.shape[1:3]
    query = query * dim**-0.5 / self.atten_temp
    if isinstance(atten_mask, StructuredMask):
      encoded = fused_attention.attend(
        self, query, key, value, atten_mask, self._fused_hindrance()
      )
      if encoded is not None:
        return checkpoint_name(encoded, 'context'), None
      atten_mask = self._hidden(atten_mask, length, key_length)
    query = jnp.reshape(query, (batch, length, kv_heads, -1, dim))
    logits = jnp.einsum('BTKGH,BSKH->BKGTS', query, key)
    logits = checkpoint_name(logits, 'logits')
    logits = attention_core.cap_logits(logits, self.atten_logit_cap)
    logits = logits.astype(jnp.float32)
    if atten_mask.shape[1] == 1:
      mask = atten_mask[:, :, jnp.newaxis]
    else:
      shape = (atten_mask.shape[0], kv_heads, -1, *atten_mask.shape[2:])
      mask = jnp.reshape(atten_mask, shape)
    probs = jax.nn.softmax(apply_mask(logits, mask), axis=-1).astype(key.dtype)
    if self.atten_dropout_prob > 0.0 and not self.do_eval:
      probs = apply_dropout(probs, self.next_prng_key(), self.atten_dropout_prob)
    encoded = jnp.einsum('BKGTS,BSKH->BTKGH', probs, value)
    encoded = jnp.reshape(encoded, (batch, length, heads, dim))
    return checkpoint_name(encoded, 'context'), probs

  def _hidden(self, mask: StructuredMask, length: int, key_length: int) -> JTensor:
    """`[1|B, 1, 1|T, S]`, True where hidden."""
    seen = mask.visible(length, key_length)
    return jnp.zeros((1, 1, 1, key_length), bool) if seen is None else ~seen

  def _maybe_rope(self, x: JTensor, pos: JTensor) -> JTensor:
    """Rotates `[B, L, N, H]` by its positions `[B, L]`, if the layer is to."""
    if self.rope_min_max_timescales is None:
      return x
    return apply_rope(x, *self.rope_min_max_timescales, pos)

  def _project(
    self, query_vec: JTensor, key_vec: JTensor, value_vec: JTensor
  ) -> tuple[JTensor, JTensor, JTensor]:
    if self.num_heads == 1:
      raise ValueError(
        f'{describe(self)}: num_heads must be more than 1, found 1.'
      )
    sharding = self.activation_split_dims_mapping

    def with_heads(x: JTensor) -> JTensor:
      x = x if x.ndim == 4 else x[:, :, jnp.newaxis]
      return self._maybe_shard(x, sharding.bskh)

    query = self._maybe_shard(self.query(query_vec), sharding.btnh)
    return (
      checkpoint_name(query, 'query_proj'),
      checkpoint_name(with_heads(self.key(key_vec)), 'key_proj'),
      checkpoint_name(with_heads(self.value(value_vec)), 'value_proj'),
    )

  def _check_mask(self, mask: AttentionMask, batch: int, t: int, s: int) -> None:
    if not isinstance(mask, StructuredMask) and getattr(mask, 'ndim', 0) == 4:
      if mask.shape[1] not in (1, self.num_heads):
        raise ValueError(
          f'{describe(self)}: axis 1 of atten_mask must be 1 or num_heads='
          f'{self.num_heads}, found shape {list(mask.shape)}.'
        )
      mask = mask[:, :1]
    attention_checks.check_mask(self, mask, batch, t, s)

  def __call__(
    self,
    query_vec: JTensor,
    key_vec: JTensor,
    value_vec: JTensor,
    atten_mask: AttentionMask,
    query_segment_pos: JTensor,
    key_segment_pos: JTensor,
  ) -> tuple[JTensor, JTensor | None]:
    """Attends.

    Args:
      query_vec: `[B, T, D]`.
      key_vec: `[B, S, D]`.
      value_vec: `[B, S, D]`.
      atten_mask: `[1|B, 1|N, 1|T, S]`; what is not 0 (False) is hidden, so that masks
        of floats do as well. Or a `StructuredMask`.
      query_segment_pos: `[B, T]`, positions of the queries.
      key_segment_pos: `[B, S]`, positions of the keys.

    Returns:
      `[B, T, D]`, and the probabilities `[B, K, N / K, T, S]` (None from a fused
      kernel, see `fused_attention`).

    Raises:
      ValueError: shapes do not fit.
    """
    query, key, value = self._project(query_vec, key_vec, value_vec)
    self._check_mask(atten_mask, query.shape[0], query.shape[1], key.shape[1])
    query = self._maybe_rope(query, query_segment_pos)
    key = self._maybe_rope(key, key_segment_pos)
    self._fprop_update_decode_state('key_state', key)
    self._fprop_update_decode_state('value_state', value)
    encoded, probs = self._atten_context(query, key, value, atten_mask)
    out = self._maybe_shard(self.post(encoded), self.activation_split_dims_mapping.btd)
    return checkpoint_name(out, 'out_proj'), probs

  def extend_decode_state(
    self, name: str, value: JTensor, time_step: JTensor, time_dim: int = 1
  ) -> JTensor:
    """The state `name` with the value of one step written into it (and kept)."""
    state = super().extend_decode_state(name, value, time_step, time_dim)
    self.update_decode_state(name, self._shard_cache(state))
    return state

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

    In training there is dropout, as in the call.

    Args:
      query_vec: `[B, D]`.
      atten_mask: `[1|B, 1, S]` over the S time steps of the cache, not 0 where hidden.
      time_step: where in the cache the token belongs, a scalar.
      segment_pos: `[B]`, its position; None: `time_step`.
      is_cross_attention: leave the cache as it is.

    Returns:
      `[B, D]`.

    Raises:
      ValueError: shapes do not fit, or `time_step` is known to be outside the cache.
    """
    if query_vec.ndim != 2:
      raise ValueError(
        f'{describe(self)}: extend_step takes one token at a time, query_vec [batch, '
        f'{self.input_dim}], found shape {query_vec.shape}.'
      )
    attention_checks.check_scalar(self, time_step)
    batch = query_vec.shape[0]
    vec = query_vec[:, jnp.newaxis]
    query, key, value = self._project(vec, vec, vec)
    position = segment_pos
    if position is None:
      position = jnp.broadcast_to(jnp.asarray(time_step), (batch,))
    position = position[:, jnp.newaxis]
    query = self._maybe_rope(query, position)
    if is_cross_attention:
      keys, values = map(self.get_decode_state, ('key_state', 'value_state'))
    else:
      key = self._maybe_rope(key, position)
      keys = self.extend_decode_state('key_state', key, time_step)
      values = self.extend_decode_state('value_state', value, time_step)
    attention_checks.check_step_mask(self, atten_mask, batch, keys.shape)
    encoded, _ = self._atten_context(query, keys, values, atten_mask[:, jnp.newaxis])
    return jnp.squeeze(self.post(encoded), 1)
