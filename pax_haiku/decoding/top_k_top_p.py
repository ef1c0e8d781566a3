"""Which tokens may be sampled: the k likeliest, those that make up p, and the like.

What is excluded gets a large negative logit.
"""

import jax
import jax.numpy as jnp

from pax_haiku import py_utils
from pax_haiku.decoding.types import JTensor


def is_array(x) -> bool:
  """Whether `x` is an array, of JAX or numpy, rather than a Python number."""
  return hasattr(x, 'shape') and hasattr(x, 'dtype')


def get_top_k(
  logits: JTensor,
  top_k: int,
  per_example_top_k: JTensor | None,
  top_k_recall_target: float = 1.0,
) -> tuple[JTensor, JTensor]:
  """The largest logits, descending, and their indices.

  Args:
    logits: `[Bn, V]`.
    top_k: how many, at most V; 0: all, in their order.
    per_example_top_k: `[Bn]`: a row's logits from this place on are excluded.
    top_k_recall_target: < 1.0: an approximation that misses some.

  Returns:
    values and indices, `[Bn, top_k]`.

  Raises:
    ValueError: `top_k` exceeds the vocabulary, or the recall target is not positive.
  """
  vocab = logits.shape[-1]
  if not top_k:
    return logits, jnp.broadcast_to(jnp.arange(vocab), logits.shape)
  if top_k > vocab:
    raise ValueError(
      f'top_k={top_k} exceeds the vocabulary: the logits have {vocab} entries '
      f'(shape {logits.shape}). Choose top_k (k of the decoder) <= {vocab}, or 0 to '
      'sample from all.'
    )
  if top_k_recall_target <= 0:
    raise ValueError(
      f'top_k_recall_target must be in (0, 1], found {top_k_recall_target}.'
    )
  if top_k_recall_target < 1.0:
    values, indices = jax.lax.approx_max_k(
      logits, top_k, recall_target=top_k_recall_target
    )
  else:
    values, indices = jax.lax.top_k(logits, top_k)
  if per_example_top_k is not None:
    count = jnp.minimum(jnp.asarray(per_example_top_k).astype(jnp.int32), top_k)
    lowest = py_utils.get_large_negative_number(values.dtype)
    values = jnp.where(jnp.arange(top_k) < count[:, None], values, lowest)
  return values, indices


def top_p_mask_logits(
  logits: JTensor,
  p: float | JTensor,
  logits_sorted_in_descending_order: bool = False,
  logits_sum: JTensor | None = None,
) -> JTensor:
  """Excludes what does not belong to the likeliest tokens of probability `p`.

  Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).

  Args:
    logits: `[B, V]`.
    p: a number, or an array `[B, 1]`. A number >= 1.0 excludes nothing.
    logits_sorted_in_descending_order: the caller has sorted them.
    logits_sum: `[B, 1]`: take logits / logits_sum for probabilities, not their softmax.

  Returns:
    `[B, V]`; logits as large as the smallest that is kept are kept.
  """
  if not is_array(p) and p >= 1.0:
    return logits
  descending = logits_sorted_in_descending_order
  ordered = logits if descending else jnp.sort(logits, axis=-1)
  if logits_sum is None:
    probs = jax.nn.softmax(ordered.astype(jnp.float32), axis=-1)
  else:
    probs = ordered.astype(jnp.float32) / logits_sum
  threshold = p if descending else 1.0 - p
  below = jnp.cumsum(probs, axis=-1) <= threshold
  cutoff = jnp.sum(below.astype(jnp.int32), axis=-1)
  smallest = ordered[jnp.arange(logits.shape[0]), cutoff][:, None]
  lowest = py_utils.get_large_negative_number(logits.dtype)
  return jnp.where(logits < smallest, lowest, logits)


def epsilon_mask_logits(logits: JTensor, epsilon: float) -> JTensor:
  """Excludes tokens of a probability below `epsilon`; <= 0 excludes nothing.

  Source: Hewitt et al., "Truncation Sampling as Language Model Desmoothing" (2022).
  """
  if epsilon <= 0:
    return logits
  probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  lowest = py_utils.get_large_negative_number(logits.dtype)
  return jnp.where(probs < epsilon, lowest, logits)


def mask_top_p(
  top_k_logits: JTensor,
  top_p: float | JTensor | None,
  is_sorted: bool = True,
  logits_sum: JTensor | None = None,
) -> JTensor:
  """`top_p_mask_logits`, unless `top_p` is None or (an array) nowhere below 1."""

  def mask():
    return top_p_mask_logits(top_k_logits, top_p, is_sorted, logits_sum)

  if top_p is None:
    return top_k_logits
  if not is_array(top_p):
    return mask()
  return jax.lax.cond(jnp.any(top_p < 1.0), mask, lambda: top_k_logits)


def top_k_and_top_p(
  logits: JTensor,
  top_k: int,
  top_p: float | JTensor | None = None,
  per_example_top_k: JTensor | None = None,
  global_normalize: bool = False,
  top_k_recall_target: float = 1.0,
) -> tuple[JTensor, JTensor, JTensor]:
  """The k largest logits of which those outside `top_p` are excluded.

  Args:
    logits: `[Bn, V]`.
    top_k, per_example_top_k, top_k_recall_target: as in `get_top_k`.
    top_p: as in `top_p_mask_logits`, applied to the top k.
    global_normalize: relate the top k to the sum of all logits.

  Returns:
    masked logits, log-probabilities within the top k (before top p), and indices, all
    `[Bn, top_k]`.
  """
  values, indices = get_top_k(logits, top_k, per_example_top_k, top_k_recall_target)
  total = None
  if global_normalize:
    total = jnp.sum(logits.astype(jnp.float32), axis=-1, keepdims=True)
  masked = mask_top_p(values, top_p, logits_sum=total)
  return masked, jax.nn.log_softmax(values.astype(jnp.float32)), indices
