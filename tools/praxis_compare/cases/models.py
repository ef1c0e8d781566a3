"""Cases of `models`: tasks with their losses and metrics."""

import importlib

import numpy as np

from praxis_compare.cases import transformer_models as parts
from praxis_compare.inputs import floats, ids, probabilities
from praxis_compare.spec import DTYPES, FLOAT32, Map, Name, cfg, family

PAD, WEIGHTS, SEGMENTS = parts.PAD, parts.WEIGHTS, parts.SEGMENTS
BATCH = Map(ids=parts.IDS, labels=parts.LABELS['class_ids'], paddings=PAD,
            weights=WEIGHTS)
LM = cfg('transformer_models.TransformerLm', model_dims=4, vocab_size=7,
         stacked_transformer_tpl=parts.STACK)
PACKED = cfg('transformer_models.TransformerLm', model_dims=4, vocab_size=7,
             stacked_transformer_tpl=parts.STACK, packed_input=True)
PREFIX = Map(BATCH, inputs_indicator=np.array([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]],
                                              np.int32))
EXAMPLES = Map(BATCH, eval_sample_weights=np.array([1, 0], np.int32))

task = family('models.LanguageModel', BATCH, lm_tpl=LM, dtypes=FLOAT32,
              modes=('train',))

LANGUAGE_MODELS = [
    task('default'),
    task('packed', Map(BATCH, **SEGMENTS), lm_tpl=PACKED),
    task('prefix', PREFIX, model_type=Name(parts.TYPE + 'PREFIX'), modes=('eval',)),
    task('bidirectional', model_type=Name(parts.TYPE + 'BIDIRECTIONAL'),
         return_predictions=True, modes=('eval',)),
    task('count-tokens', count_tokens=True, modes=('train', 'eval'), grads=False),
    task('strict', EXAMPLES, report_strict_acc=True, apply_eval_sample_weights=True,
         modes=('eval',), grads=False, dtypes=DTYPES),
]



def settings(kind, **fields):
  """Decodes with settings of `decoder_hparams`, greedy ones by `kind` ''."""
  def call(layer, batch):
    if layer.is_initializing():
      return layer(batch)
    package = type(layer).__module__.partition('.')[0]
    module = importlib.import_module(f'{package}.decoder_hparams')
    params = pax_fiddle_of(package).build(pax_fiddle_of(package).Config(
        getattr(module, kind), **fields))
    if hasattr(layer, 'lm'):
      return layer.decode_with_params(params, batch)
    return layer.decode_with_params(batch, params)

  call.__name__ = f'decode {kind} {fields}'
  return call


def pax_fiddle_of(package):
  return importlib.import_module(f'{package}.pax_fiddle')


PROMPT = Map(ids=parts.IDS, labels=parts.LABELS['class_ids'], paddings=np.array(
    [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]], np.int32), weights=WEIGHTS)
PREFILLED = dict(max_decode_steps=3, fprop_for_prefix=True, seqlen=9)
CACHED = dict(modes=('eval',), grads=False, collections=('decoder_cache',))
decoded = family('models.LanguageModel', PROMPT, lm_tpl=LM, dtypes=FLOAT32, **CACHED)
SAMPLED = 'SampleDecoderHParams'

DECODED = [
    decoded('greedy-prefilled', method=settings('GreedyDecoderHParams', **PREFILLED)),
    decoded('sample', method=settings(SAMPLED, num_samples=2, k=3, temperature=0.8,
                                      **PREFILLED)),
    decoded('beam', method=settings('BeamSearchHParams', beam_size=2, **PREFILLED)),
    decoded('no-length', method=settings('GreedyDecoderHParams'), raises='ValueError'),
]

# As long as the target, so that ops are compiled once; else in transformer_models.
SOURCE = Map(ids=ids(2, 6, below=7, name='source'), paddings=PAD)
SOURCE_SEGMENTS = {k: v[::-1].copy() for k, v in SEGMENTS.items()}
PAIR = Map(src=SOURCE, tgt=BATCH)
TRANSLATOR = cfg('transformer_models.TransformerEncoderDecoder', model_dims=4,
                 encoder_stacked_transformer_tpl=parts.ENCODER,
                 decoder_stacked_transformer_tpl=parts.DECODER,
                 **{'softmax_tpl.num_classes': 7})
sequence = family('models.SequenceModel', PAIR, model_tpl=TRANSLATOR, dtypes=FLOAT32,
                  modes=('train',))

MASKED = Map(labels=parts.IDS, paddings=PAD, **SEGMENTS)
GIVEN_MASK = Map(MASKED, masked_ids=np.where(parts.IDS == 2, 0, parts.IDS),
                 masked_pos=np.array(parts.IDS == 2, np.float32))
BIDIRECTIONAL = cfg('transformer_models.TransformerLm', model_dims=4, vocab_size=7,
                    stacked_transformer_tpl=parts.STACK, packed_input=True,
                    model_type=Name(parts.TYPE + 'BIDIRECTIONAL'))
bert = family('models.BertModel', MASKED, lm_tpl=BIDIRECTIONAL, dtypes=FLOAT32,
              modes=('train',))

FEATURES = cfg('linears.FeedForward', input_dims=4, output_dims=4)
IMAGES = Map(image=floats(3, 4), label_probs=probabilities(3, 7))
classify = family('models.ClassificationModel', IMAGES, network_tpl=FEATURES,
                  dtypes=FLOAT32, modes=('train',), softmax_tpl=cfg(
                      'embedding_softmax.FullSoftmax', input_dims=4, num_classes=7))


def predict(layer, batch):
  if layer.is_initializing():
    layer(batch)
  return layer.predict(batch)


CASES = [
    *LANGUAGE_MODELS,
    *DECODED,
    sequence('default', label_smoothing_prob=0.1),
    sequence('packed', Map(src=Map(SOURCE, **SOURCE_SEGMENTS),
                           tgt=Map(BATCH, **SEGMENTS)), modes=('eval',), grads=False,
             return_predictions=True, dtypes=DTYPES,
             model_tpl=cfg('transformer_models.TransformerEncoderDecoder', model_dims=4,
                           packed_input=True, **{
                               'encoder_stacked_transformer_tpl': parts.ENCODER,
                               'decoder_stacked_transformer_tpl': parts.DECODER,
                               'softmax_tpl.num_classes': 7})),
    sequence('greedy', **CACHED, method=settings('GreedyDecoderHParams', seqlen=6)),
    sequence('beam', **CACHED, method=settings(
        'BeamSearchHParams', beam_size=2, seqlen=6, max_decode_steps=4)),
    bert('default', label_smoothing_prob=0.1),
    bert('given-masks', GIVEN_MASK, modes=('eval',), grads=False, dtypes=DTYPES),
    bert('forced-masks', GIVEN_MASK, force_mask_generation=True, modes=('eval',),
         grads=False),
    bert('causal', lm_tpl=PACKED, raises='AssertionError'),
    classify('default'),
    classify('weights', Map(IMAGES, weight=np.array([1, 0, 0.5], np.float32)),
             modes=('eval',), dtypes=DTYPES),
    classify('few-classes', Map(image=floats(3, 4), label_probs=probabilities(3, 5)),
             modes=('eval',), grads=False, softmax_tpl=cfg(
                 'embedding_softmax.FullSoftmax', input_dims=4, num_classes=5)),
    classify('predict', method=predict, modes=('eval',), grads=False),
    classify('bad-weights', Map(IMAGES, weight=np.ones([2], np.float32)),
             raises='ValueError'),
    family('models.ClassificationMLPModel')(
        'default', Map(ids=parts.IDS, labels=parts.LABELS['class_ids'],
                       weights=WEIGHTS), **{
            'mlp_tpl.hidden_dims': 5, 'mlp_tpl.ff_tpl.input_dims': 4,
            'mlp_tpl.ff_tpl.output_dims': 4, 'softmax_tpl.input_dims': 4,
            'softmax_tpl.num_classes': 7}),
]
