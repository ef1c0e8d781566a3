"""N-grammers of tokens and of clusters: ids, hashing, k-means, the cache, steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import attentions, ngram_ids, ngrammer, vq_ngrammer
from tests.layers import harness

IDS = np.array([[1, 5, 2, 6], [0, 3, 3, 4]], np.int32)
PAD = np.array([[0, 0, 0, 0], [0, 0, 1, 1]], np.float32)
X = harness.noise(2, 4, 2, 4)
HEADS = dict(ngram_vocab_size=11, num_heads=2, dim_per_head=4)
BIGRAMS = dict(unigram_vocab_size=7, ngram_emb_dim=3, **HEADS)
CLUSTERS = dict(num_clusters=3, ngram_emb_dim=4, **HEADS)
# Float32 sums of a few terms in another order, or against float64.
CLOSE = dict(rtol=2e-6, atol=2e-6)


def vq(**fields):
  return harness.build(ngrammer.VQNgrammer, **{**CLUSTERS, **fields})


def bigrams(**fields):
  return harness.build(ngrammer.Ngrammer, **{**BIGRAMS, **fields})


def normed(variables, x):
  """LayerNorm, in float64."""
  x = np.asarray(x, np.float64)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * (1 + np.asarray(variables['scale'])) + np.asarray(variables['bias'])


def nearest(x, means):
  """Clusters `[B, L, N]`."""
  return np.argmin(((x[..., None, :] - means) ** 2).sum(-1), -1)


@pytest.mark.parametrize('pairs, segments', [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_bigram_ids_one_by_one(pairs, segments):
  pair_ids = np.array([[4, 0, 3, 1], [4, 4, 0, 0]]) if pairs else None
  segment_pos = np.array([[0, 1, 0, 1], [0, 1, 2, 0]]) if segments else None
  expected = np.zeros_like(IDS)
  for b, t in np.ndindex(*IDS.shape):
    partner = t - 1 if pair_ids is None else pair_ids[b, t]
    there = 0 <= partner < 4 and (segment_pos is None or segment_pos[b, t] > 0)
    expected[b, t] = IDS[b, t] + (7 * IDS[b, partner] if there else 0)
  found = ngrammer.get_bigram_ids(IDS, 7, segment_pos, pair_ids)
  np.testing.assert_array_equal(found, expected)


def test_big_ids_wrap_around():
  found = ngrammer.get_bigram_ids(np.array([[1 << 20, 5]]), 1 << 13)
  assert found.dtype == np.int32
  assert found[0, 1] == 5 + (1 << 33) % (1 << 32)
  # Hashed as they are, with the sign of the divisor.
  hashed = ngram_ids.hashed(jnp.asarray([-5, 5]), 1, 13, 11)
  np.testing.assert_array_equal(hashed, [2 * -4 % 13 % 11, 2 * 6 % 13 % 11])


def test_primes():
  assert ngram_ids.primes_above(11, 3) == (13, 17, 19)
  assert ngram_ids.primes_above(11, 9) == (13, 17, 19)
  assert ngram_ids.primes_above(196608, 2) == (196613, 196643)
  with pytest.raises(AssertionError, match='vocab_size must be positive, found 0'):
    ngrammer.get_bigram_ids(IDS, 0)


@pytest.mark.parametrize('concat', [True, False])
def test_ngrammer_by_its_formula(concat):
  layer = bigrams(concat_ngrams=concat, ngram_emb_dim=3 if concat else 4)
  variables = harness.randomize(harness.init(layer, IDS, X.reshape(2, 4, 8)))
  v = variables['params']
  out, _ = harness.apply(layer, variables, IDS, X, PAD, merge_heads=False)
  expected = np.zeros(X.shape)
  for (b, t), i in ((bt, i) for bt in np.ndindex(2, 4) for i in range(2)):
    bigram = IDS[b, t] + (7 * IDS[b, t - 1] if t else 0)
    row = (i + 1) * (bigram + 1) % (13, 17)[i] % 11
    e = normed(v[f'ngram_layer_norm_{i}'], v[f'ngram_table_{i}']['emb_var'][row])
    x = normed(v[f'emb_layer_norm_{i}'], X[b, t, i])
    x = np.concatenate([x[:1], e]) if concat else x + e
    expected[b, t, i] = x * (1 - PAD[b, t])
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_k_means_move_toward_what_is_near():
  layer = harness.build(
    ngrammer.VectorQuantization, num_clusters=3, num_heads=2, dim_per_head=4, decay=0.7
  )
  variables = harness.randomize(harness.init(layer, X))
  means = np.asarray(variables['non_trainable']['means'])
  ids = nearest(X, means)
  (distances, found), updated = harness.apply(layer, variables, X, PAD)
  heads = np.arange(2)
  np.testing.assert_allclose(
    distances, ((X[..., None, :] - means) ** 2).sum(-1), rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(
    found, means[heads, ids] * (1 - PAD)[..., None, None], **CLOSE
  )
  expected = 0.7 * means
  for i, k in np.ndindex(2, 3):
    members = X[:, :, i][(ids[:, :, i] == k) & (PAD == 0)]
    expected[i, k] += 0.3 * members.sum(0) / (1e-6 + len(members))
  np.testing.assert_allclose(updated['non_trainable']['means'], expected, **CLOSE)
  summaries = updated['summaries']
  share = np.bincount(ids[:, :, 0][PAD == 0], minlength=3) / 6
  name = 'k_means/centroid/{}_cluster_proportion/head0_scalar'.format
  np.testing.assert_allclose(summaries[name('max')], share.max(), **CLOSE)
  geomean = np.exp(np.log(share[share > 0]).mean())
  np.testing.assert_allclose(summaries[name('geomean')], geomean, **CLOSE)


def test_most_attended_looks_back():
  scores = np.random.default_rng(0).uniform(size=(2, 3, 5, 5))
  found = vq_ngrammer.most_attended(scores, causal=True)
  for b, n, t in np.ndindex(2, 3, 5):
    assert found[b, n, t] == (scores[b, n, t, :t].argmax() if t else 5)


@pytest.fixture(scope='module')
def by_scores():
  layer = vq(ngram_using_attention_scores=True)
  scores = np.random.default_rng(1).uniform(size=(2, 2, 4, 4)).astype(np.float32)
  variables = harness.init(layer, None, X, attention_scores=scores, do_eval=True)
  return layer, harness.randomize(variables), scores


@pytest.mark.parametrize('use_scores', [False, True])
def test_steps_give_what_the_call_gives(by_scores, use_scores):
  layer, variables, scores = by_scores
  call = {'attention_scores': scores}
  if not use_scores:
    layer, call = vq(), {}

  @jax.jit  # the step is not known while tracing
  def one(t, score):
    score = {'attention_score': score} if use_scores else {}
    return harness.apply(
      layer, variables, X, t, method='extend_step', do_eval=True, **score
    )[0]

  whole, _ = harness.apply(layer, variables, None, X, do_eval=True, **call)
  for t in range(4):
    np.testing.assert_allclose(one(t, scores[:, :, t]), whole[:, t], **CLOSE)


def test_renews_the_cache_in_blocks_at_its_steps(monkeypatch):
  monkeypatch.setattr(vq_ngrammer, '_BLOCK', 3)
  layer = vq(unigram_vocab_size=7, full_update_cache_steps=(1,))
  table = harness.noise(7, 8, seed=3)
  variables = harness.init(layer, IDS, table[IDS], emb_var=table)
  train = jax.jit(
    lambda v: harness.apply(
      layer, v, IDS, table[IDS], emb_var=table, mutable=['non_trainable']
    )[1]
  )
  for step in range(3):
    means = variables['non_trainable']['vq_layer']['means']
    before = variables['non_trainable']['input_id_to_cluster_id_cache']
    state = train(variables)['non_trainable']
    seen = nearest(table[IDS].reshape(2, 4, 2, 4), np.asarray(means))
    expected = np.asarray(before).copy()
    expected[IDS] = seen
    if step == 1:
      new = np.asarray(state['vq_layer']['means'])
      expected = nearest(table.reshape(1, 7, 2, 4), new)[0]
    np.testing.assert_array_equal(state['input_id_to_cluster_id_cache'], expected)
    assert state['count'] == step + 1
    variables = {**variables, 'non_trainable': state}


def test_stub_normalizes_alone():
  stub = harness.build(ngrammer.NgrammerStub, num_heads=2, dim_per_head=4)
  variables = harness.randomize(harness.init(stub, None, X))
  out, _ = harness.apply(stub, variables, None, X.reshape(2, 4, 8), PAD)
  norms = [variables['params'][f'emb_layer_norm_{i}'] for i in (0, 1)]
  expected = np.stack([normed(v, X[:, :, i]) for i, v in enumerate(norms)], 2)
  expected = expected.reshape(2, 4, 8) * (1 - PAD)[..., None]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  one, _ = harness.apply(stub, variables, X, 1, method='extend_step')
  np.testing.assert_allclose(one, out[:, 1], **CLOSE)


def test_sharding_of_a_template():
  tpl = pax_fiddle.Config(ngrammer.VQNgrammer, **CLUSTERS)
  out = ngrammer.VQNgrammer.set_canonical_sharding_params(
    tpl,
    replica_axis='replica',
    data_axis='data',
    mdl_axis='mdl',
    ici_mesh_shape=[1, 2, 4],
    dcn_mesh_shape=None,
    mesh_axis_names=['replica', 'data', 'mdl'],
    training_optimized=True,
  )
  assert out is tpl and tpl.weight_split_dims_mapping.wt == ['mdl', 'data']
  assert tpl.ici_mesh_shape == [1, 2, 4] and tpl.mesh_axis_names[0] == 'replica'
  found = tpl.set(name='layer').Instantiate().abstract_init_with_metadata(None, X)
  table = found['params']['ngram_layer']['ngram_table_1']['emb_var']
  assert table.tensor_split_dims_mapping == ['mdl', 'data']


@pytest.mark.parametrize(
  'layer, args, error, message',
  [
    (bigrams(num_heads=4, dim_per_head=2, ngram_emb_dim=2), (IDS, X), ValueError,
     'each of the 4 heads .* prime between ngram_vocab_size = 11 .* there are 3'),
    (bigrams(ngram_emb_dim=5), (IDS, X), AssertionError,
     'ngram_emb_dim must be at most dim_per_head = 4, found 5'),
    (bigrams(concat_ngrams=False), (IDS, X), AssertionError, 'be dim_per_head = 4'),
    (bigrams(unigram_vocab_size=0), (IDS, X), AssertionError,
     'unigram_vocab_size must be positive, found 0'),
    (bigrams(), (None, X), ValueError, r'expected input_ids \[2, 4\] .* found None'),
    (bigrams(), (IDS[:, :2], X), ValueError, r'input_ids .* found shape \(2, 2\)'),
    (bigrams(), (IDS, X[..., :3]), ValueError,
     r'expected embeddings \[batch, length, 8\] or .* found shape \(2, 4, 2, 3\)'),
    (vq(num_clusters=0), (None, X), AssertionError, 'num_clusters must be positive'),
    (vq(ngram_using_attention_scores=True), (None, X), ValueError,
     'attention_scores must be given'),
    (vq(use_cached_input_ids_to_cluster_ids=True), (IDS, X), AssertionError,
     'set unigram_vocab_size to the number of tokens'),
    (vq(use_cached_input_ids_to_cluster_ids=True, unigram_vocab_size=7), (IDS, X),
     AssertionError, 'is for evaluation'),
    (vq(full_update_cache_frequency=2, unigram_vocab_size=7), (IDS, X), AssertionError,
     r'emb_var must be the table of embeddings \[7, 8\], found None'),
  ],
)  # fmt: skip
def test_errors(layer, args, error, message):
  with pytest.raises(error, match=f'(?s)at the root: .*{message}'):
    layer.abstract_init_with_metadata(*args, do_eval=False)


def test_errors_of_steps():
  layer = vq(ngram_using_attention_scores=True, causal_attention=False)
  for score, message in ((None, 'attention_score must be'), (PAD, 'causal_attention')):
    with pytest.raises(ValueError, match=message):
      layer.abstract_init_with_metadata(
        X, 1, attention_score=score, method='extend_step', do_eval=True
      )


def test_attention_steps_with_ngrams_take_one_token():
  layer = harness.build(
    attentions.DotProductAttentionWithLPB,
    input_dim=8, hidden_dim=8, num_heads=2,
    ngrammer_tpl=pax_fiddle.Config(ngrammer.VQNgrammer, **CLUSTERS),
  )  # fmt: skip
  with pytest.raises(NotImplementedError, match='one token at a time with .*ngrammer'):
    harness.apply(
      layer, {'decoder_cache': {'key_state': X}}, X.reshape(2, 4, 8), time_step=0,
      atten_mask=jnp.zeros([1, 1, 4, 4]), segment_pos=None, do_eval=True,
      method='extend_step',
    )  # fmt: skip
