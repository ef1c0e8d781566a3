"""Gating of mixtures of experts: a facade under its Pax name."""

from pax_haiku.layers.moe_gating import (
  compute_gating,
  cum_sum,
  expert_choice_gating_on_logits,
  expert_choice_gating_on_logits_v2,
  remove_dim,
  top2_gating_on_logits,
  top_k,
  topk_gating_on_logits,
)

__all__ = [
  'compute_gating',
  'cum_sum',
  'expert_choice_gating_on_logits',
  'expert_choice_gating_on_logits_v2',
  'remove_dim',
  'top2_gating_on_logits',
  'top_k',
  'topk_gating_on_logits',
]
