"""Embeddings of sentences."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers.moe_sentences import sentence_embeddings

X = jnp.arange(1.0, 11.0).reshape(2, 5).T[None]  # [1, 5, 2]
IDS = jnp.array([[0, 1, 1, 2, 2]])


@pytest.mark.parametrize('ids, paddings, first_column', [
  (IDS, None, [0, 2.5, 2.5, 4.5, 4.5]),
  (None, (IDS == 0).astype(jnp.float32), [0, 3.5, 3.5, 3.5, 3.5]),
  (None, None, [3, 3, 3, 3, 3]),
])
def test_each_token_gets_the_mean_of_its_segment(ids, paddings, first_column):
  """The first case has the numbers of Praxis's own test."""
  first = np.array(first_column, np.float32)
  expected = np.stack([first, np.where(first > 0, first + 5, 0)], axis=-1)
  np.testing.assert_allclose(
    sentence_embeddings(X, ids, paddings)[0], expected, rtol=1e-6)  # fmt: skip
