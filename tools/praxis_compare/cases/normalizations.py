"""Cases of `normalizations`: with and without paddings, in every mode."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import Dtype, case, init

X = floats(2, 5, 4)
PAD = paddings(2, 5)
MESH = {'ici_mesh_shape': [1, 1], 'mesh_axis_names': ['d', 'm']}

CAST = {'bfloat16 outputs': 'the result is cast to fprop_dtype since'}


def batch(variant, *args, **fields):
  options = {k: fields.pop(k) for k in ('raises', 'cast_inputs', 'dtypes')
             if k in fields}
  return case('normalizations.BatchNorm', variant, dict(dim=4, **fields), *args,
              **options)


def group(variant, *args, **fields):
  options = {k: fields.pop(k) for k in ('raises', 'modes', 'known') if k in fields}
  fields = {'dim': 4, 'num_groups': 2, 'input_rank': 3, **fields}
  return case('normalizations.GroupNorm', variant, fields, *args, **options)


def layer(variant, *args, **fields):
  options = {k: fields.pop(k) for k in ('cast_inputs', 'dtypes') if k in fields}
  return case('normalizations.LayerNorm', variant, dict(dim=4, **fields), *args,
              **options)


def rms(variant, *args, **fields):
  options = {k: fields.pop(k) for k in ('cast_inputs', 'dtypes') if k in fields}
  return case('normalizations.RmsNorm', variant, dict(dim=4, **fields), *args,
              **options)


CASES = [
    case('normalizations.BaseNormalization', 'abstract', dict(dim=4), X,
         raises='NotImplementedError'),
    case('normalizations.IdentityNorm', 'default', dict(dim=4), X),
    case('normalizations.IdentityNorm', 'paddings', dict(dim=4), X, PAD),
    batch('default', X),
    batch('paddings', X, PAD, decay=0.9),
    batch('rank-2', floats(6, 4), decay=0.9),
    batch('rank-4', floats(2, 3, 2, 4), paddings(2, 3, 1).repeat(2, -1), decay=0.9),
    batch('moving-average-in-training', X, PAD, decay=0.9,
          use_moving_avg_in_training=True),
    batch('padded-output-kept', X, PAD, decay=0.9, set_padded_output_to_zero=False),
    batch('force-eval', X, PAD, force_eval_mode=True),
    batch('gamma-init', X, PAD, decay=0.5, gamma_init=init('Constant', 0.5)),
    batch('all-padded', X, paddings(2, 5) * 0 + 1, decay=0.9),
    batch('float32-input', X, PAD, decay=0.9, cast_inputs=False, dtypes=('bfloat16',)),
    batch('sharded', X, PAD, **MESH),
    batch('rank-1', floats(4), raises='ValueError'),
    batch('paddings-rank', X, paddings(2, 5, 1), raises='ValueError'),
    layer('default', X),
    layer('paddings', X, PAD),
    layer('direct-scale', X, direct_scale=True),
    layer('no-scale', X, use_scale=False),
    layer('no-bias', X, use_bias=False),
    layer('bare', X, use_scale=False, use_bias=False),
    layer('epsilon', X, epsilon=0.1),
    layer('float32-reductions', X, reductions_in_fp32=True),
    layer('float32-input', X, cast_inputs=False, dtypes=('bfloat16',)),
    layer('float32-reductions-input', X, reductions_in_fp32=True, cast_inputs=False,
          dtypes=('bfloat16',)),
    layer('sharded', X, **MESH),
    layer('sharded-wt', X, **MESH, **{'weight_split_dims_mapping.wt': ['m']}),
    layer('constant-row', X * 0 + 3),
    rms('default', X),
    rms('rank-1', floats(4)),
    rms('indirect-scale', X, direct_scale=False),
    rms('epsilon', X, epsilon=0.1),
    rms('intermediate-float32', X, intermediate_dtype=Dtype('float32')),
    rms('float32-input', X, cast_inputs=False, dtypes=('bfloat16',)),
    rms('sharded', X, **MESH),
    case('normalizations.RmsNormNoScale', 'default', dict(dim=4), X),
    case('normalizations.RmsNormNoScale', 'epsilon', dict(dim=4, epsilon=0.1), X, PAD),
    case('normalizations.RmsNormNoScale', 'float32-input', dict(dim=4), X,
         cast_inputs=False, dtypes=('bfloat16',)),
    group('default', X),
    group('paddings', X, PAD),
    group('cumulative', X, PAD, cumulative=True),
    group('cumulative-kept', X, PAD, cumulative=True, set_padded_output_to_zero=False),
    group('padded-output-kept', X, PAD, set_padded_output_to_zero=False),
    group('rank-4', floats(2, 5, 3, 4), PAD, input_rank=4),
    group('rank-4-cumulative', floats(2, 5, 3, 4), PAD, input_rank=4, cumulative=True),
    group('rank-5', floats(2, 3, 2, 2, 4), input_rank=5, num_groups=4),
    group('more-groups-than-channels', X, num_groups=32),
    group('min-group-size', X, num_groups=4, min_group_size=2),
    group('no-scale', X, use_scale=False),
    group('no-bias', X, use_bias=False),
    group('epsilon', X, epsilon=0.1),
    group('sharded', X, **MESH),
    group('rank-missing', X, input_rank=None, raises='ValueError'),
    group('rank-differs', X, input_rank=4, raises='ValueError'),
    group('indivisible', X, dim=5, raises='ValueError'),
    group('cumulative-without-paddings', X, cumulative=True, raises='TypeError'),
    case('normalizations.WeightNormL2', 'default', dict(dim=4), X),
    case('normalizations.WeightNormL2', 'kernel', dict(dim=3),
         floats(3, 2, 2, 3), None),
    case('normalizations.SpectralNorm', 'default', dict(dim=4), floats(5, 4),
         known=CAST),
    case('normalizations.SpectralNorm', 'kernel', dict(dim=3, n_power_iteration=3),
         floats(2, 3, 2, 3), known=CAST),
    case('normalizations.SpectralNorm', 'no-iteration',
         dict(dim=4, n_power_iteration=0), floats(5, 4), raises='ValueError',
         known={'error': 'the check came after 1.4.0'}),
]
