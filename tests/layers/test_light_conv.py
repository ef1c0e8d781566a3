"""LightConv1D against its formula, its sharding and options, and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import activations, normalizations
from pax_haiku.layers.convolutions import LightConv1D
from tests.layers import harness, reference
from tests.layers.reference import PADDINGS, X

FIELDS = dict(input_dims=4, kernel_size=3)
ARGS = X, PADDINGS
FFN = {'linear': {'w': (4, 4)}, 'bias': {'b': (4,)}}
SHAPES = {
  'params': {
    'ln': {'scale': (4,), 'bias': (4,)},
    'linear_start_act': FFN,
    'linear_start_gated': FFN,
    'linear_end': FFN,
    'depthwise_conv1d': {'w': (3, 1, 4)},
    'conv_norm': {'beta': (4,), 'gamma': (4,)},
  },
  'non_trainable': {'conv_norm': {'moving_mean': (4,), 'moving_variance': (4,)}},
}


def formula(params, x, paddings, causal=False, activation=jax.nn.swish):
  """The layer in training, in plain operations."""
  keep = (1 - paddings)[..., np.newaxis]

  def project(name, x):
    return x @ params[name]['linear']['w'] + params[name]['bias']['b']

  def moments(x, axes, weight):
    total = jnp.sum(weight * jnp.ones_like(x), axes, keepdims=True)
    mean = jnp.sum(x * weight, axes, keepdims=True) / total
    return mean, jnp.sum(jnp.square(x - mean) * weight, axes, keepdims=True) / total

  mean, variance = moments(x, -1, 1)
  h = (x - mean) / jnp.sqrt(variance + 1e-6)
  h = h * (1 + params['ln']['scale']) + params['ln']['bias']
  h = project('linear_start_act', h) * jax.nn.sigmoid(project('linear_start_gated', h))
  before = 2 if causal else 1
  padded = jnp.pad(h * keep, [(0, 0), (before, 2 - before), (0, 0)])
  w = params['depthwise_conv1d']['w'][:, 0]
  h = sum(padded[:, i : i + x.shape[1]] * w[i] for i in range(3))
  mean, variance = moments(h, (0, 1), keep)
  h = (h - mean) / jnp.sqrt(variance + 0.001)
  h = h * (1 + params['conv_norm']['gamma']) + params['conv_norm']['beta']
  return project('linear_end', activation(h * keep)) + x


@pytest.mark.parametrize('causal', [False, True])
def test_training_is_the_formula(causal):
  layer = harness.build(LightConv1D, **FIELDS, is_causal=causal)
  variables = harness.init(layer, *ARGS)
  assert harness.shapes(variables) == SHAPES
  variables['params'] = harness.randomize(variables['params'])
  out, _ = harness.apply(layer, variables, *ARGS)
  expected = formula(variables['params'], *ARGS, causal=causal)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  grads = harness.gradients(layer, variables, *ARGS)
  cotangent = harness.noise(*X.shape, seed=99)

  def scalar(params, x):
    return jnp.sum(formula(params, x, PADDINGS, causal=causal) * cotangent)

  expected = jax.grad(scalar, argnums=(0, 1))(variables['params'], X)
  jax.tree.map(
    # The formula normalizes in another order of operations.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    grads,
    expected,
  )


def test_activation():
  relu = pax_fiddle.Config(activations.ReLU)
  layer = harness.build(LightConv1D, **FIELDS, conv_activation_tpl=relu)
  variables = harness.init(layer, *ARGS)
  out, _ = harness.apply(layer, variables, *ARGS)
  expected = formula(variables['params'], *ARGS, activation=jax.nn.relu)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_without_paddings():
  layer = harness.build(LightConv1D, **FIELDS)
  variables = harness.init(layer, X, None)
  out, _ = harness.apply(layer, variables, X, None)
  expected, _ = harness.apply(layer, variables, X, np.zeros_like(PADDINGS))
  np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_dropout_in_training_only():
  layer = harness.build(LightConv1D, **FIELDS, dropout_prob=0.5)
  plain = harness.build(LightConv1D, **FIELDS)
  variables = harness.init(layer, *ARGS)
  dropped, _ = harness.apply(layer, variables, *ARGS)
  kept, _ = harness.apply(plain, variables, *ARGS)
  # What is dropped leaves the residual, what is kept is doubled.
  zero = np.isclose(dropped, X, atol=1e-6)
  two = np.isclose(dropped - X, 2 * (kept - X), atol=1e-5)
  assert np.all(zero | two) and np.any(zero) and np.any(two)
  dropped, _ = harness.apply(layer, variables, *ARGS, do_eval=True)
  kept, _ = harness.apply(plain, variables, *ARGS, do_eval=True)
  np.testing.assert_array_equal(dropped, kept)


def test_2d_normalization():
  group = dict(num_groups=2, input_rank=4)
  tpl = pax_fiddle.Config(normalizations.GroupNorm, **group)
  layer = harness.build(
    LightConv1D, **FIELDS, use_2d_conv_norm=True, conv_norm_layer_tpl=tpl
  )
  variables = harness.init(layer, *ARGS)
  assert variables['params']['conv_norm']['beta'].shape == (1, 1, 1, 4)
  tpl = tpl.clone().set(input_rank=3)
  flat = harness.build(LightConv1D, **FIELDS, conv_norm_layer_tpl=tpl)
  flat_variables = harness.init(flat, *ARGS)
  out, _ = harness.apply(layer, variables, *ARGS)
  expected, _ = harness.apply(flat, flat_variables, *ARGS)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match='BatchNorm'):
    harness.run(LightConv1D, *ARGS, **FIELDS, use_2d_conv_norm=True)


def test_initial_projections():
  layer = harness.build(LightConv1D, **FIELDS)
  metadata = layer.abstract_init_with_metadata(*ARGS)['params']
  for name in ('linear_start_act', 'linear_start_gated', 'linear_end'):
    init = metadata[name]['linear']['w'].init
    assert init.method == 'xavier'
    np.testing.assert_allclose(init.scale, 1.5**0.5)
  assert metadata['depthwise_conv1d']['w'].init.scale == 1.000001


def test_sharding():
  layer = harness.build(
    LightConv1D,
    **FIELDS,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
    weight_split_dims_mapping=pax_fiddle.Config(
      LightConv1D.WeightSharding, df=['data', 'mdl'], him=['data', None, 'mdl']
    ),
    activation_split_dims_mapping=pax_fiddle.Config(
      LightConv1D.ActivationSharding,
      blf=['data', None, 'mdl'],
      bld=['data', None, None],
    ),
  )
  params = layer.abstract_init_with_metadata(*ARGS)['params']

  def mapping(*path):
    weight = params
    for name in path:
      weight = weight[name]
    return list(weight.tensor_split_dims_mapping)

  for name in ('linear_start_act', 'linear_start_gated'):
    assert mapping(name, 'linear', 'w') == ['data', 'mdl']
    assert mapping(name, 'bias', 'b') == ['mdl']
  assert mapping('linear_end', 'linear', 'w') == ['mdl', 'data']
  assert mapping('linear_end', 'bias', 'b') == [None]
  assert mapping('depthwise_conv1d', 'w') == ['data', None, 'mdl']


@pytest.mark.parametrize('name', list(FIELDS))
def test_fields_that_must_be_set(name):
  with pytest.raises(ValueError, match='input_dims and kernel_size must be set'):
    harness.run(LightConv1D, *ARGS, **{**FIELDS, name: None})


@pytest.mark.parametrize(
  'do_eval, expected',
  [
    (False, (40, 0.1266607, 0.9536083, 30.80502)),
    (True, (40, 0.5429066, 0.864654, 29.38271)),
  ],
)
def test_recorded_numbers(do_eval, expected):
  config = pax_fiddle.Config(LightConv1D, **FIELDS)
  out = reference.run(config, *ARGS, do_eval=do_eval)
  reference.check(out, *expected)


def test_the_layer_in_a_haiku_transform():
  def forward(x, paddings):
    config = pax_fiddle.Config(LightConv1D, name='conv', **FIELDS, dropout_prob=0.5)
    return config.Instantiate()(x, paddings)

  net = hk.transform_with_state(forward)
  key = harness.KEYS['params']
  params, state = net.init(key, *ARGS)
  assert set(params) >= {'conv/linear_end/linear', 'conv/depthwise_conv1d'}
  out, new_state = jax.jit(net.apply)(params, state, key, *ARGS)
  assert out.shape == X.shape
  assert jax.tree.structure(state) == jax.tree.structure(new_state)
  other, _ = jax.jit(net.apply)(params, state, jax.random.PRNGKey(5), *ARGS)
  assert np.any(out != other)
