"""Dropout and StochasticResidual: recorded masks, distribution, when they draw."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import stochastics
from tests.layers import harness

X = harness.noise(2, 5, 4)
ONES = np.ones((2, 5), np.float32)


def dropout(x, do_eval=False, **fields):
  return harness.run(stochastics.Dropout, x, do_eval=do_eval, **fields)


def kept(out):
  return (np.asarray(out, np.float32) > 0).astype(int).tolist()


@pytest.mark.parametrize(
  'x, fields, mask',
  [
    (ONES, {}, [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),
    (jnp.asarray(ONES, jnp.bfloat16), {}, [[0, 1, 1, 1, 0], [0, 1, 1, 0, 1]]),
    (
      np.ones((6, 3), np.float32),
      {'noise_shape_broadcast_dims': [1]},
      [[1, 1, 1]] * 4 + [[0, 0, 0], [1, 1, 1]],
    ),
    (
      np.ones((1, 2, 3, 3), np.float32),
      {},
      [[[[1, 1, 1], [1, 0, 1], [1, 0, 0]], [[0, 1, 0], [1, 0, 0], [0, 0, 0]]]],
    ),
    (
      np.ones((1, 2, 3, 3), np.float32),
      {'transpose_qk': True},
      [[[[1, 1, 1], [1, 0, 0], [1, 1, 0]], [[0, 1, 0], [1, 0, 0], [0, 0, 0]]]],
    ),
  ],
)
def test_recorded_masks(x, fields, mask):
  out = dropout(x, keep_prob=0.5, **fields)
  assert kept(out) == mask
  np.testing.assert_array_equal(np.asarray(out, np.float32), 2 * np.array(mask))


def test_transposing_needs_rank_4_and_equal_sizes():
  for x in (harness.noise(2, 3, 4, 5), harness.noise(3, 4, 4)):
    plain = dropout(x, keep_prob=0.5)
    swapped = dropout(x, keep_prob=0.5, transpose_qk=True)
    np.testing.assert_array_equal(plain, swapped)


def test_rate_and_scale():
  out = dropout(np.full((100, 100), 3, np.float32), keep_prob=0.8)
  # Values are kept divided by keep_prob; 5 standard deviations of the share.
  np.testing.assert_allclose(np.unique(out), [0, 3.75], rtol=1e-6)
  assert abs(np.mean(np.asarray(out) > 0) - 0.8) < 5 * np.sqrt(0.8 * 0.2 / 1e4)


@pytest.mark.parametrize(
  'fields, same_along',
  [
    ({'noise_shape': [20, 1, 30]}, (1,)),
    ({'noise_shape': (1, 30)}, (0, 1)),
    ({'noise_shape_broadcast_dims': [-1, 0]}, (0, 2)),
    ({'noise_shape': [20, 9, 30], 'noise_shape_broadcast_dims': [1]}, (1,)),
  ],
)
def test_noise_shape(fields, same_along):
  out = np.asarray(dropout(np.ones((20, 9, 30), np.float32), keep_prob=0.5, **fields))
  for axis in range(3):
    assert np.all(np.ptp(out, axis=axis) == 0) == (axis in same_along)


@pytest.mark.parametrize('keep_prob', [1, 1.0, np.float32(1)])
def test_keeping_all_draws_nothing(keep_prob):
  layer = harness.build(stochastics.Dropout, keep_prob=keep_prob)
  assert layer.apply({}, X) is X  # no key is given


def test_evaluation_draws_nothing_unless_asked():
  layer = harness.build(stochastics.Dropout, keep_prob=0.0)
  with harness.context(do_eval=True):
    assert layer.apply({}, X) is X
  out = dropout(ONES, do_eval=True, keep_prob=0.5, dropout_at_eval=True)
  np.testing.assert_array_equal(out, dropout(ONES, keep_prob=0.5))


def test_key_is_needed():
  with pytest.raises(base_layer.InvalidRngError):
    harness.build(stochastics.Dropout, keep_prob=0.5).apply({}, X)


def test_keep_prob_may_be_traced():
  def run(keep_prob):
    return dropout(jnp.asarray(ONES), keep_prob=keep_prob)

  np.testing.assert_array_equal(jax.jit(run)(0.5), run(0.5))


def test_gradient_is_the_mask():
  layer = harness.build(stochastics.Dropout, keep_prob=0.5)
  _, grad = harness.gradients(layer, {}, ONES, loss=jnp.sum)
  np.testing.assert_array_equal(grad, dropout(ONES, keep_prob=0.5))


def test_dropout_dtype():
  x = jnp.asarray(ONES, jnp.bfloat16)
  assert dropout(x, keep_prob=0.7).dtype == jnp.bfloat16
  assert dropout(ONES, keep_prob=0.7, fprop_dtype=jnp.bfloat16).dtype == jnp.float32


@pytest.mark.parametrize(
  'fields, error, message',
  [
    (dict(keep_prob=0.0), AssertionError, 'keep_prob must be positive, found 0.0'),
    (dict(keep_prob=-0.5), AssertionError, 'keep_prob must be positive'),
    (dict(noise_shape_broadcast_dims=[3]), ValueError, r'3 in .*shape \[2, 5, 4\]'),
    (dict(noise_shape_broadcast_dims=[-4]), ValueError, '-4 in noise_shape'),
  ],
)
def test_refused(fields, error, message):
  with pytest.raises(error, match=f'Dropout at the root: .*{message}'):
    dropout(X, **{'keep_prob': 0.5, **fields})


def residual(inputs, branch, do_eval=False, **fields):
  return harness.run(
    stochastics.StochasticResidual, inputs, branch, do_eval=do_eval, **fields
  )


def test_recorded_residual():
  x = harness.noise(6, 2)
  out = residual(x, np.ones((6, 2), np.float32), survival_prob=0.5, residual_weight=0.3)
  added = np.array([0.6, 0.6, 0.6, 0.6, 0, 0.6])[:, None] * np.ones(2)
  # x + 0.6 - x loses some bits of 0.6.
  np.testing.assert_allclose(out - x, added, rtol=1e-6, atol=1e-6)


def test_residual_of_an_example_is_kept_or_left_out():
  x = np.zeros((400, 3, 2), np.float32)
  branch = harness.noise(400, 3, 2)
  out = np.asarray(residual(x, branch, survival_prob=0.8, residual_weight=0.5))
  survived = np.any(out != 0, axis=(1, 2))
  expected = np.where(survived[:, None, None], branch / 0.8 * 0.5, 0)
  np.testing.assert_allclose(out, expected, rtol=1e-6)
  assert abs(survived.mean() - 0.8) < 5 * np.sqrt(0.8 * 0.2 / 400)


def test_residual_in_evaluation_is_added():
  branch = harness.noise(2, 5, 4, seed=1)
  layer = harness.build(
    stochastics.StochasticResidual, survival_prob=0.1, residual_weight=0.3
  )
  with harness.context(do_eval=True):
    out = layer.apply({}, X, branch)  # no key is given
  np.testing.assert_allclose(out, X + 0.3 * branch, rtol=1e-6)


def test_certain_residual_draws_nevertheless():
  layer = harness.build(stochastics.StochasticResidual)
  with pytest.raises(base_layer.InvalidRngError):
    layer.apply({}, X, X)
  np.testing.assert_allclose(residual(X, X), 2 * X, rtol=1e-6)


def test_residual_dtype_is_promoted():
  x = jnp.asarray(X, jnp.bfloat16)
  assert residual(x, x).dtype == jnp.bfloat16
  assert residual(X, x).dtype == jnp.float32


def test_in_a_haiku_model_the_key_is_haikus():
  cfg = pax_fiddle.Config(stochastics.Dropout, name='dropout', keep_prob=0.5)
  net = hk.transform_with_state(lambda x: cfg.Instantiate()(x))
  x = np.ones((8, 8), np.float32)
  outs = [net.apply({}, {}, jax.random.PRNGKey(i), x)[0] for i in (0, 0, 1)]
  np.testing.assert_array_equal(outs[0], outs[1])
  assert np.any(outs[0] != outs[2])
  np.testing.assert_array_equal(np.unique(outs[0]), [0, 2])
