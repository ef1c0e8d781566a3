"""Masks of single steps of attention with lazy prefix broadcast."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import attentions
from pax_haiku.layers.lpb_attention import step_mask

LAYER = attentions.DotProductAttentionWithLPB(
  input_dim=4, hidden_dim=4, num_heads=2, name='mh'
)


def run(mask, total, length, steps, single):
  return LAYER.apply({}, mask, total, length, steps, single, method=step_mask)


def test_a_mask_may_be_made_for_more_positions_than_there_are():
  """As Pax's decoding loops do, whose mask is that of the whole sequence."""
  mask = jnp.arange(8.0)[None, None]
  out = run(mask, total=6, length=5, steps=1, single=True)
  np.testing.assert_array_equal(out, mask[:, :, None, :5])
  out = run(mask[:, :, None], total=6, length=8, steps=3, single=False)
  np.testing.assert_array_equal(out, mask[:, :, None])


@pytest.mark.parametrize('shape', [(1, 1, 4), (2, 1, 8), (1, 2, 8), (1, 8)])
def test_other_masks_are_refused(shape):
  with pytest.raises(ValueError, match=r'\[1 or 6, 1, 5\], its last axis at least'):
    run(jnp.zeros(shape), total=6, length=5, steps=1, single=True)
