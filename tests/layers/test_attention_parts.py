"""The small layers of attention: projections, query scale, bias, convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import attentions, multi_query_attention
from tests.layers import harness
from tests.layers.attention_reference import make

X = harness.noise(2, 5, 8)
HEADS = dict(num_heads=2, dim_per_head=3)
CLOSE = dict(rtol=1e-5, atol=1e-5)  # sums of 8 float32 terms of order one


@pytest.mark.parametrize('nhd', [False, True])
@pytest.mark.parametrize('combined', [False, True])
def test_projection_there_and_back(nhd, combined):
  fields = dict(
    input_dim=8, attention_combine_dims=combined, use_bias=not combined, **HEADS
  )
  layer, variables = make(attentions.AttentionProjection, X, **fields)
  p = variables['params']
  w = np.reshape(p['w'], (8, 2, 3))
  heads = np.einsum('btd,dnh->btnh', X, w) + p.get('b', 0.0)
  np.testing.assert_allclose(harness.apply(layer, variables, X)[0], heads, **CLOSE)

  fields.update(is_output_projection=True, use_nhd_shape=nhd)
  layer, variables = make(attentions.AttentionProjection, heads, **fields)
  p = variables['params']
  w = np.reshape(p['w'], (2, 3, 8) if nhd else (8, 2, 3))
  out = np.einsum('btnh,nhd->btd' if nhd else 'btnh,dnh->btd', heads, w)
  out = out + p.get('b', 0.0)
  np.testing.assert_allclose(harness.apply(layer, variables, heads)[0], out, **CLOSE)


def test_combined_projection_is_three():
  layer, variables = make(
    attentions.CombinedQKVProjectionLayer, X, input_dim=8, **HEADS
  )
  out = harness.apply(layer, variables, X)[0]
  for i in range(3):
    expected = np.einsum('btd,dnh->btnh', X, variables['params']['w'][i])
    expected += variables['params']['b'][i]
    np.testing.assert_allclose(out[i], expected, **CLOSE)


def test_one_headed_projection():
  cls = multi_query_attention.OneHeadedAttentionProjection
  layer, variables = make(cls, X, input_dim=8, output_dim=3)
  expected = X @ variables['params']['w'] + variables['params']['b']
  np.testing.assert_allclose(harness.apply(layer, variables, X)[0], expected, **CLOSE)
  with pytest.raises(ValueError, match=r'inputs \[..., 8\] \(input_dim\)'):
    harness.apply(layer, variables, X[..., :5])


def test_query_scale_starts_at_the_usual_one():
  layer = harness.build(attentions.PerDimScale, dim=8)
  out = harness.apply(layer, harness.init(layer, X), X)[0]
  np.testing.assert_allclose(out, X / np.sqrt(8), rtol=1e-6)


def test_buckets_of_distances():
  """Numbers of the behaviour specification for the default fields."""
  layer = harness.build(attentions.RelativeBias, num_heads=2)
  key = np.array([[0]], np.int32)
  query = -np.array([[5, 0, -15, -16, -17, -20, -30, -64, -127, -128, -999]], np.int32)
  wrb = np.stack([np.arange(32.0), np.zeros(32)]).astype(np.float32)
  variables = {'params': {'wrb': wrb}}
  bias = harness.apply(layer, variables, query, key, do_eval=True)[0]
  expected = [0, 0, 15, 16, 16, 17, 20, 26, 31, 31, 31]
  np.testing.assert_array_equal(bias[0, 0, :, 0], expected)
  both = harness.build(attentions.RelativeBias, num_heads=2, bidirectional=True)
  bias = harness.apply(both, variables, query[:, :2], key, do_eval=True)[0]
  np.testing.assert_array_equal(bias[0, 0, :, 0], [16 + 5, 0])


def test_bias_takes_the_length_for_positions_in_training_only():
  pos = np.array([[0, 1, 0], [0, 1, 2]], np.int32)
  layer, variables = make(attentions.RelativeBias, pos, num_heads=2)
  in_training, _ = harness.apply(layer, variables, pos)
  in_eval, _ = harness.apply(layer, variables, pos, do_eval=True)
  assert in_training.shape == (1, 2, 3, 3) and in_eval.shape == (2, 2, 3, 3)
  np.testing.assert_array_equal(in_training[0], in_eval[1])
  np.testing.assert_array_equal(in_eval[0, :, 2, 0], in_eval[0, :, 1, 1])
  step = harness.apply(layer, variables, 3, 2, do_eval=True, method='extend_step')[0]
  np.testing.assert_array_equal(step[0, :, 0], in_eval[1, :, 2])


@pytest.mark.parametrize('positions', [False, True])
def test_causal_convolution(positions):
  pos = np.array([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]], np.int32)
  layer, variables = make(
    attentions.CausalDepthwiseConv1D, X, 1, None, hidden_dims=8, kernel_size=3
  )
  segment_pos = pos if positions else None
  out = harness.apply(layer, variables, X, 1, segment_pos)[0]
  pos = pos if positions else np.tile(np.arange(5), (2, 1))
  expected = np.zeros_like(X)
  for b, t, i in np.ndindex(2, 5, 3):
    if pos[b, t] >= i:
      expected[b, t] += X[b, t - i] * variables['params'][f'dconv_{i}']
  np.testing.assert_allclose(out, expected, **CLOSE)
  for t in range(5):
    step = harness.apply(
      layer,
      variables,
      X,
      1,
      t,
      pos[:, t] if positions else None,
      method='extend_step',
    )[0]
    np.testing.assert_allclose(step, expected[:, t], **CLOSE)


def test_gradients_of_the_projection():
  layer, variables = make(attentions.AttentionProjection, X, input_dim=8, **HEADS)
  (grads, grad_x) = harness.gradients(layer, variables, X)

  def formula(p, x):
    out = jnp.einsum('btd,dnh->btnh', x, p['w']) + p['b']
    return jnp.sum(out * harness.noise(*out.shape, seed=99))

  expected = jax.grad(formula, argnums=(0, 1))(variables['params'], X)
  for a, b in zip(
    jax.tree.leaves((grads, grad_x)), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize(
  'cls, fields, message',
  [
    ('AttentionProjection', dict(attention_combine_dims=True), 'set use_bias=False'),
    ('CausalDepthwiseConv1D', {}, 'kernel_size and hidden_dims must be positive'),
  ],
)
def test_fields_that_cannot_be(cls, fields, message):
  layer = harness.build(getattr(attentions, cls), **fields)
  with pytest.raises(AssertionError, match=message):
    harness.init(layer, X, 1) if 'Conv' in cls else harness.init(layer, X)
