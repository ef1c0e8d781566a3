"""The sampling loop: its first state, its caches, its stages."""

import jax.numpy as jnp

from pax_haiku.core import lifted_loop
from pax_haiku.decoding import sample_step, state_fns
from pax_haiku.decoding.types import NestedMap


def broadcast_caches(
  model, transform_state_fn, lazy_broadcast_prefix_fn, num_samples, caches, steps
) -> None:
  """Makes the caches of B examples those of B * num_samples rows.

  With lazy broadcast the prefix's last token moves into the samples' part: it is the
  input of the first step.
  """
  if lazy_broadcast_prefix_fn is not None:
    transform_state_fn(model, state_fns.slice_state_fn(0, -1))
    lazy_broadcast_prefix_fn(model, num_samples, steps)
  elif transform_state_fn is not None:
    repeat = state_fns.batch_broadcast_state_fn(num_samples)
    transform_state_fn(model, caches.watch(repeat))


def first_state(
  body: sample_step.SampleStep, seq_len: int, start_step: int, with_entropy: bool
) -> NestedMap:
  """The state before the loop. A log-probability of 1.0 is a blank."""
  ids = body.prefix_ids
  rows = ids.shape[0]
  output_ids = jnp.zeros((rows, seq_len), jnp.int32)
  if body.max_prefix_len is None:
    ids = ids[:, :1]
    position = jnp.zeros([rows], jnp.int32)
  else:
    position = body.prefix_lengths - 1
  state = NestedMap(
    start_step=start_step,
    step=start_step,
    output_ids=output_ids.at[:, : ids.shape[1]].set(ids.astype(jnp.int32)),
    segment_pos=position,
    done=jnp.zeros([rows], bool),
    has_eos=jnp.zeros([rows], bool),
    decode_lengths=jnp.full_like(body.prefix_lengths, seq_len),
    logprobs=jnp.ones((rows, seq_len), jnp.float32),
  )
  if body.num_per_token_logprobs is not None:
    shape = (rows, seq_len, sample_step.MAX_NUM_PER_TOKEN_LOGPROBS)
    state.top_candidate_ids = jnp.zeros(shape, jnp.int32)
    state.top_candidate_logprobs = jnp.ones(shape, jnp.float32)
  if body.optimize_eos:
    state.eos_logprobs = jnp.ones((rows, seq_len), jnp.float32)
    state.eos_ids = jnp.zeros((rows, seq_len), jnp.float32)
  if with_entropy:
    state.entropy = jnp.zeros((rows, seq_len), jnp.float32)
  return state


def go_on_until(last_step):
  """The loop's condition: steps are left, and rows that have not ended."""
  return lambda state: (state.step < last_step) & ~jnp.all(state.done)


def run_stages(model, body, state, seq_len, stages, transform_state_fn, caches):
  """One loop for each stage of `max_decode_steps`, caches growing in between."""
  before, start = None, state.start_step
  for steps in stages:
    if before is not None:
      grow = state_fns.pad_state_fn(steps - before)
      transform_state_fn(model, caches.watch(grow))
    last = min(seq_len - 1, start + steps)
    caches.check(last, 'sample_decode')
    state = lifted_loop.while_loop(model, go_on_until(last), body, state)
    before = steps
  return state
