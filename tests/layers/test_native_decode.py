"""Tasks decode inside a user's own `hk.transform_with_state`, which keeps its state."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, decoder_hparams, interop, pax_fiddle, py_utils
from pax_haiku.layers import models, repeated_transformer, transformers
from tests.layers import harness

NestedMap = py_utils.NestedMap
IDS = np.array([[1, 5, 2, 3], [4, 2, 6, 0]], np.int32)
PAD = np.array([[0, 0, 0, 0], [0, 0, 0, 1]], np.float32)
BATCH = NestedMap(ids=IDS, paddings=PAD, labels=np.roll(IDS, -1, 1), weights=1 - PAD)
PAIRS = NestedMap(src=BATCH, tgt=BATCH)


def language_model(repeated, **settings):
  config = pax_fiddle.Config(models.LanguageModel, name='task')
  lm = config.lm_tpl
  lm.model_dims, lm.vocab_size = 4, 11
  stack = lm.stacked_transformer_tpl
  stack.num_layers, stack.num_heads, stack.hidden_dims = 1, 2, 8
  if repeated:
    lm.stacked_transformer_tpl = pax_fiddle.Config(
      repeated_transformer.StackedTransformerRepeated, block=stack, x_times=2
    )
  config.decoder_tpl = decoder_hparams.GreedyDecoderHParams(**settings)
  return config


def sequence_model(**fields):
  config = pax_fiddle.Config(models.SequenceModel, name='task', **fields)
  model = config.model_tpl
  model.model_dims = 4
  for side in ('encoder', 'decoder'):
    stack = pax_fiddle.Config(
      transformers.StackedTransformer,
      num_layers=1,
      hidden_dims=8,
      num_heads=2,
      mask_self_attention=side == 'decoder',
    )
    setattr(model, f'{side}_stacked_transformer_tpl', stack)
  model.softmax_tpl.num_classes = 11
  return config


def transformed(config, method):
  """The task's method in a module of the user's own, which scales what it returns."""

  def forward(batch):
    out = getattr(base_layer.instantiate(config), method)(batch)
    return out[1] if method == 'decode' else out

  return hk.transform_with_state(forward)


def by_apply(config, params, batch):
  """What `layer.apply` decodes."""
  layer, variables = config.Instantiate(), interop.to_pax(params, {}, root='task')
  mutable = [base_layer.DECODE_CACHE]
  return layer.apply(variables, batch, method=layer.decode, mutable=mutable)[0][1]


def decoded(config, batch):
  """(result natively, result of `layer.apply`), from the same random parameters.

  Checks that the state that `apply` returns is the one that it was given.
  """
  train, native = transformed(config, '__call__'), transformed(config, 'decode')
  with harness.context(do_eval=True):
    variables = jax.eval_shape(train.init, jax.random.PRNGKey(0), batch)
    params, state = map(harness.randomize, variables)
    out, after = jax.jit(native.apply)(params, state, None, batch)
    expected = jax.jit(functools.partial(by_apply, config))(params, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, after, state)
  return out, expected


@pytest.mark.parametrize(
  'repeated, settings',
  [
    (False, dict(seqlen=9, eos_id=8)),
    (True, dict(fprop_for_prefix=True, max_decode_steps=5, eos_id=None)),
  ],
)
def test_language_model(repeated, settings):
  out, expected = decoded(language_model(repeated, **settings), BATCH)
  assert sorted(out) == sorted(expected)
  np.testing.assert_array_equal(out.output_ids, expected.output_ids)
  np.testing.assert_allclose(out.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)
  assert len(np.unique(out.output_ids)) > 3


def test_sequence_model():
  settings = decoder_hparams.GreedyDecoderHParams(seqlen=6, eos_id=None)
  out, expected = decoded(sequence_model(decoder_tpl=settings), PAIRS)
  np.testing.assert_array_equal(out.output_ids, expected.output_ids)


def test_init_with_decode_makes_the_variables():
  config = language_model(True, seqlen=6)
  native, train = transformed(config, 'decode'), transformed(config, '__call__')
  key = jax.random.PRNGKey(0)
  params, state = jax.eval_shape(native.init, key, BATCH)
  assert harness.shapes(params) == harness.shapes(
    jax.eval_shape(train.init, key, BATCH)[0]
  )
  _, after = jax.eval_shape(native.apply, params, state, None, BATCH)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_sampling_takes_keys_of_the_transform():
  config = language_model(False)
  config.decoder_tpl = decoder_hparams.SampleDecoderHParams(seqlen=9, k=5)
  native = transformed(config, 'decode')
  variables = jax.eval_shape(native.init, jax.random.PRNGKey(0), BATCH)
  params, state = map(harness.randomize, variables)
  run = jax.jit(native.apply)
  found = [
    run(params, state, jax.random.PRNGKey(seed), BATCH)[0].output_ids
    for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(found[0], found[1])
  assert jnp.any(found[0] != found[2])
  with pytest.raises(base_layer.InvalidRngError, match="'random'"):
    native.apply(params, state, None, BATCH)


@pytest.mark.parametrize(
  'config, batch', [(language_model(False), BATCH), (sequence_model(), PAIRS)]
)
def test_guidance_is_left_to_subclasses(config, batch):
  config.decoder_tpl = decoder_hparams.SampleDecoderHParams(
    seqlen=9, cf_guidance_scale=2.0
  )
  native = transformed(config, 'decode')
  message = 'Model does not support guidance'
  with pytest.raises(NotImplementedError, match=message):
    jax.eval_shape(native.init, jax.random.PRNGKey(0), batch)
