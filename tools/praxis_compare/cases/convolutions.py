"""Cases of `convolutions`: strides, dilations, causality, every padding rule."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import BFLOAT16, DTYPES, FLOAT32, case, cfg, family, init

IM = floats(2, 5, 6, 2)
EVEN = floats(2, 6, 6, 2)
VIDEO = floats(1, 4, 5, 3, 2)
X = floats(2, 7, 4)
PAD = paddings(2, 7)
IMPAD = paddings(2, 5)

# A convolution compiles for each shape and dtype; bfloat16 only where it tells.
conv = family('convolutions.Conv2D', IM, filter_shape=(3, 3, 2, 4),
              filter_stride=(1, 1), dtypes=FLOAT32)
conv3 = family('convolutions.Conv3D', VIDEO, filter_shape=(2, 3, 3, 2, 3),
               filter_stride=(1, 1, 1), dtypes=FLOAT32)
bnact = family('convolutions.ConvBNAct', IM, filter_shape=(3, 3, 2, 4),
               filter_stride=(1, 1), dtypes=FLOAT32)
padded = family('convolutions.ConvBNActWithPadding', IM, IMPAD,
                filter_shape=(3, 3, 2, 4), filter_stride=(2, 2), dtypes=FLOAT32)
depthwise = family('convolutions.DepthwiseConv1D', X, PAD, filter_shape=(3, 4, 2),
                   dtypes=FLOAT32)
light = family('convolutions.LightConv1D', X, PAD, input_dims=4, kernel_size=3,
               dtypes=FLOAT32)

CASES = [
    conv('default', dtypes=DTYPES),
    conv('bias', bias=True, dtypes=DTYPES, bias_init=init('Constant', 0.5)),
    conv('valid', padding='VALID'),
    conv('stride', EVEN, filter_stride=(2, 2)),
    conv('stride-tf', EVEN, filter_stride=(2, 2), tf_equivalent_padding=True),
    conv('stride-even-kernel', filter_shape=(4, 4, 2, 3), filter_stride=(2, 2)),
    conv('valid-tf', filter_stride=(2, 1), padding='VALID', tf_equivalent_padding=True),
    conv('dilated', dilations=(2, 1)),
    conv('causal', tf_equivalent_padding=True, is_causal=True),
    conv('causal-dilated', tf_equivalent_padding=True, is_causal=True,
         dilations=(2, 1)),
    conv('grouped', floats(2, 5, 6, 4), filter_shape=(3, 3, 2, 6)),
    conv('kernel-init', kernel_init=init('GaussianSqrtFanIn', 1.5)),
    conv('weight-norm', weight_norm_tpl=cfg('normalizations.WeightNormL2')),
    conv('spectral-norm', dtypes=DTYPES,
         weight_norm_tpl=cfg('normalizations.SpectralNorm'),
         known={'error': 'after Praxis 1.4.0 SpectralNorm casts to fprop_dtype'}),
    conv('float32-input', bias=True, cast_inputs=False, dtypes=BFLOAT16),
    conv('sharded', bias=True, ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'],
         **{'weight_split_dims_mapping.wt': [None, None, 'd', 'm']}),
    conv('causal-without-tf', is_causal=True, raises='ValueError'),
    conv('causal-valid', is_causal=True, tf_equivalent_padding=True, padding='VALID',
         raises='NotImplementedError'),
    conv('no-stride', filter_stride=(0, 0), raises='ValueError'),
    conv('bad-padding', padding='FULL', raises='ValueError'),
    conv('channels', floats(2, 5, 6, 3), raises='ValueError'),
    conv3('default', dtypes=DTYPES),
    conv3('bias-stride', bias=True, filter_stride=(1, 2, 2)),
    conv3('tf', tf_equivalent_padding=True, filter_stride=(2, 2, 1)),
    conv3('valid', padding='VALID', kernel_init=init('Gaussian', 0.1)),
    conv3('causal', tf_equivalent_padding=True, is_causal=True, dilations=(2, 1, 1)),
    bnact('default', dtypes=DTYPES),
    bnact('bias-tanh', bias=True, activation_tpl=cfg('activations.Tanh')),
    bnact('no-norm', batch_norm_tpl=None),
    bnact('decay', batch_norm_tpl=cfg('normalizations.BatchNorm', decay=0.5)),
    bnact('tf', tf_equivalent_padding=True, filter_stride=(2, 2)),
    bnact('causal', tf_equivalent_padding=True, is_causal=True),
    padded('default', dtypes=DTYPES),
    padded('stride-1', filter_stride=(1, 1)),
    padded('stride-3', filter_stride=(3, 1)),
    padded('valid', padding='VALID'),
    padded('lingvo', compat_with_lingvo=True),
    padded('tf', tf_equivalent_padding=True, bias=True),
    padded('causal', tf_equivalent_padding=True, is_causal=True),
    padded('lingvo-dilated', compat_with_lingvo=True, dilations=(2, 1),
           raises='AssertionError'),
    case('convolutions.BaseDepthwiseConv1D', 'no-call', dict(filter_shape=(3, 4, 2)), X,
         raises='NotImplementedError'),
    depthwise('default', dtypes=DTYPES),
    depthwise('no-paddings', X),
    depthwise('bias', bias=True, bias_init=init('Constant', 0.5)),
    depthwise('causal', is_causal=True, bias=True, dtypes=DTYPES),
    depthwise('dilated', rhs_dilation_rate=2),
    depthwise('causal-dilated', is_causal=True, rhs_dilation_rate=2),
    depthwise('2d-weight', use_2d_conv_weight_shape=True),
    depthwise('even-kernel', filter_shape=(4, 4, 1)),
    depthwise('float32-input', cast_inputs=False, dtypes=BFLOAT16),
    depthwise('sharded', ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'],
              use_2d_conv_weight_shape=True,
              **{'weight_split_dims_mapping.him': [None, 'd', 'm']}),
    light('default', dtypes=DTYPES,
          tol={('bfloat16', 'grads'): (0.1, 0.05, 'a sum that cancels: here and in '
               'Praxis it is equally far from the float32 gradient')}),
    light('causal', is_causal=True),
    light('dropout', dropout_prob=0.3),
    light('relu', conv_activation_tpl=cfg('activations.ReLU')),
    light('group-norm-2d', dtypes=DTYPES, use_2d_conv_norm=True,
          conv_norm_layer_tpl=cfg('normalizations.GroupNorm', num_groups=2,
                                  input_rank=4)),
    light('2d-batch-norm', use_2d_conv_norm=True, raises='ValueError'),
]
