"""N-grammers in language models: decoding with caches gives what the call gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import (
  attentions,
  embedding_softmax,
  ngrammer,
  transformer_models,
  transformers,
)
from tests.layers import harness

IDS = np.array([[1, 5, 2, 0, 6], [4, 2, 2, 6, 3]], np.int32)
PAD = np.zeros(IDS.shape, np.float32)
LM = transformer_models.TransformerLm
HEADS = dict(ngram_vocab_size=11, ngram_emb_dim=3, concat_ngrams=True, dim_per_head=4)
CLUSTERS = pax_fiddle.Config(ngrammer.VQNgrammer, num_clusters=3, num_heads=2, **HEADS)
SCORES = CLUSTERS.clone().set(ngram_using_attention_scores=True)
# The same sums, of other lengths.
CLOSE = dict(rtol=1e-5, atol=1e-5)


def build(ngrammer_tpl, post=None, lpb=False):
  stack = pax_fiddle.Config(
    transformers.StackedTransformer, num_layers=1, hidden_dims=5, num_heads=2
  )
  if lpb:
    stack.transformer_layer_params_tpl.tr_atten_tpl = pax_fiddle.Config(
      attentions.DotProductAttentionWithLPB
    )
  return harness.build(
    LM,
    model_dims=8,
    vocab_size=7,
    stacked_transformer_tpl=stack,
    ngrammer_tpl=ngrammer_tpl,
    post_attention_ngrammer_tpls=post and [post],
  )


TEMPLATES = (CLUSTERS, SCORES)


@functools.cache
def init():
  layer = build(*TEMPLATES)
  make = jax.jit(lambda: harness.init(layer, IDS, PAD, do_eval=True))
  return layer, harness.randomize(make())


def test_decoding_gives_the_logits_of_the_call():
  layer, variables = init()

  def prefill(mdl, *args):
    out = mdl(*args)
    # Zeros: what the call has left in the caches must not be needed.
    mdl.transform_decode_state(lambda x, batch, time: x * 0)
    return out.logits

  def step(cache, ids):
    out, cache = layer.apply(
      {**variables, **cache}, ids, method=LM.extend_step, mutable=['decoder_cache']
    )
    return cache, out.logits

  @jax.jit
  def decode():
    with harness.context(do_eval=True):
      whole, cache = layer.apply(
        variables, IDS, PAD, method=prefill, mutable=['decoder_cache']
      )
      cache['decoder_cache']['time_step'] = jnp.int32(0)
      return whole, jax.lax.scan(step, cache, IDS.T)[1]

  whole, steps = decode()
  np.testing.assert_allclose(np.swapaxes(steps, 0, 1), whole, **CLOSE)


def test_segments_start_without_a_token_before():
  """A packed row gives what its segments give, alone and one token at a time."""
  layer, variables = init()

  def ngrams(mdl, ids, positions):
    x = mdl._embed(ids)
    whole = mdl.ngrammer(ids, x, segment_pos=positions)
    mdl.update_decode_state('ngrammer_prefix', jnp.zeros([2, 1], jnp.int32))
    mdl.update_decode_state('ngrammer_prefix_emb', jnp.zeros([2, 1, 8]))
    mdl.update_decode_state('ngrammer_prefix_segment_pos', positions[:, :1] * 0)
    parts = [
      mdl._ngram_step(ids[:, t : t + n], x[:, t : t + n], positions[:, t : t + n])
      for t, n in ((0, 1), (1, 1), (2, 3))
    ]
    return whole, jnp.concatenate(parts, axis=1), mdl.ngrammer(ids[:, 3:], x[:, 3:])

  positions = jnp.asarray([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
  run = jax.jit(
    lambda v: harness.apply(
      layer,
      v,
      jnp.asarray(IDS),
      positions,
      method=ngrams,
      do_eval=True,
      mutable=['decoder_cache'],
    )[0]
  )
  whole, parts, tail = run(variables)
  np.testing.assert_allclose(parts, whole, **CLOSE)
  np.testing.assert_allclose(whole[0, 3:], tail[0], **CLOSE)


@pytest.mark.parametrize('softmax', ['SharedEmbeddingSoftmax',
                                     'NClassMajorSharedEmbeddingSoftmax', 'Embedding'])
def test_hands_its_table_of_embeddings_to_the_ngrammer(softmax):
  tpl = CLUSTERS.clone().set(unigram_vocab_size=7, full_update_cache_frequency=1)
  layer = build(tpl)
  other = pax_fiddle.Config(getattr(embedding_softmax, softmax))
  name = 'separate_embedding_tpl' if softmax == 'Embedding' else 'softmax_tpl'
  # VQNgrammer checks that its cache has a row for each row of the table.
  found = layer.clone(**{name: other}).abstract_init_with_metadata(
    IDS, PAD, do_eval=False
  )
  cache = found['non_trainable']['ngrammer']['input_id_to_cluster_id_cache']
  assert cache.shape == [7, 2]


def test_samples_of_a_prefix_go_on_from_its_last_token():
  layer, (_, variables) = build(*TEMPLATES, lpb=True), init()

  def broadcast(mdl):
    mdl(jnp.asarray(IDS), PAD)
    mdl.update_decode_state('ngrammer_prefix', jnp.asarray([[3], [5]]))
    mdl.lazy_broadcast_prefix(num_suffix_samples=3, suffix_length=2)

  run = jax.jit(
    lambda v: harness.apply(
      layer,
      v,
      method=broadcast,
      do_eval=True,
      mutable=['decoder_cache', 'prefix_decoder_cache'],
    )[1]
  )
  cache = run(variables)['decoder_cache']
  np.testing.assert_array_equal(cache['ngrammer_prefix'][:, 0], [3, 5] * 3)
  assert cache['ngrammer_prefix_emb'].shape == (6, 1, 8)
