"""The formula of attention, from logits to the weighted sum, in pieces.

    probs = softmax(mask(cap(query key^T + bias)));  encoded = probs value

Logits are masked and normalized in float32 whatever the dtype of the projections. A
mask replaces logits, it is not added: a query that sees nothing attends to all keys
equally.
"""

import jax
import jax.numpy as jnp

from pax_haiku import pytypes

JTensor = pytypes.JTensor


def cap_logits(logits: JTensor, cap: float | None) -> JTensor:
  """`cap tanh(logits / cap)` if `cap` is positive, in the dtype of the logits."""
  if not cap or cap <= 0.0:
    return logits
  bound = jnp.asarray(cap, logits.dtype)
  return bound * jnp.tanh(logits / bound)


def log_softmax_with_extra_logit(logits: JTensor, extra_logit: float) -> JTensor:
  """Log probabilities over the last axis and one logit more, which is left out."""
  extra = jnp.asarray(extra_logit, logits.dtype)
  largest = jnp.max(jax.lax.stop_gradient(logits), axis=-1, keepdims=True)
  largest = jnp.maximum(largest, extra)
  total = jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True)
  return logits - jnp.log(total + jnp.exp(extra - largest)) - largest


def softmax(logits: JTensor, extra_logit: float | None) -> JTensor:
  """Probabilities over the last axis; with an extra logit they sum to less than 1."""
  if extra_logit is None:
    return jax.nn.softmax(logits, axis=-1)
  return jnp.exp(log_softmax_with_extra_logit(logits, extra_logit))


def keep(fully_masked: JTensor, dtype) -> JTensor:
  """The factor that zeroes what is fully masked: 0 there, 1 elsewhere."""
  return jnp.logical_not(fully_masked).astype(dtype)


def repeat_batch(x: JTensor, batch: int, where: str, what: str) -> JTensor:
  """Repeats examples consecutively (a, a, b, b, ...) until there are `batch`.

  Raises:
    ValueError: `batch` is not a multiple of the batch of `x`.
  """
  times, rest = divmod(batch, x.shape[0])
  if rest or not times:
    raise ValueError(
      f'{where}: the batch of the query ({batch}) must be a multiple of the batch of '
      f'{what} ({x.shape[0]}).'
    )
  return x if times == 1 else jnp.repeat(x, times, axis=0)


def positions(segment_pos: JTensor | None, x: JTensor) -> JTensor:
  """`segment_pos [B, L]`, or `0 ... L - 1` for `x [B, L, ...]`."""
  if segment_pos is not None:
    return segment_pos
  return jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
