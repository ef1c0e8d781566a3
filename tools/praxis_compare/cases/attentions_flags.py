"""Cases of `attentions`: every flag of each class at once, in two compatible halves."""

import numpy as np

from praxis_compare.cases.attentions import ACT, causal, mask_of, run_self
from praxis_compare.cases.attentions_decode import (
    CACHES,
    PREFIX,
    SAMPLES,
    STEPS,
    decode,
    lazy,
)
from praxis_compare.spec import DTYPES, FLOAT32, family

# The first query of the second example sees nothing.
FIRST = np.zeros((2, 1, 3, 1), bool)
FIRST[1, 0, 0] = True
BLIND = mask_of(causal(3), FIRST)

# Two of the three mean one thing: a scale of 4 ** -0.5, though hidden_dim says 8.
SIZES = dict(input_dim=8, num_heads=2, dim_per_head=4, hidden_dim=16)
ONCE = dict(dtypes=FLOAT32, grads=False, **SIZES)
# What decoding and its cache show. Rotations that are not cast show in bfloat16.
CACHED = dict(
    use_rotary_position_emb=True, consolidate_rope_key_state=True,
    cast_rotary_position_emb=False, combine_qkv=True, use_bias=False,
    internal_enable_per_dim_scale=False, scale_query_by_dim_per_head=True,
    output_proj_use_nhd_shape=True, zero_fully_masked=True,
    decoding_maybe_shard_projections=True, **{
        f'{ACT}.blnh': [None, None, 'm', None], f'{ACT}.bld': [None, None, 'm']})
# What does not go with that.
UNCACHED = dict(
    dconv_qkv=True, decode_cache=False, internal_enable_query_scale=False,
    internal_gshard_gaussian_init=True, attention_mask_summary=True,
    scale_logits_by_head_dims=True)


def pair(layer, steps, method, uncached=(), **fields):
  """One case for each half of the flags."""
  name = f'attentions.{layer}'
  make = family(name, PREFIX, BLIND, steps, collections=CACHES, **ONCE, **fields)
  return [
      make('cached', method=method, modes=('eval',), **{**CACHED, 'dtypes': DTYPES}),
      make('uncached', PREFIX, BLIND, method=run_self, modes=('train',),
           **{**UNCACHED, **dict(uncached)})]


def call(layer, x, mask, _):
  return layer(x, x, x, mask)


LOCAL = dict(block_size=2, left_context=2, right_context=0)

CASES = [
    *pair('DotProductAttention', STEPS, decode),
    *pair('DotProductAttentionWithLPB', SAMPLES, lazy),
    *pair('DotProductAttentionXL', STEPS, decode, rel_pos_emb_dim=6),
    *pair('LocalSelfAttention', STEPS, decode, dict(simulated=True), **LOCAL),
    *pair('LocalSelfAttentionXL', STEPS, call, rel_pos_emb_dim=6, **LOCAL),
    *pair('LocalSelfAttentionRelativeBias', STEPS, decode, **LOCAL),
    *pair('LocalSelfAttentionAlibi', STEPS, decode, **LOCAL),
]
