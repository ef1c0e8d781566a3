"""When one kernel computes attention, what it is given, and that numbers agree.

There is no GPU here: JAX's own computation stands in for cuDNN's, which takes the same
arguments (the setting 'jax').
"""

import concurrent.futures
import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle, py_utils
from pax_haiku.layers import (
  attentions,
  fused_attention,
  grouped_query_attention,
  models,
  multi_query_attention,
)
from pax_haiku.layers.attentions import StructuredMask, attention_implementation
from tests.layers import harness
from tests.layers.attention_reference import make

X = harness.noise(2, 6, 8)
PADDINGS = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]], np.float32)
IDS = np.array([[1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 0, 0]])
FIELDS = dict(input_dim=8, hidden_dim=8, num_heads=2)
MASKS = {
  'nothing': {},
  'causal': dict(causal=True),
  'segments': dict(causal=True, segment_ids=IDS),
  'paddings': dict(paddings=PADDINGS),
  'causal paddings': dict(causal=True, paddings=PADDINGS),
  'right padded': dict(paddings=PADDINGS, right_padded=True),
  'causal right padded': dict(causal=True, paddings=PADDINGS, right_padded=True),
  'right padded ids': dict(segment_ids=1 - PADDINGS, right_padded=True),
  'causal right padded ids': dict(
    causal=True, segment_ids=1 - PADDINGS, right_padded=True
  ),
  'prefix': dict(causal=True, causal_attention_mask=PADDINGS),
  'right padded prefix': dict(
    causal=True,
    causal_attention_mask=np.float32([[0, 0, 1, 1, 1, 1]]),
    segment_ids=1 - PADDINGS,
    right_padded=True,
  ),
}
LAYERS = {
  'plain': (attentions.DotProductAttention, {}),
  'scaled': (attentions.DotProductAttention, dict(scale_logits_by_head_dims=True)),
  'mqa': (multi_query_attention.MultiQueryDotProductAttention, {}),
  'groups': (
    multi_query_attention.MultiQueryDotProductAttention,
    dict(num_heads=4, num_kv_heads=2),
  ),
}


@pytest.fixture
def asked(monkeypatch):
  """Keyword arguments of the calls of the kernel."""
  calls, real = [], jax.nn.dot_product_attention

  def spy(*args, **kwargs):
    calls.append(kwargs)
    return real(*args, **kwargs)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', spy)
  return calls


def loss_and_grads(layer, variables, mask):
  """Of what real queries give; results at padded ones are not compared."""
  real = jnp.asarray(1 - PADDINGS)[..., None]

  def loss(v, x):
    (out, probs), _ = harness.apply(layer, v, x, x, x, mask)
    return jnp.sum(out * real * harness.noise(*out.shape, seed=9)), (out * real, probs)

  grads, (out, probs) = jax.grad(loss, argnums=(0, 1), has_aux=True)(
    variables, jnp.asarray(X)
  )
  return (out, grads), probs


@pytest.mark.parametrize(
  'name, case', [('plain', m) for m in MASKS] + [(n, 'segments') for n in LAYERS]
)
def test_numbers_and_gradients_agree(name, case, asked):
  cls, fields = LAYERS[name]
  mask = StructuredMask(**MASKS[case])
  layer, variables = make(cls, X, X, X, mask, **{**FIELDS, **fields})
  expected, probs = loss_and_grads(layer, variables, mask)
  assert probs is not None and not asked
  with attention_implementation('jax'):
    got, probs = loss_and_grads(layer, variables, mask)
  assert probs is None and asked
  # Sums of six terms in another order, gradients of size ten.
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_grouped_query_attention_agrees(asked):
  pos = np.tile(np.arange(6), (2, 1))
  mask = StructuredMask(causal=True)
  args = (X, X, X, mask, pos, pos)
  layer, variables = make(
    grouped_query_attention.GroupedQueryAttention,
    *args,
    **dict(input_dim=8, num_heads=4, num_kv_heads=2, dim_per_head=4),
  )
  expected, _ = harness.apply(layer, variables, *args)
  with attention_implementation('jax'):
    (out, probs), _ = harness.apply(layer, variables, *args)
  assert probs is None and asked
  np.testing.assert_allclose(out, expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'case, is_causal, masked, lengths',
  [
    ('nothing', False, False, False),
    ('causal', True, False, False),
    ('segments', True, True, False),
    ('causal paddings', True, True, False),
    ('right padded', False, False, True),
    ('causal right padded', True, False, False),
    ('right padded ids', False, False, True),
    ('causal right padded ids', True, False, False),
    ('prefix', False, True, False),
    ('right padded prefix', False, True, True),
  ],
)
def test_the_kernel_is_given_no_more_of_a_mask_than_it_needs(
  case, is_causal, masked, lengths, asked
):
  mask = StructuredMask(**MASKS[case])
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  with attention_implementation('jax'):
    jax.eval_shape(lambda: harness.init(layer, X, X, X, mask))
  (call,) = asked
  assert call['is_causal'] == is_causal
  assert (call['mask'] is not None) == masked
  assert (call['key_value_seq_lengths'] is not None) == lengths
  if masked:
    assert call['mask'].dtype == bool and call['mask'].shape[1] == 1


BATCH = py_utils.NestedMap(
  ids=np.int32(4 * IDS), labels=np.ones((2, 6), np.int32), weights=1 - PADDINGS
)
PADDED = BATCH.copy()
PADDED.paddings = PADDINGS
PACKED = PADDED.copy()
PACKED.segment_ids, PACKED.segment_pos = IDS, np.tile(np.arange(6), (2, 1))


def language_model(packed=False):
  config = pax_fiddle.Config(models.LanguageModel, name='layer')
  lm = config.lm_tpl.set(model_dims=8, vocab_size=9, packed_input=packed)
  lm.stacked_transformer_tpl.set(num_layers=1, num_heads=2, hidden_dims=8)
  return config.Instantiate()


@pytest.mark.parametrize(
  'promised, batch, masked',
  [(False, BATCH, False), (False, PADDED, True), (True, PACKED, True)],
)
def test_language_models_pass_on_what_they_know(promised, batch, masked, asked):
  layer = language_model('segment_ids' in batch)
  promise = attentions.right_padding if promised else contextlib.nullcontext
  with promise(), attention_implementation('jax'):
    jax.eval_shape(lambda: harness.init(layer, batch))
  (call,) = asked
  assert call['is_causal'] and call['key_value_seq_lengths'] is None
  assert (call['mask'] is not None) == masked


def test_language_model_of_rows_that_are_padded_at_the_end(asked):
  """The kernel gets no mask, and loss and gradients are those of the formula."""
  layer = language_model()
  variables = harness.randomize(jax.eval_shape(lambda: harness.init(layer, PADDED)))

  def losses(params):
    metrics = harness.apply(layer, {'params': params}, PADDED)[0][0]
    return metrics.total_loss[0]

  def run():
    return jax.jit(jax.value_and_grad(lambda p: losses(p)))(variables['params'])

  expected = run()
  with attentions.right_padding():
    unchanged = run()
    assert not asked
    with attention_implementation('jax'):
      got = run()
  assert asked and all(call['mask'] is None for call in asked)
  jax.tree.map(np.testing.assert_array_equal, unchanged, expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


HINDRANCES = {
  'atten_logit_cap is set': dict(atten_logit_cap=1.0),
  'attention_extra_logit is set': dict(attention_extra_logit=0.0),
  'relative_bias_tpl is set': dict(
    relative_bias_tpl=pax_fiddle.Config(attentions.RelativeBias)
  ),
  'zero_fully_masked is set': dict(zero_fully_masked=True),
  'there is dropout': dict(atten_dropout_prob=0.1),
}


@pytest.mark.parametrize('reason', HINDRANCES)
def test_fields_that_need_the_formula(reason):
  layer = harness.build(attentions.DotProductAttention, **FIELDS, **HINDRANCES[reason])
  with attention_implementation('jax'), pytest.raises(ValueError, match=reason):
    jax.eval_shape(lambda: harness.init(layer, X, X, X, StructuredMask(causal=True)))


def test_layers_with_logits_of_their_own_need_the_formula():
  class Mine(attentions.DotProductAttention):
    def _atten_logits(self, query, key):
      return super()._atten_logits(query, key) + 1.0

  layer = harness.build(Mine, **FIELDS)
  with attention_implementation('jax'), pytest.raises(ValueError, match='of its own'):
    harness.init(layer, X, X, X, StructuredMask())


def test_array_masks_are_always_computed_by_the_formula(asked):
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  with attention_implementation('jax'):
    variables = harness.init(layer, X, X, X, attentions.causal_mask(X))
    _, probs = harness.apply(layer, variables, X, X, X, attentions.causal_mask(X))[0]
  assert probs.shape == (2, 2, 6, 6) and not asked


def on_gpu(monkeypatch, kernel):
  """Pretends to have a GPU whose kernel is `kernel`."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', kernel)


@pytest.mark.parametrize(
  'dtype, expected', [(jnp.bfloat16, ['cudnn']), (jnp.float32, [])]
)
def test_on_a_gpu_bfloat16_is_for_the_kernel(dtype, expected, monkeypatch):
  asked = []

  def kernel(query, *_, implementation, **__):
    asked.append(implementation)
    return query

  on_gpu(monkeypatch, kernel)
  x = jnp.asarray(X, dtype)
  layer = harness.build(attentions.DotProductAttention, fprop_dtype=dtype, **FIELDS)
  layer.init(harness.KEYS, x, x, x, StructuredMask(causal=True))
  assert asked == expected


def test_what_the_kernel_refuses_is_computed_by_the_formula(monkeypatch):
  def kernel(*_, **__):
    raise NotImplementedError('The head dim must be a multiple of 8')

  on_gpu(monkeypatch, kernel)
  x = jnp.asarray(X, jnp.bfloat16)
  layer = harness.build(
    attentions.DotProductAttention, fprop_dtype=jnp.bfloat16, **FIELDS
  )
  mask = StructuredMask(causal=True)
  variables = layer.init(harness.KEYS, x, x, x, mask)
  assert layer.apply(variables, x, x, x, mask)[1] is not None
  with attention_implementation('cudnn'):
    with pytest.raises(ValueError, match="set to 'cudnn', and the kernel refuses: The"):
      harness.init(layer, x, x, x, mask)


def test_odd_lengths_with_an_array_are_refused_before_the_gradient():
  x = X[:, :5]
  mask = StructuredMask(segment_ids=IDS[:, :5])
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  with attention_implementation('jax'), pytest.raises(ValueError, match='odd lengths'):
    harness.init(layer, x, x, x, mask)


def test_the_choice_is_logged_once(caplog):
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  fused_attention._log_once.cache_clear()
  with caplog.at_level('INFO', logger='absl'):
    for _ in range(2):
      layer.init(harness.KEYS, X, X, X, StructuredMask(causal=True))
  assert [r.getMessage() for r in caplog.records] == [
    "DotProductAttention computes attention by Praxis's formula: the backend is cpu."
  ]


def test_setting():
  assert attentions.get_attention_implementation() == 'auto'
  assert attentions.set_attention_implementation('xla') == 'auto'
  with attention_implementation('jax'):
    assert attentions.get_attention_implementation() == 'jax'
  assert attentions.set_attention_implementation('auto') == 'xla'
  with pytest.raises(ValueError, match="'auto', 'xla', 'cudnn', 'jax'.*found 'tpu'"):
    attentions.set_attention_implementation('tpu')


def test_dropout_of_training_is_no_hindrance_in_evaluation(asked):
  layer = harness.build(attentions.DotProductAttention, atten_dropout_prob=0.1,
                        **FIELDS)
  with attention_implementation('jax'):
    mask = StructuredMask(causal=True)
    jax.eval_shape(lambda: harness.init(layer, X, X, X, mask, do_eval=True))
  assert asked


def test_what_one_thread_chooses_is_its_own():
  def look():
    return fused_attention.get_attention_implementation(), (
      fused_attention.is_right_padding()
    )

  with fused_attention.attention_implementation('xla'), fused_attention.right_padding():
    with concurrent.futures.ThreadPoolExecutor() as threads:
      assert threads.submit(look).result() == ('auto', False)
    assert look() == ('xla', True)
  assert look() == ('auto', False)
