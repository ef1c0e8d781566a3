"""Step by step with a cache, each attention layer gives what its call gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import (
  attentions,
  grouped_query_attention,
  multi_query_attention,
  normalizations,
)
from tests.layers import harness
from tests.layers.attention_reference import future, hidden, make

LENGTH, PREFIX = 5, 2
X = jnp.asarray(harness.noise(2, LENGTH, 8))
CAUSAL = hidden(future(LENGTH), np.zeros((2, 1, LENGTH, LENGTH), bool))
POS = np.tile(np.arange(LENGTH), (2, 1))
FIELDS = dict(input_dim=8, hidden_dim=8, num_heads=2)
FOUR = dict(input_dim=8, hidden_dim=16, num_heads=4)
CLOSE = dict(rtol=2e-5, atol=2e-5)  # the same sums, over masked keys too
REL = pax_fiddle.Config(attentions.RelativeBias)
Attention = attentions.DotProductAttention
LPB = attentions.DotProductAttentionWithLPB
MQA = multi_query_attention.MultiQueryDotProductAttention
MQALPB = multi_query_attention.MultiQueryDotProductAttentionLPB
GQA = grouped_query_attention.GroupedQueryAttention

LAYERS = {
  'plain': (Attention, FIELDS),
  'rotary': (Attention, dict(use_rotary_position_emb=True, **FIELDS)),
  'consolidated': (
    Attention,
    dict(use_rotary_position_emb=True, consolidate_rope_key_state=True, **FIELDS),
  ),
  'everything': (
    Attention,
    dict(
      combine_qkv=True,
      dconv_qkv=True,
      use_rotary_position_emb=True,
      relative_bias_tpl=REL,
      atten_logit_cap=1.5,
      attention_extra_logit=0.5,
      scale_logits_by_head_dims=True,
      zero_fully_masked=True,
      output_proj_use_nhd_shape=True,
      **FIELDS,
    ),
  ),
  'lpb': (LPB, dict(dconv_qkv=True, use_rotary_position_emb=True, **FIELDS)),
  'xl': (attentions.DotProductAttentionXL, dict(rel_pos_emb_dim=6, **FIELDS)),
  'local': (
    attentions.LocalSelfAttention,
    dict(left_context=3, right_context=0, use_rotary_position_emb=True, **FIELDS),
  ),
  'mqa': (
    MQA,
    dict(
      use_rotary_position_emb=True,
      relative_bias_tpl=REL,
      atten_logit_cap=1.5,
      attention_extra_logit=0.5,
      zero_fully_masked=True,
      **FOUR,
    ),
  ),
  'mqa groups': (
    MQA, dict(num_kv_heads=2, use_rotary_position_emb=True, **FOUR)
  ),
  'mqa window': (MQA, dict(local_window_size=(1, 0), **FOUR)),
  'mqa lpb': (MQALPB, dict(use_rotary_position_emb=True, **FOUR)),
  'gqa': (
    GQA,
    dict(
      input_dim=8,
      num_heads=4,
      num_kv_heads=2,
      dim_per_head=4,
      atten_logit_cap=1.5,
      rope_min_max_timescales=(1, 100),
    ),
  ),
}


def step_mask(last, length=LENGTH, batch=1):
  return jnp.asarray(hidden(np.arange(length) > last))[None, None].repeat(batch, 0)


def forget(x, _, time_dim):
  """Zeros for all steps but those of the prefix."""
  shape = [1] * x.ndim
  shape[time_dim] = LENGTH
  return x * jnp.reshape(jnp.arange(LENGTH) < PREFIX, shape)


def run(layer, variables, *args):
  """What the call gives, and variables with the cache of the first tokens."""

  @jax.jit
  def call(variables):
    (out, _), cache = harness.apply(
      layer, variables, *args, do_eval=True, mutable=['decoder_cache']
    )
    _, cache = harness.apply(
      layer,
      {**variables, **cache},
      forget,
      method='transform_decode_state',
      mutable=['decoder_cache'],
    )
    return out, {**variables, **cache}

  return call(variables)


def steps(layer, variables, segment_pos):
  """Outputs of all steps after the prefix, compiled once."""

  @jax.jit
  def one(variables, x, mask, time_step):
    return harness.apply(
      layer,
      variables,
      x,
      atten_mask=mask,
      time_step=time_step,
      segment_pos=jnp.full([2], time_step) if segment_pos else None,
      do_eval=True,
      method='extend_step',
      mutable=['decoder_cache', 'prefix_decoder_cache'],
    )

  outs = []
  for t in range(PREFIX, LENGTH):
    out, cache = one(variables, X[:, t], step_mask(t), jnp.int32(t))
    variables = {**variables, **cache}
    outs.append(out)
  return jnp.stack(outs, 1)


@pytest.mark.parametrize('name', LAYERS)
def test_steps_give_what_the_call_gives(name):
  cls, fields = LAYERS[name]
  args = (X, X, X, CAUSAL, POS, POS)
  layer, variables = make(cls, *args, **fields)
  expected, variables = run(layer, variables, *args)
  got = steps(layer, variables, segment_pos=name == 'rotary')
  np.testing.assert_allclose(got, expected[:, PREFIX:], **CLOSE)


def samples_of_a_prefix(layer, x, steps, tokens):
  """Of each example three continuations, of two tokens each."""
  pos = POS[:, :PREFIX]
  layer(x, x, x, CAUSAL[:, :, :PREFIX, :PREFIX], pos, pos)
  layer.lazy_broadcast_prefix(3, 2)
  length = PREFIX + 2
  if tokens:
    mask = jnp.stack([step_mask(PREFIX, length), step_mask(PREFIX + 1, length)], 2)
    return layer.extend_step(
      steps, atten_mask=mask, time_step=PREFIX, segment_pos=None
    )
  return jnp.stack([
    layer.extend_step(
      steps[:, i],
      atten_mask=step_mask(PREFIX + i, length),
      time_step=PREFIX + i,
      segment_pos=None,
    )
    for i in range(2)
  ], 1)


@pytest.mark.parametrize('cls, fields', [(LPB, FIELDS), (MQALPB, FOUR)])
@pytest.mark.parametrize('tokens', [False, True])
def test_samples_of_one_prefix(cls, fields, tokens):
  continuations = jnp.asarray(harness.noise(6, 2, 8, seed=5))
  whole = jnp.concatenate([jnp.repeat(X[:, :PREFIX], 3, 0), continuations], 1)
  mask = CAUSAL[:1, :, :4, :4]
  layer, variables = make(
    cls, whole, whole, whole, mask, use_rotary_position_emb=True, **fields
  )
  expected = harness.apply(layer, variables, whole, whole, whole, mask)[0][0]

  @jax.jit
  def sample(variables):
    return harness.apply(
      layer,
      variables,
      X[:, :PREFIX],
      continuations,
      tokens,
      do_eval=True,
      method=samples_of_a_prefix,
      mutable=['decoder_cache', 'prefix_decoder_cache'],
    )

  got, cache = sample(variables)
  np.testing.assert_allclose(got, expected[:, PREFIX:], **CLOSE)
  heads = () if cls is MQALPB else (2,)
  assert cache['decoder_cache']['key_state'].shape == (2, 3, 2, *heads, 4)
  prefix = cache['prefix_decoder_cache']
  assert prefix['key_state_0_pfx'].shape == (2, PREFIX, *heads, 4)


def test_cross_attention_repeats_the_cache_for_samples():
  layer, variables = make(Attention, X, X, X, CAUSAL, **FIELDS)
  _, variables = run(layer, variables, X, X, X, CAUSAL)
  queries = jnp.asarray(harness.noise(6, 8, seed=5))
  out, cache = harness.apply(
    layer,
    variables,
    queries,
    atten_mask=step_mask(1),
    time_step=0,
    segment_pos=None,
    is_cross_attention=True,
    method='extend_step',
    mutable=['decoder_cache'],
  )
  for name, state in cache['decoder_cache'].items():
    np.testing.assert_array_equal(state, variables['decoder_cache'][name])
  expected, _ = harness.apply(
    layer,
    variables,
    queries[:, None],
    jnp.repeat(X[:, :PREFIX], 3, 0),
    jnp.repeat(X[:, :PREFIX], 3, 0),
    jnp.zeros([1, 1, 1, PREFIX]),
    do_eval=True,
  )
  np.testing.assert_allclose(out, expected[0][:, 0], **CLOSE)


def test_query_normalization_is_left_out_of_steps_as_in_pax():
  args = (X, X, X, CAUSAL)
  layer, variables = make(
    Attention, *args, ln_tpl=pax_fiddle.Config(normalizations.RmsNorm), **FIELDS
  )
  plain = harness.build(Attention, **FIELDS)
  params = variables['params']
  without = {k: v for k, v in params.items() if not k.startswith('layer_norm')}
  expected = harness.apply(plain, {'params': without}, *args, do_eval=True)[0][0]
  _, variables = run(layer, variables, *args)
  got = steps(layer, variables, segment_pos=False)
  np.testing.assert_allclose(got, expected[:, PREFIX:], **CLOSE)


def test_cache_is_written_only_if_it_may_be():
  layer, variables = make(Attention, X, X, X, CAUSAL, decode_cache=False, **FIELDS)
  _, written = harness.apply(
    layer, variables, X, X, X, CAUSAL, mutable=['decoder_cache']
  )
  assert not written
  assert 'decoder_cache' not in harness.init(layer, X, X, X, CAUSAL)


@pytest.mark.parametrize('combined', [False, True])
def test_steps_shard_projections_where_they_are_asked_to(combined):
  fields = dict(combine_qkv=combined, mesh_axis_names=['d', 'm'], **FIELDS)
  mesh = jax.make_mesh((1, 1), ('d', 'm'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  _, variables = make(Attention, X, X, X, CAUSAL, combine_qkv=combined, **FIELDS)
  state = jnp.zeros([2, LENGTH, 2, 4])
  variables['decoder_cache'] = {'key_state': state, 'value_state': state}

  def constraints(flag):
    config = pax_fiddle.Config(
      Attention, name='layer', decoding_maybe_shard_projections=flag, **fields
    )
    config.activation_split_dims_mapping.blnh = [None, 'd', 'm', None]
    config.activation_split_dims_mapping.bld = ['d', None, 'm']
    layer = config.Instantiate()

    def step(x):
      return layer.apply(
        variables, x, atten_mask=step_mask(3), time_step=3, segment_pos=None,
        method='extend_step', mutable=['decoder_cache'],
      )

    with jax.set_mesh(mesh):
      jaxpr = jax.make_jaxpr(step)(X[:, 0])
    return [
      tuple(eqn.params['sharding'].spec) for eqn in jaxpr.eqns
      if eqn.primitive.name == 'sharding_constraint'
    ]

  plain, sharded = constraints(False), constraints(True)
  by_outputs, by_heads, result = ('d', 'm', None), (None, 'm', None), ('d', 'm')
  # Seen in the real Praxis: three projections, twice each, and the result.
  assert plain[-1] == result and by_outputs not in plain
  assert sharded == [by_outputs] * 3 + [by_heads] * 3 + plain[:-1] + [
    by_outputs, result
  ]


@pytest.fixture(scope='module')
def ready():
  layer, variables = make(Attention, X, X, X, CAUSAL, **FIELDS)
  return layer, run(layer, variables, X, X, X, CAUSAL)[1]


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(time_step=5), 'time step 5 lies outside the cache, .* 0 to 4. Pad it'),
    (dict(time_step=-1), 'time step -1 lies outside'),
    (dict(time_step=jnp.zeros([2], jnp.int32)), r'must be a scalar, found shape \(2,'),
    (dict(atten_mask=step_mask(3, 4)), r'\[1 or 2, 1, 5\].*found \[1, 1, 4\]'),
    (dict(atten_mask=CAUSAL), r'found \[2, 1, 5, 5\]'),
    (dict(query_vec=X), r'one token at a time, .* found shape \(2, 5, 8\)'),
    (dict(query_vec=X[:1, 0], is_cross_attention=True), 'must be a multiple of'),
  ],
)
def test_steps_that_cannot_be(ready, changes, message):
  layer, variables = ready
  given = dict(
    query_vec=X[:, 0], atten_mask=step_mask(3), time_step=3, segment_pos=None
  )
  with pytest.raises(ValueError, match=message):
    harness.apply(
      layer,
      variables,
      method='extend_step',
      mutable=['decoder_cache'],
      **{**given, **changes},
    )


def test_there_must_be_a_cache():
  layer, variables = make(Attention, X, X, X, CAUSAL, **FIELDS)
  with pytest.raises(AssertionError, match="has no decode state 'key_state'"):
    harness.apply(
      layer,
      variables,
      X[:, 0],
      atten_mask=step_mask(0),
      time_step=0,
      segment_pos=None,
      method='extend_step',
      mutable=['decoder_cache'],
    )


@pytest.mark.parametrize(
  'method, args',
  [
    ('init_states', (2, 5)),
    ('lazy_broadcast_prefix', (2, 5)),
    ('right_align_decode_state_with_prefix', (2, forget)),
  ],
)
def test_what_is_not_implemented_says_what_to_do(ready, method, args):
  layer, variables = ready
  with pytest.raises(NotImplementedError, match='DotProductAttention at'):
    harness.apply(layer, variables, *args, method=method, mutable=['decoder_cache'])
