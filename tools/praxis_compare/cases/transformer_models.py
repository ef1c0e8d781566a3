"""Cases of `transformer_models`: language models and encoder-decoders."""

import jax.numpy as jnp
import numpy as np

from praxis_compare.inputs import ids, paddings, probabilities
from praxis_compare.spec import DTYPES, FLOAT32, Map, Name, cfg, family

# Running op by op compiles each op once per shape: the cases share shapes.
IDS = ids(2, 6, below=7)
PAD = np.array(paddings(2, 6), np.int32)
WEIGHTS = np.array(1 - PAD, np.float32)
LABELS = Map(class_ids=ids(2, 6, below=7, name='labels'), class_weights=WEIGHTS)
GIVEN = {'labels': LABELS}
SEGMENTS = {
    'segment_ids': np.array([[1, 1, 2, 2, 2, 2], [1, 1, 1, 2, 0, 0]], np.int32),
    'segment_pos': np.array([[0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 1]], np.int32)}
PREFIX = {'causal_attention_mask': np.array([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
                                            np.int32)}
TYPE = 'transformer_models.LanguageModelType.'
STACK = cfg('transformers.StackedTransformer', num_layers=1, hidden_dims=5, num_heads=2)
REPEATED = cfg('transformers.StackedTransformerRepeated', block=STACK, x_times=2)

lm = family('transformer_models.TransformerLm', IDS, PAD, kwargs=GIVEN, model_dims=4,
            vocab_size=7, stacked_transformer_tpl=STACK, dtypes=FLOAT32)
STEPS = ids(3, 2, below=7, name='steps')
BIGRAMS = cfg('ngrammer.Ngrammer', ngram_vocab_size=11, unigram_vocab_size=7,
              ngram_emb_dim=3, num_heads=1, dim_per_head=4)
CLUSTERS = {'ngram_vocab_size': 11, 'ngram_emb_dim': 3, 'num_clusters': 3,
            'concat_ngrams': True, 'num_heads': 1, 'dim_per_head': 4}
VQ_BIGRAMS = cfg('ngrammer.VQNgrammer', unigram_vocab_size=7, **CLUSTERS)
# Of the heads of attention. Normalized over two features, everything is 1 or -1.
POST = {**CLUSTERS, 'ngram_emb_dim': 2, 'concat_ngrams': False, 'num_heads': 2,
        'dim_per_head': 2}
POST_BIGRAMS = cfg('ngrammer.VQNgrammer', **POST)


def prefill(layer, steps, *args, **kwargs):
  layer(*args, **kwargs)
  layer.transform_decode_state(lambda x, batch, time: jnp.pad(
      x, [(0, 2 if i == time else 0) for i in range(x.ndim)]))


def decode(layer, steps, *args, **kwargs):
  """Three steps, from a longer cache than that of the call."""
  if layer.is_initializing():
    return layer(*args, **kwargs)
  out = []
  for t, step in enumerate(steps):
    pos = jnp.asarray([t, max(t - 1, 0)]) if 'segment_pos' in kwargs else None
    out.append(layer.extend_step(step, segment_pos=pos))
  return out


DECODE = {'method': decode, 'prepare': prefill, 'collections': ('decoder_cache',),
          'modes': ('eval',), 'grads': False}

LANGUAGE_MODELS = [
    lm('default', dtypes=DTYPES, tol={('bfloat16', 'grads'): (
        5e-2, 6e-3, 'bfloat16 noise of a whole model: gradients of Praxis itself are '
        'off by up to 4.6% of those in float32')}),
    lm('predict', kwargs={}, modes=('eval',), grads=False),
    lm('packed', kwargs={**GIVEN, **SEGMENTS}, packed_input=True),
    lm('prefix', kwargs={**GIVEN, **PREFIX}, model_type=Name(TYPE + 'PREFIX')),
    lm('bidirectional', model_type=Name(TYPE + 'BIDIRECTIONAL')),
    lm('causal-mask-has-no-effect', kwargs={**GIVEN, **PREFIX}, modes=('eval',)),
    lm('separate-embedding', modes=('train',), separate_embedding_tpl=cfg(
        'embedding_softmax.Embedding', scale_sqrt_depth=True)),
    lm('class-major', modes=('eval',), softmax_tpl=cfg(
        'embedding_softmax.NClassMajorSharedEmbeddingSoftmax')),
    lm('gshard', modes=('train',), softmax_tpl=cfg(
        'embedding_softmax.GShardSharedEmbeddingSoftmax', z_loss_weight=0.1)),
    lm('no-positions', position_emb_tpl=None, final_ln_tpl=None, modes=('eval',)),
    lm('learned-positions', modes=('eval',), position_emb_tpl=cfg(
        'embedding_softmax.TrainablePositionalEmbedding', max_seq_length=8)),
    lm('entropy', entropy_loss_weight=0.3, record_activations_in_xent_output=True,
       modes=('train',)),
    lm('smoothing', modes=('train',), **{'softmax_tpl.label_smoothing_prob': 0.1}),
    lm('recorded-logits', record_logits_in_xent_output=True, modes=('eval',),
       grads=False, known={'error': 'the field is newer than Praxis 1.4.0'}),
    lm('probabilities', modes=('eval',), kwargs={'labels': Map(
        class_probabilities=probabilities(2, 6, 7), class_weights=WEIGHTS)}),
    lm('skip-loss', skip_compute_loss=True, modes=('eval',), grads=False),
    lm('moe', slow=True, modes=('train',), stacked_transformer_tpl=cfg(
        'transformers.StackedTransformer', num_layers=1, hidden_dims=5, num_heads=2,
        moe_layers=[0], num_experts=3, num_groups=2)),
    lm('moe-no-aux', modes=('eval',), skip_aux_loss=True, stacked_transformer_tpl=cfg(
        'transformers.StackedTransformer', num_layers=1, hidden_dims=5, num_heads=2,
        moe_layers=[0], num_experts=3, num_groups=2)),
    lm('repeated', slow=True, stacked_transformer_tpl=REPEATED, modes=('train',)),
    lm('pipelined', modes=('train',), grads=False, slow=True,
       stacked_transformer_tpl=cfg(
        'transformers.PipelinedTransformer', pipeline_stage=STACK,
        num_pipeline_stages=2, num_pipeline_microbatches=2)),
    lm('decode', STEPS, IDS, PAD, **DECODE),
    lm('decode-packed', STEPS, IDS, PAD, kwargs={**GIVEN, **SEGMENTS}, **DECODE),
    lm('decode-later', STEPS, IDS, PAD, kwargs={'start_time_step': 3}, **DECODE),
    lm('decode-clusters', STEPS, IDS, PAD, **DECODE, slow=True, ngrammer_tpl=VQ_BIGRAMS,
       post_attention_ngrammer_tpls=[POST_BIGRAMS],
       separate_embedding_tpl=cfg('embedding_softmax.Embedding')),
    lm('bigrams-for-no-layer', post_attention_ngrammer_tpls=[VQ_BIGRAMS] * 2,
       raises='ValueError'),
    lm('bad-dims', raises='AssertionError', stacked_transformer_tpl=cfg(
        'transformers.StackedTransformer', num_layers=1, model_dims=3, hidden_dims=5,
        num_heads=2)),
    lm('bad-position', kwargs={'segment_pos': SEGMENTS['segment_pos']},
       raises='AssertionError'),
]

SOURCE, SOURCE_PAD = ids(2, 4, below=7, name='source'), np.array(paddings(2, 4), int)
ENCODER = cfg('transformers.StackedTransformer', num_layers=1, hidden_dims=5,
              num_heads=2)
DECODER = cfg('transformers.StackedTransformer', num_layers=1, hidden_dims=5,
              num_heads=2, mask_self_attention=True, use_cross_attention=True)
PAIRED = {f'target_{k}': v for k, v in SEGMENTS.items()} | {
    'input_segment_ids': np.array([[1, 1, 2, 2], [1, 2, 2, 0]], np.int32),
    'input_segment_pos': np.array([[0, 1, 0, 1], [0, 0, 1, 0]], np.int32)}

# Gradients: SequenceModel, and the cross-attention of `transformers`.
seq2seq = family('transformer_models.TransformerEncoderDecoder', SOURCE, SOURCE_PAD,
                 IDS, PAD, kwargs=GIVEN, model_dims=4, dtypes=FLOAT32, grads=False,
                 encoder_stacked_transformer_tpl=ENCODER,
                 decoder_stacked_transformer_tpl=DECODER,
                 **{'softmax_tpl.num_classes': 7})
OTHER_POSITIONS = cfg('embedding_softmax.PositionalEmbedding', max_timescale=50)
EMBEDDING = cfg('embedding_softmax.Embedding', num_classes=7)


def decode_targets(layer, steps, *args, **kwargs):
  if layer.is_initializing():
    return layer(*args, **kwargs)
  return [layer.extend_step(step) for step in steps]


def encode(layer, *args, **kwargs):
  if layer.is_initializing():
    layer(*args, **kwargs)
  return layer.encode(*args[:2])


ENCODER_DECODERS = [
    seq2seq('default', modes=('train',)),
    seq2seq('predict', kwargs={}, modes=('eval',), dtypes=DTYPES),
    seq2seq('packed', kwargs={**GIVEN, **PAIRED}, packed_input=True, modes=('eval',)),
    seq2seq('own-embeddings', modes=('eval',), position_emb_tpl=None,
            encoder_position_emb_tpl=OTHER_POSITIONS, encoder_embedding_tpl=EMBEDDING,
            decoder_embedding_tpl=EMBEDDING),
    seq2seq('encode', modes=('eval',), method=encode),
    seq2seq('decode', STEPS, SOURCE, SOURCE_PAD, IDS, PAD,
            **{**DECODE, 'method': decode_targets}),
    seq2seq('decode-bigrams', STEPS, SOURCE, SOURCE_PAD, IDS, PAD,
            **{**DECODE, 'method': decode_targets}, encoder_ngrammer_tpl=BIGRAMS,
            decoder_ngrammer_tpl=BIGRAMS,
            decoder_post_attention_ngrammer_tpls=[POST_BIGRAMS]),
    seq2seq('no-encoder', encoder_stacked_transformer_tpl=None, raises='ValueError'),
    seq2seq('no-stack', raises='ValueError',
            decoder_stacked_transformer_tpl=cfg('transformers.Transformer')),
    seq2seq('masked-encoder', encoder_stacked_transformer_tpl=DECODER,
            raises='ValueError'),
    seq2seq('bare-decoder', decoder_stacked_transformer_tpl=ENCODER,
            raises='ValueError'),
    seq2seq('two-positions', encoder_position_emb_tpl=OTHER_POSITIONS,
            raises='ValueError'),
]

CASES = [*LANGUAGE_MODELS, *ENCODER_DECODERS]
