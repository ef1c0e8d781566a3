"""Cases of `base_ops`: the injectable einsum and indexing."""

import numpy as np

from praxis_compare.inputs import floats, ids
from praxis_compare.spec import case

X = floats(2, 5, 4)
TABLE = floats(3, 4, name='table')
NEWER = {'error': 'EinsumGatedOp is newer than Praxis 1.4.0'}

CASES = [
    case('base_ops.EinsumOp', 'matmul', {}, '...y,yz->...z', X, floats(4, 3, name='w')),
    case('base_ops.EinsumOp', 'heads', {}, 'btd,dnh->btnh', X,
         floats(4, 2, 3, name='w')),
    case('base_ops.EinsumOp', 'three-operands', {}, 'ab,bc,cd->ad', floats(2, 3),
         floats(3, 4), floats(4, 5)),
    case('base_ops.EinsumGatedOp', 'default', {}, 'btd,dh->bth', X,
         floats(4, 3, name='k'), floats(4, 3, name='gate'), known=NEWER),
    case('base_ops.EinsumGatedOp', 'two-operands', {}, 'btd,dh->bth', X,
         floats(4, 3, name='k'), raises='AssertionError', known=NEWER),
    case('base_ops.ArrayLookup', 'default', {}, TABLE, (ids(2, 5, below=3),)),
    case('base_ops.ArrayLookup', 'outside', {}, TABLE,
         (np.array([[3, -1, -9], [0, 2, 100]], np.int32),)),
    case('base_ops.ArrayLookup', 'two-axes', {}, TABLE,
         (ids(6, below=3), ids(6, below=4, name='columns'))),
]
