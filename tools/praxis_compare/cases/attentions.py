"""Cases of `attentions`: projections, scales, biases, DotProductAttention's call."""

import numpy as np

from praxis_compare.inputs import floats, ids, paddings
from praxis_compare.spec import DTYPES, FLOAT32, MODES, case, cfg, family

X = floats(2, 5, 8)
Y = floats(2, 4, 8, name='y')
HEADS = {'num_heads': 2, 'dim_per_head': 4}
MESH = {'ici_mesh_shape': [1, 1], 'mesh_axis_names': ['d', 'm']}
WT = 'weight_split_dims_mapping'
ACT = 'activation_split_dims_mapping'
LOW = -0.7 * float(np.finfo(np.float32).max)
POS = np.array([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]], np.int32)
KEY_POS = np.array([[0, 1, 0, 1], [0, 1, 2, 3]], np.int32)

# What most variants change shows in the float32 results of training; those that state
# BOTH are run in bfloat16 and in evaluation, too, and with gradients.
ONCE = dict(dtypes=FLOAT32, modes=('train',), grads=False)
GRADS = dict(grads=True)
BOTH = dict(dtypes=DTYPES, modes=MODES, grads=True)

proj = family('attentions.AttentionProjection', X, input_dim=8, **HEADS, **ONCE)
back = family('attentions.AttentionProjection', floats(2, 5, 2, 4), input_dim=8,
              is_output_projection=True, **HEADS, **ONCE)
qkv = family('attentions.CombinedQKVProjectionLayer', X, input_dim=8, **HEADS, **ONCE)
bias = family('attentions.RelativeBias', POS, KEY_POS, num_heads=2, **ONCE)
conv = family('attentions.CausalDepthwiseConv1D', floats(2, 5, 2, 4), 1,
              hidden_dims=[2, 4], **ONCE)
atten = family('attentions.DotProductAttention', input_dim=8, hidden_dim=8,
               num_heads=2, **ONCE)


def mask_of(*hidden):
  """A float mask that hides what any of the booleans says."""
  together = np.zeros((), bool)
  for one in hidden:
    together = together | one
  return np.where(together, np.float32(LOW), np.float32(0))


def causal(t):
  return (np.arange(t)[:, None] < np.arange(t))[None, None]


PAD = paddings(2, 5)[:, None, None] > 0
PAD_Y = paddings(2, 4)[:, None, None] > 0
NONE = mask_of(np.zeros((1, 1, 1, 5), bool))
FULL = mask_of(causal(5), PAD, np.swapaxes(PAD, 2, 3))  # the last query is blind


def run_self(layer, x, mask, *positions):
  return layer(x, x, x, mask, *positions)


def self_atten(variant, mask=FULL, *positions, **given):
  given.setdefault('method', run_self)
  return atten(variant, X, mask, *positions, **given)


def run_bias_step(layer, _positions, step):
  return layer.extend_step(6, step)


NO_POSITIONS = 'Praxis 1.4.0 needs positions with a relative bias; the newest counts'
REL = cfg('attentions.RelativeBias')

CASES = [
    case('attentions.PerDimScale', 'default', dict(dim=8), X),
    case('attentions.PerDimScale', 'wrong-dim', dict(dim=5), X,
         raises='AssertionError'),
    proj('default', **BOTH),
    proj('bias-free', use_bias=False),
    proj('combined-dims-bias', attention_combine_dims=True, raises='AssertionError'),
    proj('explicit-fans-combined', use_bias=False, attention_combine_dims=True,
         explicit_fan_in_fan_out_axes=True),
    proj('sharded', **MESH, **{f'{WT}.wt': ['d', 'm', None]}),
    proj('sharded-combined', use_bias=False, attention_combine_dims=True, **MESH,
         **{f'{WT}.wt': ['d', 'm', None]}),
    proj('wrong-input', floats(2, 5), raises='AssertionError'),
    back('output', **GRADS),
    back('output-nhd', use_nhd_shape=True),
    back('output-combined-nhd', use_bias=False, attention_combine_dims=True,
         use_nhd_shape=True),
    back('output-fans-nhd', use_nhd_shape=True, explicit_fan_in_fan_out_axes=True),
    back('output-fans-combined-nhd', use_bias=False, attention_combine_dims=True,
         use_nhd_shape=True, explicit_fan_in_fan_out_axes=True),
    back('output-sharded', **MESH, **{f'{WT}.wt': ['d', 'm', None]}),
    back('output-sharded-nhd', use_nhd_shape=True, **MESH,
         **{f'{WT}.wt': ['d', 'm', None]}),
    back('output-sharded-combined-nhd', use_nhd_shape=True, use_bias=False,
         attention_combine_dims=True, **MESH, **{f'{WT}.wt': ['d', 'm', None]}),
    back('output-wrong-input', floats(2, 5, 4, 2), raises='AssertionError'),
    qkv('default', **BOTH),
    qkv('combined-dims', attention_combine_dims=True),
    qkv('explicit-fans-combined', attention_combine_dims=True, use_bias=False,
        explicit_fan_in_fan_out_axes=True),
    qkv('sharded', **MESH, **{f'{WT}.wt': ['d', 'm', None]}),
    qkv('sharded-combined', attention_combine_dims=True, **MESH,
        **{f'{WT}.wt': ['d', 'm']}),
    bias('default', **BOTH),
    bias('far', np.array([[200]], np.int32), ids(1, 60, below=300, name='far'),
         use_xavier_init=True, dtypes=DTYPES),
    bias('bidirectional', bidirectional=True, modes=MODES),
    bias('given-positions', use_length_as_position=False, modes=MODES),
    conv('default', **BOTH),
    conv('positions', floats(2, 5, 2, 4), 1, POS, **GRADS),
    conv('sharded', **MESH, **{f'{WT}.wt': ['d', 'm']}),
    conv('step', floats(2, 5, 2, 4), 1, 3, None, method='extend_step'),
    conv('no-dims', hidden_dims=0, raises='AssertionError'),
    self_atten('default', **BOTH),
    self_atten('padding-mask', mask_of(PAD)),
    self_atten('odd-sizes', num_heads=3, dim_per_head=5, hidden_dim=7),
    self_atten('constant-scale', hidden_dim=16, dim_per_head=4, dtypes=DTYPES,
               internal_enable_per_dim_scale=False),
    self_atten('no-scale', internal_enable_query_scale=False, dtypes=DTYPES),
    self_atten('head-dim-logit-scale', scale_logits_by_head_dims=True, dtypes=DTYPES),
    self_atten('cap', atten_logit_cap=0.7, dtypes=DTYPES, **GRADS),
    self_atten('extra-logit', attention_extra_logit=0.0, dtypes=DTYPES, **GRADS),
    self_atten('zero-masked', zero_fully_masked=True, **GRADS),
    self_atten('mask-summary', attention_mask_summary=True),
    self_atten('dropout', atten_dropout_prob=0.4, dtypes=DTYPES, **GRADS),
    self_atten('gshard-init', internal_gshard_gaussian_init=True),
    self_atten('combined', combine_qkv=True, **GRADS),
    self_atten('combined-other-inputs', combine_qkv=True, raises='AssertionError',
               method=lambda layer, x, mask: layer(x, x + 0, x, mask)),
    self_atten('nhd-output', output_proj_use_nhd_shape=True, **GRADS),
    self_atten('rotary', use_rotary_position_emb=True),
    self_atten('rotary-positions', FULL, POS, POS, use_rotary_position_emb=True,
               dim_per_head=4, dtypes=DTYPES, **GRADS),
    self_atten('dconv', dconv_qkv=True, **GRADS),
    self_atten('relative-bias', FULL, POS, POS, relative_bias_tpl=REL, modes=MODES,
               **GRADS),
    self_atten('relative-bias-no-positions', relative_bias_tpl=REL,
               known={'error': NO_POSITIONS}),
    self_atten('qk-norm', ln_tpl=cfg('normalizations.RmsNorm'), **GRADS),
    self_atten('everything', FULL, POS, POS, relative_bias_tpl=REL,
               use_rotary_position_emb=True, dconv_qkv=True, atten_logit_cap=2.0,
               attention_extra_logit=1.0, scale_logits_by_head_dims=True,
               combine_qkv=True, atten_dropout_prob=0.2, zero_fully_masked=True,
               ln_tpl=cfg('normalizations.LayerNorm'), output_proj_use_nhd_shape=True,
               **BOTH),
    self_atten('sharded', dconv_qkv=True,
               output_proj_use_nhd_shape=True, **MESH, **{
                   f'{WT}.proj': ['d', 'm', None], f'{WT}.dconv': ['m', None],
                   f'{ACT}.blnh': ['d', None, 'm', None],
                   f'{ACT}.bld': ['d', None, 'm']}),
    self_atten('no-hidden-dim', hidden_dim=0, raises='AssertionError'),
    self_atten('no-input-dim', input_dim=0, raises='AssertionError'),
    self_atten('odd-heads', num_heads=3, raises='AssertionError'),
    self_atten('consolidate-without-rotary', consolidate_rope_key_state=True,
               raises='AssertionError'),
    self_atten('mask-rank', FULL[0], raises='ValueError'),
    self_atten('mask-length', FULL[:, :, :4], raises='ValueError'),
    atten('cross', X, Y, Y, mask_of(PAD_Y)),
    atten('cross-rotary', X, Y, Y, mask_of(PAD_Y), POS, KEY_POS,
          use_rotary_position_emb=True, relative_bias_tpl=REL),
]
