"""Beam search: the names that Pax code imports."""

from pax_haiku.decoder_hparams import BeamSearchHParams
from pax_haiku.decoding.beam import (
  ComputeLogprobsFn,
  beam_search,
  beam_search_after_prefix_fprop,
  broadcast_beam_dim,
  default_compute_logprobs_fn,
)
from pax_haiku.decoding.beam_step import GlobalBeam, shuffle_state, update_global_beam

__all__ = [
  'BeamSearchHParams',
  'ComputeLogprobsFn',
  'GlobalBeam',
  'beam_search',
  'beam_search_after_prefix_fprop',
  'broadcast_beam_dim',
  'default_compute_logprobs_fn',
  'shuffle_state',
  'update_global_beam',
]
