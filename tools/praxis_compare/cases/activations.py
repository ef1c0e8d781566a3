"""Cases of `activations`: every function on a range and on its edges."""

import numpy as np

from praxis_compare.inputs import floats
from praxis_compare.spec import BFLOAT16, case

X = floats(3, 7, scale=8.0)
# Signed zeros, both sides of every kink, values deep in the tails.
EDGES = np.array([-90.0, -8.0, -1.0, -1e-3, -0.0, 0.0, 1e-3, 1.0, 6.0, 6.5, 20.0],
                 np.float32)

NAMES = ('ReLU', 'SineReLU', 'ReLU6', 'SquaredReLU', 'CubedReLU', 'LeakyReLU', 'ELU',
         'Sigmoid', 'Tanh', 'GELU', 'SiLU', 'Swish', 'Softplus', 'Exp', 'Identity')

CASES = [
    case('activations.BaseActivation', 'abstract', {}, X, raises='NotImplementedError'),
    *[case(f'activations.{name}', 'default', {}, X) for name in NAMES],
    *[case(f'activations.{name}', 'edges', {}, EDGES, modes=('train',))
      for name in NAMES],
    case('activations.LeakyReLU', 'slope', dict(negative_slope=0.3), X),
    case('activations.GELU', 'exact', dict(approximate=False), X),
    case('activations.GELU', 'exact-edges', dict(approximate=False), EDGES,
         modes=('train',)),
    case('activations.Tanh', 'float32-input', {}, X, cast_inputs=False,
         dtypes=BFLOAT16),
]
