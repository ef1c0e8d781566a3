"""Helpers of decoding: the names that Pax code imports."""

from pax_haiku.decoding.alignment import (
  concat_suffix_and_left_align,
  left_align_kv_cache,
  left_align_tensor,
  right_align_tensors,
)
from pax_haiku.decoding.beam_math import (
  gather_logprobs,
  gather_output_id,
  length_norm,
  two_stage_topk,
)
from pax_haiku.decoding.mesh import (
  maybe_decode_mesh_transpose,
  maybe_reshard_mdl_for_decode,
)
from pax_haiku.decoding.state_fns import (
  batch_broadcast_state_fn,
  pad_state_fn,
  right_align_state_fn,
  slice_state_fn,
)
from pax_haiku.decoding.stopping import (
  collect_results_to_optimize_eos,
  end_with_any_sequence_any_position,
  end_with_sequences,
  find_first_new_stop_seq_match,
  has_any_eos,
)
from pax_haiku.decoding.types import (
  DUMMY_PRNG_KEY,
  ControlledDecodingHParams,
  ExpandedExtendStepFn,
  ExtendStepFn,
  FPropFn,
  LazyBroadcastPrefixFn,
  ProcessResultFn,
  StreamingResultCallback,
  TransformStateFn,
  coerce_to_expanded_extend_step_fn,
)

__all__ = [
  'ControlledDecodingHParams',
  'DUMMY_PRNG_KEY',
  'ExpandedExtendStepFn',
  'ExtendStepFn',
  'FPropFn',
  'LazyBroadcastPrefixFn',
  'ProcessResultFn',
  'StreamingResultCallback',
  'TransformStateFn',
  'batch_broadcast_state_fn',
  'coerce_to_expanded_extend_step_fn',
  'collect_results_to_optimize_eos',
  'concat_suffix_and_left_align',
  'end_with_any_sequence_any_position',
  'end_with_sequences',
  'find_first_new_stop_seq_match',
  'gather_logprobs',
  'gather_output_id',
  'has_any_eos',
  'left_align_kv_cache',
  'left_align_tensor',
  'length_norm',
  'maybe_decode_mesh_transpose',
  'maybe_reshard_mdl_for_decode',
  'pad_state_fn',
  'right_align_state_fn',
  'right_align_tensors',
  'slice_state_fn',
  'two_stage_topk',
]
