"""Sampling from a language model: the names that Pax code imports."""

from pax_haiku.decoding.alignment import (
  right_align_prefix_ids,
  right_align_segment_position,
)
from pax_haiku.decoding.sample import (
  BaseSampleTerminationConstraint,
  greedy_decode,
  sample_decode,
  sample_decode_after_fprop,
)
from pax_haiku.decoding.sample_inputs import split_batch_dim
from pax_haiku.decoding.sample_result import (
  reorder_with_indices,
  sort_samples_by_scores,
)
from pax_haiku.decoding.sample_step import MAX_NUM_PER_TOKEN_LOGPROBS
from pax_haiku.decoding.single_step import (
  sample_decoding_step,
  sample_init_decode_state,
)
from pax_haiku.decoding.types import DUMMY_PRNG_KEY, StreamingResultCallback
from pax_haiku.decoding.vanilla import vanilla_sample_decode
from pax_haiku.token_samplers import (
  BaseLogitsSampler,
  BaseNextTokenSampler,
  DefaultCategoricalLogitsSampler,
  DefaultNextTokenSampler,
  epsilon_mask_logits,
  get_top_k,
  sample_from_top_k_and_top_p,
  sample_from_top_p_given_top_k,
  top_p_mask_logits,
)

__all__ = [
  'BaseLogitsSampler',
  'BaseNextTokenSampler',
  'BaseSampleTerminationConstraint',
  'DUMMY_PRNG_KEY',
  'DefaultCategoricalLogitsSampler',
  'DefaultNextTokenSampler',
  'MAX_NUM_PER_TOKEN_LOGPROBS',
  'StreamingResultCallback',
  'epsilon_mask_logits',
  'get_top_k',
  'greedy_decode',
  'reorder_with_indices',
  'right_align_prefix_ids',
  'right_align_segment_position',
  'sample_decode',
  'sample_decode_after_fprop',
  'sample_decoding_step',
  'sample_from_top_k_and_top_p',
  'sample_from_top_p_given_top_k',
  'sample_init_decode_state',
  'sort_samples_by_scores',
  'split_batch_dim',
  'top_p_mask_logits',
  'vanilla_sample_decode',
]
