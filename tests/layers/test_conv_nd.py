"""Conv2D and Conv3D against Haiku's, every kind of padding, and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import normalizations
from pax_haiku.layers.convolutions import Conv2D, Conv3D, causal_padding
from tests.layers import harness, reference
from tests.layers.reference import IMAGE

IMAGE6 = reference.reference_input((2, 6, 6, 2))
VIDEO = harness.noise(2, 4, 5, 6, 2)
FIELDS = dict(filter_shape=(3, 3, 2, 3), filter_stride=(1, 1))
FIELDS3 = dict(filter_shape=(3, 2, 3, 2, 3), filter_stride=(1, 1, 1))
SYMMETRIC = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 2), 5: (2, 2)}
both = pytest.mark.parametrize(
  'cls, x, fields', [(Conv2D, IMAGE, FIELDS), (Conv3D, VIDEO, FIELDS3)]
)


def kernel(shape):
  return harness.noise(*shape, seed=5)


def convolve(cls, x, **fields):
  layer = harness.build(cls, **fields)
  return harness.apply(layer, {'params': {'w': kernel(fields['filter_shape'])}}, x)[0]


def haiku_convolution(x, padding, filter_shape, filter_stride, dilations=1, groups=1):
  module = {4: hk.Conv2D, 5: hk.Conv3D}[len(filter_shape)]

  def forward(x):
    return module(
      filter_shape[-1],
      filter_shape[:-2],
      filter_stride,
      dilations,
      padding,
      with_bias=False,
      feature_group_count=groups,
      name='conv',
    )(x)

  return hk.transform(forward).apply({'conv': {'w': kernel(filter_shape)}}, None, x)


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(3, 3), (4, 2), (1, 5)])
@pytest.mark.parametrize('stride', [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
def test_conv2d(size, stride, padding):
  fields = dict(filter_shape=(*size, 2, 3), filter_stride=stride)
  ours = convolve(Conv2D, IMAGE6, **fields, padding=padding)
  symmetric = [SYMMETRIC[k] for k in size]
  theirs = symmetric if padding == 'SAME' else 'VALID'
  close(ours, haiku_convolution(IMAGE6, theirs, **fields))
  tf = convolve(
    Conv2D, IMAGE6, **fields, padding=padding, tf_equivalent_padding=True
  )
  close(tf, haiku_convolution(IMAGE6, padding, **fields))


def test_same_padding_is_not_that_of_tensorflow():
  fields = dict(filter_shape=(3, 3, 2, 3), filter_stride=(2, 2))
  ours = convolve(Conv2D, IMAGE6, **fields)
  tf = convolve(Conv2D, IMAGE6, **fields, tf_equivalent_padding=True)
  assert ours.shape == tf.shape == (2, 3, 3, 3)
  assert np.max(np.abs(ours - tf)) > 0.1


@pytest.mark.parametrize('dilations, spans', [((2, 1), (5, 3)), ((1, 2), (3, 5))])
def test_dilated_conv2d(dilations, spans):
  ours = convolve(Conv2D, IMAGE6, **FIELDS, dilations=dilations)
  padding = [SYMMETRIC[span] for span in spans]
  close(ours, haiku_convolution(IMAGE6, padding, **FIELDS, dilations=dilations))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dilation', [1, 2])
def test_causal_conv2d(stride, dilation):
  fields = dict(filter_shape=(3, 3, 2, 3), filter_stride=(stride, 1))
  fields |= dict(dilations=(dilation, 1))
  causal = dict(is_causal=True, tf_equivalent_padding=True)
  ours = convolve(Conv2D, IMAGE6, **fields, **causal)
  past = causal_padding(3, dilation)
  close(ours, haiku_convolution(IMAGE6, [(past, 0), (1, 1)], **fields))
  cut = convolve(Conv2D, IMAGE6[:, :3], **fields, **causal)
  close(cut, ours[:, : cut.shape[1]])


def test_causal_padding():
  assert causal_padding(3, 1) == 2
  assert causal_padding(3, 2) == 4
  assert causal_padding(1, 7) == 0


def test_streaming_subclasses_can_leave_out_the_causal_padding():
  causal = dict(is_causal=True, tf_equivalent_padding=True)
  layer = harness.build(Conv2D, **FIELDS, **causal)
  assert layer._compute_padding() == [(2, 0), (1, 1)]
  assert layer._compute_padding(pad_height_zero=True) == [(0, 0), (1, 1)]


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('stride', [(1, 1, 1), (2, 1, 3)])
def test_conv3d(padding, stride):
  fields = FIELDS3 | dict(filter_stride=stride)
  symmetric = [SYMMETRIC[3], SYMMETRIC[2], SYMMETRIC[3]]
  theirs = symmetric if padding == 'SAME' else 'VALID'
  ours = convolve(Conv3D, VIDEO, **fields, padding=padding)
  close(ours, haiku_convolution(VIDEO, theirs, **fields))
  tf = convolve(Conv3D, VIDEO, **fields, padding=padding, tf_equivalent_padding=True)
  close(tf, haiku_convolution(VIDEO, padding, **fields))


def test_causal_dilated_conv3d():
  dilations = (2, 1, 1)
  ours = convolve(
    Conv3D,
    VIDEO,
    **FIELDS3,
    dilations=dilations,
    is_causal=True,
    tf_equivalent_padding=True,
  )
  padding = [(4, 0), (0, 1), (1, 1)]
  close(ours, haiku_convolution(VIDEO, padding, **FIELDS3, dilations=dilations))


@pytest.mark.parametrize('cls, x', [(Conv2D, IMAGE), (Conv3D, VIDEO)])
def test_depthwise(cls, x):
  rank = x.ndim - 2
  config = cls.HParamsDepthwise(
    kernel_shape=(3,) * rank, in_channels=2, channel_multipliers=2, bias=True
  )
  assert config.cls is cls and config.bias
  assert tuple(config.filter_shape) == (3,) * rank + (1, 4)
  config.filter_stride = (1,) * rank
  fields = dict(filter_shape=config.filter_shape, filter_stride=config.filter_stride)
  layer = config.set(name='layer', bias=False).Instantiate()
  assert harness.shapes(harness.init(layer, x)) == {
    'params': {'w': tuple(config.filter_shape)}
  }
  ours = convolve(cls, x, **fields)
  close(ours, haiku_convolution(x, 'SAME', **fields, groups=2))
  # Each channel by itself.
  only_first = np.where(np.arange(2) == 0, x, 0).astype(np.float32)
  assert np.all(convolve(cls, only_first, **fields)[..., 2:] == 0)


def test_depthwise_arguments_that_do_not_fit():
  with pytest.raises(ValueError, match='kernel_shape must have 2 elements'):
    Conv2D.HParamsDepthwise(kernel_shape=(3,), in_channels=2)
  with pytest.raises(ValueError, match='kernel_shape must have 3 elements'):
    Conv3D.HParamsDepthwise(kernel_shape=(3, 3), in_channels=2)
  with pytest.raises(ValueError, match="filter_shape follows from"):
    Conv2D.HParamsDepthwise(
      kernel_shape=(3, 3), in_channels=2, filter_shape=(3, 3, 1, 2)
    )


@both
def test_gradients_and_bias(cls, x, fields):
  w, b = kernel(fields['filter_shape']), harness.noise(3, seed=6)
  layer = harness.build(cls, **fields, bias=True)
  variables = {'params': {'w': w, 'b': b}}
  assert harness.shapes(harness.init(layer, x)) == harness.shapes(variables)
  out, _ = harness.apply(layer, variables, x)
  close(out, convolve(cls, x, **fields) + b)
  grads, grad_x = harness.gradients(layer, variables, x)
  module = hk.Conv2D if cls is Conv2D else hk.Conv3D
  _, (expected, expected_x) = harness.haiku_result(
    lambda: module(3, fields['filter_shape'][:-2]), variables['params'], x
  )
  close(grad_x, expected_x)
  # Sums over some 60 to 240 positions.
  np.testing.assert_allclose(grads['w'], expected['w'], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(grads['b'], expected['b'], rtol=1e-4, atol=1e-4)


def test_initial_values():
  init = base_layer.WeightInit
  layer = harness.build(
    Conv2D,
    **FIELDS,
    bias=True,
    bias_init=init.Constant(0.5),
    kernel_init=init.Constant(0.25),
  )
  params = harness.init(layer, IMAGE)['params']
  np.testing.assert_array_equal(params['w'], np.full((3, 3, 2, 3), 0.25))
  np.testing.assert_array_equal(params['b'], np.full(3, 0.5))
  layer = harness.build(Conv2D, **FIELDS, params_init=init.Constant(0.125))
  w = harness.init(layer, IMAGE)['params']['w']
  np.testing.assert_array_equal(w, np.full((3, 3, 2, 3), 0.125))


def test_the_kernel_can_be_normalized():
  tpl = pax_fiddle.Config(normalizations.WeightNormL2)
  layer = harness.build(Conv2D, **FIELDS, weight_norm_tpl=tpl)
  variables = harness.init(layer, IMAGE)
  assert harness.shapes(variables) == {
    'params': {'w': (3, 3, 2, 3), 'weight_norm': {'g': (3,)}}
  }
  w = variables['params']['w']
  out, _ = harness.apply(layer, variables, IMAGE)
  plain = harness.build(Conv2D, **FIELDS)
  unit = w / np.sqrt(np.sum(np.square(w), (0, 1, 2)))
  expected, _ = harness.apply(plain, {'params': {'w': unit}}, IMAGE)
  close(out, expected)


def test_spectral_norm_of_the_kernel_keeps_its_vector():
  tpl = pax_fiddle.Config(normalizations.SpectralNorm)
  layer = harness.build(Conv2D, **FIELDS, weight_norm_tpl=tpl)
  variables = harness.init(layer, IMAGE)
  assert harness.shapes(variables['non_trainable']) == {'weight_norm': {'u': (3,)}}
  u = variables['non_trainable']['weight_norm']['u']
  for do_eval in (False, True):
    _, written = harness.apply(layer, variables, IMAGE, do_eval=do_eval)
    same = np.array_equal(written['non_trainable']['weight_norm']['u'], u)
    assert same == do_eval


def test_sharding():
  wt = pax_fiddle.Config(
    Conv2D.WeightSharding, wt=[None, None, 'data', 'mdl']
  )
  layer = harness.build(
    Conv2D,
    **FIELDS,
    weight_split_dims_mapping=wt,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
  )
  weight = layer.abstract_init_with_metadata(IMAGE)['params']['w']
  assert list(weight.tensor_split_dims_mapping) == [None, None, 'data', 'mdl']


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
@both
def test_dtype_of_the_result_under_bfloat16(cls, x, fields, given):
  layer = harness.build(cls, **fields, bias=True, fprop_dtype=jnp.bfloat16)
  x = x.astype(given)
  variables = harness.init(layer, x)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  assert harness.apply(layer, variables, x)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'fields, error, message',
  [
    (dict(filter_shape=(3, 3, 2)), ValueError, 'filter_shape must have 4 values'),
    (dict(filter_stride=(1,)), ValueError, 'filter_stride must have 2 values'),
    (dict(dilations=(1,)), ValueError, 'dilations must have 2 values'),
    (dict(filter_stride=(0, 1)), ValueError, 'filter_stride must be positive'),
    (dict(padding='FULL'), ValueError, "found 'FULL'"),
    (dict(is_causal=True), ValueError, 'needs tf_equivalent_padding=True'),
    (
      dict(is_causal=True, tf_equivalent_padding=True, padding='VALID'),
      NotImplementedError,
      "needs padding='SAME'",
    ),
    (dict(filter_shape=(3, 3, 3, 3)), ValueError, 'multiple of filter_shape'),
    (dict(filter_shape=(3, 3, 1, 3)), ValueError, 'multiple of the 2 groups'),
  ],
)
def test_fields_that_do_not_fit(fields, error, message):
  with pytest.raises(error, match=f'Conv2D.*{message}'):
    harness.run(Conv2D, IMAGE, **{**FIELDS, **fields})


def test_inputs_that_do_not_fit():
  with pytest.raises(ValueError, match=r'rank 4 \(NHWC\), found shape \(5, 5, 2\)'):
    harness.run(Conv2D, IMAGE[0], **FIELDS)
  with pytest.raises(ValueError, match=r'rank 5 \(NTHWC\)'):
    harness.run(Conv3D, IMAGE, **FIELDS3)


@pytest.mark.parametrize(
  'x, fields, expected',
  [
    (
      IMAGE,
      dict(filter_shape=(4, 4, 2, 3), filter_stride=(2, 2), bias=True),
      (54, -0.3454663, 0.8979302, 21.07896),
    ),
    (
      IMAGE6,
      dict(filter_shape=(3, 3, 2, 3), filter_stride=(2, 2)),
      (54, 0.1358315, 0.1698323, 10.17344),
    ),
    (
      IMAGE6,
      dict(
        filter_shape=(3, 3, 2, 3), filter_stride=(2, 2), tf_equivalent_padding=True
      ),
      (54, -0.1081333, -0.0215913, 9.779882),
    ),
    (
      IMAGE,
      FIELDS | dict(dilations=(2, 1), tf_equivalent_padding=True, is_causal=True),
      (150, -0.1960336, -0.3708241, 55.39648),
    ),
  ],
)
def test_recorded_numbers(x, fields, expected):
  out = reference.run(pax_fiddle.Config(Conv2D, **fields), x)
  reference.check(out, *expected)


def test_the_layer_in_a_haiku_transform():
  def forward(x):
    config = pax_fiddle.Config(Conv2D, name='conv', bias=True, **FIELDS)
    return hk.Linear(2)(config.Instantiate()(x))

  net = hk.transform_with_state(forward)
  params, state = net.init(harness.KEYS['params'], IMAGE)
  assert harness.shapes(params['conv']) == {'w': (3, 3, 2, 3), 'b': (3,)}
  out, _ = jax.jit(net.apply)(params, state, None, IMAGE)
  hidden, _ = harness.apply(
    harness.build(Conv2D, bias=True, **FIELDS), {'params': params['conv']}, IMAGE
  )
  close(out, hidden @ params['linear']['w'] + params['linear']['b'])
