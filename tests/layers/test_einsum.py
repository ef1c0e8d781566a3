"""Einsum: numbers, gradients, fans and sharding of its variables, refused equations."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import base_ops, einsum
from tests.layers import harness, reference

X = reference.X


def build(eqn, w_shape, **fields):
  return harness.build(einsum.Einsum, eqn=eqn, w_shape=w_shape, **fields)


def test_recorded_numbers():
  cfg = pax_fiddle.Config(
    einsum.Einsum, eqn='BTD,DNH->BTNH', w_shape=(4, 2, 3), use_bias=True
  )
  reference.check(reference.run(cfg, X), 60, 0.2596425, -0.4756613, 19.01858)


def test_recorded_initial_values():
  # Axes 1 and 2 are contracted: fan-in 6, fan-out 4.
  w = harness.init(build('BTNH,DNH->BTD', (4, 2, 3)), harness.noise(2, 5, 2, 3))
  w = np.ravel(w['params']['w'])
  np.testing.assert_allclose(w[:3], [0.04701359, -0.6923746, -0.7034588], rtol=1e-6)
  assert np.max(np.abs(w)) < np.sqrt(6 / (6 + 4)) * 1.000001


@pytest.mark.parametrize(
  'eqn, w_shape, fan_in, fan_out, bias',
  [
    ('ABC,CNH->ABNH', (4, 2, 3), [0], [1, 2], (2, 3)),
    ('...D,DNH->...NH', (4, 2, 3), [0], [1, 2], (2, 3)),
    ('BTD,DNH->BTHN', (4, 2, 3), [0], [1, 2], (3, 2)),
    ('BTD, DH -> BTH', (4, 3), [0], [1], (3,)),
    ('ABC,NCH->ABHN', (2, 4, 3), [1], [0, 2], (3, 2)),
    ('BTD,D->BT', (4,), [0], [], ()),
  ],
)
def test_fans_and_bias_shape(eqn, w_shape, fan_in, fan_out, bias):
  layer = build(eqn, w_shape, use_bias=True)
  declared = layer.abstract_init_with_metadata(X)['params']
  assert declared['w'].fan_in_axes == fan_in
  assert declared['w'].fan_out_axes == fan_out
  assert tuple(declared['w'].shape) == w_shape
  assert tuple(declared['b'].shape) == bias
  variables = harness.randomize(harness.init(layer, X))
  w, b = variables['params']['w'], variables['params']['b']
  out = harness.apply(layer, variables, X)[0]
  expected = np.einsum(eqn.replace(' ', ''), X, w) + b
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_bias_starts_at_zero_and_is_optional():
  layer = build('BTD,DH->BTH', (4, 3), use_bias=True)
  np.testing.assert_array_equal(harness.init(layer, X)['params']['b'], 0)
  assert list(harness.init(build('BTD,DH->BTH', (4, 3)), X)['params']) == ['w']


def test_gradients():
  layer = build('BTD,DNH->BTNH', (4, 2, 3), use_bias=True)
  variables = harness.randomize(harness.init(layer, X))
  grads, grad_x = harness.gradients(layer, variables, X)
  cotangent = harness.noise(2, 5, 2, 3, seed=99)
  expected = np.einsum('btd,btnh->dnh', X, cotangent)
  np.testing.assert_allclose(grads['w'], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(grads['b'], cotangent.sum((0, 1)), rtol=1e-5, atol=1e-5)
  expected = np.einsum('dnh,btnh->btd', variables['params']['w'], cotangent)
  np.testing.assert_allclose(grad_x, expected, rtol=1e-5, atol=1e-5)


def test_sharding_of_the_variables():
  layer = build(
    'BTD,DNH->BTHN',
    (4, 2, 3),
    use_bias=True,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
    weight_split_dims_mapping=pax_fiddle.Config(
      einsum.Einsum.WeightSharding, wt=['data', None, 'mdl']
    ),
  )
  declared = layer.abstract_init_with_metadata(X)['params']
  assert list(declared['w'].tensor_split_dims_mapping) == ['data', None, 'mdl']
  assert list(declared['b'].tensor_split_dims_mapping) == ['mdl', None]


def test_without_sharding_all_is_replicated():
  layer = build(
    'BTD,DH->BTH', (4, 3), use_bias=True, ici_mesh_shape=[1], mesh_axis_names=['data']
  )
  declared = layer.abstract_init_with_metadata(X)['params']
  assert tuple(declared['b'].tensor_split_dims_mapping) == (-1,)


def test_inputs_are_not_cast():
  layer = build('BTD,DH->BTH', (4, 3), use_bias=True, fprop_dtype=jnp.bfloat16)
  variables = harness.init(layer, X)
  assert variables['params']['w'].dtype == jnp.float32
  assert harness.apply(layer, variables, X)[0].dtype == jnp.float32
  x = jnp.asarray(X, jnp.bfloat16)
  assert harness.apply(layer, variables, x)[0].dtype == jnp.bfloat16


def test_the_operation_can_be_swapped():
  class Doubled(base_ops.EinsumOp):
    def __call__(self, equation, *args):
      return 2 * super().__call__(equation, *args)

  layer = build('BTD,DH->BTH', (4, 3), einsum_op_tpl=pax_fiddle.Config(Doubled))
  variables = harness.init(layer, X)
  out = harness.apply(layer, variables, X)[0]
  expected = 2 * X @ variables['params']['w']
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'eqn, w_shape, error, message',
  [
    ('', (4, 3), ValueError, "form 'inputs,weight->outputs'"),
    ('BTD,DH', (4, 3), ValueError, "form 'inputs,weight->outputs'"),
    ('BTD->BT', (4, 3), ValueError, "form 'inputs,weight->outputs'"),
    ('BTD,DN,NH->BTH', (4, 3), ValueError, "form 'inputs,weight->outputs'"),
    ('...D,...DH->...H', (4, 3), AssertionError, 'must be spelled out'),
    ('...D,DH->H', (4, 3), ValueError, "'.' is on one side"),
    ('BTD,DH->DH', (4, 3), ValueError, "'B' is on one side"),
    ('BTD,DH->BTH', (4, 3, 2), ValueError, r'has 2 axes.*\(4, 3, 2\)'),
    ('BTD,DH->HBT', (4, 3), AssertionError, r"\['H'\], must be the last"),
  ],
)
def test_refused_equations(eqn, w_shape, error, message):
  with pytest.raises(error, match=message):
    harness.init(build(eqn, w_shape, use_bias=True), X)


def test_without_bias_the_outputs_may_be_in_any_order():
  layer = build('BTD,DH->HBT', (4, 3))
  variables = harness.init(layer, X)
  expected = np.einsum('btd,dh->hbt', X, variables['params']['w'])
  out = harness.apply(layer, variables, X)[0]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
