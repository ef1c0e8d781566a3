"""The plain sampling loop: right-aligned prefixes, one sample, one stage."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.core import lifted_loop
from pax_haiku.decoding import (
  alignment,
  checks,
  mesh,
  sample_inputs,
  sample_loop,
  sample_step,
  state_fns,
  types,
)
from pax_haiku.decoding.types import JTensor, NestedMap


def vanilla_sample_decode(
  model: base_layer.BaseLayerApi,
  fprop_fn: types.FPropFn,
  extend_step_fn: types.ExtendStepFn | types.ExpandedExtendStepFn,
  transform_state_fn: types.TransformStateFn,
  next_token_sampler: base_layer.BaseLayerApi,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  temperature: float | JTensor = 1.0,
  gumbel_prng_key: JTensor | None = None,
  max_decode_steps: int = 0,
  eos_id: int | Sequence[int] | JTensor | None = None,
  decode_loop_mesh_axes_transpose: dict[str, str] | None = None,
  model_var_pspecs: pytypes.Nested | None = None,
) -> NestedMap:
  """Fills the decode caches by a forward call, and samples once for each example.

  Args:
    model: a bound layer; call this from one of its methods.
    fprop_fn: `(model, ids, paddings)`: fills the caches.
    extend_step_fn: `(model, ids [B], segment_pos [B][, state]) -> logits [B, V]`.
    transform_state_fn: `(model, fn)`: applies `fn` to all decode caches.
    next_token_sampler: chooses tokens.
    prefix_ids: `[B, P]`, right-aligned.
    prefix_paddings: `[B, P]`, 1 where there is no prefix.
    temperature: a number >= 0, or `[B, 1]`.
    gumbel_prng_key: `[B]` or `[B, key size]`; None: the keys are the model's.
    max_decode_steps: number of steps, > 0.
    eos_id: id or ids that end a row, or stop sequences `[B, L]`.
    decode_loop_mesh_axes_transpose, model_var_pspecs: see decoding/mesh.py.

  Returns:
    NestedMap with output_ids and logprobs `[B, P + max_decode_steps]`, left-aligned,
    decode_lengths, prefix_lengths and segment_pos `[B]`, prefix_ids `[B, P]`.

  Raises:
    ValueError: arguments do not fit each other or the vocabulary.
  """
  checks.check_positive('max_decode_steps', max_decode_steps)
  checks.check_prefix(prefix_ids, prefix_paddings, None, 1)
  checks.check_temperature(temperature)
  fprop_fn(model, prefix_ids, prefix_paddings)
  prefix_lengths = jnp.sum(1 - prefix_paddings.astype(jnp.int32), axis=-1)
  model = mesh.maybe_reshard_mdl_for_decode(
    model, decode_loop_mesh_axes_transpose, model_var_pspecs, transform_state_fn
  )
  batch, max_prefix_len = prefix_ids.shape
  seq_len = max_prefix_len + max_decode_steps
  rows = sample_inputs.Rows(batch, 1, False)
  eos = sample_inputs.eos_ids(eos_id, rows)
  keys = sample_inputs.prng_keys(gumbel_prng_key)
  if keys is not None and keys.shape[0] != batch:
    raise ValueError(
      f'gumbel_prng_key must have one key for each of {batch} examples, found shape '
      f'{keys.shape}.'
    )
  extend = types.coerce_to_expanded_extend_step_fn(extend_step_fn)
  with mesh.maybe_decode_mesh_transpose(model, decode_loop_mesh_axes_transpose):
    transform_state_fn(model, state_fns.pad_state_fn(max_decode_steps))
    output_ids = jnp.zeros((batch, seq_len), jnp.int32)
    state = NestedMap(
      segment_pos=prefix_lengths - 1,
      step=max_prefix_len - 1,
      output_ids=output_ids.at[:, :max_prefix_len].set(prefix_ids.astype(jnp.int32)),
      done=jnp.zeros([batch], bool),
      has_eos=jnp.zeros([batch], bool),
      decode_lengths=jnp.full_like(prefix_lengths, seq_len),
      logprobs=jnp.ones((batch, seq_len), jnp.float32),
    )
    state = next_token_sampler.init_decode_loop_state(state, model, batch, eos)

    def body(model, state):
      step, was_done = state.step, state.done
      logits = extend(model, state.output_ids[:, step], state.segment_pos, state)
      if isinstance(eos, list):
        checks.check_eos_ids(eos, logits.shape[-1])
      sampled = sample_step.draw(
        next_token_sampler,
        model,
        logits,
        temperature,
        state,
        gumbel_prng_key=_step_keys(keys, step),
      )
      new_ids = jnp.where(was_done, 0, sampled.new_ids)
      at = (slice(None), step + 1)
      state.output_ids = state.output_ids.at[at].set(new_ids)
      sample_step.mark_ends(state, new_ids, eos, state.output_ids, step + 1)
      lengths = prefix_lengths + (step - max_prefix_len + 2)
      sample_step.mark_length(state, was_done, step + 2 >= seq_len, lengths)
      logprobs = sample_step.logprobs_of(logits, new_ids, was_done)
      state.logprobs = state.logprobs.at[at].set(logprobs)
      state.segment_pos += 1
      state.step += 1
      return state

    result = lifted_loop.while_loop(
      model, sample_loop.go_on_until(seq_len - 1), body, state
    )
  result.prefix_lengths = prefix_lengths
  result.prefix_ids = prefix_ids
  for name in ('prefix_ids', 'output_ids', 'logprobs'):
    result[name] = alignment.left_align_tensor(
      result[name], prefix_lengths, max_prefix_len
    )
  del result.step, result.done, result.has_eos
  return next_token_sampler.post_process_decode_loop_state(result)


def _step_keys(keys: JTensor | None, step) -> JTensor | None:
  """The rows' keys at `step`; dummy keys stay as they are."""
  if keys is None:
    return None
  folded = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
  is_dummy = jnp.all(keys == types.DUMMY_PRNG_KEY)
  return jnp.where(is_dummy, jnp.uint32(types.DUMMY_PRNG_KEY), folded)
