"""Cases of `attentions`: attention by distance (XL) and to a window (local)."""

import numpy as np

from praxis_compare.cases.attentions import FULL, GRADS, ONCE, PAD, X, mask_of, run_self
from praxis_compare.spec import DTYPES, cfg, family

LOCAL = dict(input_dim=8, hidden_dim=8, num_heads=2, method=run_self, **ONCE)
# As far to the left and right as blocks of two allow: one block before, one after.
WINDOW = dict(left_context=3, right_context=2, **LOCAL)
PADDED = mask_of(PAD)

xl = family('attentions.DotProductAttentionXL', X, FULL, rel_pos_emb_dim=6, **LOCAL)
local = family('attentions.LocalSelfAttention', X, PADDED, **WINDOW)
local_xl = family('attentions.LocalSelfAttentionXL', X, PADDED, rel_pos_emb_dim=6,
                  **WINDOW)
biased = family('attentions.LocalSelfAttentionRelativeBias', X, PADDED, block_size=2,
                **WINDOW)
sloped = family('attentions.LocalSelfAttentionAlibi', X, PADDED, **WINDOW)

CASES = [
    xl('default', dtypes=DTYPES, **GRADS),
    xl('bias-free', use_bias=False),
    xl('cap-and-scale', atten_logit_cap=1.5, scale_logits_by_head_dims=True),
    xl('no-dims', rel_pos_emb_dim=0, raises='ValueError'),
    local('default', dtypes=DTYPES, **GRADS),
    local('full-mask', X, FULL, **GRADS),
    local('cap', atten_logit_cap=0.8),
    local('dropout', atten_dropout_prob=0.3),
    local('rotary', use_rotary_position_emb=True),
    local('left-too-long', block_size=2, left_context=4, raises='ValueError'),
    local('right-too-long', block_size=2, right_context=3, raises='ValueError'),
    local('relative-bias', relative_bias_tpl=cfg('attentions.RelativeBias'),
          kwargs={}, method=lambda layer, x, mask: layer(
              x, x, x, mask, np.zeros((2, 5), np.int32), np.zeros((2, 5), np.int32)),
          raises='NotImplementedError'),
    local_xl('default', dtypes=DTYPES, **GRADS),
    local_xl('full-mask', X, FULL),
    local_xl('simulated', simulated=True, raises='ValueError', known={
        'error': 'Praxis 1.4.0 raises while it words its ValueError'}),
    biased('default', dtypes=DTYPES, **GRADS),
    biased('simulated', simulated=True, raises='ValueError'),
    sloped('default', dtypes=DTYPES, **GRADS),
    sloped('simulated', simulated=True, raises='ValueError'),
    sloped('three-heads', num_heads=3, dim_per_head=4, raises='TypeError'),
]
