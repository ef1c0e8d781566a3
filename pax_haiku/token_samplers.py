"""What chooses the next token: the names that Pax code imports."""

from pax_haiku.decoding import samplers, top_k_top_p
from pax_haiku.decoding.samplers import (
  BaseLogitsSampler,
  BaseNextTokenSampler,
  DefaultCategoricalLogitsSampler,
  DefaultNextTokenSampler,
  sample_from_top_k_and_top_p,
  sample_from_top_p_given_top_k,
)
from pax_haiku.decoding.top_k_top_p import (
  epsilon_mask_logits,
  get_top_k,
  top_p_mask_logits,
)
from pax_haiku.decoding.types import DUMMY_PRNG_KEY

__all__ = [
  'BaseLogitsSampler',
  'BaseNextTokenSampler',
  'DUMMY_PRNG_KEY',
  'DefaultCategoricalLogitsSampler',
  'DefaultNextTokenSampler',
  'epsilon_mask_logits',
  'get_top_k',
  'sample_from_top_k_and_top_p',
  'sample_from_top_p_given_top_k',
  'top_p_mask_logits',
]

# Private in Praxis, too, but samplers outside use them.
_apply_top_k_and_top_p = top_k_top_p.top_k_and_top_p
_batch_rngs_random_gumbel = samplers.batch_gumbel
_get_argmax_ids = samplers.take_chosen
