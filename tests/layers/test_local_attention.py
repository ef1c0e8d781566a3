"""Attention to a window and by distance, against numpy and the full computation."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import attentions
from tests.layers import attention_reference as reference
from tests.layers import harness
from tests.layers.attention_reference import future, hidden, make

X = harness.noise(2, 7, 8)
PADDED = np.zeros((2, 1, 1, 7), bool)
PADDED[1, ..., 5:] = True
MASKS = {
  'paddings': hidden(PADDED),
  'causal': hidden(PADDED, future(7)),
  'one for all': hidden(future(7)),
}
FIELDS = dict(input_dim=8, hidden_dim=8, num_heads=2)
CLOSE = dict(rtol=2e-5, atol=2e-5)  # float32 against float64, values up to five
DISTANCE = np.arange(7)[:, None] - np.arange(7)  # query - key


def window(left, right):
  return (DISTANCE < left) & (DISTANCE >= -right)


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize(
  'fields',
  [
    dict(left_context=2, right_context=1),
    dict(left_context=3, right_context=0, block_size=4),
    dict(left_context=1, right_context=2, block_size=2),
  ],
)
def test_local(fields, mask):
  mask, left, right = MASKS[mask], fields['left_context'], fields['right_context']
  layer, variables = make(attentions.LocalSelfAttention, X, X, X, mask, **FIELDS,
                          **fields)
  out = harness.apply(layer, variables, X, X, X, mask)[0][0]
  seen = (mask == 0) & window(left, right)
  expected = reference.self_attention(variables['params'], X, seen)[0]
  # Queries that see nothing average over their block's context in one computation and
  # over the whole sequence in the other; both is arbitrary.
  sighted = np.broadcast_to(seen.any(-1), (2, 1, 7))[:, 0]
  np.testing.assert_allclose(out[sighted], expected[sighted], **CLOSE)
  simulated = harness.build(
    attentions.LocalSelfAttention, simulated=True, **FIELDS, **fields
  )
  out = harness.apply(simulated, variables, X, X, X, mask)[0][0]
  np.testing.assert_allclose(out, expected, **CLOSE)


@pytest.mark.parametrize('simulated', [False, True])
def test_the_mask_is_a_summary_only_where_it_is_whole(simulated):
  mask = MASKS['one for all']
  layer, variables = make(
    attentions.LocalSelfAttention, X, X, X, mask, attention_mask_summary=True,
    simulated=simulated, left_context=2, right_context=1, **FIELDS
  )
  summaries = harness.apply(layer, variables, X, X, X, mask)[1].get('summaries', {})
  assert ('attention_mask_scalar' in summaries) == simulated
  if simulated:
    seen = (mask == 0) & window(2, 1)
    np.testing.assert_array_equal(summaries['attention_mask_scalar'] == 0, seen)


def test_zeros_for_queries_that_see_nothing():
  layer, variables = make(
    attentions.LocalSelfAttention,
    *(X, X, X, MASKS['causal']),
    **dict(left_context=1, right_context=0, zero_fully_masked=True, **FIELDS),
  )
  out = harness.apply(layer, variables, X, X, X, MASKS['causal'])[0][0]
  bias = variables['params']['post']['b']
  np.testing.assert_allclose(out[1, 5:], np.tile(bias, (2, 1)), rtol=1e-6)
  assert not np.allclose(out[1, 4], bias)


def xl_bias(params, query):
  """`(q + v) . P(i - j) + u . k` as numpy loops, less the last term."""
  frequency = np.exp(-np.arange(3) * np.log(10_000.0) / 2)
  bias = np.zeros((2, 2, 7, 7))
  for i, j in np.ndindex(7, 7):
    angle = (i - j) * frequency
    sinusoid = np.concatenate([np.sin(angle), np.cos(angle)])
    embedding = np.einsum('r,rnh->nh', sinusoid, params['pos_proj']['w'])
    bias[:, :, i, j] = np.einsum('bnh,nh->bn', query[:, i] + params['v'], embedding)
  return bias


@pytest.mark.parametrize('local', [False, True])
def test_transformer_xl(local):
  mask = MASKS['causal']
  cls, fields = attentions.DotProductAttentionXL, dict(rel_pos_emb_dim=6)
  if local:
    cls = attentions.LocalSelfAttentionXL
    fields.update(left_context=3, right_context=1)
  layer, variables = make(cls, X, X, X, mask, **FIELDS, **fields)
  params = variables['params']
  q, k, v = (reference.project(params, X, n) for n in ('query', 'key', 'value'))
  q = reference.scaled_query(params, q)
  seen = (mask == 0) & (window(3, 1) if local else True)
  encoded, _ = reference.attend(q + params['u'], k, v, seen, bias=xl_bias(params, q))
  out = harness.apply(layer, variables, X, X, X, mask)[0][0]
  sighted = np.broadcast_to(seen.any(-1), (2, 1, 7))[:, 0]
  expected = reference.post(params, encoded)
  np.testing.assert_allclose(out[sighted], expected[sighted], **CLOSE)


@pytest.mark.parametrize('learned', [False, True])
def test_biases_of_blocks(learned):
  block, left, right = 3, 3, 1
  fields = dict(block_size=block, left_context=left, right_context=right, **FIELDS)
  mask = MASKS['paddings']
  cls = attentions.LocalSelfAttentionAlibi
  if learned:
    cls = attentions.LocalSelfAttentionRelativeBias
  layer, variables = make(cls, X, X, X, mask, **fields)
  params = variables['params']
  bias = np.zeros((1, 2, 7, 7))
  for n, i, j in np.ndindex(2, 7, 7):
    w = i % block
    c = j - (i - w) + left - 1  # where key j is in the context of the query's block
    if learned:
      biases = params['pos_emb_compressed'][n]
      assert biases.shape == (2 * block + left + right - 2,)
      bias[0, n, i, j] = biases[(c - w + block - 2) % len(biases)]
    else:
      bias[0, n, i, j] = 2.0 ** (-4 * (n + 1)) * (c - w + block - 1)
  seen = (mask == 0) & window(left, right)
  expected = reference.self_attention(params, X, seen, bias=bias)[0]
  (out, _), written = harness.apply(layer, variables, X, X, X, mask)
  sighted = np.broadcast_to(seen.any(-1), (2, 1, 7))[:, 0]
  np.testing.assert_allclose(out[sighted], expected[sighted], **CLOSE)
  if learned:
    total = written['summaries']['pos_emb_compressed_scalar']
    np.testing.assert_allclose(total, params['pos_emb_compressed'].sum(), rtol=1e-5)


def test_slopes_are_added_in_float32():
  """Rounded to bfloat16, 257 steps and 256 steps away would be the same."""
  fields = dict(left_context=258, right_context=0, block_size=2, **FIELDS)
  layer = harness.build(
    attentions.LocalSelfAttentionAlibi, fprop_dtype=jnp.bfloat16, **fields
  )
  query = jnp.zeros([1, 1, 2, 2, 4], jnp.bfloat16)
  key = jnp.zeros([1, 1, 259, 2, 4], jnp.bfloat16)
  logits = harness.apply(
    layer, {}, query, key, method=lambda layer, *qk: layer._atten_logits(*qk)
  )[0]
  assert logits.dtype == jnp.float32
  apart = np.diff(logits[0, :, 0, 0])
  np.testing.assert_array_equal(apart, [[2.0**-4] * 258, [2.0**-8] * 258])


ERRORS = {
  'left_context and right_context must be set': ('LocalSelfAttention', {}, ValueError),
  'rel_pos_emb_dim must be positive': ('DotProductAttentionXL', {}, ValueError),
  'block_size must be set': (
    'LocalSelfAttentionRelativeBias', dict(left_context=1, right_context=0), ValueError
  ),
  'a power of two, found 3': (
    'LocalSelfAttentionAlibi', dict(num_heads=3, dim_per_head=2), TypeError
  ),
}


@pytest.mark.parametrize('message', ERRORS)
def test_fields_that_cannot_be(message):
  name, fields, error = ERRORS[message]
  layer = harness.build(getattr(attentions, name), **{**FIELDS, **fields})
  with pytest.raises(error, match=f'{name} at the root: .*{message}'):
    harness.init(layer, X, X, X, MASKS['causal'])


@pytest.mark.parametrize('kind', ['XL', 'RelativeBias', 'Alibi'])
def test_only_the_plain_layer_can_be_simulated(kind):
  fields = dict(rel_pos_emb_dim=2) if kind == 'XL' else {}
  layer = harness.build(
    getattr(attentions, f'LocalSelfAttention{kind}'), simulated=True, **FIELDS, **fields
  )
  with pytest.raises(ValueError, match=f'{kind} at the root: .*no simulated variant'):
    harness.init(layer, X, X, X, MASKS['causal'])


def test_only_self_attention():
  cls = attentions.LocalSelfAttention
  layer = harness.build(cls, left_context=1, right_context=0, **FIELDS)
  with pytest.raises(ValueError, match='only self-attention, found 7 queries and 5'):
    harness.init(layer, X, X[:, :5], X[:, :5], MASKS['paddings'][..., :5])


def test_xl_in_windows_cannot_decode():
  cls = attentions.LocalSelfAttentionXL
  fields = dict(left_context=3, right_context=1, rel_pos_emb_dim=6, **FIELDS)
  layer = harness.build(cls, **fields)
  with pytest.raises(NotImplementedError, match='cannot decode step by step'):
    harness.apply(layer, {}, X[:, 0], atten_mask=None, time_step=0, segment_pos=None,
                  method='extend_step')
