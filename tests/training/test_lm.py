"""pax_haiku.training.lm, lm_shapes and lm_sample: the models that the trainer makes."""

import math

import fiddle as fdl
import haiku as hk
import jax
import numpy as np
import pytest

from pax_haiku import decoder_hparams, py_utils
from pax_haiku.training import (
  learner,
  lm,
  lm_sample,
  lm_shapes,
  optimizers,
  packing,
  tokenizers,
  train_state,
)
from pax_haiku.training.cli import UserError
from pax_haiku.training.text_files import Document

BYTES = tokenizers.ByteTokenizer()
SMALL = {
  'num_layers': 1, 'model_dims': 16, 'num_heads': 2, 'hidden_dims': 32, 'length': 16
}  # fmt: skip


def small(**changes):
  return lm_shapes.shape('tiny', **{**SMALL, **changes})


@pytest.fixture(scope='module')
def trained():
  """A model that has learnt one line by heart: config, state, batch, metrics, forward.
  """
  packed = packing.pack([Document('a', 'hello world. ' * 40)], BYTES, 16)
  batch = packed.rows(np.arange(8))
  model = lm.language_model(small())
  forward, traces = hk.transform_with_state(lm.weighted_scalars(model)), []

  def counted(*args):
    traces.append(len(args))
    return forward.apply(*args)

  optimizer = optimizers.adamw(
    2e-2, decay_mask=optimizers.decay_mask(model, lm.inputs(batch)), ema_decay=0.5
  )

  def init(batch):
    with learner.pax_context(do_eval=False):
      return train_state.init(forward, optimizer, 0, batch)

  state = jax.jit(init)(batch)
  step = learner.make_train_step(forward._replace(apply=counted), optimizer)
  for _ in range(80):
    state, metrics = step(state, batch)
  assert len(traces) == 1, 'compiled once'
  return model, state, batch, metrics, forward


@pytest.mark.parametrize('name, millions', [('126m', 124), ('1b', 1312)])
def test_named_shapes_have_their_sizes(name, millions):
  """Counted on the model itself, without computing anything."""
  shape = lm_shapes.shape(name, length=16, batch_size=1)
  forward = hk.transform_with_state(lm.weighted_scalars(lm.language_model(shape)))
  with learner.pax_context(do_eval=False):
    params, _ = jax.eval_shape(
      forward.init, jax.random.PRNGKey(0), packing.blank(shape.length)
    )
  count = lm.count(params)
  assert round(count / 1e6) == millions
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'float32'}
  # Biases, norms and scales are less than 1 %.
  assert 0 < count - shape.num_weights() < 0.01 * count


def test_flops_are_six_for_a_weight_and_attention():
  shape = small()
  weights = 4 * 16 * 16 + 2 * 16 * 32 + 16 * 256
  assert shape.num_weights() == weights
  assert shape.flops_per_token() == 6 * weights + 12 * 16 * 16


def test_shapes_that_cannot_be():
  with pytest.raises(UserError, match="no model 'big', only tiny, 126m, 1b"):
    lm_shapes.shape('big')
  with pytest.raises(UserError, match='3 heads do not divide 128 dims'):
    lm_shapes.shape('tiny', num_heads=3)
  with pytest.raises(UserError, match="no policy 'all' .* save_nothing"):
    lm.language_model(small(), remat='all')


def test_losses_are_those_of_the_model(trained):
  _, state, batch, _, forward = trained
  metrics = learner.make_eval_step(forward)(state, batch)
  tokens = batch['weights'].sum()
  loss, weight = metrics['loss']
  assert weight == metrics['accuracy'][1] == tokens
  bits, num_bytes = metrics['bits_per_byte']
  assert num_bytes == batch['num_bytes'].sum()
  # A mean of float32 numbers, and 1e-6 that Pax adds to its weight.
  np.testing.assert_allclose(bits, loss * tokens / num_bytes / math.log(2), rtol=1e-5)


def test_state_holds_no_decode_cache(trained):
  names = {name for entries in trained[1].state.values() for name in entries}
  assert names == {'summaries'}


def test_documents_of_a_row_do_not_see_each_other(trained):
  """The loss of a document is the same alone and after another one."""
  _, state, _, _, forward = trained
  texts = ['hello', 'world. h']
  together = packing.pack([Document(t, t) for t in texts], BYTES, 16).rows(np.arange(1))
  per_text = [packing.pack([Document(t, t)], BYTES, 16).rows([0]) for t in texts]
  rows = {k: np.concatenate([r[k] for r in (together, *per_text)]) for k in together}
  rows = {k: v.reshape(3, 1, *v.shape[1:]) for k, v in rows.items()}

  def total(row):
    metrics = learner.make_eval_step(forward)(state, row)
    return metrics['loss'][0] * metrics['loss'][1]

  sums = jax.lax.map(total, rows)
  # float32 sums of at most 16 losses of size 1
  np.testing.assert_allclose(sums[0], sums[1] + sums[2], rtol=1e-5)


def test_model_writes_what_it_has_learnt(trained):
  model, state, *_ = trained
  sample = lm_sample.make_sampler(model, BYTES, 10, temperature=0.0)
  found = sample(optimizers.averaged(state), ['hello w', 'wor'], jax.random.PRNGKey(0))
  assert found == ['orld. hell', 'ld. hello ']


def test_growing_caches_change_no_numbers(trained):
  """And each stage of the loop reads caches of its own length only."""
  model, state, *_ = trained
  ids = np.frombuffer(b'hello w', np.uint8).astype(np.int32)[None]
  prompts = py_utils.NestedMap(ids=ids, paddings=0.0 * ids)

  def decode(steps):
    config = fdl.deepcopy_with(model)
    config.decoder_tpl = decoder_hparams.GreedyDecoderHParams(
      fprop_for_prefix=True, max_decode_steps=steps, eos_id=None
    )
    run = jax.jit(lm_sample.make_decode(config))
    traced = run.trace(state.params, {}, prompts, jax.random.PRNGKey(0))
    out = traced.lower().compile()(state.params, {}, prompts, jax.random.PRNGKey(0))
    return out, str(traced.jaxpr)

  stages = lm_sample.growing_cache(12, 5)
  whole, growing = decode(12), decode(stages)
  assert stages == [5, 10, 12]
  np.testing.assert_array_equal(growing[0].output_ids, whole[0].output_ids)
  # Zeros that are masked, in float32 sums of other lengths.
  np.testing.assert_allclose(growing[0].logprobs, whole[0].logprobs, atol=1e-6)
  for steps in stages:
    cache = f'f32[1,{7 + steps},2,8]'
    assert cache in growing[1] and (cache in whole[1]) == (steps == 12)


@pytest.mark.parametrize(
  'tokens, block, stages',
  [
    (200, 256, 200),
    (1024, 256, [256, 512, 768, 1024]),
    (1000, 256, [256, 512, 768, 1000]),
    (1024, 0, 1024),
    (4096, 256, [512 * i for i in range(1, 9)]),
  ],
)
def test_stages_of_growing_caches(tokens, block, stages):
  assert lm_sample.growing_cache(tokens, block) == stages


def stacked(params):
  """Returns the weights of one block as a Repeat of one block keeps them."""
  return {
    module.replace('transformer/', 'transformer/repeat/sub/'): (
      {name: w[None] for name, w in entries.items()}
      if '/transformer/' in module
      else entries
    )
    for module, entries in params.items()
  }


@pytest.mark.parametrize(
  'changes, rtol',
  [({'repeat': True}, 1e-5), ({'repeat': True, 'bfloat16': True}, 0.05)],
)
def test_repeat_and_bfloat16_are_the_same_model(trained, changes, rtol):
  """Up to the order of float32 sums, and the 8 bits of bfloat16 in each operation."""
  _, state, batch, _, plain = trained
  other = hk.transform_with_state(
    lm.weighted_scalars(lm.language_model(small(**changes)))
  )

  @jax.jit
  def losses(params, batch):
    with learner.pax_context(do_eval=True):
      ours, _ = plain.apply(params, state.state, None, batch)
      theirs, _ = other.apply(stacked(params), {}, None, batch)
    return ours['loss'][0], theirs['loss'][0]

  # Tokens in random order, which the model finds hard.
  ids = np.random.default_rng(0).permutation(batch['ids'].ravel()).reshape(8, 16)
  ours, theirs = losses(state.params, {**batch, 'ids': ids})
  np.testing.assert_allclose(theirs, ours, rtol=rtol)
  assert ours > 1
