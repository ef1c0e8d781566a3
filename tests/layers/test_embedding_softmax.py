"""Embedding and softmax layers under their Pax names, with Pax's fields."""

import pytest

from pax_haiku.layers import embedding_softmax
from tests.layers import harness

# 'class base': what the class adds to its base, as recorded from Praxis.
FIELDS = {
  'TokenCounter BaseLayer': '',
  'Embedding BaseLayer': (
    "num_classes=0, input_dims=0, lookup_style='index', "
    'scale_sqrt_depth=False, set_nan_for_oob_id=False, '
    "array_lookup='ArrayLookup', einsum='EinsumOp', "
    'ActivationSharding=emb_out_split_dims_mapping'
  ),
  'FullSoftmax BaseLayer': (
    'input_dims=0, num_classes=0, soft_cap_logits=0.0, '
    'bi_tempered_loss_tpl=None, label_smoothing_prob=0.0, '
    'label_smoothing_apply_for_eval=True, z_loss_weight=0.0, bias_init=0.0, '
    "feed_forward_tpl='FeedForward', scale_before_logits=False, "
    'chunk_size=None'
  ),
  'SharedEmbeddingSoftmax FullSoftmax': (
    "lookup_style='index', scale_sqrt_depth=False, "
    "array_lookup_tpl='ArrayLookup', einsum_tpl='EinsumOp', "
    'ActivationSharding=emb_out_split_dims_mapping/extend_step_out'
  ),
  'NClassMajorSharedEmbeddingSoftmax SharedEmbeddingSoftmax': (
    "activation_tpl='Identity', use_bias=True"
  ),
  'SigmoidCrossEntropy BaseLayer': (
    'input_dims=0, num_classes=0, soft_cap_logits=0.0, bias_init=0.0, '
    "feed_forward_tpl='FeedForward'"
  ),
  'GShardSharedEmbeddingSoftmax BaseLayer': (
    'input_dims=0, num_classes=0, '
    'use_tgt_labels_size_as_loss_denominator=True, soft_cap_logits=0.0, '
    'logits_abs_max=0.0, z_loss_weight=0.0, label_smoothing_prob=0.0, '
    'ActivationSharding=emb_out_split_dims_mapping/extend_step_out'
  ),
  'PositionalEmbedding BaseLayer': (
    'min_timescale=1, max_timescale=10000, embedding_dims=0'
  ),
  'PositionalEmbedding2D BaseLayer': (
    "h=0, w=0, embedding_dims=0, pos_transform='hwd->(hw)d', "
    'num_prepend_cls_tokens=0, num_append_cls_tokens=0'
  ),
  'RotaryPositionalEmbedding PositionalEmbedding': 'cast_as_fprop_dtype=True',
  'TrainablePositionalEmbedding PositionalEmbedding': (
    "max_seq_length=10240, lookup_style='matmul', "
    "array_lookup_tpl='ArrayLookup', einsum_tpl='EinsumOp', "
    'ActivationSharding=emb_out_split_dims_mapping'
  ),
}


@pytest.mark.parametrize('names', list(FIELDS))
def test_fields_and_defaults(names):
  name, base = names.split()
  cls = getattr(embedding_softmax, name)
  assert cls.__name__ == name
  assert harness.added_fields(cls, base) == FIELDS[names]


def test_exports():
  classes = [names.split()[0] for names in FIELDS]
  functions = []
  assert sorted(embedding_softmax.__all__) == sorted(classes + functions)
