"""chunk and unchunk: shapes, contents, inversion."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import chunk
from tests.layers import harness


@pytest.mark.parametrize(
  'axis, chunk_size, shape',
  [
    (0, 2, (2, 2, 5, 4)),
    (1, 2, (3, 3, 2, 4)),
    (1, 5, (1, 3, 5, 4)),
    (1, 9, (1, 3, 9, 4)),
    (2, 2, (2, 3, 5, 2)),
    (-1, 3, (2, 3, 5, 3)),
  ],
)
def test_chunk_and_back(axis, chunk_size, shape):
  x = harness.noise(3, 5, 4)
  chunks = chunk.chunk(x, chunk_size=chunk_size, axis=axis)
  assert chunks.shape == shape
  length = x.shape[axis]
  for i, part in enumerate(chunks):
    indices = np.arange(i * chunk_size, (i + 1) * chunk_size)
    inside = np.take(x, np.minimum(indices, length - 1), axis)
    present = np.expand_dims(indices < length, [a for a in range(3) if a != axis % 3])
    np.testing.assert_array_equal(part, np.where(present, inside, 0))
  np.testing.assert_array_equal(chunk.unchunk(chunks, axis, length), x)


def test_axis_1_is_the_default():
  x = jnp.arange(10).reshape(2, 5)
  chunks = chunk.chunk(x, chunk_size=2)
  np.testing.assert_array_equal(
    chunks, [[[0, 1], [5, 6]], [[2, 3], [7, 8]], [[4, 0], [9, 0]]]
  )
  np.testing.assert_array_equal(chunk.unchunk(chunks, seqlen=5), x)
  assert chunks.dtype == x.dtype


@pytest.mark.parametrize('seqlen, length', [(None, 6), (5, 5), (3, 3), (4, 6), (6, 6)])
def test_only_lengths_that_do_not_fit_cut(seqlen, length):
  chunks = chunk.chunk(harness.noise(2, 5, 3), chunk_size=2)
  assert chunk.unchunk(chunks, 1, seqlen).shape == (2, length, 3)
