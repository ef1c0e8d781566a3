"""RotaryPositionalEmbedding against complex numbers, its invariants, and decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers.embedding_softmax import RotaryPositionalEmbedding
from tests.layers import harness, reference

POSITION = np.array([[0, 3, 1, 2, 9], [4, 4, 0, 7, 5]])
X = harness.noise(2, 5, 3, 4)


def rotate(x, position=None, **fields):
  return harness.run(
    RotaryPositionalEmbedding, x, position, embedding_dims=x.shape[-1], **fields
  )


def extend(x, position, **fields):
  layer = harness.build(RotaryPositionalEmbedding, embedding_dims=4, **fields)
  return harness.apply(layer, {}, x, position, method='extend_step')[0]


def expected_rotation(x, position, low=1, high=10_000):
  """Turns the complex numbers `first half + i second half` by `e^(i angle)`."""
  half = x.shape[-1] // 2
  timescale = low * (high / low) ** (np.arange(half) / half)
  angle = np.asarray(position, np.float64)[..., np.newaxis] / timescale
  angle = np.expand_dims(angle, tuple(range(2, x.ndim - 1)))
  turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
  return np.concatenate([turned.real, turned.imag], -1)


@pytest.mark.parametrize('shape', [(2, 5, 3, 4), (2, 5, 6)])
@pytest.mark.parametrize('timescales', [(1, 10_000), (2, 50)])
def test_rotation(shape, timescales):
  x = harness.noise(*shape)
  fields = dict(min_timescale=timescales[0], max_timescale=timescales[1])
  out = rotate(x, **fields)
  expected = expected_rotation(x, np.arange(5)[np.newaxis], *timescales)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  out = rotate(x, POSITION, **fields)
  expected = expected_rotation(x, POSITION, *timescales)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=2e-6)


def test_products_depend_on_relative_position_only():
  query, key = harness.noise(2, 5, 3, 8, seed=1), harness.noise(2, 5, 3, 8, seed=2)
  near = np.einsum('btnh,btnh->btn', rotate(query, POSITION), rotate(key, POSITION + 2))
  far = np.einsum(
    'btnh,btnh->btn', rotate(query, POSITION + 7), rotate(key, POSITION + 9)
  )
  np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-4)


def test_gradient_is_the_rotation_back():
  layer = harness.build(RotaryPositionalEmbedding, embedding_dims=4)
  _, grad = harness.gradients(layer, {}, X, POSITION)
  cotangent = harness.noise(*X.shape, seed=99)
  np.testing.assert_allclose(
    grad, expected_rotation(cotangent, -POSITION), rtol=1e-5, atol=2e-6
  )


@pytest.mark.parametrize('position', [6, np.array([6, 2])])
def test_one_step_equals_the_whole(position):
  positions = np.broadcast_to(position, (2,))[:, np.newaxis]
  for x in (X[:, 0], X[:, 0, 0]):
    expected = rotate(X[:, :1], positions)[:, 0]
    expected = expected if x.ndim == 3 else expected[:, 0]
    out = extend(x, position)
    assert out.shape == x.shape
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_a_window_ends_at_the_position_and_starts_at_zero():
  positions = np.array([[4, 5, 6, 7, 8], [0, 0, 0, 1, 2]])
  for last in (np.array([8, 2]), jnp.array([8, 2])):
    out = extend(X, last)
    np.testing.assert_allclose(
      out, expected_rotation(X, positions), rtol=1e-5, atol=2e-6
    )
  out = jax.jit(extend)(X, 8)
  positions = np.broadcast_to(positions[:1], (2, 5))
  np.testing.assert_allclose(
    out, expected_rotation(X, positions), rtol=1e-5, atol=2e-6
  )


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('cast, expected', [(True, jnp.bfloat16), (False, jnp.float32)])
def test_dtype_under_bfloat16(given, cast, expected):
  out = rotate(
    X.astype(given), fprop_dtype=jnp.bfloat16, cast_as_fprop_dtype=cast
  )
  assert out.dtype == expected


def test_what_does_not_fit():
  with pytest.raises(ValueError, match='embedding_dims must be even, found 3'):
    rotate(X[..., :3])
  with pytest.raises(ValueError, match=r'found shape \(2, 4\)'):
    rotate(X[:, 0, 0])
  with pytest.raises(ValueError, match=r'embedding_dims=6, found shape'):
    harness.run(RotaryPositionalEmbedding, X, embedding_dims=6)
  with pytest.raises(TypeError, match='needs the position'):
    extend(X, None)


def test_recorded_numbers():
  config = pax_fiddle.Config(RotaryPositionalEmbedding, embedding_dims=4)
  out = reference.run(config, reference.reference_input((2, 5, 3, 4)))
  reference.check(out, 120, 0.1986693, 0.2260804, 74.42763)
