"""Pooling layers against Haiku, loops over windows, and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import poolings
from tests.layers import harness, reference

Config = pax_fiddle.Config
IMAGE = harness.noise(2, 5, 6, 3)
T = harness.noise(2, 7, 3)
ROWS = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.float32)
STEPS = np.array([[0, 0, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]], np.float32)


def pool(x, paddings=None, **fields):
  fields = {'window_shape': (3, 2), 'window_stride': (2, 2), **fields}
  return harness.run(poolings.Pooling, x, paddings, **fields)


def pool_1d(x, paddings=None, **fields):
  return harness.run(poolings.Pooling1D, x, paddings, **fields)


def pool_all(x, paddings=None, **fields):
  call = {'compatible_paddings': paddings}
  return harness.run(poolings.GlobalPooling, x, call=call, **fields)


def windows(length, size, stride, padding):
  """Per window the positions inside `[0, length)`, as TensorFlow places windows."""
  if padding == 'VALID':
    starts = range(0, length - size + 1, stride)
  else:
    n = -(-length // stride)
    first = max((n - 1) * stride + size - length, 0) // 2
    starts = range(-first, n * stride - first, stride)
  return [[i for i in range(s, s + size) if 0 <= i < length] for s in starts]


# -- Pooling -------------------------------------------------------------------


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('stride', [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize('kind', ['MAX', 'AVG'])
def test_without_paddings_equals_haiku(kind, stride, padding):
  function = {'MAX': hk.max_pool, 'AVG': hk.avg_pool}[kind]
  fields = dict(pooling_type=kind, window_stride=stride, padding=padding)
  layer = harness.build(poolings.Pooling, window_shape=(3, 2), **fields)

  def theirs(x):
    return function(x, (1, 3, 2, 1), (1, *stride, 1), padding)

  out, paddings = harness.apply(layer, {}, IMAGE)[0]
  assert paddings is None
  np.testing.assert_allclose(out, theirs(IMAGE), rtol=1e-6, atol=1e-6)
  cotangent = harness.noise(*out.shape, seed=1)
  _, grad = harness.gradients(
    layer, {}, IMAGE, loss=lambda out: jnp.sum(out[0] * cotangent)
  )
  expected = jax.grad(lambda x: jnp.sum(theirs(x) * cotangent))(IMAGE)
  np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6)


def expected_pool(kind, x, paddings, size, stride, padding):
  """Pooling with paddings, window by window."""
  rows = windows(x.shape[1], size[0], stride[0], padding)
  columns = windows(x.shape[2], size[1], stride[1], padding)
  out = np.zeros((len(x), len(rows), len(columns), x.shape[3]))
  kept = stride[0] == 1 and padding == 'SAME'
  out_paddings = (
    paddings if kept else np.stack([paddings[:, r].max(1) for r in rows], axis=1)
  )
  for b, i, j in np.ndindex(*out.shape[:3]):
    if out_paddings[b, i]:
      continue
    valid = [r for r in rows[i] if not paddings[b, r]]
    if kind == 'MAX':
      out[b, i, j] = x[b, valid][:, columns[j]].max((0, 1))
    else:  # padded rows are added up, but not counted
      total = x[b, rows[i]][:, columns[j]].sum((0, 1))
      out[b, i, j] = total / (len(valid) * len(columns[j]))
  return out, out_paddings


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('stride', [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize('kind', ['MAX', 'AVG'])
def test_with_paddings(kind, stride, padding):
  out, paddings = pool(
    IMAGE, ROWS, pooling_type=kind, window_stride=stride, padding=padding
  )
  expected, rows = expected_pool(kind, IMAGE, ROWS, (3, 2), stride, padding)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(paddings, rows)


def test_average_of_zeroed_rows_is_that_of_the_others():
  x = IMAGE * (1 - ROWS[..., None, None])
  out, _ = pool(x, ROWS, pooling_type='AVG', window_stride=(1, 1))
  np.testing.assert_allclose(
    out[0, 2, 0], x[0, 1:3, :2].mean((0, 1)), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  'kind, expected',
  [
    ('MAX', (36, 0.8075581, 0.9897534, 19.49849)),
    ('AVG', (36, -0.1697299, 0.1129987, 4.110928)),
  ],
)
def test_recorded_numbers(kind, expected):
  cfg = Config(
    poolings.Pooling, window_shape=(3, 2), window_stride=(2, 2), pooling_type=kind
  )
  out, _ = reference.run(cfg, reference.IMAGE, reference.PADDINGS)
  reference.check(out, *expected)


def test_pooling_dtypes():
  x = jnp.asarray(IMAGE, jnp.bfloat16)
  for kind in ('MAX', 'AVG'):
    assert pool(x, pooling_type=kind)[0].dtype == jnp.bfloat16
  assert pool(x, ROWS)[0].dtype == jnp.bfloat16
  assert pool(x, ROWS, pooling_type='AVG')[0].dtype == jnp.float32  # paddings are


@pytest.mark.parametrize('dtype', [jnp.int32, jnp.int8])
def test_pooling_of_integers(dtype):
  x = np.arange(-90, 90).reshape(2, 5, 6, 3)
  out, _ = pool(jnp.asarray(x, dtype), ROWS)
  assert out.dtype == dtype
  np.testing.assert_array_equal(
    out, expected_pool('MAX', x, ROWS, (3, 2), (2, 2), 'SAME')[0]
  )
  out, _ = pool(jnp.asarray(x, dtype), pooling_type='AVG')
  assert out.dtype == jnp.float32
  expected = hk.avg_pool(x.astype(np.float32), (1, 3, 2, 1), (1, 2, 2, 1), 'SAME')
  np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize('dtype', [np.int32, bool])
def test_dtype_of_paddings_does_not_matter(dtype):
  for kind in ('MAX', 'AVG'):
    out, paddings = pool(IMAGE, ROWS.astype(dtype), pooling_type=kind)
    expected, expected_paddings = pool(IMAGE, ROWS, pooling_type=kind)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(paddings, expected_paddings)


@pytest.mark.parametrize(
  'args, fields, message',
  [
    ((IMAGE,), dict(window_shape=(3,)), r'window_shape must be two.*\(3,\)'),
    ((IMAGE,), dict(window_stride=(2, 0)), r'window_stride must be two.*\(2, 0\)'),
    ((IMAGE,), dict(pooling_type='max'), "one of .*'MAX'.*found 'max'"),
    ((IMAGE,), dict(padding='FULL'), "one of .*'VALID'.*found 'FULL'"),
    ((IMAGE > 0,), {}, 'found bool'),
    ((IMAGE > 0,), dict(pooling_type='AVG'), 'found bool'),
    ((IMAGE[0],), {}, r'\[batch, height, width, channels\].*\(5, 6, 3\)'),
    ((IMAGE, ROWS[:, :4]), {}, r'paddings of shape \(2, 5\).*got \(2, 4\)'),
  ],
)
def test_pooling_refuses(args, fields, message):
  with pytest.raises(ValueError, match=f'Pooling at the root: .*{message}'):
    pool(*args, **fields)


# -- GlobalPooling ---------------------------------------------------------------


@pytest.mark.parametrize('keepdims', [False, True])
@pytest.mark.parametrize('dims', [[1], [1, 2], (0, 3)])
def test_global(dims, keepdims):
  for kind, function in [('AVG', np.mean), ('MAX', np.max)]:
    out = pool_all(IMAGE, pooling_dims=dims, pooling_type=kind, keepdims=keepdims)
    expected = function(IMAGE, axis=tuple(dims), keepdims=keepdims)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('keepdims', [False, True])
def test_global_with_paddings(keepdims):
  x, paddings = T, STEPS[..., None]
  for kind, function in [('AVG', np.mean), ('MAX', np.max)]:
    out = pool_all(x, paddings, pooling_dims=[1], pooling_type=kind, keepdims=keepdims)
    expected = np.stack([function(x[0, :4], axis=0), function(x[1, 1:], axis=0)])
    expected = expected[:, None] if keepdims else expected
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_global_divides_by_the_shape_of_the_paddings():
  # The width of 6 is not counted: it is an axis of size 1 in the paddings.
  out = pool_all(IMAGE, ROWS[..., None, None], pooling_dims=[1, 2])
  expected = [IMAGE[0, :3].sum((0, 1)) / 3, IMAGE[1].sum((0, 1)) / 5]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_global_epsilon():
  layer = harness.build(poolings.GlobalPooling, pooling_dims=[1])
  out, _ = harness.apply(layer, {}, T, 0.5, compatible_paddings=STEPS[..., None])
  np.testing.assert_allclose(out[0], T[0, :4].sum(0) / 4.5, rtol=1e-5, atol=1e-6)
  # Where all is padding, the average is 0 and not NaN.
  ones = np.ones((2, 7, 1), np.float32)
  out, _ = harness.apply(layer, {}, T, compatible_paddings=ones)
  np.testing.assert_array_equal(out, 0)


def test_recorded_global_numbers():
  cfg = Config(poolings.GlobalPooling, pooling_dims=[1])
  paddings = reference.PADDINGS[..., None]
  out = reference.run(cfg, reference.X, compatible_paddings=paddings)
  reference.check(out, 8, 0.3914354, 0.1227478, 1.708575)


def test_global_keeps_the_dtype():
  x = jnp.asarray(T, jnp.bfloat16)
  assert pool_all(x, STEPS[..., None], pooling_dims=[1]).dtype == jnp.bfloat16
  ids = jnp.arange(8).reshape(2, 4)
  out = pool_all(ids, pooling_dims=[1])
  assert out.dtype == ids.dtype
  np.testing.assert_array_equal(out, [1, 5])  # 1.5 and 5.5, cut
  np.testing.assert_array_equal(
    pool_all(ids, np.array([[0, 0, 1, 1]] * 2), pooling_dims=[1], pooling_type='MAX'),
    [1, 5],
  )


@pytest.mark.parametrize(
  'fields, message',
  [
    ({}, 'must be a list of non-negative integers, found None'),
    (dict(pooling_dims=[-1]), 'must be a list of non-negative'),
    (dict(pooling_dims=['a']), 'must be a list of non-negative'),
    (dict(pooling_dims=[1], pooling_type='SUM'), "found 'SUM'"),
    (dict(pooling_dims=[3]), r'not all axes of inputs of shape \(2, 7, 3\)'),
  ],
)
def test_global_refuses(fields, message):
  with pytest.raises(ValueError, match=f'GlobalPooling at the root: .*{message}'):
    pool_all(T, **fields)


def test_global_paddings_need_the_rank_of_the_inputs():
  with pytest.raises(ValueError, match=r'\(2, 7\) have another rank.*\(2, 7, 3\)'):
    pool_all(T, STEPS, pooling_dims=[1])


# -- Pooling1D -------------------------------------------------------------------


@pytest.mark.parametrize('with_paddings', [False, True])
@pytest.mark.parametrize('window, stride', [(3, 2), (2, 1), (2, 3), (9, 4)])
@pytest.mark.parametrize('kind', ['MAX', 'AVG'])
def test_1d(kind, window, stride, with_paddings):
  paddings = STEPS if with_paddings else np.zeros_like(STEPS)
  out, out_paddings = pool_1d(
    T,
    STEPS if with_paddings else None,
    pooling_type=kind,
    window=window,
    stride=stride,
  )
  expected = np.zeros((2, -(-7 // stride), 3))
  for b in range(2):
    for i, steps in enumerate(windows(7, window, stride, 'SAME')):
      valid = [t for t in steps if not paddings[b, t]]
      if kind == 'AVG':
        expected[b, i] = T[b, valid].mean(0) if valid else 0
      elif not paddings[b, i * stride]:
        expected[b, i] = T[b, valid].max(0)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  if with_paddings:
    np.testing.assert_array_equal(out_paddings, STEPS[:, ::stride])
  else:
    assert out_paddings is None


@pytest.mark.parametrize(
  'kind, expected',
  [
    ('MAX', (24, 0.9940432, 0.880996, 14.82724)),
    ('AVG', (24, 0.5963563, 0.7160261, 8.454769)),
  ],
)
def test_recorded_1d_numbers(kind, expected):
  cfg = Config(poolings.Pooling1D, window=3, stride=2, pooling_type=kind)
  out, _ = reference.run(cfg, reference.X, reference.PADDINGS)
  reference.check(out, *expected)


def test_1d_window_of_one_takes_steps():
  out, paddings = pool_1d(T, STEPS, window=1, stride=3)
  np.testing.assert_array_equal(out, T[:, ::3])
  np.testing.assert_array_equal(paddings, STEPS[:, ::3])
  out, paddings = pool_1d(T, STEPS, window=1)
  np.testing.assert_array_equal(out, T)
  np.testing.assert_array_equal(paddings, STEPS)


def test_1d_window_is_the_stride_by_default():
  for stride in (1, 3):
    out, _ = pool_1d(T, STEPS, stride=stride)
    expected, _ = pool_1d(T, STEPS, stride=stride, window=stride)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize('shape', [(2, 7), (2, 7, 2, 3)])
def test_1d_takes_any_rank_from_2(shape):
  x = harness.noise(*shape)
  out, _ = pool_1d(x, STEPS, window=3, stride=2)
  flat, _ = pool_1d(x.reshape(2, 7, -1), STEPS, window=3, stride=2)
  np.testing.assert_allclose(out, flat.reshape(2, 4, *shape[2:]), rtol=1e-6)


def test_1d_gradients_are_finite_where_all_is_padding():
  layer = harness.build(poolings.Pooling1D, window=2)
  _, grad = harness.gradients(
    layer, {}, T, np.ones((2, 7), np.float32), loss=lambda out: jnp.sum(out[0])
  )
  np.testing.assert_array_equal(grad, 0)


def test_1d_dtypes():
  x = jnp.asarray(T, jnp.bfloat16)
  assert pool_1d(x, window=2)[0].dtype == jnp.bfloat16
  assert pool_1d(x, STEPS, window=2)[0].dtype == jnp.float32  # paddings are
  assert pool_1d(x, STEPS, window=2, pooling_type='MAX')[0].dtype == jnp.bfloat16
  out, _ = pool_1d(jnp.arange(14).reshape(2, 7), STEPS, window=2, pooling_type='MAX')
  assert out.dtype == jnp.int32
  np.testing.assert_array_equal(out[0], [1, 2, 3, 3, 0, 0, 0])


@pytest.mark.parametrize(
  'args, fields, message',
  [
    ((T,), dict(stride=0), 'stride must be positive, found 0'),
    ((T,), dict(window=-1), 'window must not be negative, found -1'),
    ((T,), dict(pooling_type='SUM'), "found 'SUM'"),
    ((T[0, :, 0],), {}, r'\[batch, time, ...\].*\(7,\)'),
    ((T, STEPS[:, :3]), {}, r'paddings of shape \(2, 7\).*got \(2, 3\)'),
  ],
)
def test_1d_refuses(args, fields, message):
  with pytest.raises(ValueError, match=f'Pooling1D at the root: .*{message}'):
    pool_1d(*args, **fields)


def test_in_a_haiku_model():
  cfg = Config(poolings.GlobalPooling, name='pool', pooling_dims=[1])
  net = hk.transform_with_state(lambda x: cfg.Instantiate()(hk.Linear(2)(x)))
  params, state = net.init(jax.random.PRNGKey(0), T)
  assert list(params) == ['linear']
  out, _ = net.apply(params, state, None, T)
  expected = (T @ params['linear']['w']).mean(1)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
