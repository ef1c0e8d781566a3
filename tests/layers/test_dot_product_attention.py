"""DotProductAttention against numpy, its variables, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import attentions, normalizations
from tests.layers import attention_reference as reference
from tests.layers import harness
from tests.layers.attention_reference import future, hidden, make

X = harness.noise(2, 5, 8)
Y = harness.noise(2, 4, 8, seed=1)
PADDED = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]], bool)[:, None, None]
FULL = hidden(future(5), PADDED, np.swapaxes(PADDED, 2, 3))  # blind: two queries
FIELDS = dict(input_dim=8, hidden_dim=8, num_heads=2)
CLOSE = dict(rtol=2e-5, atol=2e-5)  # float32 against float64, values up to five
Attention = attentions.DotProductAttention
REL = pax_fiddle.Config(attentions.RelativeBias)


def test_a_query_that_sees_nothing_attends_to_all_keys_equally():
  layer, variables = make(Attention, X, X, X, FULL, **FIELDS)
  (out, probs), _ = harness.apply(layer, variables, X, X, X, FULL, do_eval=True)
  expected = reference.self_attention(variables['params'], X, FULL == 0)
  np.testing.assert_allclose(out, expected[0], **CLOSE)
  np.testing.assert_allclose(probs, expected[1], **CLOSE)
  np.testing.assert_allclose(probs[1, :, 4], np.full((2, 5), 0.2), rtol=1e-6)


@pytest.mark.parametrize(
  'fields, options',
  [
    (dict(atten_logit_cap=0.7), dict(cap=0.7)),
    (dict(attention_extra_logit=0.5), dict(extra=0.5)),
    (dict(scale_logits_by_head_dims=True), dict(scale=0.5)),
    (dict(zero_fully_masked=True), dict(zero_blind=True)),
  ],
)
def test_options_of_the_formula(fields, options):
  layer, variables = make(Attention, X, X, X, FULL, **FIELDS, **fields)
  (out, probs), _ = harness.apply(layer, variables, X, X, X, FULL)
  expected = reference.self_attention(variables['params'], X, FULL == 0, **options)
  np.testing.assert_allclose(out, expected[0], **CLOSE)
  if not options.get('zero_blind'):
    np.testing.assert_allclose(probs, expected[1], **CLOSE)


@pytest.mark.parametrize(
  'fields, factor',
  [
    (dict(internal_enable_query_scale=False), 1.0),
    (dict(internal_enable_per_dim_scale=False, dim_per_head=3), 4**-0.5),
    (
      dict(
        internal_enable_per_dim_scale=False,
        dim_per_head=3,
        scale_query_by_dim_per_head=True,
      ),
      3**-0.5,
    ),
  ],
)
def test_constant_query_scales(fields, factor):
  layer, variables = make(Attention, X, X, X, FULL, **FIELDS, **fields)
  params = variables['params']
  assert 'per_dim_scale' not in params
  q, k, v = (reference.project(params, X, n) for n in ('query', 'key', 'value'))
  encoded, _ = reference.attend(q * factor, k, v, FULL == 0)
  out = harness.apply(layer, variables, X, X, X, FULL)[0][0]
  np.testing.assert_allclose(out, reference.post(params, encoded), **CLOSE)


def test_relative_bias_counts_positions_if_none_are_given():
  layer, variables = make(Attention, X, X, X, FULL, relative_bias_tpl=REL, **FIELDS)
  distance = np.arange(5)[:, None] - np.arange(5)  # below 16: a bucket each
  wrb = np.asarray(variables['params']['relative_bias']['wrb'])
  bias = wrb[:, np.maximum(distance, 0)][None]
  expected = reference.self_attention(variables['params'], X, FULL == 0, bias=bias)
  for do_eval in (False, True):
    out = harness.apply(layer, variables, X, X, X, FULL, do_eval=do_eval)[0][0]
    np.testing.assert_allclose(out, expected[0], **CLOSE)


def test_rotation_depends_on_distances_only():
  layer, variables = make(
    Attention,
    *(X, X, X, FULL),
    use_rotary_position_emb=True,
    internal_enable_per_dim_scale=False,  # or else the two of a pair are scaled apart
    **FIELDS,
  )
  pos = np.tile(np.arange(5), (2, 1))
  outs = [
    harness.apply(layer, variables, X, X, X, FULL, p, p)[0][0]
    for p in (None, pos, pos + 7)
  ]
  np.testing.assert_array_equal(outs[0], outs[1])
  # Angles of float32 positions around ten, rounded twice.
  np.testing.assert_allclose(outs[2], outs[1], rtol=1e-4, atol=1e-4)


def test_combined_projection_is_the_separate_ones():
  layer, variables = make(Attention, X, X, X, FULL, **FIELDS)
  params = variables['params']
  combined = harness.build(Attention, combine_qkv=True, **FIELDS)
  names = ('query', 'key', 'value')
  params = {
    **{k: v for k, v in params.items() if k not in names},
    'combined_qkv': {
      leaf: jnp.stack([params[n][leaf] for n in names]) for leaf in ('w', 'b')
    },
  }
  assert harness.shapes(harness.init(combined, X, X, X, FULL)['params']) == (
    harness.shapes(params)
  )
  expected = harness.apply(layer, variables, X, X, X, FULL)[0][0]
  out = harness.apply(combined, {'params': params}, X, X, X, FULL)[0][0]
  np.testing.assert_allclose(out, expected, **CLOSE)
  with pytest.raises(AssertionError, match='must be the same array object'):
    harness.apply(combined, {'params': params}, X, X + 0, X, FULL)


def test_cross_attention_of_inputs_of_several_sizes():
  mask = hidden(PADDED[..., :4])
  sizes = {'query': 8, 'key': 3, 'value': 6}
  args = X, Y[..., :3], Y[..., :6], mask
  layer, variables = make(Attention, *args, **{**FIELDS, 'input_dim': sizes})
  params = variables['params']
  q, k, v = (
    reference.project(params, x, n)
    for x, n in zip(args, ('query', 'key', 'value'), strict=False)
  )
  q = reference.scaled_query(params, q)
  encoded, probs = reference.attend(q, k, v, mask == 0)
  out = harness.apply(layer, variables, *args)[0]
  np.testing.assert_allclose(out[0], reference.post(params, encoded), **CLOSE)
  np.testing.assert_allclose(out[1], probs, **CLOSE)


def test_dropout_is_in_the_returned_probabilities_and_for_training_only():
  layer, variables = make(Attention, X, X, X, FULL, atten_dropout_prob=0.5, **FIELDS)
  (_, probs), _ = harness.apply(layer, variables, X, X, X, FULL)
  (out, kept), _ = harness.apply(layer, variables, X, X, X, FULL, do_eval=True)
  dropped = np.asarray(probs) == 0
  np.testing.assert_allclose(np.where(dropped, 0, 2 * kept), probs, rtol=1e-6)
  assert 0.3 < dropped[np.asarray(kept) > 0].mean() < 0.7
  expected = reference.self_attention(variables['params'], X, FULL == 0)
  np.testing.assert_allclose(out, expected[0], **CLOSE)


def test_gradients_equal_those_of_plain_jax():
  layer, variables = make(Attention, X, X, X, FULL, **FIELDS)

  def formula(params, x):
    def heads(name):
      return jnp.einsum('btd,dnh->btnh', x, params[name]['w']) + params[name]['b']

    scale = jax.nn.softplus(params['per_dim_scale']['per_dim_scale'])
    q = heads('query') * scale / (jnp.log(2.0) * 2.0)
    logits = jnp.einsum('btnh,bsnh->bnts', q, heads('key'))
    probs = jax.nn.softmax(jnp.where(FULL == 0, logits, -1e30), -1)
    out = jnp.einsum('bnts,bsnh->btnh', probs, heads('value'))
    out = jnp.einsum('btnh,dnh->btd', out, params['post']['w']) + params['post']['b']
    return jnp.sum(out * harness.noise(*out.shape, seed=99))

  def ours(params, x):
    out = harness.apply(layer, {'params': params}, x, x, x, FULL)[0][0]
    return jnp.sum(out * harness.noise(*out.shape, seed=99))

  got = jax.grad(ours, argnums=(0, 1))(variables['params'], jnp.asarray(X))
  expected = jax.grad(formula, argnums=(0, 1))(variables['params'], jnp.asarray(X))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    # Sums over positions; gradients of the keys' bias cancel to zero.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_variables_of_a_layer_with_all_children():
  fields = dict(
    combine_qkv=True,
    output_proj_use_nhd_shape=True,
    dconv_qkv=True,
    ln_tpl=pax_fiddle.Config(normalizations.RmsNorm),
    relative_bias_tpl=REL,
  )
  layer = harness.build(
    Attention, input_dim=16, hidden_dim=16, num_heads=4, **fields
  )
  x = jax.ShapeDtypeStruct([1, 2, 16], jnp.float32)
  mask = jax.ShapeDtypeStruct([1, 1, 2, 2], jnp.float32)
  variables = jax.eval_shape(lambda x, m: harness.init(layer, x, x, x, m), x, mask)
  conv = {f'dconv_{i}': (4, 4) for i in range(3)}
  assert harness.shapes(variables['params']) == {
    'combined_qkv': {'w': (3, 16, 4, 4), 'b': (3, 4, 4)},
    'post': {'w': (4, 4, 16), 'b': (16,)},
    'dconv_q': conv,
    'dconv_k': conv,
    'dconv_v': conv,
    'layer_norm_q': {'scale': (4,)},
    'layer_norm_k': {'scale': (4,)},
    'per_dim_scale': {'per_dim_scale': (4,)},
    'relative_bias': {'wrb': (4, 32)},
  }


def test_bfloat16_keeps_the_softmax_in_float32():
  layer = harness.build(Attention, fprop_dtype=jnp.bfloat16, **FIELDS)
  x = jnp.asarray(X, jnp.bfloat16)
  mask = jnp.asarray(FULL)
  variables = harness.init(layer, x, x, x, mask)
  out, probs = harness.apply(layer, variables, x, x, x, mask)[0]
  assert out.dtype == probs.dtype == jnp.bfloat16
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  np.testing.assert_allclose(
    np.sum(np.asarray(probs, np.float32), -1), 1.0, atol=2**-7
  )


def test_summaries():
  layer, variables = make(
    Attention, X, X, X, FULL, attention_mask_summary=True, **FIELDS
  )
  _, written = harness.apply(layer, variables, X, X, X, FULL)
  summaries = written['summaries']
  assert sorted(summaries) == [
    'attention_mask_scalar', 'max_logit_precap_scalar', 'rms_logits_precap_scalar'
  ]
  np.testing.assert_array_equal(summaries['attention_mask_scalar'], FULL)


BAD_FIELDS = {
  'hidden_dim must be set, found 0': dict(hidden_dim=0),
  'input_dim must be set, found 0': dict(input_dim=0),
  'num_heads=3 must divide hidden_dim=8, or set dim_per_head': dict(num_heads=3),
  'needs use_rotary_position_emb and no dconv': dict(consolidate_rope_key_state=True),
  'key, value not set in': dict(input_dim={'query': 8}),
  'combine_qkv needs inputs of one size': dict(
    combine_qkv=True, input_dim={'query': 8, 'key': 4, 'value': 8}
  ),
}


@pytest.mark.parametrize('message', BAD_FIELDS)
def test_fields_that_cannot_be(message):
  layer = harness.build(Attention, **{**FIELDS, **BAD_FIELDS[message]})
  with pytest.raises(AssertionError, match=f'DotProductAttention at .*{message}'):
    harness.init(layer, X, X, X, FULL)


@pytest.mark.parametrize(
  'args, message',
  [
    ((X, X, X, FULL[0]), r'\[1 or 2, 1, 1 or 5, 5\].*found \[1, 5, 5\]'),
    ((X, X, X, FULL[..., :4]), r'found \[2, 1, 5, 4\]'),
    ((X, X, X, None), 'found NoneType'),
    ((X, X, Y, FULL), 'queries, keys and values do not fit'),
  ],
)
def test_arguments_that_do_not_fit(args, message):
  layer = harness.build(Attention, **FIELDS)
  with pytest.raises(ValueError, match=f'DotProductAttention at the root: .*{message}'):
    harness.init(layer, *args)
