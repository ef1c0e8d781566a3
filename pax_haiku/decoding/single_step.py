"""Sampling step by step, for servers whose rows begin and end at different times."""

from collections.abc import Sequence

import jax.numpy as jnp

from pax_haiku import base_layer
from pax_haiku.decoding import (
  checks,
  mesh,
  sample_inputs,
  sample_step,
  samplers,
  state_fns,
  top_k_top_p,
  types,
)
from pax_haiku.decoding.types import JTensor, NestedMap


def sample_init_decode_state(
  model: base_layer.BaseLayerApi,
  prefix_ids: JTensor,
  max_prefix_len: int | None = None,
  max_decode_steps: int | None = None,
  top_k: int | None = 1,
  top_p: float | JTensor | None = None,
  prefix_lengths: JTensor | None = None,
  eos_id: int | None = None,
  transform_state_fn: types.TransformStateFn | None = None,
) -> NestedMap:
  """The state before the first `sample_decoding_step`, caches being filled.

  Args:
    model: a bound layer.
    prefix_ids: `[B, P]`, right-aligned in `max_prefix_len`.
    max_prefix_len: P.
    max_decode_steps: number of steps; the caches are padded by it.
    top_k, top_p: of the sampler.
    prefix_lengths: `[B]`; 0 if None.
    eos_id: given to the sampler.
    transform_state_fn: None: the caches are long enough.

  Returns:
    NestedMap with step, start_step, and, all `[B]`, per_sample_steps, output_ids (the
    prefix's last), logprobs, done, has_eos, prefix_lengths, decode_lengths,
    segment_pos. Before each step add `temperature`, `per_example_max_decode_steps`,
    `per_example_top_p` and `per_example_top_k`.

  Raises:
    ValueError: `max_prefix_len` or `max_decode_steps` is missing.
  """
  checks.check_positive('max_prefix_len', max_prefix_len)
  checks.check_positive('max_decode_steps', max_decode_steps)
  if transform_state_fn:
    transform_state_fn(model, state_fns.pad_state_fn(max_decode_steps))
  batch = prefix_ids.shape[0]
  if prefix_lengths is None:
    prefix_lengths = jnp.zeros([batch], jnp.int32)
  start = max_prefix_len - 1
  state = NestedMap(
    start_step=start,
    step=start,
    per_sample_steps=jnp.full([batch], start, jnp.int32),
    output_ids=prefix_ids[:, start].astype(jnp.int32),
    logprobs=jnp.ones([batch], jnp.float32),
    done=jnp.zeros([batch], bool),
    has_eos=jnp.zeros([batch], bool),
    prefix_lengths=prefix_lengths,
    decode_lengths=jnp.full_like(prefix_lengths, max_prefix_len + max_decode_steps),
    segment_pos=prefix_lengths - 1,
  )
  sampler = samplers.DefaultNextTokenSampler(top_k=top_k, top_p=top_p)
  return sampler.init_decode_loop_state(state, model, batch, eos_id)


def sample_decoding_step(
  model: base_layer.BaseLayerApi,
  decode_state: NestedMap,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  top_k: int | None = 1,
  top_p: float | JTensor | None = None,
  max_prefix_len: int | None = None,
  max_decode_steps: int | None = None,
  decode_loop_mesh_axes_transpose: dict[str, str] | None = None,
  eos_id: int | Sequence[int] | None = None,
) -> NestedMap:
  """One step: the next token of each row.

  Args:
    model: a bound layer, its caches as the step before left them.
    decode_state: as from `sample_init_decode_state`, with what is to be added.
    extend_step_fn: `(model, ids [B], segment_pos [B][, state]) -> logits [B, V]`.
    top_k, top_p: of the sampler.
    max_prefix_len, max_decode_steps: as before.
    decode_loop_mesh_axes_transpose: see decoding/mesh.py.
    eos_id: id or ids that end a row.

  Returns:
    The next state; `output_ids` and `logprobs` are those of the newest token.

  Raises:
    ValueError: the sampler's settings or `eos_id` do not fit the vocabulary.
  """
  extend = types.coerce_to_expanded_extend_step_fn(extend_step_fn)
  sampler = samplers.DefaultNextTokenSampler(top_k=top_k, top_p=top_p)
  state = decode_state
  rows = sample_inputs.Rows(state.per_sample_steps.shape[0], 1, False)
  eos = sample_inputs.eos_ids(eos_id, rows)
  if eos is not None and not isinstance(eos, list):
    raise ValueError(
      'sample_decoding_step keeps the newest token only and cannot find stop '
      'sequences: eos_id must be an id or a list of ids.'
    )
  temperature = state.temperature
  if top_k_top_p.is_array(temperature):
    temperature = jnp.reshape(temperature, (-1, 1))
  per_row_p = state.per_example_top_p
  if top_k_top_p.is_array(per_row_p):
    per_row_p = per_row_p[:, None]
  max_steps = jnp.minimum(state.per_example_max_decode_steps, max_decode_steps)
  with mesh.maybe_decode_mesh_transpose(model, decode_loop_mesh_axes_transpose):
    steps, was_done = state.per_sample_steps, state.done
    logits = extend(model, state.output_ids, state.segment_pos, state)
    if eos is not None:
      checks.check_eos_ids(eos, logits.shape[-1])
    sampled = sample_step.draw(
      sampler,
      model,
      logits,
      temperature,
      state,
      per_example_top_p=per_row_p,
      per_example_top_k=state.per_example_top_k,
      gumbel_prng_key=None,
    )
    state.output_ids = jnp.where(was_done, 0, sampled.new_ids)
    sample_step.mark_ends(state, state.output_ids, eos, None, None)
    lengths = state.prefix_lengths + (steps - max_prefix_len + 2)
    is_full = steps + 2 - max_prefix_len >= max_steps
    sample_step.mark_length(state, was_done, is_full, lengths)
    state.segment_pos += 1
    state.logprobs = sample_step.logprobs_of(logits, state.output_ids, was_done)
    state.step += 1
    state.per_sample_steps += 1
  return state
