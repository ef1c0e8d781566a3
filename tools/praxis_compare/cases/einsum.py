"""Cases of `einsum`: fans, biases, and the equations that it refuses."""

from praxis_compare.inputs import floats
from praxis_compare.spec import case

X = floats(2, 5, 4)

CASES = [
    case('einsum.Einsum', 'project', dict(eqn='BTD,DH->BTH', w_shape=(4, 3)), X),
    case('einsum.Einsum', 'heads-bias',
         dict(eqn='BTD,DNH->BTNH', w_shape=(4, 2, 3), use_bias=True), X),
    case('einsum.Einsum', 'ellipsis-bias',
         dict(eqn='...D,DNH->...NH', w_shape=(4, 2, 3), use_bias=True), X),
    case('einsum.Einsum', 'contract-two',
         dict(eqn='BTNH,DNH->BTD', w_shape=(4, 2, 3)), floats(2, 5, 2, 3)),
    case('einsum.Einsum', 'contract-two-bias',
         dict(eqn='BTNH,DNH->BTD', w_shape=(4, 2, 3), use_bias=True),
         floats(2, 5, 2, 3)),
    case('einsum.Einsum', 'sharded',
         dict(eqn='BTD,DNH->BTNH', w_shape=(4, 2, 3), use_bias=True,
              ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'],
              **{'weight_split_dims_mapping.wt': ['d', None, 'm']}), X),
    case('einsum.Einsum', 'bias-not-last',
         dict(eqn='BTD,DH->HBT', w_shape=(4, 3), use_bias=True), X,
         raises='AssertionError', modes=('train',)),
    case('einsum.Einsum', 'dotted-weight',
         dict(eqn='...D,...DH->...H', w_shape=(4, 3)), X, raises='AssertionError',
         modes=('train',)),
    case('einsum.Einsum', 'ellipsis-one-side',
         dict(eqn='...D,DH->H', w_shape=(4, 3)), X, raises='ValueError',
         modes=('train',)),
]
