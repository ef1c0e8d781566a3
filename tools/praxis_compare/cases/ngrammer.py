"""Cases of `ngrammer`: bigrams of ids and of clusters, k-means, cached clusters."""

import numpy as np

from praxis_compare.inputs import floats, ids, paddings, uniform
from praxis_compare.spec import DTYPES, FLOAT32, MODES, case, family

# Running op by op compiles each op once per shape: the cases share shapes.
X, PAD = floats(2, 4, 8), paddings(2, 4)
IDS = ids(2, 4, below=7)
HEAD_IDS = ids(2, 4, 2, below=7)
SEGMENT_POS = np.array([[0, 1, 2, 3], [0, 1, 0, 1]], np.int32)
SCORES = uniform('scores', (2, 2, 4, 4), 0.0, 1.0)
TABLE = floats(7, 8, name='table')
HEADS = {'num_heads': 2, 'dim_per_head': 4, 'dtypes': FLOAT32}
TRAIN, EVAL = ('train',), ('eval',)
ONCE = {'modes': EVAL, 'grads': False}

bigrams = family('ngrammer.Ngrammer', IDS, X, PAD, ngram_vocab_size=11,
                 unigram_vocab_size=7, ngram_emb_dim=3, **HEADS)
means = family('ngrammer.VectorQuantization', X, PAD, num_clusters=3, grads=False,
               **HEADS)
vq = family('ngrammer.VQNgrammer', IDS, X, PAD, ngram_vocab_size=11, ngram_emb_dim=4,
            num_clusters=3, **HEADS)
COMPONENTS = {'num_components': 3, 'coefficients_steps': 2, 'end_step': 9}
soft = family('ngrammer.BregmanNgrammer', None, X, PAD, ngram_vocab_size=5,
              ngram_emb_dim=3, modes=TRAIN, **COMPONENTS, **HEADS, known={
                  'metadata': 'Praxis 1.4.0 puts the whole sharding config where the '
                  'mapping of these variables belongs, which no mesh can use'})


def train_twice(layer, *args, **kwargs):
  """What a second step of training sees of the first."""
  layer(*args, **kwargs)
  return layer(*args, **kwargs)


CASES = [
    bigrams('default', dtypes=DTYPES, modes=TRAIN, grads=False),
    bigrams('segments', kwargs={'segment_pos': SEGMENT_POS, 'merge_heads': False},
            concat_ngrams=False, ngram_emb_dim=4, **ONCE),
    bigrams('pairs', HEAD_IDS, X.reshape(2, 4, 2, 4), None, SEGMENT_POS, **ONCE,
            kwargs={'pair_ids': np.array([[[4, 0, 0, 1], [4, 1, 2, 3]]] * 2)}),
    bigrams('too-wide', ngram_emb_dim=5, raises='AssertionError'),
    bigrams('not-to-add', concat_ngrams=False, raises='AssertionError'),
    bigrams('no-unigrams', unigram_vocab_size=0, raises='AssertionError'),
    means('default', dtypes=DTYPES),
    means('prenormalize', X.reshape(2, 4, 2, 4), modes=TRAIN, prenormalize=True,
          decay=0.5, epsilon=0.1),
    means('unused', kwargs={'summarize_and_update': False}, modes=TRAIN),
    means('no-clusters', num_clusters=0, raises='AssertionError'),
    vq('default', dtypes=DTYPES, modes=TRAIN),
    vq('concat', unigram_vocab_size=7, concat_ngrams=True, ngram_emb_dim=3, modes=TRAIN,
       prenormalize=True, decay=0.5, grads=False),
    vq('scores', kwargs={'attention_scores': SCORES, 'merge_heads': False},
       ngram_using_attention_scores=True, **ONCE),
    vq('all-scores', kwargs={'attention_scores': SCORES, 'segment_pos': SEGMENT_POS},
       ngram_using_attention_scores=True, causal_attention=False, **ONCE),
    vq('cached', unigram_vocab_size=7, **ONCE,
       use_cached_input_ids_to_cluster_ids=True),
    vq('time-zero', np.array([[0, 1, 0, 2]] * 2, np.int32),
       X * np.array([0, 1, 1, 0], np.float32)[:, None],
       kwargs={'check_time_step_zero': True}, **ONCE),
    vq('full-updates', kwargs={'emb_var': TABLE}, unigram_vocab_size=7, modes=TRAIN,
       full_update_cache_frequency=2, full_update_cache_steps=(1,), grads=False,
       method=train_twice),
    vq('no-updates', kwargs={'emb_var': TABLE}, unigram_vocab_size=7, modes=TRAIN,
       full_update_cache_steps=(1,), enable_cache_updates=False, grads=False),
    vq('no-scores', ngram_using_attention_scores=True, raises='ValueError'),
    vq('cached-in-training', unigram_vocab_size=7, modes=TRAIN,
       use_cached_input_ids_to_cluster_ids=True, raises='AssertionError'),
    vq('no-table', unigram_vocab_size=7, full_update_cache_frequency=1, modes=TRAIN,
       raises='AssertionError'),
    soft('default', dtypes=DTYPES, modes=MODES, grads=False, concat_ngrams=False,
         ngram_emb_dim=4, constant_lr_schedule=False),
    soft('too-many', num_components=5, raises='ValueError'),
    case('ngrammer.NgrammerStub', 'default', {'num_heads': 2, 'dim_per_head': 4}, None,
         X, PAD, grads=False),
    case('ngrammer.BregmanCompression', 'default', {'num_heads': 2, 'dim_per_head': 4,
         **COMPONENTS, 'constant_lr_schedule': False}, X, PAD, grads=False),
]
