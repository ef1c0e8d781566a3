"""StackingOverTime against a loop over frames, and its inverse."""

import numpy as np
import pytest

from pax_haiku.layers import linears, stacking
from tests.layers import harness, reference

T = harness.noise(2, 7, 3)
PADDINGS = np.array([[0, 0, 0, 0, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0]], np.float32)[
  ..., None
]


def build(left=0, right=0, stride=1, **fields):
  return harness.build(
    stacking.StackingOverTime,
    left_context=left,
    right_context=right,
    stride=stride,
    **fields,
  )


def by_loop(x, outside, left, right, stride, left_edge, right_edge):
  """`[B, n, window, D]`, frame by frame."""
  length, blank = x.shape[1], np.full_like(x[:, 0], outside)

  def frame(t):
    if t < 0:
      return x[:, 0] if left_edge else blank
    if t >= length:
      return x[:, -1] if right_edge else blank
    return x[:, t]

  return np.stack(
    [
      np.stack([frame(t + i) for i in range(-left, right + 1)], axis=1)
      for t in range(0, length, stride)
    ],
    axis=1,
  )


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('left, right', [(0, 0), (2, 0), (0, 1), (1, 2), (9, 9)])
@pytest.mark.parametrize('edges', [(False, False), (True, False), (True, True)])
def test_against_a_loop(left, right, stride, edges):
  for reduce, option in [(np.min, 'reduce_min'), (np.max, 'reduce_max')]:
    layer = build(
      left,
      right,
      stride,
      pad_with_left_frame=edges[0],
      pad_with_right_frame=edges[1],
      padding_reduce_option=option,
    )
    out, paddings = harness.apply(layer, {}, T, PADDINGS)[0]
    expected = by_loop(T, 0, left, right, stride, *edges)
    np.testing.assert_array_equal(out, expected.reshape(*expected.shape[:2], -1))
    expected = by_loop(PADDINGS, 1, left, right, stride, *edges)
    np.testing.assert_array_equal(paddings, reduce(expected, axis=2))


def test_example():
  x = np.arange(11.0, 18.0).reshape(1, 7, 1)
  out, paddings = harness.apply(build(1, 1, 3), {}, x)[0]
  np.testing.assert_array_equal(out, [[[0, 11, 12], [13, 14, 15], [16, 17, 0]]])
  np.testing.assert_array_equal(paddings, np.zeros((1, 3, 1)))
  assert paddings.dtype == out.dtype


def test_recorded_numbers():
  out, _ = harness.apply(build(1, 1, 2), {}, reference.X)[0]
  reference.check(out, 72, 0, 0, 35.01538)


def test_recorded_edges():
  x = np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 5, 1)
  paddings = np.array([0, 0, 0, 1, 1], np.float32).reshape(1, 5, 1)
  layer = build(1, 2, 2, pad_with_left_frame=True)
  out, paddings = harness.apply(layer, {}, x, paddings)[0]
  np.testing.assert_array_equal(out[0], [[1, 1, 2, 3], [2, 3, 4, 5], [4, 5, 0, 0]])
  np.testing.assert_array_equal(paddings[0], [[0], [0], [1]])


def test_nothing_to_do_returns_the_arguments():
  x = np.zeros((3, 3), np.float32)  # not even the rank is looked at
  out, paddings = harness.apply(build(), {}, x)[0]
  assert out is x and paddings is None


def test_window_size_is_known_before_the_layer_is_bound():
  assert build(2, 1, 4).window_size == 4


def test_linears_exports_it():
  assert linears.StackingOverTime is stacking.StackingOverTime


@pytest.mark.parametrize(
  'left, right, stride',
  [(0, 0, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 0, 3), (0, 2, 2)],
)
def test_unstack_inverts(left, right, stride):
  layer = build(left, right, stride)
  stacked = harness.apply(layer, {}, T)[0][0]
  out = harness.apply(layer, {}, stacked, method='unstack')[0]
  n = -(-7 // stride)
  length = 7 if (left, right, stride) == (0, 0, 1) else (n - 1) * stride + right + 1
  assert out.shape == (2, length, 3)
  # Past the last frame come the zeros that it was stacked with.
  expected = np.pad(T, ((0, 0), (0, max(0, length - 7)), (0, 0)))[:, :length]
  np.testing.assert_array_equal(out, expected)


def test_gradient_counts_the_windows_of_a_frame():
  _, grad = harness.gradients(build(1, 1, 2), {}, T, loss=lambda out: out[0].sum())
  np.testing.assert_array_equal(grad[0, :, 0], [1, 2, 1, 2, 1, 2, 1])


@pytest.mark.parametrize(
  'fields, args, error, message',
  [
    (dict(stride=0), (T,), AssertionError, 'stride must be at least 1, found 0'),
    (
      dict(padding_reduce_option='mean'),
      (T,),
      AssertionError,
      "'reduce_min' or 'reduce_max', found 'mean'",
    ),
    (dict(left=1), (T[0],), ValueError, r'inputs \[batch, time, depth\].*\(7, 3\)'),
    (dict(left=1), (T, PADDINGS[..., 0]), ValueError, r'shape \(2, 7, 1\)'),
    (dict(left=1), (T, T), ValueError, r'shape \(2, 7, 1\).*got \(2, 7, 3\)'),
    (dict(left=1), (T, PADDINGS[:, :4]), ValueError, r'got \(2, 4, 1\)'),
  ],
)
def test_refused(fields, args, error, message):
  with pytest.raises(error, match=message):
    harness.apply(build(**fields), {}, *args)


def test_unstack_refuses():
  with pytest.raises(ValueError, match='stride 3 is larger than the window of 2'):
    harness.apply(build(1, 0, 3), {}, T, method='unstack')
  with pytest.raises(ValueError, match='multiple of the window size 2'):
    harness.apply(build(1, 0, 1), {}, T, method='unstack')
