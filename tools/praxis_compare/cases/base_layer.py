"""Cases of the layer system itself, on `local_layers`: keys, sharing, state, inits."""

from praxis_compare.inputs import floats, ids
from praxis_compare.spec import (
           BFLOAT16,
           DTYPES,
           FLOAT32,
           Dtype,
           case,
           cfg,
           family,
           init,
)

X = floats(3, 2)
X4 = floats(3, 4)
METHODS = ('Gaussian', 'Uniform', 'Xavier', 'XavierWithFixupParams', 'Constant',
           'TruncatedGaussian', 'GaussianSqrtDim', 'GaussianSqrtFanIn',
           'GaussianSqrtFanOut', 'GaussianSqrtFanAvg', 'UniformSqrtDim',
           'UniformSqrtFanAvg', 'UniformUnitScaling', 'TruncatedGaussianSqrtDim',
           'TruncatedGaussianSqrtFanIn', 'TruncatedGaussianSqrtFanOut')
MESH = {'ici_mesh_shape': [1, 1], 'mesh_axis_names': ['d', 'm']}


variable = family('local.Variable', modes=('train',), dtypes=FLOAT32)

CASES = [
    case('local.Block', 'draws', {}, X),
    case('local.Net', 'counters', {}, X),
    case('local.Net', 'inherits-init', dict(params_init=init('Uniform', 0.1)), X),
    case('local.Shared', 'two-of-one', {}, X),
    case('local.Shared', 'nested', dict(inner=True), X),
    case('local.Counting', 'state', dict(dims=4), X4),
    case('local.Lazy', 'shallow', dict(child_tpl=cfg(
        'linears.FeedForward', input_dims=4, output_dims=4)), X4),
    case('local.Lazy', 'deep', dict(deep=True, child_tpl=cfg(
        'linears.FeedForward', input_dims=4, output_dims=4)), X4),
    case('local.Tower', 'default', {}, X4),
    case('local.Tower', 'bfloat16-variables', dict(dtype=Dtype('bfloat16')), X4,
         precision='bfloat16'),
    case('local.Classifier', 'default', dict(model_dims=4), floats(6, 8),
         ids(6, below=5), dtypes=FLOAT32),
    case('local.Tower', 'skip-regularization', dict(skip_lp_regularization=True), X4),
    *[variable(f'{m}-{"x".join(map(str, shape))}', shape=shape,
               params_init=init(m, 0.7))
      for m in METHODS for shape in ((5,), (3, 4), (2, 3, 4))],
    *[variable(f'{m}-bfloat16', params_init=init(m, 0.7), dtype=Dtype('bfloat16'),
               precision='bfloat16') for m in METHODS],
    variable('default-5x2x3', shape=(5, 2, 3)),
    variable('fans', shape=(8, 2, 16), fan_in_axes=[0], fan_out_axes=[1, 2]),
    variable('fans-gaussian', shape=(8, 2, 16), fan_in_axes=[0], fan_out_axes=[1, 2],
             params_init=init('GaussianSqrtFanIn', 2.0)),
    variable('one-fan', shape=(8, 2), fan_in_axes=[0], raises='AssertionError'),
    variable('scalar', shape=(), params_init=init('Gaussian', 0.7)),
    variable('scalar-xavier', shape=(), raises='TypeError'),
    variable('empty', shape=(3, 0), raises='AssertionError'),
    variable('integer', dtype=Dtype('int32'), params_init=init('Constant', 3),
             grads=False),
    variable('non-trainable', trainable=False, dtypes=DTYPES),
    variable('sharded', split=['d', None], **MESH),
    variable('replicated', **MESH),
    variable('no-bfloat16', labels=['_disallow_bfloat16_conversion'],
             dtypes=BFLOAT16),
    variable('orthogonal-4x4', shape=(4, 4), params_init=init('ScaledDeltaOrthogonal')),
    variable('orthogonal-3x4x5', shape=(3, 4, 5),
             params_init=init('ScaledDeltaOrthogonal')),
    variable('orthogonal-3', shape=(3,),
             params_init=init('ScaledDeltaOrthogonal', 0.5)),
]
