"""Cases of `stochastics`: same key, same mask."""

from praxis_compare.inputs import floats
from praxis_compare.spec import case, family

X = floats(4, 5, 6)
QK = floats(2, 3, 5, 5)


dropout = family('stochastics.Dropout', keep_prob=0.7)

CASES = [
    dropout('keep-all', X, keep_prob=1.0),
    dropout('default', X),
    dropout('half', X, keep_prob=0.5),
    dropout('rank-1', floats(9)),
    dropout('at-eval', X, dropout_at_eval=True),
    dropout('noise-shape', X, noise_shape=[4, 1, 6]),
    dropout('broadcast-dims', X, noise_shape_broadcast_dims=[1]),
    dropout('broadcast-negative', X, noise_shape_broadcast_dims=[-1, 0]),
    dropout('broadcast-outside', X, noise_shape_broadcast_dims=[3], raises='ValueError',
            modes=('train',)),
    dropout('transpose-qk', QK, transpose_qk=True),
    dropout('transpose-qk-oblong', floats(2, 3, 4, 5), transpose_qk=True),
    dropout('transpose-qk-rank-3', X, transpose_qk=True),
    dropout('keep-none', X, keep_prob=0.0, raises='AssertionError', modes=('train',)),
    case('stochastics.StochasticResidual', 'default', {}, X, floats(4, 5, 6, name='r')),
    case('stochastics.StochasticResidual', 'half', dict(survival_prob=0.5), X,
         floats(4, 5, 6, name='r')),
    case('stochastics.StochasticResidual', 'weighted',
         dict(survival_prob=0.8, residual_weight=0.3), floats(7, 3),
         floats(7, 3, name='r')),
]
