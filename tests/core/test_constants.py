"""The names are a contract with Pax code and Pax checkpoints."""

from pax_haiku.core import constants


def test_names():
  names = {n: v for n, v in vars(constants).items() if n.isupper()}
  assert names == {
    'PARAMS': 'params',
    'NON_TRAINABLE': 'non_trainable',
    'AUX_LOSS': 'aux_loss',
    'SUMMARIES': 'summaries',
    'DECODE_CACHE': 'decoder_cache',
    'PREFIX_DECODE_CACHE': 'prefix_decoder_cache',
    'INTERMEDIATES': 'intermediates',
    'HYPER_PARAMS': 'hyper_params',
    'NON_PAX_VAR_COLLECTION': ['batch_stats', 'params_axes'],
    'DEFAULT_INIT_MUTABLE_LIST': [
      'params',
      'non_trainable',
      'batch_stats',
      'params_axes',
    ],
    'RANDOM': 'random',
    'NON_PAX_RNG_KEY': 'dropout',
    'QUANTIZED_SCALE_NAME_POSTFIX': '_quantized_scale',
    'QUANTIZED_ZP_NAME_POSTFIX': '_quantized_zp',
    'SPARSITY_NAME_POSTFIX': '_sparsity_mask',
    'PMAP_PARALLEL_AXIS_NAME': 'batch',
  }
