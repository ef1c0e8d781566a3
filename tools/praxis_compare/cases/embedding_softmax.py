"""Cases of `embedding_softmax`, lookups and positions: ids to vectors."""

import numpy as np

from praxis_compare.inputs import floats, ids, paddings
from praxis_compare.spec import BFLOAT16, case, family

IDS = ids(2, 5, below=7)
OUTSIDE = np.array([[0, 6, 7], [-1, 20, 3]], np.int32)
VD = {'num_classes': 7, 'input_dims': 4}
Q = floats(2, 5, 3, 4)
POSITION = ids(2, 5, below=9, name='position')

emb = family('embedding_softmax.Embedding', **VD)
pos = family('embedding_softmax.PositionalEmbedding', embedding_dims=6)
pos2 = family('embedding_softmax.PositionalEmbedding2D', embedding_dims=8, h=2, w=3)
rope = family('embedding_softmax.RotaryPositionalEmbedding', embedding_dims=4)
learned = family('embedding_softmax.TrainablePositionalEmbedding', embedding_dims=4,
                 max_seq_length=9)

CASES = [
    case('embedding_softmax.TokenCounter', 'default', {}, IDS, paddings(2, 5)),
    emb('index', IDS),
    emb('index-outside', OUTSIDE),
    emb('matmul', IDS, lookup_style='matmul'),
    emb('matmul-outside', OUTSIDE, lookup_style='matmul'),
    emb('scaled', IDS, scale_sqrt_depth=True),
    emb('nan-outside', OUTSIDE, set_nan_for_oob_id=True),
    emb('nan-outside-matmul', OUTSIDE, set_nan_for_oob_id=True, lookup_style='matmul'),
    emb('emb-lookup', IDS, method='emb_lookup'),
    emb('extend-step', ids(2, below=7), kwargs={'time_step': 3}, method='extend_step'),
    emb('bad-style', IDS, lookup_style='hash', raises='ValueError'),
    emb('no-classes', IDS, num_classes=0, raises='AssertionError'),
    pos('length', 5),
    pos('odd-depth', 5, embedding_dims=5),
    pos('position', kwargs={'position': POSITION}),
    pos('timescales', 5, min_timescale=2, max_timescale=50),
    pos('one-frequency', 4, embedding_dims=2),
    pos('no-length', raises='AssertionError'),
    pos('position-rank', kwargs={'position': ids(5, below=9)}, raises='AssertionError'),
    pos2('default'),
    pos2('odd-grid', h=3, w=5),
    pos2('cls-tokens', num_prepend_cls_tokens=1, num_append_cls_tokens=2),
    pos2('depth-6', embedding_dims=6, raises='TypeError'),
    rope('default', Q),
    rope('rank-3', floats(2, 5, 4),
         known={'error': 'rank 3 is newer than Praxis 1.4.0'}),
    rope('position', Q, POSITION),
    rope('timescales', Q, min_timescale=2, max_timescale=50),
    rope('no-cast', Q, cast_as_fprop_dtype=False),
    rope('float32-input', Q, cast_inputs=False, dtypes=BFLOAT16),
    rope('no-cast-float32-input', Q, cast_as_fprop_dtype=False, cast_inputs=False,
         dtypes=BFLOAT16),
    rope('odd-depth', floats(2, 5, 3, 5), embedding_dims=5, raises='ValueError'),
    rope('wrong-depth', floats(2, 5, 3, 6), raises='ValueError'),
    rope('rank-2', floats(5, 4), raises='ValueError'),
    rope('extend-step', floats(2, 3, 4), 3, method='extend_step'),
    rope('extend-step-rank-2', floats(2, 4), 3, method='extend_step',
         known={'error': 'rank 2 is newer than Praxis 1.4.0'}),
    rope('extend-step-window', floats(2, 4, 3, 4), 2, method='extend_step'),
    rope('extend-step-positions', floats(2, 3, 4), np.array([0, 7], np.int32),
         method='extend_step'),
    learned('matmul', 5),
    learned('index', 5, lookup_style='index'),
    learned('matmul-position', kwargs={'position': POSITION}),
    learned('index-position', kwargs={'position': POSITION}, lookup_style='index'),
    learned('matmul-position-length', 6, POSITION),
    learned('index-position-length', 6, POSITION, lookup_style='index'),
    learned('too-long', 10, raises='TypeError'),
    learned('bad-style', 5, lookup_style='hash', raises='ValueError'),
]
