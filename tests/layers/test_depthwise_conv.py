"""DepthwiseConv1D against Haiku's, its paddings, shapes and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers.convolutions import BaseDepthwiseConv1D, DepthwiseConv1D
from tests.layers import harness, reference
from tests.layers.reference import PADDINGS, X

FIELDS = dict(filter_shape=(3, 4, 2))
W, B = harness.noise(3, 1, 8, seed=1), harness.noise(8, seed=2)


def convolve(*args, w=W, **fields):
  layer = harness.build(DepthwiseConv1D, **{**FIELDS, **fields})
  return harness.apply(layer, {'params': {'w': w}}, *args)[0]


def haiku_convolution(x, padding='SAME', rate=1, w=W):
  def forward(x):
    return hk.DepthwiseConv1D(
      2, w.shape[0], rate=rate, padding=padding, with_bias=False, name='conv'
    )(x)

  return hk.transform(forward).apply({'conv': {'w': w}}, None, x)


@pytest.mark.parametrize('size', [1, 3, 4])
@pytest.mark.parametrize('rate', [1, 2])
@pytest.mark.parametrize('causal', [False, True])
def test_equals_haiku(size, rate, causal):
  w = harness.noise(size, 1, 8, seed=1)
  fields = dict(filter_shape=(size, 4, 2), rhs_dilation_rate=rate, is_causal=causal)
  padding = [((size - 1) * rate, 0)] if causal else 'SAME'
  expected = haiku_convolution(X, padding, rate, w)
  np.testing.assert_allclose(
    convolve(X, w=w, **fields), expected, rtol=1e-5, atol=1e-6
  )


def test_gradients_and_bias():
  layer = harness.build(DepthwiseConv1D, **FIELDS, bias=True)
  params = {'w': W, 'b': B}
  assert harness.shapes(harness.init(layer, X)) == {'params': harness.shapes(params)}
  out, _ = harness.apply(layer, {'params': params}, X)
  np.testing.assert_allclose(out, haiku_convolution(X) + B, rtol=1e-5, atol=1e-6)
  grads, grad_x = harness.gradients(layer, {'params': params}, X)
  _, (expected, expected_x) = harness.haiku_result(
    lambda: hk.DepthwiseConv1D(2, 3), params, X
  )
  np.testing.assert_allclose(grad_x, expected_x, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(grads['w'], expected['w'], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(grads['b'], expected['b'], rtol=1e-5, atol=1e-5)


def test_padded_inputs_count_as_zeros():
  spoiled = np.where(PADDINGS[..., np.newaxis] > 0, np.nan, X).astype(np.float32)
  zeros = np.where(PADDINGS[..., np.newaxis] > 0, 0, X).astype(np.float32)
  out = convolve(spoiled, PADDINGS)
  np.testing.assert_array_equal(out, convolve(zeros))
  # The first padded step sees the last kept one.
  assert np.any(out[0, 3])


def test_causal_output_sees_no_later_input():
  later = X.copy()
  later[:, 3:] = 7
  out, other = (convolve(x, is_causal=True) for x in (X, later))
  np.testing.assert_array_equal(out[:, :3], other[:, :3])
  assert np.all(out[:, 3:] != other[:, 3:])


def test_kernel_with_a_fourth_axis():
  layer = harness.build(DepthwiseConv1D, **FIELDS, use_2d_conv_weight_shape=True)
  variables = {'params': {'w': W[..., np.newaxis]}}
  assert harness.shapes(harness.init(layer, X)) == harness.shapes(variables)
  out, _ = harness.apply(layer, variables, X)
  np.testing.assert_array_equal(out, convolve(X))
  w, _ = harness.apply(layer, variables, method='get_w')
  np.testing.assert_array_equal(w, W)


def test_sharding():
  def mapping(**fields):
    him = pax_fiddle.Config(DepthwiseConv1D.WeightSharding, him=['data', None, 'mdl'])
    layer = harness.build(
      DepthwiseConv1D,
      **FIELDS,
      **fields,
      weight_split_dims_mapping=him,
      ici_mesh_shape=[1, 1],
      mesh_axis_names=['data', 'mdl'],
    )
    w = layer.abstract_init_with_metadata(X)['params']['w']
    return list(w.tensor_split_dims_mapping)

  assert mapping() == ['data', None, 'mdl']
  assert mapping(use_2d_conv_weight_shape=True) == ['data', None, None, 'mdl']


def test_initial_bias():
  init = base_layer.WeightInit.Constant(0.5)
  layer = harness.build(DepthwiseConv1D, **FIELDS, bias=True, bias_init=init)
  b = harness.init(layer, X)['params']['b']
  np.testing.assert_array_equal(b, np.full(8, 0.5))


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
def test_dtype_of_the_result_under_bfloat16(given):
  layer = harness.build(
    DepthwiseConv1D, **FIELDS, bias=True, fprop_dtype=jnp.bfloat16
  )
  x = X.astype(given)
  variables = harness.init(layer, x, PADDINGS)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  assert harness.apply(layer, variables, x, PADDINGS)[0].dtype == jnp.bfloat16


def test_fields_that_do_not_fit():
  with pytest.raises(AssertionError, match='filter_shape must have 3 values'):
    harness.run(DepthwiseConv1D, X, filter_shape=(3, 4))
  with pytest.raises(AssertionError, match='rhs_dilation_rate must be positive'):
    harness.run(DepthwiseConv1D, X, **FIELDS, rhs_dilation_rate=0)
  with pytest.raises(ValueError):
    harness.run(DepthwiseConv1D, X, filter_shape=(3, 3, 2))


def test_base_class_is_abstract():
  with pytest.raises(NotImplementedError, match='BaseDepthwiseConv1D'):
    harness.run(BaseDepthwiseConv1D, X, **FIELDS)


def test_recorded_numbers():
  config = pax_fiddle.Config(DepthwiseConv1D, **FIELDS, bias=True, is_causal=True)
  out = reference.run(config, X, PADDINGS)
  reference.check(out, 80, -0.0318187, -0.742245, 35.68272)
