"""compute_stats against numpy, with and without padding."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import py_utils
from pax_haiku.layers import stats
from tests.layers import harness, reference

X = harness.noise(3, 5, 2)


def test_without_padding():
  out = stats.compute_stats(X)
  assert isinstance(out, py_utils.NestedMap)
  assert sorted(out) == ['max_v', 'mean_v', 'std_v']
  x = X.astype(np.float64)
  np.testing.assert_allclose(out.mean_v, x.mean(), rtol=1e-5)
  np.testing.assert_allclose(out.std_v, x.std(), rtol=1e-5)
  np.testing.assert_allclose(out.max_v, np.abs(x).max(), rtol=1e-6)


def test_padding_is_left_out():
  padding = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])[..., None]
  out = stats.compute_stats(jnp.asarray(X), jnp.asarray(padding))
  x = X.astype(np.float64)[np.broadcast_to(padding == 0, X.shape)]
  np.testing.assert_allclose(out.mean_v, x.mean(), rtol=1e-5)
  np.testing.assert_allclose(out.std_v, x.std(), rtol=1e-5)
  np.testing.assert_allclose(out.max_v, np.abs(x).max(), rtol=1e-6)


def test_recorded_numbers():
  out = stats.compute_stats(reference.reference_input((2, 5)), np.zeros((2, 1)))
  np.testing.assert_allclose(
    [out.mean_v, out.std_v, out.max_v], [0.5001303, 0.43466127, 0.99404323], rtol=1e-6
  )


def test_nothing_but_padding():
  out = stats.compute_stats(X, np.ones((3, 5, 1)))
  assert [out.mean_v, out.std_v, out.max_v] == [0, 0, 0]


def test_result_is_float32():
  out = stats.compute_stats(jnp.asarray(X, jnp.bfloat16), jnp.zeros(X.shape, jnp.int32))
  assert {v.dtype for v in out.values()} == {jnp.dtype('float32')}
  assert all(v.shape == () for v in out.values())


def test_ranks_must_match():
  with pytest.raises(AssertionError, match=r'\(3, 5\) has another rank.*\(3, 5, 2\)'):
    stats.compute_stats(X, np.zeros((3, 5)))
