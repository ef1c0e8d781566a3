"""Sampling: greedy, by temperature, top k and top p, as one loop over a model."""

import abc
from collections.abc import Sequence

import jax.numpy as jnp

from pax_haiku import base_hyperparams, base_layer, pytypes
from pax_haiku.core import lifted_loop
from pax_haiku.decoding import (
  checks,
  controlled,
  mesh,
  sample_inputs,
  sample_loop,
  sample_result,
  sample_step,
  samplers,
  state_fns,
  stopping,
  streaming,
  types,
)
from pax_haiku.decoding.types import JTensor, NestedMap


class BaseSampleTerminationConstraint(
  base_hyperparams.FiddleBaseParameterizable, metaclass=abc.ABCMeta
):
  """Ends samples early that do not keep to some rule."""

  @abc.abstractmethod
  def __call__(
    self, enforce_sample_constraints: JTensor | None, decode_loop_state: NestedMap
  ) -> JTensor:
    """Which rows are done.

    Args:
      enforce_sample_constraints: which samples must keep to the rule, as given to
        `sample_decode`.
      decode_loop_state: state of the loop, with `done [Bn]` as it stands.

    Returns:
      bool `[Bn]`, in place of `done`.
    """


def sample_decode(
  model: base_layer.BaseLayerApi,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  transform_state_fn: types.TransformStateFn | None,
  lazy_broadcast_prefix_fn: types.LazyBroadcastPrefixFn | None,
  next_token_sampler: samplers.BaseNextTokenSampler,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  seq_len: int,
  num_samples: int,
  fprop_fn: types.FPropFn | None = None,
  cf_guidance_scale: list[float] | float | JTensor | None = None,
  fprop_for_prefix: bool = False,
  temperature: float | JTensor = 1.0,
  gumbel_prng_key: JTensor | None = None,
  per_example_top_p: JTensor | float | None = None,
  per_example_top_k: JTensor | int | None = None,
  max_prefix_len: int | None = None,
  max_decode_steps: int | Sequence[int] | None = None,
  per_example_max_decode_steps: JTensor | None = None,
  prefix_lengths: JTensor | None = None,
  eos_id: int | Sequence[int] | JTensor | None = None,
  result_callback: types.StreamingResultCallback | None = None,
  decode_loop_mesh_axes_transpose: dict[str, str] | None = None,
  model_var_pspecs: pytypes.Nested | None = None,
  return_result_for_suffix_score: bool = False,
  sort_samples: bool = True,
  top_k_recall_target: float = 0.85,
  early_exit: bool = True,
  use_top_k_for_logprobs: bool = False,
  controlled_decoding: types.ControlledDecodingHParams | None = None,
  return_entropy_score: bool = False,
  process_result_fn: types.ProcessResultFn | None = None,
  optimize_eos: bool = False,
  sample_constraint: BaseSampleTerminationConstraint | None = None,
  enforce_sample_constraints: JTensor | None = None,
  num_per_token_logprobs: JTensor | None = None,
) -> NestedMap:
  """Fills the decode caches by a forward call, and samples.

  Args:
    model: a bound layer; call this from one of its methods. In the loop the functions
      get a twin of it, and must use that.
    extend_step_fn: `(model, ids [Bn], segment_pos [Bn][, state]) -> logits [Bn, V]`.
    transform_state_fn: `(model, fn)`: applies `fn` to all decode caches.
    lazy_broadcast_prefix_fn: `(model, num_samples, length)`; None: caches are repeated
      for the samples.
    next_token_sampler: chooses tokens.
    prefix_ids: `[B, P]`; right-aligned with `fprop_for_prefix`, else left-aligned.
    prefix_paddings: `[B, P]`, 1 where there is no prefix.
    seq_len: length of the output, prefix included.
    num_samples: samples n of each example; `Bn` is B * n.
    fprop_fn: `(model, ids, paddings)`: fills the caches; None: they are there.
    cf_guidance_scale: classifier-free guidance of examples in pairs, conditional and
      unconditional: logits = uncond + scale * (cond - uncond). A number, a list of n,
      `[B / 2]` or `[B / 2, n]`.
    fprop_for_prefix: the caches hold the prefix; else it is stepped through.
    temperature: a number >= 0, `[B]` or `[B, n]`. 0 is greedy.
    gumbel_prng_key: `[B]` or `[B, key size]`; None, or all DUMMY_PRNG_KEY: the keys are
      the model's.
    per_example_top_p: `[B]`.
    per_example_top_k: `[B]`, at most the sampler's.
    max_prefix_len: P, with `fprop_for_prefix`.
    max_decode_steps: steps after the prefix; a list makes the caches grow in stages.
    per_example_max_decode_steps: `[B]`.
    prefix_lengths: `[B]`; 0 if None.
    eos_id: id or ids that end a row; or `[B, L]`, a stop sequence for each example,
      padded with 0 (which matches any id) on the left.
    result_callback: called while the loop runs.
    decode_loop_mesh_axes_transpose, model_var_pspecs: see decoding/mesh.py.
    return_result_for_suffix_score: return the state of the loop as it is.
    sort_samples: best sample of an example first.
    top_k_recall_target: of that sort.
    early_exit: stop as soon as all rows are done. False: a scan over all steps; it can
      be differentiated, and leaves the summaries of all steps, stacked.
    use_top_k_for_logprobs: take the log-probabilities that the sampler returns.
    controlled_decoding: decode in blocks, see decoding/controlled.py.
    return_entropy_score: return the entropy of each distribution.
    process_result_fn: `(model, result) -> result`, run last.
    optimize_eos: never sample `eos_id` (ids); end each row where that is best.
    sample_constraint, enforce_sample_constraints: end rows early; both or none.
    num_per_token_logprobs: `[B]`, at most 5: return that many likeliest tokens of each
      step.

  Returns:
    NestedMap of arrays `[B, n, ...]` (with guidance B / 2 examples):
    output_ids: `[B, n, seq_len]`, prefix included, 0 behind the end.
    logprobs: `[B, n, seq_len]`, of the ids, before temperature and top k; 1.0 where
      there is none, and 0.0 in what moving a prefix to the left frees.
    decode_lengths: `[B, n]`, prefix and end-of-sequence included.
    prefix_lengths, original_lengths: `[B, n]`, as given and as the paddings say.
    prefix_ids: `[B, n, P]`, left-aligned.
    entropy, top_candidate_ids, top_candidate_logprobs: if asked for.

  Raises:
    ValueError: arguments do not fit each other, the caches or the vocabulary.
  """
  if fprop_fn:
    fprop_fn(model, prefix_ids, prefix_paddings)
  model = mesh.maybe_reshard_mdl_for_decode(
    model, decode_loop_mesh_axes_transpose, model_var_pspecs, transform_state_fn
  )
  caches = checks.CacheLengths(lazy_broadcast_prefix_fn is None)
  with mesh.maybe_decode_mesh_transpose(model, decode_loop_mesh_axes_transpose):
    if fprop_fn and lazy_broadcast_prefix_fn is None and transform_state_fn:
      stages = sample_inputs.decode_stages(max_decode_steps, seq_len)
      steps = stages[0] if fprop_for_prefix else seq_len - 1
      transform_state_fn(model, caches.watch(state_fns.pad_state_fn(steps)))
    result = sample_decode_after_fprop(
      model,
      extend_step_fn,
      transform_state_fn,
      lazy_broadcast_prefix_fn,
      next_token_sampler,
      prefix_ids,
      prefix_paddings,
      seq_len,
      num_samples,
      cf_guidance_scale,
      fprop_for_prefix,
      temperature,
      gumbel_prng_key,
      per_example_top_p,
      per_example_top_k,
      max_prefix_len,
      max_decode_steps,
      per_example_max_decode_steps,
      prefix_lengths,
      eos_id,
      result_callback,
      return_result_for_suffix_score,
      sort_samples,
      top_k_recall_target,
      early_exit,
      use_top_k_for_logprobs,
      controlled_decoding,
      return_entropy_score,
      optimize_eos,
      sample_constraint,
      enforce_sample_constraints,
      num_per_token_logprobs,
      _caches=caches,
    )
    if process_result_fn is not None:
      result = process_result_fn(model, result)
    return result


def sample_decode_after_fprop(
  model: base_layer.BaseLayerApi,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  transform_state_fn: types.TransformStateFn | None,
  lazy_broadcast_prefix_fn: types.LazyBroadcastPrefixFn | None,
  next_token_sampler: samplers.BaseNextTokenSampler,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  seq_len: int,
  num_samples: int,
  cf_guidance_scale: list[float] | float | JTensor | None = None,
  fprop_for_prefix: bool = False,
  temperature: float | JTensor = 1.0,
  gumbel_prng_key: JTensor | None = None,
  per_example_top_p: JTensor | None = None,
  per_example_top_k: JTensor | None = None,
  max_prefix_len: int | None = None,
  max_decode_steps: int | Sequence[int] | None = None,
  per_example_max_decode_steps: JTensor | None = None,
  prefix_lengths: JTensor | None = None,
  eos_id: int | Sequence[int] | JTensor | None = None,
  result_callback: types.StreamingResultCallback | None = None,
  return_result_for_suffix_score: bool = False,
  sort_samples: bool = True,
  top_k_recall_target: float = 0.85,
  early_exit: bool = True,
  use_top_k_for_logprobs: bool = False,
  controlled_decoding: types.ControlledDecodingHParams | None = None,
  return_entropy_score: bool = False,
  optimize_eos: bool = False,
  sample_constraint: BaseSampleTerminationConstraint | None = None,
  enforce_sample_constraints: JTensor | None = None,
  num_per_token_logprobs: JTensor | None = None,
  *,
  _caches: checks.CacheLengths | None = None,
) -> NestedMap:
  """`sample_decode` where the caches are filled and padded already.

  The arguments are those of `sample_decode`.
  """
  caches = _caches or checks.CacheLengths(lazy_broadcast_prefix_fn is None)
  if controlled_decoding:
    controlled.check(controlled_decoding, max_decode_steps)
  if (sample_constraint is None) != (enforce_sample_constraints is None):
    raise ValueError(
      'sample_constraint and enforce_sample_constraints go together, found '
      f'{sample_constraint!r} and {enforce_sample_constraints!r}.'
    )
  if fprop_for_prefix and max_prefix_len is None:
    raise ValueError(
      'fprop_for_prefix needs max_prefix_len, the length of prefix_ids: '
      f'{jnp.shape(prefix_ids)[-1]}.'
    )
  checks.check_seq_len(seq_len)
  checks.check_positive('num_samples', num_samples)
  checks.check_prefix(prefix_ids, prefix_paddings, prefix_lengths, seq_len)
  if fprop_for_prefix and seq_len < max(max_prefix_len, prefix_ids.shape[1]):
    raise ValueError(
      f'A prefix is longer than the output: prefix_ids have length '
      f'{prefix_ids.shape[1]}, max_prefix_len is {max_prefix_len}, the sequence length '
      f'{seq_len}.'
    )
  stages = sample_inputs.decode_stages(max_decode_steps, seq_len)
  rows = sample_inputs.Rows(
    prefix_ids.shape[0], num_samples, cf_guidance_scale is not None
  )
  eos = sample_inputs.eos_ids(eos_id, rows)
  if optimize_eos and (not isinstance(eos, list) or use_top_k_for_logprobs):
    raise ValueError(
      'optimize_eos needs eos_id as an id or a list of ids, and use_top_k_for_logprobs '
      f'off, found eos_id={eos_id!r}, use_top_k_for_logprobs={use_top_k_for_logprobs}.'
    )
  if num_samples > 1:
    sample_loop.broadcast_caches(
      model,
      transform_state_fn,
      lazy_broadcast_prefix_fn,
      num_samples,
      caches,
      (controlled_decoding and controlled_decoding.interval)
      or stages[0] + (0 if controlled_decoding else 1),
    )

  prefix_ids, prefix_paddings = map(rows.repeat, (prefix_ids, prefix_paddings))
  if prefix_lengths is None:
    prefix_lengths = jnp.zeros([prefix_ids.shape[0]], jnp.int32)
  else:
    prefix_lengths = rows.repeat(prefix_lengths)
  max_steps = stages[-1]
  if per_example_max_decode_steps is not None:
    given = rows.per_row(per_example_max_decode_steps, 'per_example_max_decode_steps')
    max_steps = jnp.minimum(rows.of_both(given.astype(jnp.int32)), max_steps)
  candidates = rows.per_row(num_per_token_logprobs, 'num_per_token_logprobs')
  start_step = max_prefix_len - 1 if fprop_for_prefix else 0
  body = sample_step.SampleStep(
    rows=rows,
    extend_step_fn=types.coerce_to_expanded_extend_step_fn(extend_step_fn),
    sampler=next_token_sampler,
    prefix_ids=prefix_ids,
    prefix_lengths=prefix_lengths,
    max_prefix_len=max_prefix_len if fprop_for_prefix else None,
    max_steps=max_steps,
    eos=eos,
    temperature=sample_inputs.row_temperature(temperature, rows),
    top_p=sample_inputs.row_top_p(per_example_top_p, rows),
    top_k=rows.per_row(per_example_top_k, 'per_example_top_k'),
    keys=sample_inputs.prng_keys(gumbel_prng_key),
    guidance=sample_inputs.guidance_scale(cf_guidance_scale, num_samples),
    use_top_k_for_logprobs=use_top_k_for_logprobs,
    optimize_eos=optimize_eos,
    num_per_token_logprobs=candidates,
    constraint=sample_constraint
    and (lambda state: sample_constraint(enforce_sample_constraints, state)),
    stream=result_callback
    and streaming.Stream(result_callback, rows, start_step, candidates),
  )
  state = sample_loop.first_state(body, seq_len, start_step, return_entropy_score)
  state = next_token_sampler.init_decode_loop_state(
    state, model, prefix_ids.shape[0], eos
  )
  if result_callback is not None and result_callback.init_fn is not None:
    result_callback.init_fn((rows.batch, num_samples))

  if controlled_decoding:
    state = controlled.run(
      model,
      body,
      state,
      seq_len,
      controlled_decoding,
      stages,
      transform_state_fn,
      lazy_broadcast_prefix_fn,
    )
  elif early_exit:
    state = sample_loop.run_stages(
      model, body, state, seq_len, stages, transform_state_fn, caches
    )
  else:
    if len(stages) > 1:
      grow = state_fns.pad_state_fn(stages[-1] - stages[0])
      transform_state_fn(model, caches.watch(grow))
    length = seq_len - (max_prefix_len or 0)
    caches.check(start_step + length, 'sample_decode')
    state = lifted_loop.scan(model, body, state, length)

  if result_callback is not None and result_callback.done_fn is not None:
    result_callback.done_fn()
  if optimize_eos:
    state = stopping.collect_results_to_optimize_eos(state, max_prefix_len or 0)
  if return_result_for_suffix_score:
    return state
  result = sample_result.finish(
    state,
    rows,
    prefix_ids,
    prefix_paddings,
    prefix_lengths,
    body.max_prefix_len,
    next_token_sampler.post_process_decode_loop_state,
  )
  if num_samples > 1 and sort_samples:
    return sample_result.sort_samples_by_scores(result, top_k_recall_target)
  return result


def greedy_decode(
  model: base_layer.BaseLayerApi,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  seq_len: int,
  fprop_for_prefix: bool = False,
  fprop_fn: types.FPropFn | None = None,
  transform_state_fn: types.TransformStateFn | None = None,
  max_prefix_len: int | None = None,
  max_decode_steps: int | Sequence[int] | None = None,
  prefix_lengths: JTensor | None = None,
  decode_loop_mesh_axes_transpose: dict[str, str] | None = None,
  model_var_pspecs: pytypes.Nested | None = None,
  eos_id: int | None = None,
  process_result_fn: types.ProcessResultFn | None = None,
) -> NestedMap:
  """Takes the likeliest token in each step: `sample_decode` of temperature 0.

  Args and result are those of `sample_decode`, with one sample.
  """
  return sample_decode(
    model,
    extend_step_fn,
    transform_state_fn=transform_state_fn,
    lazy_broadcast_prefix_fn=None,
    next_token_sampler=samplers.DefaultNextTokenSampler(top_k=1),
    prefix_ids=prefix_ids,
    prefix_paddings=prefix_paddings,
    seq_len=seq_len,
    num_samples=1,
    fprop_fn=fprop_fn,
    fprop_for_prefix=fprop_for_prefix,
    temperature=0.0,
    max_prefix_len=max_prefix_len,
    max_decode_steps=max_decode_steps,
    prefix_lengths=prefix_lengths,
    eos_id=eos_id,
    decode_loop_mesh_axes_transpose=decode_loop_mesh_axes_transpose,
    model_var_pspecs=model_var_pspecs,
    process_result_fn=process_result_fn,
  )
