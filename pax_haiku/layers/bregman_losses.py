"""Losses of BregmanPCA: Bregman divergences that belong to an activation.

Each is convex in `r`, what is compared before the activation f, and its gradient is
`f(r) - y`: the least of it is where f(r) is the label y. All take `[rows, features]`
and return the mean over rows of the sum over features.
"""

import jax
import jax.numpy as jnp

from pax_haiku import pytypes

JTensor = pytypes.JTensor
SMALLEST = 1e-6  # Probabilities below count as this much where a log is taken.


def squared(r: JTensor, y: JTensor) -> JTensor:
  """For the identity: `(r - y)^2 / 2`."""
  return jnp.mean(jnp.sum(0.5 * jnp.square(r - y), axis=-1))


def leaky_relu(r: JTensor, y: JTensor, negative_slope: float) -> JTensor:
  """For f = leaky ReLU, and z with f(z) = y: `(r f(r) - z y) / 2 - y (r - z)`."""
  z = jax.nn.leaky_relu(y, 1.0 / negative_slope)
  activated = jax.nn.leaky_relu(r, negative_slope)
  return jnp.mean(jnp.sum(0.5 * (r * activated - z * y) - y * (r - z), axis=-1))


def softmax(r: JTensor, y: JTensor) -> JTensor:
  """For the softmax: `KL(y | softmax(r))`, of probabilities y."""
  surprise = jnp.log(jnp.maximum(y, SMALLEST)) - r
  return jnp.mean(jax.nn.logsumexp(r, axis=-1) + jnp.sum(y * surprise, axis=-1))
