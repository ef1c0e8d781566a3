"""LayerNorm and the RMS norms against Haiku's, formulas, and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers.normalizations import LayerNorm, RmsNorm, RmsNormNoScale
from tests.layers import harness, reference
from tests.layers.reference import PADDINGS, X

KEY = jax.random.PRNGKey(0)
SKIP = '__lingvo_jax_skip_regularization'
MESH = dict(ici_mesh_shape=[1, 1], mesh_axis_names=['data', 'mdl'])
VECTOR = harness.noise(4, seed=3)
OFFSET = harness.noise(4, seed=4)


def compare_with_haiku(layer, ours, make, theirs, names):
  variables = {'params': ours}
  out, _ = harness.apply(layer, variables, X)
  grads, grad_x = harness.gradients(layer, variables, X)
  expected, (expected_grads, expected_grad_x) = harness.haiku_result(make, theirs, X)
  # Haiku computes the variance as jnp.var does and multiplies in another order.
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(grad_x, expected_grad_x, rtol=1e-4, atol=1e-5)
  for name, theirs_name in names.items():
    np.testing.assert_allclose(
      grads[name], expected_grads[theirs_name], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('direct', [True, False])
def test_layer_norm_equals_haiku(direct):
  ours = {'scale': VECTOR if direct else VECTOR - 1, 'bias': OFFSET}
  compare_with_haiku(
    harness.build(LayerNorm, dim=4, direct_scale=direct),
    ours,
    lambda: hk.LayerNorm(-1, True, True, eps=1e-6),
    {'scale': VECTOR, 'offset': OFFSET},
    {'scale': 'scale', 'bias': 'offset'},
  )


@pytest.mark.parametrize('direct', [True, False])
def test_rms_norm_equals_haiku(direct):
  compare_with_haiku(
    harness.build(RmsNorm, dim=4, direct_scale=direct),
    {'scale': VECTOR if direct else VECTOR - 1},
    lambda: hk.RMSNorm(-1, eps=1e-6),
    {'scale': VECTOR},
    {'scale': 'scale'},
  )


def test_rms_norm_no_scale_equals_haiku():
  out = harness.run(RmsNormNoScale, X, dim=4)
  net = hk.transform(lambda x: hk.RMSNorm(-1, eps=1e-6, create_scale=False)(x))
  np.testing.assert_allclose(out, net.apply({}, None, X), rtol=1e-6)


@pytest.mark.parametrize(
  'cls, expected',
  [
    (LayerNorm, (40, -1.712697, -0.2134738, 47.61769)),
    (RmsNorm, (40, 0.0143275, 0.3882143, 12.58613)),
    (RmsNormNoScale, (40, 0.2870282, 0.9603365, 36.89732)),
  ],
)
def test_recorded_numbers(cls, expected):
  out = reference.run(pax_fiddle.Config(cls, dim=4), X)
  reference.check(out, *expected)


@pytest.mark.parametrize(
  'cls, fields, expected',
  [
    (LayerNorm, {}, {'scale': 0, 'bias': 0}),
    (LayerNorm, dict(direct_scale=True), {'scale': 1, 'bias': 0}),
    (LayerNorm, dict(use_bias=False), {'scale': 0}),
    (LayerNorm, dict(use_scale=False), {'bias': 0}),
    (RmsNorm, {}, {'scale': 1}),
    (RmsNorm, dict(direct_scale=False), {'scale': 0}),
  ],
)
def test_initial_variables(cls, fields, expected):
  variables = harness.init(harness.build(cls, dim=4, **fields), X)
  expected = {'params': {k: np.full(4, v, np.float32) for k, v in expected.items()}}
  assert harness.shapes(variables) == harness.shapes(expected)
  jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_layers_without_variables():
  assert not harness.init(harness.build(RmsNormNoScale, dim=4), X)
  bare = harness.build(LayerNorm, dim=4, use_scale=False, use_bias=False)
  assert not harness.init(bare, X)
  out, _ = harness.apply(bare, {}, X)
  np.testing.assert_allclose(np.mean(out, -1), np.zeros((2, 5)), atol=1e-6)
  np.testing.assert_allclose(np.var(out, -1), np.ones((2, 5)), rtol=1e-3)


@pytest.mark.parametrize('cls', [LayerNorm, RmsNorm, RmsNormNoScale])
def test_epsilon(cls):
  x = X.astype(np.float64)
  if cls is LayerNorm:
    x = x - x.mean(-1, keepdims=True)
  expected = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 0.5)
  out = harness.run(cls, X, dim=4, epsilon=0.5)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('cls', [LayerNorm, RmsNorm, RmsNormNoScale])
def test_paddings_are_ignored(cls):
  np.testing.assert_array_equal(
    harness.run(cls, X, PADDINGS, dim=4), harness.run(cls, X, dim=4)
  )


BF16, F32 = jnp.bfloat16, jnp.float32


@pytest.mark.parametrize(
  'cls, fields, given, expected',
  [
    (LayerNorm, {}, F32, F32),
    (LayerNorm, {}, BF16, BF16),
    (LayerNorm, dict(reductions_in_fp32=True), F32, F32),
    (LayerNorm, dict(reductions_in_fp32=True), BF16, BF16),
    (RmsNorm, {}, F32, BF16),
    (RmsNorm, {}, BF16, BF16),
    (RmsNorm, dict(intermediate_dtype=F32), BF16, BF16),
    (RmsNormNoScale, {}, F32, F32),
    (RmsNormNoScale, {}, BF16, BF16),
  ],
)
def test_dtype_of_the_result_under_bfloat16(cls, fields, given, expected):
  layer = harness.build(cls, dim=4, fprop_dtype=BF16, **fields)
  x = X.astype(given)
  variables = harness.init(layer, x)
  assert all(v.dtype == F32 for v in jax.tree.leaves(variables))
  assert harness.apply(layer, variables, x)[0].dtype == expected


def test_float32_reductions_are_closer_to_the_truth():
  # A large offset: bfloat16 can't hold the differences to the mean.
  x = (harness.noise(8, 64) + 8).astype(BF16)
  exact = np.asarray(x, np.float64)
  exact -= exact.mean(-1, keepdims=True)
  exact /= np.sqrt(np.mean(exact**2, -1, keepdims=True) + 1e-6)

  def error(**fields):
    out = harness.run(LayerNorm, x, dim=64, fprop_dtype=BF16, **fields)
    return np.max(np.abs(np.asarray(out, np.float64) - exact))

  # Half a unit in the last place of bfloat16 (8 bits) for values up to 4 is 2**-7.
  assert error(reductions_in_fp32=True) <= 2**-7 < error()


@pytest.mark.parametrize('cls', [LayerNorm, RmsNorm])
def test_sharding_and_labels(cls):
  def metadata(**fields):
    layer = harness.build(cls, dim=4, **fields)
    return layer.abstract_init_with_metadata(X)['params']['scale']

  plain = metadata()
  assert plain.tensor_split_dims_mapping is None
  assert (SKIP in plain.collections) == (cls is LayerNorm)
  assert tuple(metadata(**MESH).tensor_split_dims_mapping) == (-1,)
  wt = pax_fiddle.Config(base_layer.BaseLayer.WeightSharding, wt=['mdl'])
  sharded = metadata(**MESH, weight_split_dims_mapping=wt)
  assert list(sharded.tensor_split_dims_mapping) == ['mdl']


@pytest.mark.parametrize('cls', [LayerNorm, RmsNorm, RmsNormNoScale])
def test_the_layer_in_a_haiku_transform(cls):
  def forward(x):
    norm = pax_fiddle.Config(cls, name='norm', dim=4).Instantiate()
    return norm(hk.Linear(4)(x))

  net = hk.transform_with_state(forward)
  params, state = net.init(KEY, X)
  assert set(params.get('norm', {})) == set(
    {LayerNorm: ['scale', 'bias'], RmsNorm: ['scale']}.get(cls, [])
  )
  out, _ = net.apply(params, state, None, X)
  hidden = X @ params['linear']['w'] + params['linear']['b']
  expected = harness.run(cls, hidden, dim=4)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
