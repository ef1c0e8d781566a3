"""Names of variable collections and random streams, as Pax code spells them."""

from collections.abc import Callable
from typing import Any

# Collections: the top-level keys of a variables dict.
PARAMS = 'params'
NON_TRAINABLE = 'non_trainable'
AUX_LOSS = 'aux_loss'
SUMMARIES = 'summaries'
DECODE_CACHE = 'decoder_cache'
PREFIX_DECODE_CACHE = 'prefix_decoder_cache'
INTERMEDIATES = 'intermediates'
HYPER_PARAMS = 'hyper_params'
NON_PAX_VAR_COLLECTION = ['batch_stats', 'params_axes']

# What `layer.init` may write unless it is told otherwise.
DEFAULT_INIT_MUTABLE_LIST = [PARAMS, NON_TRAINABLE] + NON_PAX_VAR_COLLECTION

# Random streams. Parameters are drawn from the stream named like their collection.
RANDOM = 'random'
NON_PAX_RNG_KEY = 'dropout'

# Names of the companions of a quantized or sparse variable `w`: `w` + postfix.
QUANTIZED_SCALE_NAME_POSTFIX = '_quantized_scale'
QUANTIZED_ZP_NAME_POSTFIX = '_quantized_zp'
SPARSITY_NAME_POSTFIX = '_sparsity_mask'

PMAP_PARALLEL_AXIS_NAME = 'batch'

# (tensor, batch_dim, time_dim) -> tensor. A dim of -1 is absent from the tensor.
DecodeStateTransformFn = Callable[[Any, int, int | None], Any]
