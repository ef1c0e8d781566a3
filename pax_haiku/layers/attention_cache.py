"""The decode cache of attention layers: what they keep of earlier steps.

A call of the layer with the collection `decoder_cache` mutable writes it, as long as
that call's sequence; `transform_decode_state` makes it longer or reorders it;
`extend_step` reads it and writes one step.
"""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
DecodeStateTransformFn = base_layer.DecodeStateTransformFn
DECODE_CACHE = base_layer.DECODE_CACHE


def insert_time_axis(value: JTensor, state: JTensor, time_dim: int) -> JTensor:
  """`value` of one step as one of the rank of `state`, in its dtype."""
  if value.ndim == state.ndim - 1:
    value = jnp.expand_dims(value, time_dim)
  return value.astype(state.dtype)


def check_step(
  where: str, time_step: JTensor | int, steps: int, length: int, offset: int = 0
) -> None:
  """Raises if a time step known now lies outside the cache.

  Args:
    where: how the error begins.
    time_step: a scalar; nothing is known of a traced one.
    steps: number of tokens written at once.
    length: of the cache.
    offset: position of the first entry of the cache.

  Raises:
    ValueError: not a scalar, or outside.
  """
  if jnp.ndim(time_step) != 0:
    raise ValueError(
      f'{where}: time_step must be a scalar, found shape {jnp.shape(time_step)}.'
    )
  if steps > length:
    raise ValueError(
      f'{where}: {steps} tokens do not fit into a cache of {length} time steps.'
    )
  if isinstance(time_step, jax.core.Tracer):
    return
  first = int(time_step) - offset
  if not 0 <= first <= length - steps:
    raise ValueError(
      f'{where}: time step {int(time_step)} lies outside the cache, which holds the '
      f'steps {offset} to {offset + length - 1}. Pad it with transform_decode_state, '
      'or decode fewer steps.'
    )


class AttentionCache(base_layer.BaseLayer):
  """What attention layers with a decode cache have in common.

  Subclasses have a field `decode_cache` and a method `_shard_cache`.
  """

  def _shard_cache(self, x: JTensor) -> JTensor:
    """Shards a cached array `[B, S, ...]`."""
    return x

  def init_states(self, target_batch_size: int, target_max_length: int) -> None:
    """Not implemented, as in Pax: run the layer once, then transform its state."""
    raise NotImplementedError(
      f'{describe(self)}: call the layer with the collection decoder_cache mutable, '
      'then pad with transform_decode_state; init_states does not exist.'
    )

  def decoding_state_sequence_length(self) -> int:
    """Number of time steps that the cache holds."""
    return self.get_decode_state('key_state').shape[1]

  def _fprop_update_decode_state(self, name: str, value: JTensor) -> None:
    """Keeps the values of a whole sequence, in a call that may write the cache."""
    if self.decode_cache and self.is_mutable_collection(DECODE_CACHE):
      self.update_decode_state(name, value)

  def extend_decode_state(
    self, name: str, value: JTensor, time_step: JTensor, time_dim: int
  ) -> JTensor:
    """The state `name` with the value of one step written into it (not yet kept).

    Args:
      name: of the state.
      value: `[B, ...]` without, or `[B, L, ...]` with an axis of time.
      time_step: where to write, a scalar.
      time_dim: the time axis of the state.

    Raises:
      ValueError: `time_step` is not a scalar or known to be outside the state.
    """
    state = self.get_decode_state(name)
    value = insert_time_axis(value, state, time_dim)
    length = state.shape[time_dim]
    check_step(describe(self), time_step, value.shape[time_dim], length)
    return jax.lax.dynamic_update_slice_in_dim(
      state, value, jnp.asarray(time_step), axis=time_dim
    )

  def transform_decode_state(self, transform_fn: DecodeStateTransformFn) -> None:
    """Replaces every cached array.

    Args:
      transform_fn: `(array, batch_dim, time_dim) -> array`.
    """
    for name, x in self._pax_bucket(DECODE_CACHE).items():
      self.update_decode_state(name, self._shard_cache(transform_fn(x, 0, 1)))

  def lazy_broadcast_prefix(
    self, num_suffix_samples: int, suffix_length: int
  ) -> None:
    """Not implemented here; `DotProductAttentionWithLPB` and its like have it."""
    raise NotImplementedError(
      f'{describe(self)}: lazy_broadcast_prefix needs a layer with lazy prefix '
      'broadcast, such as DotProductAttentionWithLPB.'
    )

  def right_align_decode_state_with_prefix(
    self, max_prefix_size: int, right_align_fn: DecodeStateTransformFn
  ) -> None:
    """Not implemented here; `DotProductAttentionWithLPB` and its like have it."""
    raise NotImplementedError(
      f'{describe(self)}: right_align_decode_state_with_prefix needs a layer with lazy '
      'prefix broadcast, such as DotProductAttentionWithLPB.'
    )
