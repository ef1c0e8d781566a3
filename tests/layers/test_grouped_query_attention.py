"""GroupedQueryAttention: as MultiQueryDotProductAttention, and its functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import grouped_query_attention as gqa_lib
from pax_haiku.layers import multi_query_attention
from pax_haiku.layers.embedding_softmax import RotaryPositionalEmbedding
from tests.layers import harness
from tests.layers.attention_reference import future, hidden, make

X = harness.noise(2, 5, 8)
POS = np.array([[0, 1, 2, 0, 1], [3, 4, 5, 6, 7]], np.int32)
PADDINGS = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]], np.float32)
MASK = hidden(future(5), np.zeros((2, 1, 5, 5), bool))
GQA = gqa_lib.GroupedQueryAttention
FIELDS = dict(input_dim=8, num_heads=4, num_kv_heads=2, dim_per_head=4)
CLOSE = dict(rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('kv_heads', [1, 2])
def test_equals_multi_query_attention(kv_heads):
  fields = {**FIELDS, 'num_kv_heads': kv_heads}
  args = (X, X, X, MASK, POS, POS)
  layer, variables = make(
    GQA, *args, atten_logit_cap=1.0, rope_min_max_timescales=(1, 10_000), **fields
  )
  other = harness.build(
    multi_query_attention.MultiQueryDotProductAttention,
    hidden_dim=16,
    atten_logit_cap=1.0,
    use_rotary_position_emb=True,
    **fields,
  )
  assert harness.shapes(variables) == harness.shapes(harness.init(other, *args))
  (out, probs), _ = harness.apply(layer, variables, *args)
  (expected, expected_probs), _ = harness.apply(other, variables, *args)
  np.testing.assert_allclose(out, expected, **CLOSE)
  assert probs.shape == (2, kv_heads, 4 // kv_heads, 5, 5)
  np.testing.assert_allclose(
    np.ravel(probs), np.ravel(expected_probs), **CLOSE
  )


def test_masks_of_booleans_floats_and_heads():
  args = (X, X, X, MASK, POS, POS)
  layer, variables = make(GQA, *args, **FIELDS)

  def run(mask):
    return harness.apply(layer, variables, X, X, X, mask, POS, POS)[0]

  expected = run(MASK)
  np.testing.assert_array_equal(run(MASK != 0)[0], expected[0])
  np.testing.assert_array_equal(run(np.repeat(MASK, 4, 1))[0], expected[0])
  only_one = np.zeros((2, 4, 5, 5), bool)
  only_one[:, 3] = MASK[:, 0] != 0
  np.testing.assert_array_equal(run(only_one)[1][:, 1, 1], expected[1][:, 1, 1])
  np.testing.assert_array_equal(
    run(only_one)[1][:, 0], run(np.zeros_like(only_one))[1][:, 0]
  )
  with pytest.raises(ValueError, match='axis 1 of atten_mask must be 1 or num_heads=4'):
    run(np.repeat(MASK, 3, 1))


def test_temperature_and_dropout():
  args = (X, X, X, MASK, POS, POS)
  layer, variables = make(GQA, *args, **FIELDS)
  params = variables['params']
  halved = jax.tree.map(lambda x: x / 2, params['query'])
  hot = harness.build(GQA, atten_temp=2.0, atten_dropout_prob=0.5, **FIELDS)
  expected = harness.apply(layer, {'params': {**params, 'query': halved}}, *args)[0]
  out, probs = harness.apply(hot, variables, *args, do_eval=True)[0]
  np.testing.assert_allclose(out, expected[0], **CLOSE)
  _, dropped = harness.apply(hot, variables, *args)[0]
  np.testing.assert_allclose(dropped, np.where(dropped == 0, 0, 2 * probs), rtol=1e-6)
  assert 0.3 < np.mean(np.asarray(dropped)[np.asarray(probs) > 0] == 0) < 0.7


def test_masks():
  ids = np.array([[1, 1, 2], [1, 2, 2]])
  later = np.triu(np.ones((3, 3), bool), 1)
  np.testing.assert_array_equal(gqa_lib.causal_mask(3), later[None, None])
  other = ids[:, :, None] != ids[:, None]
  np.testing.assert_array_equal(gqa_lib.segment_mask(ids), other[:, None])
  np.testing.assert_array_equal(
    gqa_lib.attention_mask(ids), other[:, None] | later
  )
  np.testing.assert_array_equal(
    gqa_lib.padding_mask(PADDINGS), PADDINGS[:, None, None]
  )


def test_rotation_is_that_of_the_layer():
  x = harness.noise(2, 5, 3, 4)
  layer = harness.build(RotaryPositionalEmbedding, embedding_dims=4, max_timescale=50)
  np.testing.assert_array_equal(
    gqa_lib.apply_rope(x, 1, 50, POS), harness.apply(layer, {}, x, POS)[0]
  )
  assert gqa_lib.apply_rope(jnp.bfloat16(x), 1, 50).dtype == jnp.bfloat16
  with pytest.raises(ValueError, match='the last axis must be even'):
    gqa_lib.apply_rope(x[..., :3], 1, 50)


def test_dropout_along_axes():
  x = np.ones([4, 6, 8], np.float32)
  out = gqa_lib.apply_dropout(x, jax.random.PRNGKey(0), 0.25, broadcast_dims=(1,))
  assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
  np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1], out.shape))


@pytest.mark.parametrize(
  'fields, error, message',
  [
    (dict(dim_per_head=0), AssertionError, 'input_dim and dim_per_head must be set'),
    (dict(num_kv_heads=3), AssertionError, 'num_kv_heads=3 must divide num_heads=4'),
    (dict(num_heads=1, num_kv_heads=1), ValueError, 'must be more than 1, found 1'),
  ],
)
def test_fields_that_cannot_be(fields, error, message):
  layer = harness.build(GQA, **{**FIELDS, **fields})
  with pytest.raises(error, match=f'GroupedQueryAttention at the root: .*{message}'):
    harness.init(layer, X, X, X, MASK, POS, POS)
