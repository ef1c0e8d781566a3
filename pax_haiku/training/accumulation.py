"""Gradient accumulation: a batch in parts, one after the other, as one update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_parts(
  gradients: Callable[..., tuple[Any, dict, Any]],
  state: Any,
  key: jax.Array,
  batch: Any,
  num_parts: int,
  loss_name: str,
) -> tuple[Any, dict, Any]:
  """Returns gradients, weighted scalars and the last state of a batch in parts.

  The gradient of a mean over all tokens is the mean of the parts' gradients, weighted
  by the tokens of each. Only one part's activations are in memory at a time.

  Args:
    gradients: `(state, key, part) -> (gradients, weighted scalars, state)`.
    state: Haiku's state; each part goes on from that of the part before.
    key: Each part's key is `fold_in(key, part)`.
    batch: Arrays `[B, ...]`.
    num_parts: Must divide every B.
    loss_name: The weighted scalar whose weights the parts' gradients get.

  Raises:
    ValueError: `num_parts` does not divide a batch.
  """
  parts = jax.tree.map(lambda x: _cut(jnp.asarray(x), num_parts), batch)
  first, rest = (jax.tree.map(lambda x, s=s: x[s], parts) for s in (0, slice(1, None)))

  def weighted(state, number, part):
    grads, metrics, state = gradients(state, jax.random.fold_in(key, number), part)
    weight = metrics[loss_name][1]
    sums = {
      # A part that is all padding has weight 0 and no mean.
      k: (jnp.where(w > 0, value * w, 0.0), w) for k, (value, w) in metrics.items()
    }
    grads = jax.tree.map(lambda g: jnp.where(weight > 0, g * weight, 0.0), grads)
    return (grads, sums), state

  def add(carry, part):
    total, state = carry
    new, state = weighted(state, *part)
    return (jax.tree.map(jnp.add, total, new), state), None

  # The first part outside the loop: it shows which structure and types the rest has.
  carry = weighted(state, 0, first)
  carry = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), carry)
  numbers = jnp.arange(1, num_parts)
  ((grads, sums), state), _ = jax.lax.scan(add, carry, (numbers, rest))
  total = sums[loss_name][1]
  grads = jax.tree.map(lambda g: g / jnp.maximum(total, 1e-8), grads)
  metrics = {
    name: (value / jnp.where(w > 0, w, 1), w) for name, (value, w) in sums.items()
  }
  return grads, metrics, state


def _cut(x: jax.Array, num_parts: int) -> jax.Array:
  if x.shape[0] % num_parts:
    raise ValueError(
      f'A batch of {x.shape[0]} examples cannot be cut into {num_parts} equal parts.'
    )
  return x.reshape(num_parts, x.shape[0] // num_parts, *x.shape[1:])
