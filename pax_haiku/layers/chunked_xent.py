"""Softmax cross entropy that holds the logits of a few tokens at a time.

    logits = cap(scale x W + b);  xent = -sum(targets * log_softmax(logits))

A scan over chunks of tokens computes the loss. For the gradient (a rule of its own) a
second scan computes each chunk's logits again, and from them, with p = softmax(logits),

    d xent / d logits = p sum(targets) - targets;  d log_z / d logits = p

so that neither pass holds more than one chunk of logits, and the gradient of W adds up
in float32 whatever the dtype of x and W. The numbers are those of the formula on all
tokens, up to the order in which float32 sums over tokens are taken.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.layers.cross_entropy import soft_cap

JTensor = pytypes.JTensor


@dataclasses.dataclass(frozen=True)
class Formula:
  """How logits and targets are made.

  Attributes:
    on: target of the class that an id names.
    off: target of each other class.
    scale: factor of the inputs; None: none.
    cap: bounds the logits, see `cross_entropy.soft_cap`.
  """

  on: float = 1.0
  off: float = 0.0
  scale: float | None = None
  cap: float | None = None

  def logits(self, weights: dict[str, JTensor], x: JTensor) -> JTensor:
    """Logits `[N, V]` of `x [N, D]`, weights being `w [D, V]` and maybe `b [V]`."""
    if self.scale is not None:
      x = x * self.scale
    logits = x @ weights['w']
    if 'b' in weights:
      logits = logits + weights['b']
    return soft_cap(logits, self.cap)

  def targets(self, ids: JTensor, num_classes: int) -> JTensor:
    """Float32 targets `[N, V]` for `ids [N]`; an id outside names no class."""
    named = ids[:, jnp.newaxis] == jnp.arange(num_classes)
    return jnp.where(named, jnp.float32(self.on), jnp.float32(self.off))


class _Chunks:
  """Tokens in chunks: each takes every n-th token, the last ones may be padding.

  So a batch that is sharded over devices stays so within each chunk.
  """

  def __init__(self, num_tokens: int, most: int):
    self.tokens = num_tokens
    self.count = max(1, -(-num_tokens // most))
    self.size = -(-num_tokens // self.count)

  def split(self, x: JTensor) -> JTensor:
    """`[N, ...]` as `[count, size, ...]`."""
    pad = [(0, self.count * self.size - self.tokens)] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, pad).reshape(self.size, self.count, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1)

  def merge(self, x: JTensor) -> JTensor:
    """The inverse of `split`."""
    x = jnp.swapaxes(x, 0, 1)
    return x.reshape(self.size * self.count, *x.shape[2:])[: self.tokens]


def _forward(formula, most, weights, inputs, ids):
  chunks = _Chunks(ids.shape[0], most)

  def body(carry, chunk):
    x, chunk_ids = chunk
    logits = formula.logits(weights, x).astype(jnp.float32)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    shifted = logits - largest
    log_total = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))
    targets = formula.targets(chunk_ids, logits.shape[-1])
    xent = -jnp.sum((shifted - log_total) * targets, axis=-1)
    argmax = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return carry, (xent, (largest + log_total)[:, 0], argmax)

  _, results = jax.lax.scan(body, (), (chunks.split(inputs), chunks.split(ids)))
  return tuple(map(chunks.merge, results))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def losses(
  formula: Formula,
  tokens_per_chunk: int,
  weights: dict[str, JTensor],
  inputs: JTensor,
  ids: JTensor,
) -> tuple[JTensor, JTensor, JTensor]:
  """Losses of tokens; differentiable in reverse, by `weights` and `inputs`.

  Args:
    formula: how logits and targets are made.
    tokens_per_chunk: the most tokens whose logits are held at once.
    weights: `w [D, V]`, and maybe `b [V]`.
    inputs: `[N, D]`.
    ids: `[N]`, the classes.

  Returns:
    `[N]` each: cross entropy (float32), log partition `log sum exp(logits)` (float32),
    and the likeliest class (int32).
  """
  return _forward(formula, tokens_per_chunk, weights, inputs, ids)


def _losses_fwd(formula, most, weights, inputs, ids):
  results = _forward(formula, most, weights, inputs, ids)
  return results, (weights, inputs, ids, results[1])


def _losses_bwd(formula: Formula, most: int, saved: Any, cotangents: Any):
  weights, inputs, ids, log_z = saved
  xent_grad, log_z_grad, _ = cotangents
  chunks = _Chunks(ids.shape[0], most)

  def body(totals, chunk):
    x, chunk_ids, log_z, xent_grad, log_z_grad = chunk
    logits, pull_back = jax.vjp(formula.logits, weights, x)
    probs = jnp.exp(logits.astype(jnp.float32) - log_z[:, jnp.newaxis])
    targets = formula.targets(chunk_ids, logits.shape[-1])
    of_xent = xent_grad[:, jnp.newaxis]
    of_probs = of_xent * jnp.sum(targets, axis=-1, keepdims=True)
    of_probs += log_z_grad[:, jnp.newaxis]
    grad = (of_probs * probs - of_xent * targets).astype(logits.dtype)
    weight_grads, x_grad = pull_back(grad)
    return jax.tree.map(jnp.add, totals, weight_grads), x_grad

  totals = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
  per_token = (inputs, ids, log_z, xent_grad, log_z_grad)
  totals, x_grads = jax.lax.scan(body, totals, tuple(map(chunks.split, per_token)))
  weight_grads = jax.tree.map(lambda w, g: g.astype(w.dtype), weights, totals)
  return weight_grads, chunks.merge(x_grads), None


losses.defvjp(_losses_fwd, _losses_bwd)
