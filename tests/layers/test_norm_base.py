"""Masked moments against numpy on what is left after masking; the base classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import normalizations
from tests.layers import harness
from tests.layers.reference import PADDINGS, X

PAD3 = PADDINGS[..., np.newaxis]


def test_moments_are_those_of_the_unpadded_steps():
  mean, variance = normalizations.compute_moments(X, PAD3, [0, 1])
  kept = X[PADDINGS == 0].astype(np.float64)
  np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(variance, kept.var(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dims', [[0], [1], [0, 2], [0, 1, 2], [2, 1]])
@pytest.mark.parametrize('keepdims', [False, True])
def test_moments_over_any_axes(dims, keepdims):
  mean, variance = normalizations.compute_moments(
    X, np.zeros((1, 1, 1), np.float32), dims, keepdims=keepdims
  )
  x, axes = X.astype(np.float64), tuple(dims)
  np.testing.assert_allclose(mean, x.mean(axes, keepdims=keepdims), rtol=1e-5)
  np.testing.assert_allclose(variance, x.var(axes, keepdims=keepdims), rtol=1e-5)


def test_moments_of_nothing_are_zero():
  mean, variance = normalizations.compute_moments(X, np.ones_like(PAD3), [0, 1])
  np.testing.assert_array_equal(mean, np.zeros(4))
  np.testing.assert_array_equal(variance, np.zeros(4))


def test_cumulative_moments_use_the_mean_of_each_step():
  mean, variance = normalizations.compute_moments(
    X, PAD3, [2], cumulative_axis=1, keepdims=True
  )
  x = X.astype(np.float64)
  for b in range(2):
    total = count = squares = 0.0
    for t in range(5):
      keep = 1 - PADDINGS[b, t]
      total += keep * x[b, t].sum()
      count += keep * 4
      squares += keep * np.sum((x[b, t] - total / count) ** 2)
      np.testing.assert_allclose(mean[b, t, 0], total / count, rtol=1e-5)
      np.testing.assert_allclose(variance[b, t, 0], squares / count, rtol=1e-5)


def test_moments_run_over_the_devices_of_a_batch_axis():
  def one(x, padding):
    return normalizations.compute_moments(x, padding, [0])

  mean, variance = jax.vmap(one, axis_name='batch')(X, PAD3)
  kept = X[PADDINGS == 0].astype(np.float64)
  for device in range(2):
    np.testing.assert_allclose(mean[device], kept.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance[device], kept.var(0), rtol=1e-5, atol=1e-6)


def test_moments_stay_in_bfloat16():
  x, pad = X.astype(jnp.bfloat16), PAD3.astype(jnp.bfloat16)
  mean, variance = normalizations.compute_moments(x, pad, [0, 1])
  assert mean.dtype == variance.dtype == jnp.bfloat16


def test_moments_check_ranks_and_axes():
  with pytest.raises(ValueError, match=r'padding of shape \(2, 5\)'):
    normalizations.compute_moments(X, PADDINGS, [0])
  for axis in (-1, 3):
    with pytest.raises(ValueError, match=f'{axis} in reduce_over_dims'):
      normalizations.compute_moments(X, PAD3, [axis])


def test_identity_norm_returns_its_inputs():
  out = harness.run(normalizations.IdentityNorm, X, PADDINGS, dim=4)
  np.testing.assert_array_equal(out, X)


def test_base_normalization_is_abstract():
  with pytest.raises(NotImplementedError, match='BaseNormalization'):
    harness.run(normalizations.BaseNormalization, X, dim=4)
