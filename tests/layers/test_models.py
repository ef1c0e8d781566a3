"""Tasks: metrics by hand, decoding against the forward pass, texts, errors."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import decoder_hparams, pax_fiddle, py_utils
from pax_haiku.layers import (
  classification_models,
  linears,
  models,
  transformer_models,
  transformers,
)
from pax_haiku.layers import embedding_softmax as softmaxes
from tests.layers import harness

NestedMap = py_utils.NestedMap
IDS = np.array([[1, 5, 2, 3], [4, 2, 6, 0]], np.int32)
PAD = np.array([[0, 0, 0, 0], [0, 0, 1, 1]], np.float32)
BATCH = NestedMap(ids=IDS, labels=np.roll(IDS, -1, 1), paddings=PAD, weights=1 - PAD)


def lm(**fields):
  stack = pax_fiddle.Config(
    transformers.StackedTransformer, num_layers=1, hidden_dims=5, num_heads=2
  )
  return pax_fiddle.Config(
    transformer_models.TransformerLm,
    stacked_transformer_tpl=stack,
    model_dims=4,
    vocab_size=7,
    **fields,
  )


def language_model(**fields):
  return harness.build(models.LanguageModel, lm_tpl=lm(), **fields)


@pytest.fixture(scope='module')
def variables():
  return harness.randomize(harness.init(language_model(), BATCH))


def test_metrics_of_given_predictions():
  predictions = NestedMap(
    total_loss=jnp.float32(2.0),
    avg_xent=jnp.float32(1.5),
    aux_loss=jnp.float32(0.5),
    total_weight=jnp.float32(6.0),
    per_example_argmax=np.array([[5, 2, 3, 1], [2, 0, 0, 4]]),
    per_sequence_xent=jnp.array([4.0, 5.0]),
  )
  metrics, by_example = models.compute_xent_loss_helper(
    predictions, BATCH, False, report_strict_acc=True
  )
  assert metrics.total_loss == (2.0, 6.0) and metrics.aux_loss == (0.5, 1.0)
  assert metrics.log_pplx == metrics.avg_xent == (1.5, 6.0)
  # 4 right in the first row; 1 of 2 in the second.
  np.testing.assert_allclose(metrics.fraction_of_correct_next_step_preds[0], 5 / 6)
  assert metrics.acc_strict == (0.5, 2.0)
  np.testing.assert_array_equal(by_example.scores, [-4, -5])
  del predictions['aux_loss']
  with pytest.raises(AttributeError, match='skip_aux_loss=False'):
    models.compute_xent_loss_helper(predictions, BATCH, False)


def test_greedy_decoding_takes_the_likeliest_tokens(variables):
  """What is decoded after a prefix is the argmax of the forward pass on it."""
  settings = decoder_hparams.GreedyDecoderHParams(seqlen=7, eos_id=None)
  task = language_model(decoder_tpl=settings)
  (metrics, result, _), _ = harness.apply(
    task, variables, BATCH, method=models.LanguageModel.decode,
    mutable=['decoder_cache'], do_eval=True,
  )
  assert metrics.num_decoded[0] == 2
  ids = np.asarray(result.output_ids)[:, 0]
  np.testing.assert_array_equal(ids[0, :4], IDS[0])
  np.testing.assert_array_equal(ids[1, :2], IDS[1, :2])

  def logits(mdl, ids):
    return mdl.lm(ids, jnp.zeros(ids.shape)).logits

  whole, _ = harness.apply(task, variables, ids, method=logits, do_eval=True)
  best = np.argmax(whole, -1)
  np.testing.assert_array_equal(ids[0, 4:], best[0, 3:-1])
  np.testing.assert_array_equal(ids[1, 2:], best[1, 1:-1])


class Text:
  """Ids as digits."""

  def ids_to_strings(self, ids, lengths, key=None):
    return [''.join(map(str, row[:n])) for row, n in zip(ids, lengths, strict=True)]


def test_decoded_texts():
  out = NestedMap(
    BATCH,
    output_ids=np.array([[[1, 5, 2, 3, 6]], [[4, 2, 0, 0, 0]]]),
    decode_lengths=np.array([[5], [2]]),
    prefix_lengths=np.array([[2], [1]]),
    original_lengths=np.array([[4], [2]]),
    prefix_ids=np.array([[[1, 5]], [[4, 0]]]),
    logprobs=np.zeros([2, 1, 5]),
    eval_sample_weights=np.array([1.0, 0.0]),
  )
  metrics, entries, _ = language_model().process_decode_out(Text(), out)
  ((key, entry),) = entries  # the second example has no weight
  assert (key, entry['decoded'], entry['original']) == ('15', '15236', '1523')
  assert entry['decoded_substr'] == '236' and entry['decoded_ids'].tolist() == [2, 3, 6]
  assert metrics.decoded_length == (5.0, 1.0)


def test_top_five_of_many_classes():
  task = harness.build(
    models.ClassificationModel,
    network_tpl=pax_fiddle.Config(linears.Linear, input_dims=7, output_dims=7),
    softmax_tpl=pax_fiddle.Config(
      softmaxes.FullSoftmax, num_classes=7, feed_forward_tpl=None
    ),
  )
  batch = NestedMap(
    image=np.tile(np.arange(7.0), (3, 1)), label_probs=np.eye(7)[[6, 3, 0]]
  )
  variables = {'params': {'network': {'w': jnp.eye(7)}}}
  (metrics, _), _ = harness.apply(task, variables, batch)
  np.testing.assert_allclose(metrics.accuracy, (1 / 3, 3), rtol=1e-6)
  np.testing.assert_allclose(metrics.acc5, (2 / 3, 3), rtol=1e-6)


def test_accuracy_has_the_dtype_of_the_weights():
  logits = jnp.eye(3, dtype=jnp.bfloat16)
  hits = classification_models.top_k_accuracy(
    1, logits, jnp.eye(3)[jnp.array([0, 0, 2])], jnp.ones(3, jnp.bfloat16)
  )
  assert hits.dtype == jnp.bfloat16 and float(hits) == pytest.approx(2 / 3, rel=2**-8)


def test_errors(variables):
  def decode(task, settings, batch=BATCH):
    return harness.apply(
      task, variables, settings, batch,
      method=models.LanguageModel.decode_with_params, mutable=['decoder_cache'],
    )

  greedy = decoder_hparams.GreedyDecoderHParams
  sample = functools.partial(decoder_hparams.SampleDecoderHParams, seqlen=5)
  for settings, error, message in (
    (greedy(), ValueError, 'seqlen .* must be > 0, found 0'),
    ({'seqlen': 3}, ValueError, 'must be a DecoderHParams, found'),
    (greedy(fprop_for_prefix=True), ValueError, 'needs max_decode_steps'),
    (
      decoder_hparams.BeamSearchHParams(seqlen=5),
      AssertionError,
      'beam search needs fprop_for_prefix',
    ),
    (
      decoder_hparams.FlatBeamSearchHParams(seqlen=5, beam_size=2),
      ValueError,
      'one token at a time, .*(\n.*)*BeamSearchHParams works',
    ),
    (
      decoder_hparams.BeamSearchHParams(
        seqlen=5, fprop_for_prefix=True, max_decode_steps=2, eos_id=None
      ),
      ValueError,
      'beam_search needs eos_id',
    ),
    (
      greedy(seqlen=5, decode_loop_mesh_axes_transpose={'a': 'b'}),
      ValueError,
      'needs a mesh; set ici_mesh_shape and mesh_axis_names',
    ),
    (
      sample(vanilla_sample_decode=True),
      ValueError,
      'vanilla_sample_decode needs fprop_for_prefix',
    ),
    (
      sample(
        vanilla_sample_decode=True,
        fprop_for_prefix=True,
        max_decode_steps=2,
        num_samples=3,
        optimize_eos=True,
      ),
      ValueError,
      'does not read num_samples=3, optimize_eos=True .* set num_samples=1, opt',
    ),
    (decoder_hparams.DecoderHParams(seqlen=5), NotImplementedError, 'no decoding loop'),
  ):
    with pytest.raises(error, match=message):
      decode(language_model(), settings)
  both_ways = language_model(
    model_type=transformer_models.LanguageModelType.BIDIRECTIONAL
  )
  with pytest.raises(NotImplementedError, match='cannot decode step by step'):
    decode(both_ways, greedy(seqlen=5))
  with pytest.raises(AssertionError, match='must be bidirectional'):
    harness.init(harness.build(models.BertModel, lm_tpl=lm()), BATCH)


def test_a_sequence_model_refuses_settings_that_it_would_ignore():
  task = harness.build(models.SequenceModel)
  for settings, error, message in (
    (
      decoder_hparams.SampleDecoderHParams(optimize_eos=True, fprop_for_prefix=True),
      ValueError,
      r'does not read fprop_for_prefix=True of Sam.*; set fprop_for_prefix=False\.$',
    ),
    (
      decoder_hparams.SampleDecoderHParams(optimize_eos=True),
      ValueError,
      'does not read optimize_eos=True',
    ),
    (
      decoder_hparams.FlatBeamSearchHParams(seqlen=3),
      NotImplementedError,
      'Use BeamSearchHParams',
    ),
  ):
    with pytest.raises(error, match=message):
      harness.apply(
        task, {}, BATCH, settings, method=models.SequenceModel.decode_with_params
      )
