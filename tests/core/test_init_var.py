"""Initial values, against those that the real Praxis drew with the same key."""

import ast
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.core import init_var as init_var_lib
from pax_haiku.core.init_var import init_var
from pax_haiku.core.weights import WeightHParams, WeightInit

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'core' / 'init_var.npz'
KEY = jax.random.PRNGKey(7)


def draw(shape, init, dtype=jnp.float32, **kwargs):
  return init_var(WeightHParams(shape, init, dtype, **kwargs), KEY, 'net/w')


def recorded():
  with np.load(GOLDEN) as file:
    cases = [ast.literal_eval(str(case)) for case in file['cases']]
    ends = np.cumsum([math.prod(case[1]) for case in cases])
    values = np.split(file['values'], ends[:-1])
  return {c: v.reshape(c[1]) for c, v in zip(cases, values, strict=True)}


RECORDED = recorded()
METHODS = sorted({case[0] for case in RECORDED})


@pytest.mark.parametrize('method', METHODS)
def test_values_equal_those_of_praxis(method):
  cases = [case for case in RECORDED if case[0] == method]
  assert len(cases) >= 11
  for case in cases:
    _, shape, fan_in_axes, fan_out_axes, scale, dtype = case
    # bfloat16 was recorded op by op, see record_init_var.py.
    with jax.disable_jit(dtype == 'bfloat16'):
      value = draw(
        list(shape),
        WeightInit(method, scale),
        jnp.dtype(dtype),
        fan_in_axes=fan_in_axes,
        fan_out_axes=fan_out_axes,
      )
    assert value.dtype == dtype and value.shape == shape, case
    value = np.asarray(value.astype(jnp.float32))
    if method in ('uniform', 'xavier', 'constant') or method.startswith('uniform'):
      # No operation here rounds differently from one CPU to the next.
      np.testing.assert_array_equal(value, RECORDED[case], err_msg=str(case))
    elif method == 'delta_orthogonal':
      # QR differs in its last bits between builds of LAPACK.
      np.testing.assert_allclose(value, RECORDED[case], rtol=1e-5, atol=1e-6)
    elif dtype == 'float32':
      # Bit for bit on the machine that recorded them. erf_inv may be fused otherwise on
      # another CPU: a few units in the last place.
      np.testing.assert_array_max_ulp(value, RECORDED[case], maxulp=8)
    else:
      # One unit in the last place of bfloat16, for the same reason.
      np.testing.assert_allclose(value, RECORDED[case], rtol=2**-7, err_msg=str(case))


def test_every_constructor_can_be_drawn():
  names = [n for n in vars(WeightInit) if n[0].isupper()]
  assert len(names) == 17
  for name in names:
    assert draw([4, 3], getattr(WeightInit, name)()).shape == (4, 3), name
  drawable = {*init_var_lib._SAMPLERS, 'constant', 'delta_orthogonal'}
  assert {getattr(WeightInit, name)().method for name in names} == drawable


def test_orthogonal_kernel_has_orthogonal_center():
  kernel = np.array(draw([3, 4, 6, 3], WeightInit.ScaledDeltaOrthogonal(5.0)))
  center = kernel[1, 1]
  # Columns are orthogonal with squared norm gain^2 = 6 / 3, whatever the scale.
  np.testing.assert_allclose(center.T @ center, 2 * np.eye(3), atol=1e-5)
  kernel[1, 1] = 0
  assert not kernel.any()


@pytest.mark.parametrize('dtype', [jnp.int8, jnp.int32, jnp.uint4, jnp.int4])
def test_integer_constants(dtype):
  value = draw([2, 2], WeightInit.Constant(3), dtype)
  assert value.dtype == dtype
  np.testing.assert_array_equal(np.asarray(value.astype(jnp.int32)), 3)
  with pytest.raises(ValueError, match='net/w.*int constant.*3.0'):
    draw([2, 2], WeightInit.Constant(3.0), dtype)


def test_bool_constants():
  assert draw([2], WeightInit.Constant(True), jnp.bool_).dtype == jnp.bool_
  assert draw([2], WeightInit.Constant(1.0), jnp.bool_).dtype == jnp.float32


def test_random_integers_are_an_error():
  with pytest.raises(ValueError):
    draw([2], WeightInit.Gaussian(), jnp.int32)


@pytest.mark.parametrize('scale', [np.float32(1.0), jnp.ones(()), '1'])
def test_scale_must_be_a_python_number(scale):
  with pytest.raises(AssertionError, match='net/w.*int or float'):
    draw([2], WeightInit.Gaussian(scale))


def test_numpy_double_is_a_python_float():
  double, single = WeightInit.Gaussian(np.float64(0.5)), WeightInit.Gaussian(0.5)
  for dtype in (jnp.float32, jnp.bfloat16):
    assert draw([2], double, dtype).dtype == draw([2], single, dtype).dtype == dtype


def test_impossible_declarations():
  with pytest.raises(AssertionError, match=r'net/w.*\(2, 0\)'):
    draw([2, 0], WeightInit.Gaussian())
  with pytest.raises(AssertionError, match='net/w.*repeat_prefix'):
    draw([2], WeightInit.Gaussian(), repeat_prefix=[3])
  with pytest.raises(AssertionError, match='net/w.*repeat_prefix'):
    draw([2], WeightInit.Gaussian(), repeat_prefix_split_dims_mapping=(-1,))
  with pytest.raises(AssertionError, match="net/w.*'normal'.*gaussian"):
    draw([2], WeightInit('normal', 1.0))
  with pytest.raises(TypeError, match='net/w.*scalar.*Constant'):
    draw([], WeightInit.Xavier())
  with pytest.raises(ValueError, match='net/w.*2 to 5 dims'):
    draw([1] * 6, WeightInit.ScaledDeltaOrthogonal())


def test_a_draw_costs_one_sample_and_one_multiplication():
  """The factor is a constant of the trace: nothing else is computed at run time."""
  sample = jax.make_jaxpr(lambda key: 0.5 * jax.random.normal(key, (4, 2)))(KEY)
  var_p = WeightHParams([4, 2], WeightInit.GaussianSqrtFanIn(1.0), jnp.float32)
  value = jax.make_jaxpr(lambda key: init_var(var_p, key, 'w'))(KEY)
  assert [e.primitive for e in value.eqns] == [e.primitive for e in sample.eqns]
