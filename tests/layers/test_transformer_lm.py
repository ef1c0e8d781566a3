"""TransformerLm: loss by formula, masks of the model types, decoding, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle, py_utils
from pax_haiku.layers import transformer_models, transformers
from tests.layers import harness
from tests.layers.test_stacked_transformer import shapes_in

Type = transformer_models.LanguageModelType
NestedMap = py_utils.NestedMap
IDS = np.array([[1, 5, 2, 3, 6, 4], [4, 2, 2, 6, 0, 0]], np.int32)
PAD = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]], np.float32)
LABELS = NestedMap(class_ids=np.roll(IDS, -1, 1), class_weights=1 - PAD)


def build(num_layers=1, **fields):
  stack = pax_fiddle.Config(
    transformers.StackedTransformer, num_layers=num_layers, hidden_dims=5, num_heads=2
  )
  fields = {'stacked_transformer_tpl': stack, **fields}
  return harness.build(
    transformer_models.TransformerLm, model_dims=4, vocab_size=7, **fields
  )


@pytest.fixture(scope='module')
def variables():
  return harness.randomize(harness.init(build(), IDS, PAD))


def test_variables_are_those_of_pax(variables):
  params = harness.shapes(variables['params'])
  assert sorted(params) == ['final_ln', 'softmax', 'transformer']
  block = params['transformer']['x_layers_0']
  assert block['self_attention']['query'] == {'w': (4, 2, 2), 'b': (2, 2)}
  assert block['self_attention']['per_dim_scale'] == {'per_dim_scale': (2,)}
  assert block['ff_layer']['ffn_layer1'] == {
    'linear': {'w': (4, 5)},
    'bias': {'b': (5,)},
  }
  logits = {'linear': {'w': (4, 7)}, 'bias': {'b': (7,)}}
  assert params['softmax'] == {'logits_ffn': logits}


def test_loss_is_the_mean_negative_log_probability(variables):
  predictions, _ = harness.apply(build(), variables, IDS, PAD)
  losses, _ = harness.apply(build(), variables, IDS, PAD, LABELS)
  logits = np.asarray(predictions.logits, np.float64)
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  own = np.take_along_axis(log_probs, LABELS.class_ids[..., None], -1)[..., 0]
  expected = -np.sum(own * (1 - PAD)) / np.sum(1 - PAD)
  # Float32 against float64; the sum of weights has 1e-6 added.
  np.testing.assert_allclose(losses.total_loss, expected, rtol=1e-6)
  np.testing.assert_allclose(
    losses.per_sequence_xent, -np.sum(own * (1 - PAD), 1), rtol=1e-5
  )
  assert losses.aux_loss == 0 and losses.total_weight == 10
  layer = build(record_logits_in_xent_output=True)
  recorded, _ = harness.apply(layer, variables, IDS, PAD, LABELS)
  np.testing.assert_array_equal(recorded.logits, predictions.logits)


@pytest.mark.parametrize(
  'model_type, seen',
  [(Type.CAUSAL, [0]), (Type.PREFIX, [0, 1, 2]), (Type.BIDIRECTIONAL, [0, 1, 2, 3])],
)
def test_who_sees_whom(variables, model_type, seen):
  """Gradient of the first prediction by the embedding of each token."""
  layer = build(model_type=model_type)
  prefix = np.array([[0, 0, 0, 1, 1, 1]] * 2)  # two tokens, one more, is prefix

  def first(x):
    mask = prefix if model_type == Type.PREFIX else None
    with harness.context():
      return layer.apply(
        variables, IDS, PAD, causal_attention_mask=mask, segment_ids=None,
        method=lambda mdl, *args, **kw: _with_embedding(mdl, x, *args, **kw),
      ).logits[0, 0, 0]

  grad = jax.grad(first)(jnp.asarray(harness.noise(2, 6, 4)))
  touched = np.flatnonzero(np.any(grad[0] != 0, axis=-1))
  expected = seen if model_type != Type.BIDIRECTIONAL else range(6)
  assert touched.tolist() == list(expected)
  assert not np.any(grad[1])


def _with_embedding(mdl, x, inputs, paddings, **kwargs):
  """The model, with `x` for what the first block reads."""
  mask = mdl._segment_mask(
    (1 - paddings).astype(np.int32), kwargs['causal_attention_mask'], x.dtype
  )
  out = mdl.transformer(x, paddings, segment_mask=mask)
  return mdl.compute_loss(mdl.final_ln(out))


def test_no_float_mask_is_made(variables):
  def loss(params):
    out = build().apply({'params': params}, IDS, PAD, LABELS)
    return out.total_loss

  found = shapes_in(jax.make_jaxpr(jax.grad(loss))(variables['params']).jaxpr, set())
  squares = {(s, d) for s, d in found if s[-2:] == (6, 6) and d.startswith('float')}
  assert {s for s, _ in squares} == {(2, 2, 6, 6)}


def test_no_paddings_are_zero_paddings(variables):
  none, zeros = (
    harness.apply(build(), variables, IDS, p, LABELS)[0] for p in (None, 0 * PAD)
  )
  np.testing.assert_array_equal(none.logits, zeros.logits)
  assert 'segment' not in str(jax.make_jaxpr(
    lambda: build().apply(variables, IDS, None).logits)())


@pytest.mark.parametrize('repeated', [False, True])
def test_steps_equal_the_whole(repeated):
  stack = pax_fiddle.Config(
    transformers.StackedTransformer, num_layers=1, hidden_dims=5, num_heads=2
  )
  stack.transformer_layer_params_tpl.tr_atten_tpl.use_rotary_position_emb = True
  if repeated:
    stack = pax_fiddle.Config(
      transformers.StackedTransformerRepeated, block=stack, x_times=2
    )
  layer = build(stacked_transformer_tpl=stack)
  variables = harness.randomize(harness.init(layer, IDS, 0 * PAD))
  whole = layer.apply(variables, IDS, 0 * PAD).logits
  # Two tokens by a call, then steps in a longer cache.
  def prefill(mdl, ids):
    out = mdl(ids, jnp.zeros(ids.shape))
    mdl.transform_decode_state(
      lambda x, _, t: jnp.pad(x, [(0, 4 if i == t else 0) for i in range(x.ndim)])
    )
    mdl.update_decode_state('time_step', 2)
    return out.logits

  first, cache = layer.apply(
    variables, IDS[:, :2], method=prefill, mutable=['decoder_cache']
  )
  step = jax.jit(
    lambda cache, ids: layer.apply(
      {**variables, **cache},
      ids,
      method=transformer_models.TransformerLm.extend_step,
      mutable=['decoder_cache'],
    )
  )
  logits = [first[:, 0], first[:, 1]]
  for t in range(2, 6):
    out, cache = step(cache, IDS[:, t])
    logits.append(out.logits)
  # The same sums, of other lengths.
  np.testing.assert_allclose(np.stack(logits, 1), whole, atol=5e-6)


def test_errors(variables):
  lm = transformer_models.TransformerLm
  with pytest.raises(AssertionError, match='layer.*bidirectional model cannot decode'):
    harness.apply(
      build(model_type=Type.BIDIRECTIONAL), variables, IDS[:, 0], method=lm.extend_step
    )
  with pytest.raises(AssertionError, match='without segment_ids'):
    harness.apply(build(), variables, IDS, PAD, segment_pos=IDS)
  bad = pax_fiddle.Config(transformers.StackedTransformer, model_dims=3)
  with pytest.raises(AssertionError, match='model_dims is 4, but that of the stack'):
    harness.init(build(stacked_transformer_tpl=bad), IDS, PAD)
  with pytest.raises(ValueError, match='0 post-attention n-gram templates for 1'):
    harness.init(build(post_attention_ngrammer_tpls=[]), IDS, PAD)


WRONG_LABELS = NestedMap(class_ids=IDS + 1, class_weights=1 - PAD)


@pytest.mark.parametrize(
  'ids, labels, message',
  [
    (IDS + 1, LABELS, "TransformerLm at the root: inputs must lie between 0 and 6"),
    (IDS, WRONG_LABELS, 'labels must .* 7 tokens; found ids from 0 to 7'),
    (IDS - 1, None, 'inputs must .* found ids from -1 to 5'),
  ],
)
def test_ids_outside_the_vocabulary_are_an_error_on_demand(
  ids, labels, message, variables
):
  layer = build(skip_aux_loss=True)
  harness.apply(layer, variables, ids, PAD, labels)  # as in Pax, not a word
  with transformer_models.checked_ids(), pytest.raises(ValueError, match=message):
    harness.apply(layer, variables, ids, PAD, labels)


def test_ids_of_a_compiled_model_are_checked_when_it_runs(variables):
  run = jax.jit(lambda ids: harness.apply(build(), variables, ids, PAD)[0].logits)
  with transformer_models.checked_ids():
    run(IDS).block_until_ready()
    with pytest.raises(Exception, match='inputs must lie between 0 and 6'):
      run(IDS + 1).block_until_ready()
      jax.effects_barrier()
  jaxpr = jax.make_jaxpr(run)(IDS)
  assert 'callback' in str(jaxpr)
  unchecked = jax.make_jaxpr(lambda i: harness.apply(build(), variables, i, PAD)[0])
  assert 'callback' not in str(unchecked(IDS))
