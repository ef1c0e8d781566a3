"""Cases of `sequential`: naming by position, and how results are handed on."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import Name, case, cfg

X = floats(2, 5, 4)
LINEAR = cfg('linears.Linear', input_dims=4, output_dims=3)
FF = cfg('linears.FeedForward', input_dims=3, output_dims=2)

CASES = [
    case('sequential.Sequential', 'default',
         dict(layers=[LINEAR, cfg('activations.ReLU'), FF]), X),
    case('sequential.Sequential', 'functions',
         dict(layers=[LINEAR, Name('linears.jnp.tanh'), FF]), X),
    case('sequential.Sequential', 'one-layer', dict(layers=[LINEAR]), X),
    case('sequential.Sequential', 'tuple-passed-on',
         dict(layers=[cfg('linears.StackingOverTime', left_context=1, stride=2),
                      cfg('linears.StackingOverTime', right_context=1, stride=1)]),
         X, paddings(2, 5, 1)),
    case('sequential.Sequential', 'map-passed-on',
         dict(layers=[cfg('local.ToMap'), cfg('local.FromMap'), LINEAR]), X),
    case('sequential.Sequential', 'two-arguments',
         dict(layers=[cfg('normalizations.BatchNorm', dim=4, decay=0.9), LINEAR]), X,
         paddings(2, 5)),
    case('sequential.Sequential', 'dropouts',
         dict(layers=[cfg('stochastics.Dropout', keep_prob=0.7), LINEAR,
                      cfg('stochastics.Dropout', keep_prob=0.7)]), X),
    case('sequential.Sequential', 'nested',
         dict(layers=[LINEAR, cfg('sequential.Sequential', layers=[
             FF, cfg('linears.Bias', dims=2)])]), X),
    case('sequential.Sequential', 'empty', dict(layers=[]), X, raises='ValueError'),
    case('sequential.Sequential', 'unset', {}, X, raises='ValueError'),
]
