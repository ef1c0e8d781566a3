"""Activations against formulas in float64, their slopes, dtypes and names."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import activations
from tests.layers import harness

# Both sides of every kink (0 and 6), none on it; the tails.
X = np.array([-30, -4, -1.5, -0.3, -1e-3, 1e-3, 0.4, 1, 2.5, 5.9, 6.1, 20], np.float64)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _relu(x):
  return np.where(x > 0, x, 0)


def _erf(x):
  return np.vectorize(math.erf)(x)


def _tanh_gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
  'ReLU': _relu,
  'SineReLU': lambda x: np.sin(_relu(x)),
  'ReLU6': lambda x: np.clip(x, 0, 6),
  'SquaredReLU': lambda x: _relu(x) ** 2,
  'CubedReLU': lambda x: _relu(x) ** 3,
  'LeakyReLU': lambda x: np.where(x >= 0, x, 0.01 * x),
  'ELU': lambda x: np.where(x > 0, x, np.expm1(x)),
  'Sigmoid': _sigmoid,
  'Tanh': np.tanh,
  'GELU': _tanh_gelu,
  'SiLU': lambda x: x * _sigmoid(x),
  'Swish': lambda x: x * _sigmoid(x),
  'Softplus': lambda x: np.logaddexp(x, 0),
  'Exp': np.exp,
  'Identity': lambda x: x,
}
CASES = [
  *[(getattr(activations, name), {}, f) for name, f in FORMULAS.items()],
  (
    activations.LeakyReLU,
    {'negative_slope': 0.3},
    lambda x: np.where(x > 0, x, 0.3 * x),
  ),
  (activations.GELU, {'approximate': False}, lambda x: x * (1 + _erf(x / 2**0.5)) / 2),
]


@pytest.mark.parametrize('cls, fields, formula', CASES)
def test_value_and_slope(cls, fields, formula):
  layer, h = harness.build(cls, **fields), 1e-6
  x = X.astype(np.float32)
  # Float32 exp, tanh and erf are good to a few ulp, and GELU cancels in its left tail.
  out = harness.apply(layer, {}, x)[0]
  np.testing.assert_allclose(out, formula(X), rtol=1e-5, atol=1e-6)
  _, slope = harness.gradients(layer, {}, x, loss=jnp.sum)
  expected = (formula(X + h) - formula(X - h)) / (2 * h)
  np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('name', FORMULAS)
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_dtype_of_the_inputs_is_kept(name, dtype):
  # A type of the layer's computation does not matter: nothing is cast.
  layer = harness.build(getattr(activations, name), fprop_dtype=jnp.bfloat16)
  x = jnp.asarray([-1.0, 0.0, 2.0], dtype)
  out = harness.apply(layer, {}, x)[0]
  assert out.dtype == dtype and out.shape == x.shape
  expected = FORMULAS[name](np.asarray(x, np.float64))
  np.testing.assert_allclose(
    np.asarray(out, np.float64), expected, rtol=1e-2, atol=1e-2
  )


def test_relu_has_slope_zero_at_zero():
  _, slope = harness.gradients(
    harness.build(activations.ReLU), {}, np.zeros(2, np.float32), loss=jnp.sum
  )
  np.testing.assert_array_equal(slope, 0)


def test_no_variables():
  assert harness.init(harness.build(activations.GELU), X) == {}


def test_base_class_cannot_be_called():
  with pytest.raises(NotImplementedError, match='BaseActivation must define __call__'):
    harness.run(activations.BaseActivation, X)


@pytest.mark.parametrize('name', FORMULAS)
def test_found_by_name(name):
  found = activations.BaseActivation.get_subclass_by_name
  cls = getattr(activations, name)
  assert found(name) is cls
  assert found(name.upper()) is cls
  assert found('_'.join(name.lower())) is cls


def test_name_must_be_that_of_one_direct_subclass():
  class Family(activations.BaseActivation):
    pass

  class Member(Family):
    pass

  class MEMBER(Family):
    pass

  class Other(Family):
    pass

  class Grandchild(Other):
    pass

  assert Family.get_subclass_by_name('other') is Other
  for name, found in [('member', 2), ('grandchild', 0), ('relu', 0)]:
    with pytest.raises(KeyError, match=f"Family.*{name!r}, found {found}.*'Other'"):
      Family.get_subclass_by_name(name)
  assert Member is not MEMBER and issubclass(Grandchild, Other)


def test_in_a_haiku_model():
  cfg = pax_fiddle.Config(activations.GELU, name='gelu')
  net = hk.transform_with_state(lambda x: cfg.Instantiate()(hk.Linear(3)(x)))
  params, state = net.init(jax.random.PRNGKey(0), X[None].astype(np.float32))
  assert list(params) == ['linear'] and not state
  out, _ = net.apply(params, state, None, X[None].astype(np.float32))
  linear = X[None] @ np.asarray(params['linear']['w'], np.float64)
  np.testing.assert_allclose(out, _tanh_gelu(linear), rtol=1e-5, atol=1e-5)
