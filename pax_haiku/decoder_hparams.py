"""Settings of decoding: what `LanguageModel.decoder_tpl` holds."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from pax_haiku import decoder_utils, pax_fiddle, sample_decode

_Self = TypeVar('_Self', bound='DecoderHParams')


@dataclasses.dataclass
class DecoderHParams:
  """Settings that all ways of decoding share.

  Attributes:
    seqlen: length of the output, prefix included; > 0 unless the prefix is run by one
      forward call, where prefix and `max_decode_steps` decide.
    min_prefix_len: for data pipelines that cut a prefix; the loops do not read it.
    eos_id: id, or ids, at which an example ends.
    min_decode_steps: number of steps before a hypothesis may end (beam search only).
    max_decode_steps: number of steps after the prefix; None: up to `seqlen`. A list
      makes the decode caches grow in stages, to each of these numbers of steps.
    fprop_for_prefix: run the prefix by one forward call, not step by step.
    lazy_prefix_broadcast: samples of an example share the caches of their prefix. Needs
      `fprop_for_prefix` and attention with lazy prefix broadcast.
    decode_loop_mesh_axes_transpose: {new: old} names of mesh axes during the loop.
    process_result_fn: `(model, result) -> result`, run last.
    emb_lookup_style: for models that choose by it; the loops do not read it.
    use_extra_input_kwargs: pass `extra_input_kwargs` of the batch to the model.
    num_cache_slots: > 0: slots for continuous batching.
    precompute_kv_cache_prefix_ids: for servers; the loops do not read it.
  """

  seqlen: int = 0
  min_prefix_len: int = 5
  eos_id: int | Sequence[int] = 2
  min_decode_steps: int = 0
  max_decode_steps: int | Sequence[int] | None = None
  fprop_for_prefix: bool = False
  lazy_prefix_broadcast: bool = False
  decode_loop_mesh_axes_transpose: dict[str, str] | None = None
  process_result_fn: decoder_utils.ProcessResultFn | None = None
  emb_lookup_style: str = 'matmul'
  use_extra_input_kwargs: bool = False
  num_cache_slots: int = 0
  precompute_kv_cache_prefix_ids: Sequence[int] | None = None

  def clone(self: _Self) -> _Self:
    """A deep copy."""
    return copy.deepcopy(self)


@dataclasses.dataclass
class GreedyDecoderHParams(DecoderHParams):
  """Settings of greedy decoding."""


@dataclasses.dataclass
class BeamSearchHParams(DecoderHParams):
  """Settings of beam search.

  Attributes:
    beam_size: number of hypotheses kept, >= 1.
    tokens_per_beam: how many continuations of each hypothesis compete; `beam_size` if
      None.
    length_norm_alpha: scores of ended hypotheses of length n are divided by
      ((n + 5) / 5) ** alpha.
    early_exit: continue hypotheses with end-of-sequence too, and stop as soon as each
      has one.
    use_matmul_beam_shuffle: reorder the caches by products with one-hot matrices.
    output_id_offset: added to the chosen ids.
  """

  beam_size: int = 1
  tokens_per_beam: int | None = None
  length_norm_alpha: float = 0.8
  early_exit: bool = False
  use_matmul_beam_shuffle: bool = False
  output_id_offset: int = 0


@dataclasses.dataclass
class FlatBeamSearchHParams(BeamSearchHParams):
  """Settings of beam search with all beams in one flat buffer."""


@dataclasses.dataclass
class SampleDecoderHParams(DecoderHParams):
  """Settings of sampling.

  Attributes:
    num_samples: samples of each example.
    temperature: factor of the Gumbel noise; 0 is greedy.
    k: choose among the `k` likeliest tokens; 0: among all.
    top_k_recall_target: < 1.0: approximate top-k, as fast as the device allows.
    use_top_k_for_logprobs: log-probabilities relative to the top k alone.
    p: choose among the likeliest tokens whose probabilities add up to `p`.
    next_token_sampler_tpl: what chooses the next token.
    sample_constraint: what ends samples early.
    global_normalize: with `k` and `p`: relate logits to the sum over the vocabulary.
    cf_guidance_scale: scale of classifier-free guidance.
    controlled_decoding: settings of blockwise decoding.
    sort_samples: sort the samples of an example by their log-probability.
    override_next_token_sampler_params: set the sampler's fields from those here.
    optimize_eos: end each sample where its log-probability with the end is best.
    vanilla_sample_decode: use `sample_decode.vanilla_sample_decode`.
    early_exit: stop as soon as all samples have ended; False: a scan of fixed length.
  """

  num_samples: int = 1
  temperature: float = 1.0
  k: int = 40
  top_k_recall_target: float = 1.0
  use_top_k_for_logprobs: bool = False
  p: float | Any | None = None
  next_token_sampler_tpl: pax_fiddle.Config[sample_decode.BaseNextTokenSampler] = (
    pax_fiddle.template_field(sample_decode.DefaultNextTokenSampler)
  )
  sample_constraint: (
    pax_fiddle.Config[sample_decode.BaseSampleTerminationConstraint] | None
  ) = None
  global_normalize: bool = False
  cf_guidance_scale: list[float] | float | None = None
  controlled_decoding: decoder_utils.ControlledDecodingHParams | None = None
  sort_samples: bool | None = True
  override_next_token_sampler_params: bool = True
  optimize_eos: bool = False
  vanilla_sample_decode: bool = False
  early_exit: bool = True
