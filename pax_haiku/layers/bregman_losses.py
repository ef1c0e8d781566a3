"""Losses of BregmanPCA: Bregman divergences, each of which belongs to an activation."""

import enum
import functools

import jax
import jax.numpy as jnp

from pax_haiku import pytypes

JTensor = pytypes.JTensor
_SMALLEST = 1e-6  # Probabilities below count as this much where a log is taken.


class ActivationType(str, enum.Enum):  # noqa: UP042, as in Pax: str() differs
  """What is applied to combinations of components."""

  IDENTITY = 'IDENTITY'
  LEAKY_RELU = 'LEAKY_RELU'
  SOFTMAX = 'SOFTMAX'


def activate(x: JTensor, kind: ActivationType, negative_slope: float) -> JTensor:
  """The activation; the softmax over the last axis."""
  if kind == ActivationType.LEAKY_RELU:
    return jax.nn.leaky_relu(x, negative_slope)
  if kind == ActivationType.SOFTMAX:
    return jax.nn.softmax(x, axis=-1)
  return x


def invert(y: JTensor, kind: ActivationType, negative_slope: float) -> JTensor:
  """What the activation makes `y` of; for the softmax the one whose mean is 0."""
  if kind == ActivationType.LEAKY_RELU:
    return jax.nn.leaky_relu(y, 1.0 / negative_slope)
  if kind == ActivationType.SOFTMAX:
    logits = jnp.log(jnp.maximum(y, _SMALLEST))
    return logits - jnp.mean(logits, axis=-1, keepdims=True)
  return y


def divergence(
  r: JTensor, y: JTensor, kind: ActivationType, negative_slope: float
) -> JTensor:
  """How far `f(r)` is from `y` for the activation f: convex in r, of gradient f(r) - y.

      IDENTITY      (r - y)^2 / 2
      LEAKY_RELU    (r f(r) - z y) / 2 - y (r - z)  with f(z) = y
      SOFTMAX       KL(y | f(r))

  Args:
    r: `[B, *dims]`.
    y: the same, constant.
    kind: the activation.
    negative_slope: of LEAKY_RELU.

  Returns:
    A scalar: the sum over features, and its mean over examples; for SOFTMAX over all
    distributions, of which the last axis holds one.
  """
  softmax = kind == ActivationType.SOFTMAX
  rows = (-1, r.shape[-1]) if softmax else (r.shape[0], -1)
  r, y = r.reshape(rows), jax.lax.stop_gradient(y).reshape(rows)
  if softmax:
    surprise = jnp.log(jnp.maximum(y, _SMALLEST)) - r
    return jnp.mean(jax.nn.logsumexp(r, axis=-1) + jnp.sum(y * surprise, axis=-1))
  if kind == ActivationType.LEAKY_RELU:
    f, z = activate(r, kind, negative_slope), invert(y, kind, negative_slope)
    each = 0.5 * (r * f - z * y) - y * (r - z)
  else:
    each = 0.5 * jnp.square(r - y)
  return jnp.mean(jnp.sum(each, axis=-1))


def loss(
  coefficients: JTensor,
  components: JTensor,
  mean: JTensor,
  labels: JTensor,
  kind: ActivationType,
  negative_slope: float,
) -> JTensor:
  """The divergence of `coefficients [B, K] . components [K, *dims] + mean`."""
  r = jnp.tensordot(coefficients, components, axes=1) + mean
  return divergence(r, labels, kind, negative_slope)


def unit_rms(x: JTensor) -> JTensor:
  """Scaled to a root mean square of 1."""
  return x / jnp.maximum(jnp.linalg.norm(x), 1e-6) * jnp.sqrt(float(x.size))


@functools.partial(
  jax.jit, static_argnames=('kind', 'negative_slope', 'lr', 'beta', 'steps')
)
def best_coefficients(
  labels: JTensor,
  components: JTensor,
  mean: JTensor,
  kind: ActivationType,
  negative_slope: float,
  *,
  lr: float,
  beta: float,
  steps: int,
) -> JTensor:
  """The coefficients `[B, K]` that fit the labels best, by some steps of descent.

  Jitted, so that the loop is traced once for all layers of a size.
  """
  gradient = jax.grad(loss)

  def descend(i, carry):
    coefficients, momentum = carry
    g = gradient(coefficients, components, mean, labels, kind, negative_slope)
    momentum = beta * momentum + (1 - beta) * unit_rms(g)
    return coefficients - (1.0 - i / steps) * lr * momentum, momentum

  zeros = jnp.zeros([labels.shape[0], components.shape[0]], labels.dtype)
  coefficients, _ = jax.lax.fori_loop(0, steps, descend, (zeros, zeros))
  return jax.lax.stop_gradient(coefficients)
