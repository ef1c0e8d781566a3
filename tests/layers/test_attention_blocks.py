"""Blocks with context, entry by entry."""

import numpy as np
import pytest

from pax_haiku.layers import attentions
from tests.layers import harness

X = harness.noise(2, 5, 3)


@pytest.mark.parametrize('offset', [-2, 0, 1, 7])
def test_shift(offset):
  expected = np.zeros_like(X)
  for t in range(5):
    if 0 <= t - offset < 5:
      expected[:, t] = X[:, t - offset]
  np.testing.assert_array_equal(attentions.shift_1d(X, offset, 1), expected)


def test_blocks():
  blocks = attentions.convert_to_block(X, 2, padding_val=9.0)
  assert blocks.shape == (2, 3, 2, 3)
  np.testing.assert_array_equal(np.reshape(blocks, (2, 6, 3))[:, :5], X)
  np.testing.assert_array_equal(blocks[:, 2, 1], np.full((2, 3), 9.0))


@pytest.mark.parametrize('block, left, right', [(2, 1, 0), (2, 3, 2), (3, 2, 1)])
def test_context_and_who_sees_it(block, left, right):
  got = attentions.extract_block_context(X, block, left, right, padding_val=9.0)
  local = attentions._make_local_mask(5, block, left, right)
  blocks, context = -(-5 // block), block + left - 1 + right
  assert got.shape == (2, blocks, context, 3)
  assert local.shape == (blocks, block, context)
  for i, c in np.ndindex(blocks, context):
    t = i * block - (left - 1) + c
    expected = X[:, t] if 0 <= t < 5 else np.full((2, 3), 9.0)
    np.testing.assert_array_equal(got[:, i, c], expected)
    for w in range(block):
      q = i * block + w
      sees = 0 <= t < 5 and q < 5 and -right <= q - t < left
      assert local[i, w, c] == sees


@pytest.mark.parametrize('start', [-7, -2, 0, 3, 9])
def test_padded_slice(start):
  expected = np.full((2, 4, 3), 9.0, np.float32)
  for i in range(4):
    if 0 <= start + i < 5:
      expected[:, i] = X[:, start + i]
  np.testing.assert_array_equal(attentions._padded_slice(X, start, 4, 1, 9.0), expected)


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((0, 1, 0), 'block_size must be at least 1, got 0'),
    ((2, 4, 0), 'left_context must be between 1 and block_size . 1 = 3, got 4'),
    ((2, 1, 3), 'right_context must be between 0 and block_size = 2, got 3'),
  ],
)
def test_numbers_out_of_range(arguments, message):
  with pytest.raises(ValueError, match=message):
    attentions.extract_block_context(X, *arguments)
