"""WeightNormL2 and SpectralNorm against numpy, and what the latter stores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers.normalizations import SpectralNorm, WeightNormL2
from tests.layers import harness, reference
from tests.layers.reference import X

KERNEL = harness.noise(3, 3, 2, 4)


def test_weight_norm_makes_unit_columns():
  out = harness.run(WeightNormL2, KERNEL, dim=4)
  norms = np.sqrt(np.sum(np.square(out, dtype=np.float64), axis=(0, 1, 2)))
  np.testing.assert_allclose(norms, np.ones(4), rtol=1e-6)
  np.testing.assert_allclose(out / out[0, 0, 0], KERNEL / KERNEL[0, 0, 0], rtol=1e-5)


def test_weight_norm_scales_by_one_plus_g():
  g = harness.noise(4, seed=1)
  layer = harness.build(WeightNormL2, dim=4)
  assert harness.shapes(harness.init(layer, KERNEL)) == {'params': {'g': (4,)}}
  out, _ = harness.apply(layer, {'params': {'g': g}}, KERNEL)
  norms = np.sqrt(np.sum(KERNEL.astype(np.float64) ** 2, axis=(0, 1, 2)) + 1e-12)
  np.testing.assert_allclose(out, (1 + g) * KERNEL / norms, rtol=1e-5)


def test_weight_norm_of_zeros_is_zero():
  out = harness.run(WeightNormL2, np.zeros((3, 4), np.float32), dim=4)
  np.testing.assert_array_equal(out, np.zeros((3, 4)))


def test_gradient_of_weight_norm_is_orthogonal_to_the_kernel():
  layer = harness.build(WeightNormL2, dim=4)
  _, grad = harness.gradients(layer, harness.init(layer, KERNEL), KERNEL)
  # The result does not change with the length of a column.
  np.testing.assert_allclose(
    np.sum(grad * KERNEL, axis=(0, 1, 2)), np.zeros(4), atol=1e-5
  )


def test_weight_norm_recorded_numbers():
  out = reference.run(pax_fiddle.Config(WeightNormL2, dim=4), X)
  reference.check(out, 40, 0.09481535, 0.5331126, 15.25812)


def spectral(layer, u, do_eval=False):
  variables = {'non_trainable': {'u': u}}
  out, written = harness.apply(layer, variables, KERNEL, do_eval=do_eval)
  return out, written['non_trainable']['u']


def power_iteration(u, steps):
  """`(kernel / sigma, u)` after some steps, in float64."""
  w = KERNEL.reshape(-1, 4).astype(np.float64)
  for _ in range(steps):
    v = w @ u / np.linalg.norm(w @ u)
    u = v @ w / np.linalg.norm(v @ w)
  return KERNEL / (v @ w @ u), u


@pytest.mark.parametrize('steps', [1, 3])
@pytest.mark.parametrize('do_eval', [False, True])
def test_spectral_norm_is_power_iteration(steps, do_eval):
  u = harness.noise(4, seed=1)
  layer = harness.build(SpectralNorm, dim=4, n_power_iteration=steps)
  out, new_u = spectral(layer, u, do_eval)
  expected, expected_u = power_iteration(u, steps)
  np.testing.assert_allclose(out, expected, rtol=1e-5)
  np.testing.assert_allclose(new_u, u if do_eval else expected_u, rtol=1e-5)


def test_spectral_norm_converges_to_the_largest_singular_value():
  layer = harness.build(SpectralNorm, dim=4, n_power_iteration=200)
  out, u = spectral(layer, harness.noise(4, seed=1))
  largest = np.linalg.svd(KERNEL.reshape(-1, 4))[1][0]
  np.testing.assert_allclose(out, KERNEL / largest, rtol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(u), 1, rtol=1e-5)


def test_no_gradient_flows_through_the_iteration():
  u = harness.noise(4, seed=1)
  layer = harness.build(SpectralNorm, dim=4)
  _, grad = harness.gradients(layer, {'non_trainable': {'u': u}}, KERNEL)
  w = KERNEL.reshape(-1, 4).astype(np.float64)
  v = w @ u / np.linalg.norm(w @ u)
  u = v @ w / np.linalg.norm(v @ w)
  sigma = v @ w @ u
  cotangent = harness.noise(*KERNEL.shape, seed=99).reshape(-1, 4)
  # d(w / sigma) with sigma = v w u and constant v, u.
  expected = cotangent / sigma - np.sum(cotangent * w) / sigma**2 * np.outer(v, u)
  np.testing.assert_allclose(grad.reshape(-1, 4), expected, rtol=1e-4, atol=1e-6)


def test_spectral_norm_variable():
  layer = harness.build(SpectralNorm, dim=4)
  variables = harness.init(layer, KERNEL)
  assert harness.shapes(variables) == {'non_trainable': {'u': (4,)}}
  weight = layer.abstract_init_with_metadata(KERNEL)['non_trainable']['u']
  assert '_requires_mean_sync' in weight.collections
  assert weight.init.method == 'gaussian'


def test_spectral_norm_needs_an_iteration():
  with pytest.raises(ValueError, match='n_power_iteration=0 must be at least 1'):
    harness.run(SpectralNorm, KERNEL, dim=4, n_power_iteration=0)


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'cls, expected', [(WeightNormL2, None), (SpectralNorm, jnp.bfloat16)]
)
def test_dtype_of_the_result_under_bfloat16(cls, given, expected):
  layer = harness.build(cls, dim=4, fprop_dtype=jnp.bfloat16)
  x = KERNEL.astype(given)
  variables = harness.init(layer, x)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  assert harness.apply(layer, variables, x)[0].dtype == (expected or given)
