"""Decode caches with lazy prefix broadcast: samples share the cache of their prefix.

After `p` broadcasts, with `n_i` samples each, what a layer caches as `X` is kept as

    decoder_cache/X               [B, n_0, ..., n_{p-1}, L, N, H]
    prefix_decoder_cache/X_i_pfx  [B, n_0, ..., n_{i-1}, L_i, N, H],  i = 0 ... p-1

(MQA has no N), and a query of sample `(b, s_0, ..., s_{p-1})` attends to its prefixes
`X_i_pfx[b, s_0, ..., s_{i-1}]` and then to its own part. Nothing is copied per sample
but the part that differs. `A` below is the product of the leading, batch-like axes.

The functions take the layer; layer classes have them as methods.
"""

import math

import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
DecodeStateTransformFn = base_layer.DecodeStateTransformFn
DECODE_CACHE = base_layer.DECODE_CACHE
PREFIX_DECODE_CACHE = base_layer.PREFIX_DECODE_CACHE


def _prefix_name(name: str, i: int) -> str:
  return f'{name}_{i}_pfx'


def prefix_count(layer: base_layer.BaseLayer) -> int:
  """How often the cache was broadcast."""
  count = 0
  while layer.has_variable(PREFIX_DECODE_CACHE, _prefix_name('key_state', count)):
    count += 1
  return count


def prefixes(layer: base_layer.BaseLayer, name: str) -> list[JTensor]:
  """The prefixes of the state `name`, the first one first."""
  return [
    layer.get_variable(PREFIX_DECODE_CACHE, _prefix_name(name, i))
    for i in range(prefix_count(layer))
  ]


def prefix_length(layer: base_layer.BaseLayer) -> int:
  """Number of time steps in all prefixes together."""
  states = prefixes(layer, 'key_state')
  return sum(x.shape[i + 1] for i, x in enumerate(states))


def decoding_state_sequence_length(layer: base_layer.BaseLayer) -> int:
  """Number of time steps of the cache, prefixes included."""
  time_dim = prefix_count(layer) + 1
  current = layer.get_decode_state('key_state').shape[time_dim]
  return current + prefix_length(layer)


def batch_dims(layer: base_layer.BaseLayer) -> tuple[int, ...]:
  """`(B, n_0, ..., n_{p-1})`."""
  return layer.get_decode_state('key_state').shape[: prefix_count(layer) + 1]


def merge_batch(x: JTensor, count: int) -> JTensor:
  """Merges the first `count + 1` axes."""
  return jnp.reshape(x, (-1, *x.shape[count + 1 :]))


def transform_decode_state(
  layer: base_layer.BaseLayer, transform_fn: DecodeStateTransformFn
) -> None:
  """Replaces every cached array that is not a prefix.

  Args:
    layer: whose cache it is.
    transform_fn: `(array, batch_dim, time_dim) -> array`.
  """
  time_dim = prefix_count(layer) + 1
  for name, x in layer._pax_bucket(DECODE_CACHE).items():
    new = transform_fn(x, 0, time_dim)
    layer.update_decode_state(name, layer._shard_cache(new))


def lazy_broadcast_prefix(
  layer: base_layer.BaseLayer, num_suffix_samples: int, suffix_length: int
) -> None:
  """Makes the present cache the next prefix, and an empty one for each sample.

  Args:
    layer: whose cache it is.
    num_suffix_samples: number of samples that share the prefix.
    suffix_length: time steps of the new cache.

  Raises:
    ValueError: the collection `prefix_decoder_cache` is immutable.
  """
  if not layer.is_mutable_collection(PREFIX_DECODE_CACHE) and not (
    layer.is_mutable_collection(DECODE_CACHE) and layer._pax_run.native
  ):
    raise ValueError(
      f'{describe(layer)}: lazy_broadcast_prefix writes the collection '
      f'{PREFIX_DECODE_CACHE!r}, which is immutable in this run. Pass '
      f'mutable=[{DECODE_CACHE!r}, {PREFIX_DECODE_CACHE!r}].'
    )
  count = prefix_count(layer)
  for name, x in layer._pax_bucket(DECODE_CACHE).items():
    layer.put_variable(PREFIX_DECODE_CACHE, _prefix_name(name, count), x)
    shape = (num_suffix_samples, suffix_length)
    new = jnp.zeros((*x.shape[: count + 1], *shape, *x.shape[count + 2 :]), x.dtype)
    layer.update_decode_state(name, layer._shard_cache(new))


def joined_prefixes(layer: base_layer.BaseLayer, name: str, length: int) -> JTensor:
  """The last `length` time steps of the prefixes of `name`, for each sample.

  Returns:
    `[B, n_0, ..., n_{p-1}, up to length, ...]`.
  """
  dims = batch_dims(layer)
  parts = []
  for i, x in enumerate(prefixes(layer, name)):
    x = jnp.expand_dims(x, tuple(range(i + 1, len(dims))))
    parts.append(jnp.broadcast_to(x, (*dims, *x.shape[len(dims) :])))
  joined = jnp.concatenate(parts, axis=len(dims))
  start = max(joined.shape[len(dims)] - length, 0)
  return joined[(slice(None),) * len(dims) + (slice(start, None),)]


def right_align_decode_state_with_prefix(
  layer: base_layer.BaseLayer,
  max_prefix_size: int,
  right_align_fn: DecodeStateTransformFn,
) -> None:
  """Moves the prefixes into the cache of each sample, and aligns it.

  Args:
    layer: whose cache it is.
    max_prefix_size: how many of the last steps of the prefixes to take.
    right_align_fn: `(array, batch_dim, time_dim) -> array`, given `[A, time, ...]`.
  """
  dims = batch_dims(layer)
  count = len(dims) - 1
  for name, x in layer._pax_bucket(DECODE_CACHE).items():
    prefix = joined_prefixes(layer, name, max_prefix_size)
    whole = merge_batch(jnp.concatenate([prefix, x], axis=count + 1), count)
    aligned = right_align_fn(whole, 0, 1)
    aligned = jnp.reshape(aligned, (*dims, *aligned.shape[1:]))
    layer.update_decode_state(name, layer._shard_cache(aligned))
  for name in layer._pax_bucket(DECODE_CACHE):
    for i, x in enumerate(prefixes(layer, name)):
      empty = x[(slice(None),) * (i + 1) + (slice(0, 0),)]
      layer.put_variable(PREFIX_DECODE_CACHE, _prefix_name(name, i), empty)


def write(
  layer: base_layer.BaseLayer, name: str, x: JTensor, time_step: JTensor
) -> JTensor:
  """Writes values of one or several steps into the cache.

  Args:
    layer: whose cache it is.
    name: of the state.
    x: `[A, ...]` of one step, or `[A, steps, ...]`.
    time_step: of the (first) step, counted from the start of the first prefix.

  Returns:
    The new state, `[A, L, ...]`.
  """
  dims = batch_dims(layer)
  value = jnp.reshape(x, (*dims, *x.shape[1:]))
  local = time_step - prefix_length(layer)
  state = layer.extend_decode_state(name, value, local, len(dims))
  layer.update_decode_state(name, layer._shard_cache(state))
  return merge_batch(state, len(dims) - 1)


def chunks(layer: base_layer.BaseLayer, name: str) -> list[JTensor]:
  """The prefixes and the current part of a state, each as `[A_i, L_i, ...]`.

  Sample `a` of `A` samples belongs to row `a // (A / A_i)`.
  """
  count = prefix_count(layer)
  states = [*prefixes(layer, name), layer.get_decode_state(name)]
  return [merge_batch(x, min(i, count)) for i, x in enumerate(states)]


def attend(query: JTensor, keys: list[JTensor], values: list[JTensor], softmax):
  """Attention to chunks of keys, with one softmax over all of them.

  Args:
    query: `[A, Q, N, H]`.
    keys: `[A_i, L_i, N, H]` each, or `[A_i, L_i, H]` for shared heads.
    values: the same.
    softmax: logits `[A, N, Q, sum of L_i]` -> probabilities.

  Returns:
    `[A, Q, N, H]` and the probabilities.
  """
  total, length, heads, dim = query.shape
  shared = keys[0].ndim == 3
  kv = 'ASH' if shared else 'ASNH'
  logits = []
  for key in keys:
    grouped = jnp.reshape(query, (key.shape[0], -1, length, heads, dim))
    part = jnp.einsum(f'ARQNH,{kv}->ARNQS', grouped, key)
    logits.append(jnp.reshape(part, (total, heads, length, key.shape[1])))
  probs = softmax(jnp.concatenate(logits, axis=-1))
  encoded, start = None, 0
  for value in values:
    part = probs[..., start : start + value.shape[1]]
    start += value.shape[1]
    rows = value.shape[0]
    grouped = jnp.reshape(part, (rows, total // rows, heads, length, -1))
    part = jnp.einsum(f'ARNQS,{kv}->ARQNH', grouped, value)
    part = jnp.reshape(part, (total, length, heads, dim))
    encoded = part if encoded is None else encoded + part
  return encoded, probs


def check_queries(layer: base_layer.BaseLayer, query_vec: JTensor) -> None:
  """Raises a ValueError unless there is one query, or one sequence, for each sample."""
  dims = batch_dims(layer)
  if query_vec.ndim not in (2, 3) or query_vec.shape[0] != math.prod(dims):
    raise ValueError(
      f'{describe(layer)}: query_vec must be [batch, dims] or [batch, length, dims], '
      f'with the batch {math.prod(dims)} = {" * ".join(map(str, dims))} of the cache '
      f'(examples and samples), found shape {query_vec.shape}.'
    )
