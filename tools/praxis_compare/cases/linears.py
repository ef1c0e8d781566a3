"""Cases of `linears`: Linear, Bias, FeedForward, MLPBlock, StackingOverTime."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import BFLOAT16, Dtype, case, cfg, init

X = floats(2, 5, 4)
T = floats(2, 11, 3)
PAD = paddings(2, 11, 1)
MESH = {'ici_mesh_shape': [1, 1], 'mesh_axis_names': ['d', 'm']}
WT, OUT = 'weight_split_dims_mapping.wt', 'activation_split_dims_mapping.out'
IO = {'input_dims': 4, 'output_dims': 3}


def stacking(variant, left, right, stride, pad=PAD, **fields):
  options = {'raises': fields.pop('raises', None)}
  return case('linears.StackingOverTime', variant, dict(
      left_context=left, right_context=right, stride=stride, **fields), T, pad,
      **options)


def unstack(layer, inputs, paddings):
  return layer.unstack(layer(inputs, paddings)[0])


CASES = [
    case('linears.Linear', 'default', IO, X),
    case('linears.Linear', 'rank-1', IO, floats(4)),
    case('linears.Linear', 'odd-sizes', dict(input_dims=7, output_dims=1),
         floats(3, 7)),
    case('linears.Linear', 'weight-init', dict(IO, weight_init=init('Gaussian', 0.3)),
         X),
    case('linears.Linear', 'params-init', dict(IO, params_init=init('Uniform', 0.2)),
         X),
    case('linears.Linear', 'bfloat16-variables', dict(IO, dtype=Dtype('bfloat16')), X,
         precision='bfloat16'),
    case('linears.Linear', 'float32-input', IO, X, cast_inputs=False,
         dtypes=BFLOAT16),
    case('linears.Linear', 'sharded', {**IO, **MESH, WT: ['d', 'm'],
                                       OUT: ['d', None, 'm']}, X),
    case('linears.Linear', 'wrong-input', IO, floats(2, 5), raises='ValueError'),
    case('linears.Bias', 'default', dict(dims=4), X),
    case('linears.Bias', 'bias-init', dict(dims=4, bias_init=-1.5), X),
    case('linears.Bias', 'no-init', dict(dims=4, bias_init=None), X,
         raises='AssertionError'),
    case('linears.Bias', 'skip-regularization',
         dict(dims=4, skip_lp_regularization=True), X),
    case('linears.FeedForward', 'default', IO, X),
    case('linears.FeedForward', 'bias-free', dict(IO, has_bias=False), X),
    case('linears.FeedForward', 'gelu',
         dict(IO, activation_tpl=cfg('activations.GELU')), X),
    case('linears.FeedForward', 'inits',
         dict(IO, weight_init=init('TruncatedGaussian', 0.5), bias_init=0.25), X),
    case('linears.FeedForward', 'inherits-init',
         dict(IO, params_init=init('Gaussian', 2.0)), X),
    case('linears.FeedForward', 'checkpoint-name', dict(IO, checkpoint_str='ffn1'), X),
    case('linears.FeedForward', 'bfloat16-variables', dict(IO, dtype=Dtype('bfloat16')),
         X, precision='bfloat16'),
    case('linears.FeedForward', 'float32-input', IO, X, cast_inputs=False,
         dtypes=BFLOAT16),
    case('linears.FeedForward', 'sharded',
         {**IO, **MESH, WT: ['d', 'm'], OUT: ['d', None, 'm']}, X),
    case('linears.FeedForward', 'sharded-without-out',
         {**IO, **MESH, WT: ['d', 'm']}, X),
    case('linears.FeedForward', 'skip-regularization',
         dict(IO, skip_lp_regularization=True), X),
    case('linears.MLPBlock', 'default', dict(hidden_dims=6, ff_tpl=cfg(
        'linears.FeedForward', **IO)), X),
    case('linears.MLPBlock', 'linear-end', dict(
        num_layers=2, hidden_dims=6, activate_final=False,
        ff_tpl=cfg('linears.FeedForward', activation_tpl=cfg('activations.Tanh'),
                   **IO)), X),
    case('linears.MLPBlock', 'one-layer', dict(
        num_layers=1, hidden_dims=6, ff_tpl=cfg('linears.FeedForward', **IO)), X),
    case('linears.MLPBlock', 'bias-free', dict(
        num_layers=2, hidden_dims=5,
        ff_tpl=cfg('linears.FeedForward', has_bias=False, **IO)), X),
    case('linears.MLPBlock', 'no-layer', dict(
        num_layers=0, ff_tpl=cfg('linears.FeedForward', **IO)), X, raises='ValueError'),
    stacking('trivial', 0, 0, 1),
    stacking('trivial-no-paddings', 0, 0, 1, pad=None),
    stacking('context', 1, 1, 1),
    stacking('stride', 0, 0, 2),
    stacking('left-stride', 2, 0, 3),
    stacking('both-stride', 1, 1, 3),
    stacking('no-paddings', 1, 2, 2, pad=None),
    stacking('left-frame', 2, 1, 2, pad_with_left_frame=True),
    stacking('right-frame', 1, 2, 2, pad_with_right_frame=True),
    stacking('both-frames', 2, 2, 2, pad_with_left_frame=True,
             pad_with_right_frame=True),
    stacking('reduce-max', 1, 1, 2, padding_reduce_option='reduce_max'),
    stacking('no-stride', 1, 1, 0, raises='AssertionError'),
    stacking('bad-reduce', 1, 1, 2, padding_reduce_option='mean',
             raises='AssertionError'),
    stacking('paddings-rank', 1, 1, 2, pad=paddings(2, 11), raises='ValueError'),
    case('linears.StackingOverTime', 'unstack', dict(
        left_context=1, right_context=1, stride=2), T, PAD, method=unstack),
    case('linears.StackingOverTime', 'unstack-gap', dict(
        left_context=0, right_context=1, stride=3), T, PAD, method=unstack,
         raises='ValueError'),
]
