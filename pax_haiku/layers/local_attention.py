"""Attention of each query to a window of keys around it, block by block."""

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import py_utils, pytypes
from pax_haiku.layers import attention_checks, attention_core
from pax_haiku.layers.attention_blocks import (
  _make_local_mask,
  _padded_slice,
  convert_to_block,
  extract_block_context,
)
from pax_haiku.layers.attention_masks import limited_context_mask
from pax_haiku.layers.describe import describe
from pax_haiku.layers.dot_product_attention import DotProductAttention

JTensor = pytypes.JTensor


def mask_in_blocks(
  mask: JTensor, seq_len: int, block_size: int, left_context: int, right_context: int
) -> JTensor:
  """An array mask seen from blocks of queries with their context of keys.

  Args:
    mask: `[1|B, 1, 1|T, S]`, T = S.
    seq_len: T.
    block_size: W.
    left_context: keys up to the query, that one included.
    right_context: keys after it.

  Returns:
    `[1|B, 1, U, W, C]`; hidden also what lies outside the window or the sequence.
  """
  dtype = jnp.float32 if mask.dtype == jnp.float64 else mask.dtype
  large = py_utils.get_large_negative_number(dtype)
  window = _make_local_mask(seq_len, block_size, left_context, right_context)
  blocks, _, context = window.shape
  mask = jnp.squeeze(mask.astype(dtype), 1)
  if mask.shape[1] == 1:
    keys = extract_block_context(
      mask[:, 0], block_size, left_context, right_context, padding_val=large
    )
    in_blocks = keys[:, :, jnp.newaxis]
  else:
    queries = convert_to_block(mask, block_size, padding_val=large)
    key = jnp.arange(context) - (left_context - 1)
    key = key + jnp.arange(blocks)[:, jnp.newaxis] * block_size
    key = jnp.clip(key, 0, seq_len - 1)  # those outside are hidden by the window
    in_blocks = jnp.take_along_axis(queries, key[jnp.newaxis, :, jnp.newaxis], axis=3)
  return jnp.where(window, in_blocks, large)[:, jnp.newaxis]


class LocalSelfAttention(DotProductAttention):
  """Self-attention to `left_context` keys up to a query and `right_context` after it.

  Cost grows with the length times the window. There is no bias by distance, except
  `simulated`; `scale_logits_by_head_dims` and `attention_mask_summary` count in the
  `simulated` call only, as in Pax.

  Attributes:
    block_size: queries that are computed together; None: `max(1, right_context,
      left_context - 1)`.
    left_context: number of keys up to the query's own position, that one included.
    right_context: number of keys after it.
    simulated: compute full attention with a mask, to the same result.
  """

  block_size: int | None = None
  left_context: int | None = None
  right_context: int | None = None
  simulated: bool = False

  def _window(self) -> tuple[int, int, int]:
    """`(block_size, left_context, right_context)`."""
    left, right = self.left_context, self.right_context
    if left is None or right is None:
      raise ValueError(
        f'{describe(self)}: left_context and right_context must be set, found {left} '
        f'and {right}.'
      )
    block = self.block_size
    return max(1, right, left - 1) if block is None else block, left, right

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    """`[B, N, U, W, C]` of blocks; of whole sequences if `simulated`."""
    if self.simulated:
      return super()._atten_logits(query, key)
    return self.qk_einsum('buwnh,bucnh->bnuwc', query, key)

  def _dot_atten(
    self,
    query: JTensor,
    key: JTensor,
    value: JTensor,
    atten_mask: JTensor,
    relative_bias: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """As of the base class; probabilities are `[B, N, U, W, C]` unless `simulated`.

    Raises:
      NotImplementedError: there is a relative bias.
    """
    length = query.shape[1]
    if self.simulated:
      window = limited_context_mask(
        self.left_context, self.right_context, length, column_time_size=key.shape[1]
      )
      mask = jnp.minimum(atten_mask, window)
      return super()._dot_atten(query, key, value, mask, relative_bias)
    if relative_bias is not None:
      raise NotImplementedError(
        f'{describe(self)}: relative_bias_tpl is not supported, except simulated.'
      )
    query, key, value = map(self._shard_blnh, (query, key, value))
    attention_checks.check_call(self, query, key, value, atten_mask)
    if key.shape[1] != length:
      raise ValueError(
        f'{describe(self)}: only self-attention, found {length} queries and '
        f'{key.shape[1]} keys.'
      )
    block, left, right = self._window()
    query = convert_to_block(self._scale_query(query), block)
    key = extract_block_context(key, block, left, right)
    value = extract_block_context(value, block, left, right)
    mask = mask_in_blocks(atten_mask, length, block, left, right)
    logits = self._atten_logits(query, key)
    logits = self._cap_logits(logits).astype(jnp.float32)
    logits = py_utils.apply_mask_to_logits(logits, mask)
    probs = self._softmax(logits).astype(key.dtype)
    probs = self.atten_dropout(probs)
    encoded = self.pv_einsum('bnuwc,bucnh->buwnh', probs, value)
    batch, blocks, _, *heads = encoded.shape
    encoded = jnp.reshape(encoded, (batch, blocks * block, *heads))[:, :length]
    if self.zero_fully_masked:
      threshold = py_utils.get_large_negative_number(jnp.float32) / 2
      blind = jnp.all(mask < threshold, axis=-1)
      blind = jnp.reshape(blind, (blind.shape[0], -1, 1, 1))[:, :length]
      encoded *= attention_core.keep(blind, encoded.dtype)
    encoded = checkpoint_name(encoded, 'context')
    return self._shard_blnh(encoded), probs

  def _dot_atten_one_step(
    self,
    query: JTensor,
    key_state_name: str,
    value_state_name: str,
    atten_mask: JTensor,
    relative_bias: JTensor | None = None,
    time_step: JTensor | None = None,
  ) -> tuple[JTensor, JTensor]:
    """As of the base class, with the `left_context + right_context` steps around.

    The mask is added to the logits. It must hide the steps after `time_step`.
    """
    _, left, right = self._window()
    start, size = time_step + 1 - left, left + right
    key = self._shard_blnh(self.get_decode_state(key_state_name))
    value = self._shard_blnh(self.get_decode_state(value_state_name))
    query = self._shard_bnh(query)
    attention_checks.check_step_mask(self, atten_mask, query.shape[0], key.shape)
    large = py_utils.get_large_negative_number(jnp.float32)
    key = _padded_slice(key, start, size, 1, 0)
    value = _padded_slice(value, start, size, 1, 0)
    mask = _padded_slice(atten_mask, start, size, 2, large)
    logits = self.qk_einsum('BNH,BSNH->BNS', self._scale_query(query), key)
    if relative_bias is not None:
      logits += _padded_slice(jnp.squeeze(relative_bias, 2), start, size, 2, 0)
    logits = self._cap_logits(logits).astype(jnp.float32)
    probs = self._softmax(logits + mask).astype(key.dtype)
    encoded = self.pv_einsum('BNS,BSNH->BNH', probs, value)
    if self.zero_fully_masked:
      blind = jnp.all(mask < large / 2, axis=-1, keepdims=True)
      encoded *= attention_core.keep(blind, encoded.dtype)
    return self._shard_bnh(encoded), probs
