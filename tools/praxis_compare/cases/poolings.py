"""Cases of `poolings`: windows, borders, paddings."""

import numpy as np

from praxis_compare.inputs import floats, ids, paddings
from praxis_compare.spec import FLOAT32, family

IM = floats(2, 5, 6, 3)
PAD = paddings(2, 5)
X = floats(2, 7, 3)
XPAD = np.array([[0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 1]], np.float32)
# Some step is left in each window of two or more.
SPARSE = np.array([[0, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0]], np.float32)
ZERO_BY_ZERO = {'grads': 'of a window that is all padding Praxis divides 0 by 0, so '
                'its gradient of the paddings is NaN; ours is finite'}


pool = family('poolings.Pooling', window_shape=(3, 2), window_stride=(2, 2))
everywhere = family('poolings.GlobalPooling')
pool1 = family('poolings.Pooling1D')

CASES = [
    pool('max', IM),
    pool('max-paddings', IM, PAD),
    pool('max-valid', IM, PAD, padding='VALID'),
    pool('max-dense', IM, PAD, window_stride=(1, 1),
         dtypes=FLOAT32),
    pool('max-dense-valid', IM, PAD, window_stride=(1, 2), padding='VALID',
         dtypes=FLOAT32),
    pool('avg', IM, pooling_type='AVG'),
    pool('avg-paddings', IM, PAD, pooling_type='AVG'),
    pool('avg-valid', IM, PAD, pooling_type='AVG', padding='VALID',
         dtypes=FLOAT32),
    pool('avg-dense', IM, PAD, pooling_type='AVG', window_stride=(1, 1),
         dtypes=FLOAT32),
    pool('integers', ids(2, 5, 6, 3, below=50)),
    pool('avg-integers', ids(2, 5, 6, 3, below=50), pooling_type='AVG'),
    pool('no-window', IM, window_shape=(0, 0), raises='ValueError'),
    pool('bad-length', IM, window_shape=(2,), raises='ValueError'),
    pool('bad-type', IM, pooling_type='MEDIAN', raises='ValueError'),
    pool('bad-padding', IM, padding='FULL', raises='ValueError'),
    everywhere('avg', IM, pooling_dims=[1, 2]),
    everywhere('avg-keepdims', IM, pooling_dims=[1, 2], keepdims=True),
    everywhere('avg-paddings', IM, pooling_dims=[1, 2],
               kwargs={'compatible_paddings': paddings(2, 5, 1, 1)}),
    everywhere('avg-paddings-keepdims', IM, pooling_dims=[1, 2], keepdims=True,
               kwargs={'compatible_paddings': paddings(2, 5, 1, 1)}),
    everywhere('avg-one-dim', X, pooling_dims=[1],
               kwargs={'compatible_paddings': XPAD[..., None]}),
    everywhere('avg-epsilon', X, 0.5, pooling_dims=[1],
               kwargs={'compatible_paddings': XPAD[..., None]}),
    everywhere('max', IM, pooling_dims=[1, 2], pooling_type='MAX'),
    everywhere('max-paddings', X, pooling_dims=[1], pooling_type='MAX',
               kwargs={'compatible_paddings': XPAD[..., None]}),
    everywhere('max-keepdims', X, pooling_dims=[2], pooling_type='MAX', keepdims=True),
    everywhere('no-dims', X, raises='ValueError'),
    everywhere('negative-dim', X, pooling_dims=[-1], raises='ValueError'),
    everywhere('bad-type', X, pooling_dims=[1], pooling_type='SUM',
               raises='ValueError'),
    pool1('trivial', X, XPAD, window=1),
    pool1('trivial-no-paddings', X, window=1),
    pool1('subsample', X, XPAD, window=1, stride=2),
    pool1('avg', X, window=3, stride=2),
    pool1('avg-paddings', X, SPARSE, window=3, stride=2),
    pool1('avg-dense', X, SPARSE, window=2, stride=1,
         dtypes=FLOAT32),
    pool1('avg-all-padding', X, XPAD, window=2, stride=1, known=ZERO_BY_ZERO),
    pool1('max', X, window=3, stride=2, pooling_type='MAX'),
    pool1('max-paddings', X, XPAD, window=3, stride=2, pooling_type='MAX'),
    pool1('max-dense', X, XPAD, window=2, stride=1, pooling_type='MAX'),
    pool1('rank-2', floats(3, 7), window=3, stride=2,
         dtypes=FLOAT32),
    pool1('window-as-stride', X, XPAD, stride=2,
          known={'error': 'Praxis fails on window=0 by assigning its own field; '
                 'the specification lets a port implement window = stride'}),
]
