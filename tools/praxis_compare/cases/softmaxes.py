"""Cases of `embedding_softmax`, softmaxes: logits, losses, tied lookups."""

import numpy as np

from praxis_compare.inputs import floats, ids, paddings, probabilities
from praxis_compare.spec import BFLOAT16, cfg, family

X = floats(2, 5, 4)
WEIGHTS = 1 - paddings(2, 5, 1)
CLASSES = ids(2, 5, 1, below=7)
PROBS = probabilities(2, 5, 7)
IDS = ids(2, 5, below=7, name='lookup')
VD = {'num_classes': 7, 'input_dims': 4}
MESH = {'ici_mesh_shape': [1, 1], 'mesh_axis_names': ['d', 'm'],
        'weight_split_dims_mapping.wt': ['d', 'm'],
        'activation_split_dims_mapping.out': ['d', None, 'm']}


def tie(layer, inputs, weights, classes, lookup):
  """Loss and lookup in one call, so that the table's gradient sums both uses."""
  return layer(inputs, weights, class_ids=classes), layer.emb_lookup(lookup)


TIED = X, WEIGHTS, CLASSES, IDS
START = {**VD, 'kwargs': {'class_ids': CLASSES}}
full = family('embedding_softmax.FullSoftmax', X, WEIGHTS, **START)
shared = family('embedding_softmax.SharedEmbeddingSoftmax', X, WEIGHTS, **START)
major = family('embedding_softmax.NClassMajorSharedEmbeddingSoftmax', X, WEIGHTS,
               **START)
sigmoid = family('embedding_softmax.SigmoidCrossEntropy', X, WEIGHTS, **START)
gshard = family('embedding_softmax.GShardSharedEmbeddingSoftmax', X, WEIGHTS, **START)

WITH_PROBS = {'class_probabilities': PROBS}
BOTH = {'class_ids': CLASSES, 'class_probabilities': PROBS}
BIAS_FREE = cfg('linears.FeedForward', has_bias=False)
BI = cfg('losses.BiTemperedLoss', t1=0.8, t2=1.3)

CASES = [
    full('default'),
    full('probabilities', X, WEIGHTS, kwargs=WITH_PROBS),
    full('both-targets', X, WEIGHTS, kwargs=BOTH),
    full('soft-cap', soft_cap_logits=2.0),
    full('smoothed', label_smoothing_prob=0.1),
    full('smoothed-in-training', label_smoothing_prob=0.1,
         label_smoothing_apply_for_eval=False),
    full('smoothed-probabilities', X, WEIGHTS, kwargs=WITH_PROBS,
         label_smoothing_prob=0.1),
    full('z-loss', z_loss_weight=0.1),
    full('bi-tempered', bi_tempered_loss_tpl=BI),
    full('bias-init', bias_init=-0.5),
    full('bias-free', feed_forward_tpl=BIAS_FREE),
    full('no-feed-forward', X, WEIGHTS, feed_forward_tpl=None,
         kwargs={'class_ids': CLASSES % 4}, num_classes=4),
    full('scaled', scale_before_logits=True),
    full('chunked', chunk_size=2),
    full('chunked-exact', chunk_size=5),
    full('chunk-too-long', chunk_size=6),
    full('rank-2', floats(6, 4), np.ones((6, 1), np.float32),
         kwargs={'class_ids': ids(6, 1, below=7)}),
    full('float32-input', cast_inputs=False, dtypes=BFLOAT16),
    full('sharded', **MESH),
    full('logits', X, method='get_logits', kwargs={}, soft_cap_logits=2.0),
    full('logits-to-logp', floats(3, 7), method='logits_to_logp', kwargs={}),
    full('no-target', X, WEIGHTS, kwargs={}, raises='ValueError'),
    shared('default'),
    shared('tied', *TIED, kwargs={}, method=tie),
    shared('tied-matmul', *TIED, kwargs={}, method=tie, lookup_style='matmul'),
    shared('tied-scaled', *TIED, kwargs={}, method=tie,
           scale_sqrt_depth=True, scale_before_logits=True),
    shared('smoothed', label_smoothing_prob=0.1, label_smoothing_apply_for_eval=False),
    shared('extend-step', ids(2, below=7), method='extend_step',
           kwargs={'time_step': 1}),
    shared('lookup', IDS, method='emb_lookup', kwargs={}),
    major('default'),
    major('bias-free', use_bias=False),
    major('tied', *TIED, kwargs={}, method=tie),
    major('tied-matmul', *TIED, kwargs={}, method=tie, lookup_style='matmul'),
    major('tied-scaled', *TIED, kwargs={}, method=tie, scale_sqrt_depth=True),
    major('tanh', activation_tpl=cfg('activations.Tanh')),
    major('soft-cap', soft_cap_logits=2.0, z_loss_weight=0.1),
    major('ignores', scale_before_logits=True, feed_forward_tpl=BIAS_FREE),
    major('bi-tempered', bi_tempered_loss_tpl=BI),
    major('smoothed', label_smoothing_prob=0.1, label_smoothing_apply_for_eval=False),
    major('sharded', **MESH),
    major('extend-step', ids(2, below=7), method='extend_step',
          kwargs={'time_step': 1}),
    sigmoid('default'),
    sigmoid('probabilities', X, WEIGHTS, kwargs=WITH_PROBS),
    sigmoid('class-weights', X, probabilities(2, 5, 7, name='cw'), kwargs=WITH_PROBS),
    sigmoid('soft-cap', soft_cap_logits=2.0, bias_init=0.3),
    sigmoid('one-class', X, WEIGHTS, kwargs={'class_probabilities': PROBS[..., :1]},
            num_classes=1),
    sigmoid('no-feed-forward', X, WEIGHTS, feed_forward_tpl=None, num_classes=4,
            soft_cap_logits=2.0, kwargs={'class_probabilities': PROBS[..., :4]}),
    sigmoid('no-feed-forward-sizes', feed_forward_tpl=None, raises='ValueError'),
    sigmoid('float32-input', cast_inputs=False, dtypes=BFLOAT16),
    sigmoid('logits-to-logp', floats(3, 7), method='logits_to_logp', kwargs={},
            known={'error': 'the method is newer than Praxis 1.4.0'}),
    sigmoid('no-target', X, WEIGHTS, kwargs={}, raises='ValueError'),
    sigmoid('one-class-ids', num_classes=1, raises='ValueError'),
    sigmoid('weights-size', X, floats(2, 5, 3), kwargs=WITH_PROBS, raises='ValueError'),
    gshard('default'),
    gshard('probabilities', X, WEIGHTS, kwargs=WITH_PROBS),
    gshard('weight-denominator', use_tgt_labels_size_as_loss_denominator=False),
    gshard('smoothed', label_smoothing_prob=0.1),
    gshard('smoothed-probabilities', X, WEIGHTS, kwargs=WITH_PROBS,
           label_smoothing_prob=0.1),
    gshard('z-loss', z_loss_weight=0.1),
    gshard('soft-cap', soft_cap_logits=0.5),
    gshard('clipped', logits_abs_max=0.2),
    gshard('tied', *TIED, kwargs={}, method=tie),
    gshard('lookup', IDS, method='emb_lookup', kwargs={}),
    gshard('extend-step', ids(2, below=7), method='extend_step',
           kwargs={'time_step': 1}),
    gshard('float32-input', cast_inputs=False, dtypes=BFLOAT16),
    gshard('sharded', **MESH),
]
