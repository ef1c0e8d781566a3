"""Cases of `multi_query_attention`: shared and grouped keys and values, decoding."""

import numpy as np

from praxis_compare.cases.attentions import (
    BOTH,
    FULL,
    GRADS,
    KEY_POS,
    MESH,
    ONCE,
    POS,
    REL,
    WT,
    X,
    Y,
    causal,
    mask_of,
    run_self,
)
from praxis_compare.cases.attentions_decode import (
  CACHES,
  CAUSAL,
  DECODE,
  LAZY,
  PREFIX,
  SAMPLES,
  STEPS,
  can_decode,
  step_mask,
)
from praxis_compare.cases.attentions_decode import POS as PREFIX_POS
from praxis_compare.spec import DTYPES, FLOAT32, MODES, case, family

# Flags that have no effect (scale, init), and no cache.
UNCACHED = dict(decode_cache=False, internal_enable_query_scale=False,
                internal_gshard_gaussian_init=True)
NEWER = 'the newest Praxis has this field, 1.4.0 does not'
SIZES = dict(input_dim=8, hidden_dim=8, num_heads=2)
FOUR = dict(input_dim=8, hidden_dim=16, num_heads=4, num_kv_heads=2)
EVEN_MASK = mask_of(causal(4), np.zeros((2, 1, 4, 4), bool))

mqa = family('multi_query_attention.MultiQueryDotProductAttention', X, FULL,
             method=run_self, **SIZES, **ONCE)
two = family('multi_query_attention.MultiQueryDotProductAttention', X, FULL,
             method=run_self, **FOUR, **ONCE)
step = family('multi_query_attention.MultiQueryDotProductAttention', PREFIX, CAUSAL,
              STEPS, **SIZES, **DECODE)
lpb = family('multi_query_attention.MultiQueryDotProductAttentionLPB', PREFIX, CAUSAL,
             SAMPLES, **SIZES, **LAZY)


def tokens(layer, x, mask, steps, segment_pos=None):
  """Two tokens at once, in place of the last two of the prefix."""
  out = layer(x, x, x, mask)[0]
  if not can_decode(layer):
    return out
  mask = np.concatenate([step_mask(1, 3, 2), step_mask(2, 3, 2)], axis=1)[:, None]
  return out, layer.extend_step(steps, atten_mask=mask, time_step=1,
                                segment_pos=segment_pos)


CASES = [
    case('multi_query_attention.OneHeadedAttentionProjection', 'default',
         dict(input_dim=8, output_dim=4), X, modes=('train',)),
    case('multi_query_attention.OneHeadedAttentionProjection', 'sharded',
         {'input_dim': 8, 'output_dim': 4, **MESH, f'{WT}.wt': ['d', 'm']}, X, **ONCE),
    case('multi_query_attention.OneHeadedAttentionProjection', 'bias-free',
         dict(input_dim=8, output_dim=4, use_bias=False), X, grads=False,
         dtypes=FLOAT32, modes=('eval',)),
    mqa('default', **BOTH),
    mqa('uncached', hidden_dim=16, dim_per_head=4, scale_query_by_dim_per_head=True,
        output_proj_use_nhd_shape=True, use_bias=False, collections=CACHES, **UNCACHED),
    mqa('extra-logit', attention_extra_logit=0.3),
    mqa('dropout', atten_dropout_prob=0.4),
    mqa('rotary-positions', X, FULL, POS, POS, use_rotary_position_emb=True),
    mqa('relative-bias', X, FULL, POS, POS, relative_bias_tpl=REL, modes=MODES),
    mqa('relative-bias-no-positions', relative_bias_tpl=REL, raises='ValueError'),
    mqa('cross', X, Y, mask_of(np.zeros((2, 1, 1, 4), bool)), POS, KEY_POS,
        use_rotary_position_emb=True,
        method=lambda layer, x, y, *rest: layer(x, y, y, *rest)),
    mqa('zero-masked', zero_fully_masked=True, known={'error': NEWER}),
    mqa('window', local_window_size=(1, 1), known={'error': NEWER}),
    mqa('chunked', Y, EVEN_MASK, chunked_attn_num_seq_split=2, dtypes=DTYPES,
        slow=True, **GRADS),
    mqa('chunked-odd', chunked_attn_num_seq_split=2, raises='AssertionError'),
    mqa('dconv', dconv_qkv=True, raises='AssertionError'),
    mqa('combined', combine_qkv=True, raises='AssertionError'),
    mqa('sharded', **MESH, **{f'{WT}.proj': ['d', 'm', None],
                              f'{WT}.proj_headless': ['d', None]}),
    two('groups-of-2', dtypes=DTYPES, **GRADS),
    two('groups-of-2-dropout', atten_dropout_prob=0.4),
    two('groups-of-2-rotary-cap', use_rotary_position_emb=True, atten_logit_cap=0.8,
        attention_extra_logit=0.3),
    two('groups-of-2-bias', X, FULL, POS, POS, relative_bias_tpl=REL, modes=('eval',)),
    two('groups-that-do-not-divide', num_kv_heads=3, raises='AssertionError'),
    step('decode', dtypes=DTYPES),
    step('decode-rotary-positions', PREFIX, CAUSAL, STEPS, PREFIX_POS,
         np.array([1, 3], np.int32), use_rotary_position_emb=True,
         consolidate_rope_key_state=True),
    step('decode-cap-extra', atten_logit_cap=0.9, attention_extra_logit=0.4),
    step('decode-relative-bias', PREFIX, CAUSAL, STEPS, PREFIX_POS,
         relative_bias_tpl=REL),
    step('decode-groups', num_heads=4, hidden_dim=16, num_kv_heads=2,
         use_rotary_position_emb=True),
    step('decode-tokens-rotary', PREFIX, CAUSAL, STEPS,
         np.tile(np.arange(1, 3), (2, 1)).astype(np.int32), method=tokens,
         use_rotary_position_emb=True),
    lpb('default'),
    lpb('rotary', use_rotary_position_emb=True),
    lpb('cached', hidden_dim=16, dim_per_head=4, scale_query_by_dim_per_head=True,
        output_proj_use_nhd_shape=True, use_bias=False, use_rotary_position_emb=True,
        consolidate_rope_key_state=True, dtypes=DTYPES),
    lpb('uncached', PREFIX, CAUSAL, method=run_self, modes=('train',), **UNCACHED),
    lpb('zero-masked', PREFIX, CAUSAL, method=run_self, zero_fully_masked=True,
        known={'error': NEWER}),
    lpb('dconv', dconv_qkv=True, raises='AssertionError'),
    lpb('combined', combine_qkv=True, raises='AssertionError'),
]
