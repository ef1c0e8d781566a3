"""Shared keys and values: as DotProductAttention with weights repeated for heads."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import attentions, multi_query_attention
from tests.layers import harness
from tests.layers.attention_reference import future, hidden, make

X = harness.noise(2, 6, 8)
PADDED = np.zeros((2, 1, 1, 6), bool)
PADDED[1, ..., 4:] = True
MASK = hidden(future(6), PADDED, np.swapaxes(PADDED, 2, 3))  # two queries are blind
POS = np.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]], np.int32)
FIELDS = dict(input_dim=8, hidden_dim=16, num_heads=4)
CLOSE = dict(rtol=2e-5, atol=2e-5)  # the same sums in another order, values up to ten
MQA = multi_query_attention.MultiQueryDotProductAttention


def repeated(params, kv_heads):
  """The parameters of a DotProductAttention that gives the same."""
  out = dict(params)
  for name in ('key', 'value'):
    leaves = params[name]
    if kv_heads == 1:
      leaves = {k: v[..., None, :] for k, v in leaves.items()}
    out[name] = {
      k: jnp.repeat(v, 4 // kv_heads, axis=-2) for k, v in leaves.items()
    }
  return {'params': out}


def compare(kv_heads, *positions, do_eval=True, mask=MASK, mine=(), **fields):
  """Outputs of both, probabilities of both."""
  args = (X, X, X, mask, *positions)
  layer, variables = make(
    MQA, *args, num_kv_heads=kv_heads, **FIELDS, **fields, **dict(mine)
  )
  other = harness.build(
    attentions.DotProductAttention,
    internal_enable_per_dim_scale=False,
    **FIELDS,
    **fields,
  )
  (out, probs), _ = harness.apply(layer, variables, *args, do_eval=do_eval)
  same = repeated(variables['params'], kv_heads)
  (expected, expected_probs), _ = harness.apply(other, same, *args, do_eval=do_eval)
  np.testing.assert_allclose(out, expected, **CLOSE)
  return probs, expected_probs


@pytest.mark.parametrize('kv_heads', [1, 2])
@pytest.mark.parametrize(
  'fields',
  [
    {},
    dict(
      use_rotary_position_emb=True,
      relative_bias_tpl=pax_fiddle.Config(attentions.RelativeBias),
      atten_logit_cap=1.0,
      attention_extra_logit=0.5,
      zero_fully_masked=True,
      output_proj_use_nhd_shape=True,
    ),
  ],
)
def test_heads_share_keys_and_values(kv_heads, fields):
  probs, expected = compare(kv_heads, POS, POS, **fields)
  if kv_heads == 1:
    np.testing.assert_allclose(probs, expected, **CLOSE)
  else:  # the layout of Pax: heads, queries and keys reshaped, not transposed
    np.testing.assert_allclose(np.reshape(probs, expected.shape), expected, **CLOSE)


def test_bias_of_training_is_the_same_for_all_examples():
  """Which Praxis cannot: its bias [1, N, T, S] does not reshape there."""
  bias = pax_fiddle.Config(attentions.RelativeBias)
  compare(2, POS, POS, do_eval=False, relative_bias_tpl=bias)


def test_window():
  layer, variables = make(MQA, X, X, X, MASK, local_window_size=(1, 0), **FIELDS)
  distance = np.arange(6)[:, None] - np.arange(6)
  mask = np.minimum(MASK, hidden((distance > 1) | (distance < 0)))
  plain = harness.build(MQA, **FIELDS)
  np.testing.assert_array_equal(
    harness.apply(layer, variables, X, X, X, MASK)[0][0],
    harness.apply(plain, variables, X, X, X, mask)[0][0],
  )


@pytest.mark.parametrize('kv_heads', [1, 2])
@pytest.mark.parametrize('window', [None, (2, 0)])
def test_chunks(kv_heads, window):
  # For queries that see something: the others average over another number of keys.
  mask = hidden(future(6), np.zeros((2, 1, 6, 6), bool))
  fields = dict(num_kv_heads=kv_heads, local_window_size=window, **FIELDS)
  layer, variables = make(MQA, X, X, X, mask, **fields)
  chunked = harness.build(MQA, chunked_attn_num_seq_split=3, **fields)
  if window is not None:  # in chunks the window shortens the keys only
    distance = np.arange(6)[:, None] - np.arange(6)
    mask = np.minimum(mask, hidden(distance > window[0]))
  expected = harness.apply(layer, variables, X, X, X, mask)[0][0]
  out, probs = harness.apply(chunked, variables, X, X, X, mask)[0]
  assert probs is None
  np.testing.assert_allclose(out, expected, **CLOSE)


def test_variables():
  for kv_heads, heads in ((1, ()), (2, (2,))):
    _, variables = make(MQA, X, X, X, MASK, num_kv_heads=kv_heads, **FIELDS)
    shapes = harness.shapes(variables['params'])
    assert sorted(shapes) == ['key', 'post', 'query', 'value']
    assert shapes['key'] == {'w': (8, *heads, 4), 'b': (*heads, 4)}
    assert shapes['query'] == {'w': (8, 4, 4), 'b': (4, 4)}


BAD_FIELDS = {
  'num_kv_heads=3 must divide num_heads=4': dict(num_kv_heads=3),
  'dconv_qkv and combine_qkv are not supported': dict(dconv_qkv=True),
  'consolidate_rope_key_state needs use_rotary': dict(consolidate_rope_key_state=True),
  'needs as many queries as keys, a multiple': dict(chunked_attn_num_seq_split=4),
}


@pytest.mark.parametrize('message', BAD_FIELDS)
def test_fields_that_cannot_be(message):
  layer = harness.build(MQA, **FIELDS, **BAD_FIELDS[message])
  with pytest.raises(AssertionError, match=f'MultiQueryDotProduct.* at .*{message}'):
    harness.init(layer, X, X, X, MASK)


def test_calls_that_cannot_be():
  layer = harness.build(MQA, num_kv_heads=2, **FIELDS)
  with pytest.raises(ValueError, match=r'atten_mask must have shape \[1 or 2, 1, 1 or'):
    harness.init(layer, X, X, X, MASK[:, 0])
  with pytest.raises(ValueError, match=r'query_vec must be \[batch, dims\], found'):
    harness.apply(layer, {}, X, atten_mask=MASK, time_step=0, segment_pos=None,
                  method='extend_step')
  lpb = multi_query_attention.MultiQueryDotProductAttentionLPB
  layer = harness.build(lpb, num_kv_heads=2, **FIELDS)
  with pytest.raises(NotImplementedError, match='num_kv_heads must be 1, found 2'):
    harness.init(layer, X, X, X, MASK)
