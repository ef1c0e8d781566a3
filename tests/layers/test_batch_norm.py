"""BatchNorm against Haiku's, its state over steps, and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers.normalizations import BatchNorm
from tests.layers import harness, reference
from tests.layers.reference import PADDINGS, X
from tests.tracing import jit_and_count

BETA, GAMMA = harness.noise(4, seed=1), harness.noise(4, seed=2)
MEAN = harness.noise(4, seed=3)
VARIANCE = np.abs(harness.noise(4, seed=4)) + 0.5
VARIABLES = {
  'params': {'beta': BETA, 'gamma': GAMMA},
  'non_trainable': {'moving_mean': MEAN, 'moving_variance': VARIANCE},
}


def normalized(x, mean, variance, beta=BETA, gain=1 + GAMMA):
  """The formula, in float64."""
  x = np.asarray(x, np.float64)
  return (x - mean) / np.sqrt(variance + 0.001) * gain + beta


def kept_moments():
  kept = X[PADDINGS == 0].astype(np.float64)
  return kept.mean(0), kept.var(0)


def test_training_equals_haiku():
  net = hk.without_apply_rng(
    hk.transform_with_state(
      lambda x: hk.BatchNorm(True, True, 0.9, eps=0.001)(x, is_training=True)
    )
  )
  scale, offset = (1 + GAMMA).reshape(1, 1, 4), BETA.reshape(1, 1, 4)
  params = {'batch_norm': {'scale': scale, 'offset': offset}}
  _, state = net.init(harness.KEYS['params'], X)

  def scalar(params, x):
    out = net.apply(params, state, x)[0]
    return jnp.sum(out * harness.noise(*out.shape, seed=99))

  expected, _ = net.apply(params, state, X)
  grads, grad_x = jax.grad(scalar, argnums=(0, 1))(params, X)
  layer = harness.build(BatchNorm, dim=4)
  out, _ = harness.apply(layer, VARIABLES, X)
  ours, our_grad_x = harness.gradients(layer, VARIABLES, X)
  # Haiku takes E[x^2] - E[x]^2 for the variance, which loses a few digits.
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(our_grad_x, grad_x, rtol=1e-4, atol=1e-5)
  grads = grads['batch_norm']
  np.testing.assert_allclose(ours['gamma'], grads['scale'][0, 0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(ours['beta'], grads['offset'][0, 0], rtol=1e-4, atol=1e-5)


def test_training_leaves_out_padded_steps():
  out, written = harness.apply(
    harness.build(BatchNorm, dim=4, decay=0.9), VARIABLES, X, PADDINGS
  )
  mean, variance = kept_moments()
  expected = normalized(X, mean, variance) * (1 - PADDINGS)[..., np.newaxis]
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  state = written['non_trainable']
  np.testing.assert_allclose(
    state['moving_mean'], MEAN * 0.9 + mean * 0.1, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    state['moving_variance'], VARIANCE * 0.9 + variance * 0.1, rtol=1e-5
  )


def test_padded_output_can_be_kept():
  layer = harness.build(BatchNorm, dim=4, set_padded_output_to_zero=False)
  out, _ = harness.apply(layer, VARIABLES, X, PADDINGS)
  np.testing.assert_allclose(
    out, normalized(X, *kept_moments()), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('fields', [{}, dict(force_eval_mode=True)])
def test_eval_uses_the_averages_and_leaves_them(fields):
  layer = harness.build(BatchNorm, dim=4, **fields)
  out, written = harness.apply(layer, VARIABLES, X, do_eval=not fields)
  np.testing.assert_allclose(
    out, normalized(X, MEAN, VARIANCE), rtol=1e-5, atol=1e-5
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    written['non_trainable'],
    VARIABLES['non_trainable'],
  )


def test_averages_in_training_are_the_updated_ones_and_need_no_beta_and_gamma():
  layer = harness.build(BatchNorm, dim=4, decay=0.5, use_moving_avg_in_training=True)
  mean, variance = X.mean((0, 1)), X.var((0, 1))
  out, written = harness.apply(layer, VARIABLES, X)
  expected = normalized(X, (MEAN + mean) / 2, (VARIANCE + variance) / 2, 0, 1)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    written['non_trainable']['moving_mean'], (MEAN + mean) / 2, rtol=1e-5, atol=1e-6
  )
  # Without a place for the new averages the old ones are read back.
  frozen, _ = harness.apply(layer, VARIABLES, X, mutable=['summaries'])
  np.testing.assert_allclose(
    frozen, normalized(X, MEAN, VARIANCE, 0, 1), rtol=1e-4, atol=1e-5
  )
  evaluated, _ = harness.apply(layer, VARIABLES, X, do_eval=True)
  np.testing.assert_allclose(evaluated, frozen, rtol=1e-6, atol=1e-6)


def test_averages_approach_the_moments():
  layer = harness.build(BatchNorm, dim=4, decay=0.5)
  variables = harness.init(layer, X)
  for _ in range(30):
    _, written = harness.apply(layer, variables, X)
    variables = {**variables, 'non_trainable': written['non_trainable']}
  state = variables['non_trainable']
  np.testing.assert_allclose(state['moving_mean'], X.mean((0, 1)), rtol=1e-5)
  np.testing.assert_allclose(state['moving_variance'], X.var((0, 1)), rtol=1e-5)


def test_initial_variables_and_their_labels():
  gamma = base_layer.WeightInit.Constant(0.5)
  layer = harness.build(BatchNorm, dim=4, gamma_init=gamma)
  variables = harness.init(layer, X)
  expected = {
    'params': {'beta': np.zeros(4), 'gamma': np.full(4, 0.5)},
    'non_trainable': {'moving_mean': np.zeros(4), 'moving_variance': np.ones(4)},
  }
  assert harness.shapes(variables) == harness.shapes(expected)
  jax.tree.map(np.testing.assert_array_equal, variables, expected)
  metadata = layer.abstract_init_with_metadata(X)
  for weight in metadata['non_trainable'].values():
    assert '_requires_mean_sync' in weight.collections
  for weight in metadata['params'].values():
    assert not weight.collections


@pytest.mark.parametrize('do_eval', [False, True])
def test_summaries(do_eval):
  layer = harness.build(BatchNorm, dim=4, decay=0.9)
  _, written = harness.apply(layer, VARIABLES, X, do_eval=do_eval)
  summaries, state = written['summaries'], written['non_trainable']
  names = ['moving_mean_scalar', 'moving_variance_scalar']
  if not do_eval:
    names += ['mean_scalar', 'variance_scalar']
    np.testing.assert_allclose(summaries['mean_scalar'], X.mean((0, 1)), rtol=1e-5)
  assert sorted(summaries) == sorted(names)
  np.testing.assert_array_equal(summaries['moving_mean_scalar'], state['moving_mean'])


def test_summaries_have_verbosity_4():
  hparams = base_layer.JaxContext.HParams(do_eval=False, summary_verbosity=3)
  with base_layer.JaxContext.new_context(hparams=hparams):
    layer = harness.build(BatchNorm, dim=4)
    _, written = layer.apply(VARIABLES, X, mutable=harness.MUTABLE)
  assert 'summaries' not in written


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'fields, do_eval, expected',
  [
    ({}, False, jnp.bfloat16),
    ({}, True, jnp.float32),
    (dict(use_moving_avg_in_training=True), False, jnp.float32),
  ],
)
def test_dtype_of_the_result_under_bfloat16(given, fields, do_eval, expected):
  layer = harness.build(BatchNorm, dim=4, fprop_dtype=jnp.bfloat16, **fields)
  x = X.astype(given)
  variables = harness.init(layer, x)
  out, written = harness.apply(layer, variables, x, do_eval=do_eval)
  assert out.dtype == expected
  for value in jax.tree.leaves((variables, written['non_trainable'])):
    assert value.dtype == jnp.float32


@pytest.mark.parametrize('shape', [(6, 4), (2, 3, 5, 4)])
def test_any_rank(shape):
  x = harness.noise(*shape)
  out, _ = harness.apply(harness.build(BatchNorm, dim=4), VARIABLES, x)
  axes = tuple(range(len(shape) - 1))
  expected = normalized(x, x.mean(axes, np.float64), x.var(axes, np.float64))
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_ranks_that_do_not_fit():
  for args in ((X[0, 0],), (X, PADDINGS[..., np.newaxis]), (X[0], PADDINGS)):
    with pytest.raises(ValueError, match='BatchNorm.*rank 2 or more'):
      harness.run(BatchNorm, *args, dim=4)


@pytest.mark.parametrize(
  'do_eval, expected',
  [
    (False, (40, -0.01838542, 1.73234, 40.69688)),
    (True, (40, 0.2871502, 1.548298, 31.48222)),
  ],
)
def test_recorded_numbers(do_eval, expected):
  config = pax_fiddle.Config(BatchNorm, dim=4)
  reference.check(
    reference.run(config, X, PADDINGS, do_eval=do_eval), *expected
  )


def test_devices_of_a_pmap_share_their_statistics():
  layer = harness.build(BatchNorm, dim=4)

  def one(x):
    return harness.apply(layer, VARIABLES, x[np.newaxis])[0][0]

  out = jax.vmap(one, axis_name='batch')(X)
  expected, _ = harness.apply(layer, VARIABLES, X)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_the_layer_in_a_haiku_transform():
  def forward(x, paddings):
    config = pax_fiddle.Config(BatchNorm, name='norm', dim=4, decay=0.9)
    return config.Instantiate()(x, paddings)

  net = hk.transform_with_state(forward)
  params, state = net.init(harness.KEYS['params'], X, PADDINGS)
  assert harness.shapes(params) == {'norm': {'beta': (4,), 'gamma': (4,)}}
  apply, traces = jit_and_count(net.apply)
  out, new_state = apply(params, state, None, X, PADDINGS)
  mean, variance = kept_moments()
  np.testing.assert_allclose(
    new_state['norm']['moving_mean'], mean * 0.1, rtol=1e-5, atol=1e-6
  )
  expected = normalized(X, mean, variance, 0, 1) * (1 - PADDINGS)[..., np.newaxis]
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  assert jax.tree.structure(state) == jax.tree.structure(new_state)
  apply(params, new_state, None, X, PADDINGS)
  assert len(traces) == 1
