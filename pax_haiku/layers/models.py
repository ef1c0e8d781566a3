"""Tasks: models with their losses and metrics. A facade under their Pax name.

It names the modules of their parts, too: Pax code writes `models.transformer_models`.
"""

from pax_haiku.decoder_hparams import (
  BeamSearchHParams,
  DecoderHParams,
  FlatBeamSearchHParams,
  GreedyDecoderHParams,
  SampleDecoderHParams,
)
from pax_haiku.layers import (
  augmentations,
  embedding_softmax,
  linears,
  resnets,
  transformer_models,
)
from pax_haiku.layers.bert_model import BertModel
from pax_haiku.layers.classification_models import (
  ClassificationMLPModel,
  ClassificationModel,
)
from pax_haiku.layers.language_model import LanguageModel
from pax_haiku.layers.model_metrics import (
  add_hist,
  compute_xent_loss_helper,
  template_has_type,
)
from pax_haiku.layers.sequence_model import SequenceModel
from pax_haiku.layers.transformer_lm import LanguageModelType

__all__ = [
  'BeamSearchHParams',
  'BertModel',
  'ClassificationMLPModel',
  'ClassificationModel',
  'DecoderHParams',
  'FlatBeamSearchHParams',
  'GreedyDecoderHParams',
  'LanguageModel',
  'LanguageModelType',
  'SampleDecoderHParams',
  'SequenceModel',
  'add_hist',
  'augmentations',
  'compute_xent_loss_helper',
  'embedding_softmax',
  'linears',
  'resnets',
  'template_has_type',
  'transformer_models',
]
