"""Cases of `grouped_query_attention`."""

import numpy as np

from praxis_compare.cases.attentions import (
    BOTH,
    FULL,
    GRADS,
    MESH,
    ONCE,
    POS,
    WT,
    X,
)
from praxis_compare.cases.attentions_decode import CAUSAL, DECODE, PREFIX, STEPS
from praxis_compare.cases.attentions_decode import POS as PREFIX_POS
from praxis_compare.spec import DTYPES, family

SIZES = dict(input_dim=8, num_heads=4, num_kv_heads=2, dim_per_head=4)
HEADS = np.stack([FULL[:, 0] != 0, np.zeros((2, 5, 5), bool)] * 2, 1)


def run(layer, x, mask, positions):
  return layer(x, x, x, mask, positions, positions)


gqa = family('grouped_query_attention.GroupedQueryAttention', X, FULL, POS, method=run,
             **SIZES, **ONCE)
step = family('grouped_query_attention.GroupedQueryAttention', PREFIX, CAUSAL, STEPS,
              PREFIX_POS, **SIZES, **DECODE)

CASES = [
    gqa('default', **BOTH),
    gqa('mask-of-heads', X, HEADS, POS),
    gqa('one-kv-head', num_kv_heads=1, use_bias=False,
        rope_min_max_timescales=(1, 100)),
    gqa('rope', rope_min_max_timescales=(1, 100), dtypes=DTYPES,
        **GRADS),
    gqa('cap-and-temperature', atten_logit_cap=0.8, atten_temp=2.0, dtypes=DTYPES),
    gqa('dropout', atten_dropout_prob=0.4, **GRADS),
    gqa('sharded', **MESH, **{f'{WT}.dnh': ['d', 'm', None]}),
    gqa('sharded-one-kv-head', num_kv_heads=1, **MESH, **{
        f'{WT}.dnh': ['d', 'm', None]}),
    gqa('no-dims', dim_per_head=0, raises='AssertionError'),
    gqa('kv-heads-that-do-not-divide', num_kv_heads=3, raises='AssertionError'),
    step('decode', dtypes=DTYPES),
    step('decode-rope', PREFIX, CAUSAL, STEPS, PREFIX_POS, np.array([1, 3], np.int32),
         rope_min_max_timescales=(1, 100)),
]
