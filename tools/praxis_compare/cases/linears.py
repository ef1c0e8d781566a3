"""Cases of `linears`: Linear, Bias, FeedForward, MLPBlock, StackingOverTime."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import case, cfg, init

X = floats(2, 5, 4)
PAD = paddings(2, 5, 1)

CASES = [
    case('linears.Linear', 'default', dict(input_dims=4, output_dims=3), X),
    case('linears.Linear', 'rank-1', dict(input_dims=4, output_dims=3), floats(4)),
    case('linears.Linear', 'rank-2-odd', dict(input_dims=7, output_dims=1), floats(3, 7)),
    case('linears.Linear', 'weight-init',
         dict(input_dims=4, output_dims=3, weight_init=init('Gaussian', 0.3)), X),
    case('linears.FeedForward', 'gelu',
         dict(input_dims=4, output_dims=3, activation_tpl=cfg('activations.GELU')), X),
    case('linears.FeedForward', 'default', dict(input_dims=4, output_dims=3), X),
]
