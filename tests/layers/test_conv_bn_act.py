"""ConvBNAct and its padded form against their parts, and recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import activations, normalizations
from pax_haiku.layers.convolutions import Conv2D, ConvBNAct, ConvBNActWithPadding
from tests.layers import harness, reference
from tests.layers.reference import IMAGE, PADDINGS

FIELDS = dict(filter_shape=(3, 3, 2, 3), filter_stride=(1, 1))
KERNEL = harness.noise(3, 3, 2, 3, seed=5)
BN = {'beta': harness.noise(3, seed=6), 'gamma': harness.noise(3, seed=7)}
VARIABLES = {
  'params': {'w': KERNEL, 'bn': BN},
  'non_trainable': {
    'bn': {'moving_mean': np.zeros(3), 'moving_variance': np.ones(3)},
  },
}
PADDINGS6 = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]], np.float32)
IMAGE6 = harness.noise(2, 6, 5, 2)


def apply(cls, *args, do_eval=False, **fields):
  layer = harness.build(cls, **{**FIELDS, **fields})
  return harness.apply(layer, VARIABLES, *args, do_eval=do_eval)


def by_parts(x, activation=jax.nn.relu, do_eval=False, **fields):
  conv = harness.build(Conv2D, **{**FIELDS, **fields})
  x, _ = harness.apply(conv, {'params': {'w': KERNEL}}, x)
  norm = harness.build(normalizations.BatchNorm, dim=3)
  variables = {'params': BN, 'non_trainable': VARIABLES['non_trainable']['bn']}
  x, written = harness.apply(norm, variables, x, do_eval=do_eval)
  return activation(x), written


@pytest.mark.parametrize('do_eval', [False, True])
@pytest.mark.parametrize('stride', [(1, 1), (2, 2)])
def test_it_is_its_parts(do_eval, stride):
  out, written = apply(ConvBNAct, IMAGE, do_eval=do_eval, filter_stride=stride)
  expected, expected_written = by_parts(IMAGE, do_eval=do_eval, filter_stride=stride)
  np.testing.assert_array_equal(out, expected)
  for collection, values in expected_written.items():
    jax.tree.map(
      np.testing.assert_array_equal, written[collection], {'bn': values}
    )


def test_templates():
  gelu = pax_fiddle.Config(activations.GELU)
  out, _ = apply(ConvBNAct, IMAGE, activation_tpl=gelu)
  expected, _ = by_parts(IMAGE, jax.nn.gelu)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  layer = harness.build(ConvBNAct, **FIELDS, batch_norm_tpl=None)
  assert harness.shapes(harness.init(layer, IMAGE)) == {'params': {'w': KERNEL.shape}}
  out, _ = harness.apply(layer, {'params': {'w': KERNEL}}, IMAGE)
  conv = harness.build(Conv2D, **FIELDS)
  expected, _ = harness.apply(conv, {'params': {'w': KERNEL}}, IMAGE)
  np.testing.assert_array_equal(out, np.maximum(expected, 0))


def test_the_norm_never_uses_averages_in_training():
  moving = pax_fiddle.Config(
    normalizations.BatchNorm, use_moving_avg_in_training=True
  )
  out, _ = apply(ConvBNAct, IMAGE, batch_norm_tpl=moving)
  np.testing.assert_array_equal(out, apply(ConvBNAct, IMAGE)[0])
  with pytest.raises(AttributeError, match='use_moving_avg_in_training'):
    apply(
      ConvBNAct, IMAGE, batch_norm_tpl=pax_fiddle.Config(normalizations.LayerNorm)
    )


def test_variables():
  layer = harness.build(ConvBNAct, **FIELDS)
  variables = harness.init(layer, IMAGE)
  assert harness.shapes(variables) == harness.shapes(VARIABLES)
  np.testing.assert_array_equal(variables['params']['bn']['gamma'], np.zeros(3))


def test_gradient():
  layer = harness.build(ConvBNAct, **FIELDS)
  grads, grad_x = harness.gradients(layer, VARIABLES, IMAGE)

  def scalar(w, x):
    x = jax.lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    x = (x - mean) / jnp.sqrt(variance + 0.001) * (1 + BN['gamma']) + BN['beta']
    return jnp.sum(jax.nn.relu(x) * harness.noise(*x.shape, seed=99))

  expected, expected_x = jax.grad(scalar, argnums=(0, 1))(KERNEL, IMAGE)
  np.testing.assert_allclose(grads['w'], expected, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(grad_x, expected_x, rtol=1e-3, atol=1e-4)


def masked(x, paddings):
  return np.where(paddings[:, :, np.newaxis, np.newaxis] > 0, 0, x)


def test_stride_1_keeps_the_paddings_and_does_not_mask_the_result():
  (out, paddings), _ = apply(ConvBNActWithPadding, IMAGE, PADDINGS)
  np.testing.assert_array_equal(paddings, PADDINGS)
  np.testing.assert_array_equal(out, by_parts(masked(IMAGE, PADDINGS))[0])
  assert np.any(out[0, 3:])


def test_what_is_padded_does_not_matter():
  spoiled = np.where(PADDINGS[:, :, np.newaxis, np.newaxis] > 0, np.nan, IMAGE)
  (out, _), _ = apply(ConvBNActWithPadding, spoiled, PADDINGS)
  np.testing.assert_array_equal(
    out, apply(ConvBNActWithPadding, IMAGE, PADDINGS)[0][0]
  )


@pytest.mark.parametrize(
  'x, paddings, stride, lingvo, expected',
  [
    (IMAGE, PADDINGS, 2, False, [[0, 0, 1], [0, 0, 0]]),
    (IMAGE6, PADDINGS6, 2, False, [[0, 0, 1], [0, 0, 0]]),
    (IMAGE6, PADDINGS6, 3, False, [[0, 1], [0, 0]]),
    # Every stride-th from the stride on, ones where there is none.
    (IMAGE, PADDINGS, 2, True, [[0, 1, 1], [0, 0, 1]]),
    (IMAGE6, PADDINGS6, 2, True, [[0, 1, 1], [0, 0, 0]]),
    (IMAGE6, PADDINGS6, 3, True, [[0, 1], [0, 0]]),
  ],
)
def test_strided_same_padding(x, paddings, stride, lingvo, expected):
  fields = dict(filter_stride=(stride, 1))
  (out, out_paddings), _ = apply(
    ConvBNActWithPadding, x, paddings, compat_with_lingvo=lingvo, **fields
  )
  np.testing.assert_array_equal(out_paddings, expected)
  unmasked, _ = by_parts(masked(x, paddings), **fields)
  np.testing.assert_array_equal(out, masked(unmasked, np.array(expected)))


@pytest.mark.parametrize(
  'stride, expected',
  # The minimum over windows of 3.
  [(1, [[0, 0, 0, 1], [0, 0, 0, 0]]), (2, [[0, 0], [0, 0]])],
)
def test_valid_padding(stride, expected):
  fields = dict(filter_stride=(stride, 1), padding='VALID')
  (out, paddings), _ = apply(ConvBNActWithPadding, IMAGE6, PADDINGS6, **fields)
  np.testing.assert_array_equal(paddings, expected)
  unmasked, _ = by_parts(masked(IMAGE6, PADDINGS6), **fields)
  np.testing.assert_array_equal(out, masked(unmasked, np.array(expected)))


def test_gradient_for_the_paddings_shares_among_equals():
  layer = harness.build(ConvBNActWithPadding, **FIELDS, padding='VALID')
  cotangent = np.array([[1, 2, 4, 8], [1, 1, 1, 1]], np.float32)

  def scalar(paddings):
    (_, paddings), _ = harness.apply(layer, VARIABLES, IMAGE6, paddings)
    return jnp.sum(paddings * cotangent)

  # As of a minimum over each window of 3; the windows of the first row have the minimum
  # at 3, 2, 1 and 3 of their steps.
  expected = [
    [1 / 3, 1 / 3 + 1, 1 / 3 + 1 + 4, 8 / 3, 8 / 3, 8 / 3],
    [1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3],
  ]
  np.testing.assert_allclose(jax.grad(scalar)(PADDINGS6), expected, rtol=1e-6)


def test_lingvo_compatibility_has_no_dilations():
  with pytest.raises(AssertionError, match=r'needs dilations \(1, 1\)'):
    apply(
      ConvBNActWithPadding,
      IMAGE,
      PADDINGS,
      compat_with_lingvo=True,
      dilations=(2, 1),
    )


def test_depthwise_config_is_of_the_class():
  config = ConvBNAct.HParamsDepthwise(kernel_shape=(3, 3), in_channels=2)
  assert config.cls is ConvBNAct


def test_recorded_numbers():
  config = pax_fiddle.Config(
    ConvBNActWithPadding, filter_shape=(3, 3, 2, 3), filter_stride=(2, 2)
  )
  out, _ = reference.run(config, IMAGE, PADDINGS)
  reference.check(out, 54, 0.7055988, 0.8384161, 36.41561)
