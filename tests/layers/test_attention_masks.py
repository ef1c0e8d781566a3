"""Masks as arrays: who sees whom, entry by entry."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import attentions
from tests.layers.attention_reference import LOW

IDS = np.array([[1, 1, 2, 2], [3, 3, 3, 0]])
PADDINGS = np.array([[0, 0, 0, 1], [0, 1, 1, 1]], np.float32)


def seen(mask):
  """Booleans, after a look at the two values that there may be."""
  low = float(jnp.asarray(-0.7 * float(jnp.finfo(mask.dtype).max), mask.dtype))
  values = set(np.unique(np.asarray(mask, np.float64)))
  assert values <= {0.0, low}
  return np.asarray(mask) == 0


def table(shape, rule):
  return np.array([rule(*i) for i in np.ndindex(*shape)]).reshape(shape)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_causal(dtype):
  mask = attentions.causal_mask(jnp.zeros([2, 4, 3], dtype))
  assert mask.shape == (1, 1, 4, 4) and mask.dtype == dtype
  expected = table((4, 4), lambda q, k: k <= q)
  np.testing.assert_array_equal(seen(mask)[0, 0], expected)


def test_causal_needs_floats():
  with pytest.raises(AssertionError, match='floating; found int32'):
    attentions.causal_mask(jnp.zeros([2, 4], jnp.int32))


def test_segments_of_queries_and_keys():
  mask = attentions.segment_mask(IDS, IDS[:, :3], jnp.float32)
  assert mask.shape == (2, 1, 4, 3)
  expected = table((2, 4, 3), lambda b, q, k: IDS[b, q] == IDS[b, k])
  np.testing.assert_array_equal(seen(mask)[:, 0], expected)


def test_causal_segments_and_a_prefix_that_all_see():
  expected = table((2, 4, 4), lambda b, q, k: IDS[b, q] == IDS[b, k] and k <= q)
  mask = attentions.causal_segment_mask(IDS)
  np.testing.assert_array_equal(seen(mask)[:, 0], expected)
  causal_columns = np.array([[1, 0, 1, 1], [0, 0, 0, 0]], np.float32)
  mask = attentions.causal_segment_mask(IDS, causal_attention_mask=causal_columns)
  expected = table((2, 4, 4), lambda b, q, k: IDS[b, q] == IDS[b, k] and (
    k <= q or causal_columns[b, k] == 0))
  np.testing.assert_array_equal(seen(mask)[:, 0], expected)


def test_paddings_hide_keys_and_merged_with_more_rows_queries_too():
  mask = attentions.convert_paddings_to_mask(PADDINGS)
  assert mask.shape == (2, 1, 1, 4)
  np.testing.assert_array_equal(seen(mask)[:, 0, 0], PADDINGS == 0)
  causal = attentions.causal_mask(jnp.zeros([1, 4]))
  real = PADDINGS == 0
  expected = table((2, 4, 4), lambda b, q, k: k <= q and real[b, q] and real[b, k])
  for merged in (
    attentions.merge_masks(mask, causal),
    attentions.merge_masks(causal, mask),
  ):
    np.testing.assert_array_equal(seen(merged)[:, 0], expected)
  np.testing.assert_array_equal(attentions.merge_masks(mask, mask * 0), mask)


@pytest.mark.parametrize('left, right', [(1, 0), (2, 1), (None, 0), (3, None)])
def test_window(left, right):
  mask = attentions.limited_context_mask(left, right, 4, column_time_size=6)

  def rule(q, k):
    return (left is None or q - k < left) and (right is None or k - q <= right)

  np.testing.assert_array_equal(seen(mask), table((4, 6), rule))


def test_masks_that_do_not_fit():
  with pytest.raises(AssertionError, match=r'found the shapes .*4, 4.*5, 5'):
    attentions.merge_masks(jnp.zeros([1, 1, 4, 4]), jnp.zeros([1, 1, 5, 5]))


def test_large_negative_number():
  assert float(attentions.convert_paddings_to_mask(PADDINGS).min()) == np.float32(LOW)
