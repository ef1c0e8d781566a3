"""One step of sampling: from the ids at `step` to those at `step + 1`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import py_utils
from pax_haiku.decoding import checks, sample_inputs, stopping
from pax_haiku.decoding.types import (
  DUMMY_PRNG_KEY,
  ExpandedExtendStepFn,
  JTensor,
  NestedMap,
)

MAX_NUM_PER_TOKEN_LOGPROBS = 5


def row_keys(keys: JTensor | None, num_samples: int, step) -> JTensor | None:
  """A key for each row at `step`, `[Bn, key size]`; dummy keys stay as they are."""
  if keys is None:
    return None
  split = jax.vmap(lambda key: jax.random.split(key, num_samples))(keys)
  split = jnp.reshape(split, (-1, *keys.shape[1:]))
  folded = jax.vmap(lambda key: jax.random.fold_in(key, step))(split)
  is_dummy = jnp.all(keys == DUMMY_PRNG_KEY)
  return jnp.where(is_dummy, jnp.uint32(DUMMY_PRNG_KEY), folded)


def draw(sampler, model, logits, temperature, state: NestedMap, **kwargs):
  """Runs a sampler and updates what it shares with the state: its output."""
  out = sampler(model, logits, temperature, state, **kwargs)
  for name in sorted(out.keys() & state.keys()):
    state[name] = out[name]
  ids, logits = out.new_ids, out.logits
  if ids.shape != logits.shape[:1] or ids.dtype != jnp.int32:
    raise ValueError(
      f'{type(sampler).__name__} must return new_ids as int32 {logits.shape[:1]}, '
      f'found {ids.dtype} {ids.shape}.'
    )
  model.add_summary('new_ids', ids)
  model.add_summary('sample_logits', logits)
  return out


def mark_ends(state: NestedMap, new_ids: JTensor, eos, output_ids, step) -> None:
  """Updates `done` and `has_eos` where rows end with an end-of-sequence id.

  Args:
    state: of the loop.
    new_ids: `[Bn]`.
    eos: None, ids, or stop sequences `[Bn, L]`.
    output_ids: `[Bn, T]`, for stop sequences.
    step: index of the new ids.
  """
  if eos is None:
    return
  if isinstance(eos, list):
    ends = stopping.has_any_eos(new_ids, eos)
  else:
    ends = stopping.end_with_sequences(eos, output_ids, step)
  state.done = state.done | ends
  state.has_eos = state.has_eos | ends


def mark_length(state, was_done: JTensor, is_full: JTensor, lengths: JTensor) -> None:
  """Ends rows that are full, and notes the lengths of those that end in this step."""
  state.done = state.done | is_full
  ended_now = ~was_done & state.done
  state.decode_lengths = jnp.where(ended_now, lengths, state.decode_lengths)


def logprobs_of(logits: JTensor, ids: JTensor, was_done: JTensor) -> JTensor:
  """log_softmax(logits) `[Bn, V]` at `ids [Bn]`; 1.0, the blank, for ended rows."""
  logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
  chosen = jnp.take_along_axis(logprobs, ids[:, None], axis=-1)[:, 0]
  return jnp.where(was_done, 1.0, chosen)


def top_candidates(count: JTensor, logprobs: JTensor) -> tuple[JTensor, JTensor]:
  """The likeliest tokens of each row.

  Args:
    count: `[Bn]`, how many to keep; others get the blanks 1.0 and 0.
    logprobs: `[Bn, V]`.

  Returns:
    log-probabilities and ids, `[Bn, MAX_NUM_PER_TOKEN_LOGPROBS]`.
  """
  most = MAX_NUM_PER_TOKEN_LOGPROBS
  k = min(logprobs.shape[-1], most)
  best, ids = jax.lax.top_k(logprobs, k)
  pad = [(0, 0), (0, most - k)]
  best, ids = jnp.pad(best, pad, constant_values=1.0), jnp.pad(ids, pad)
  keep = jnp.arange(most) < count[:, None]
  return jnp.where(keep, best, 1.0), jnp.where(keep, ids, 0)


@dataclasses.dataclass
class SampleStep:
  """The body of the sampling loop, with all that does not change in it.

  Attributes:
    rows: batch and samples.
    extend_step_fn: `(model, ids, segment_pos, state) -> logits [Bn, V]`.
    sampler: chooses tokens.
    prefix_ids, prefix_lengths: `[Bn, P]`, `[Bn]`.
    max_prefix_len: the prefix is in the caches already, right-aligned in this length;
      None: the prefix is stepped through.
    max_steps: `[Bn]` or a number: steps after the prefix.
    eos: None, ids, or stop sequences.
    temperature, top_p, top_k, keys, guidance: as made by sample_inputs.
    use_top_k_for_logprobs, optimize_eos: settings.
    num_per_token_logprobs: `[Bn]`, or None.
    constraint: `state -> done`, or None.
    stream: `(state, step) -> None`, or None.
  """

  rows: sample_inputs.Rows
  extend_step_fn: ExpandedExtendStepFn
  sampler: Any
  prefix_ids: JTensor
  prefix_lengths: JTensor
  max_prefix_len: int | None
  max_steps: Any
  eos: Any
  temperature: Any
  top_p: Any
  top_k: JTensor | None
  keys: JTensor | None
  guidance: Any
  use_top_k_for_logprobs: bool
  optimize_eos: bool
  num_per_token_logprobs: JTensor | None
  constraint: Callable[[NestedMap], JTensor] | None
  stream: Callable[[NestedMap, JTensor], None] | None

  def __call__(self, model, state: NestedMap) -> NestedMap:
    """From ids at `state.step`, the state with those at the next step."""
    step, was_done = state.step, state.done
    ids = state.output_ids[:, step]
    logits = self.extend_step_fn(model, ids, state.segment_pos, state)
    if isinstance(self.eos, list):
      checks.check_eos_ids(self.eos, logits.shape[-1])
    logits = self._guided(logits)
    sampled = draw(
      self.sampler,
      model,
      self._without_eos(logits),
      self.temperature,
      state,
      per_example_top_p=self.top_p,
      per_example_top_k=self.top_k,
      gumbel_prng_key=self._keys(step, logits.shape[0]),
    )
    new_ids = self.rows.of_both(sampled.new_ids)
    if self.max_prefix_len is None:
      known = self.prefix_ids[:, jnp.minimum(step + 1, self.prefix_ids.shape[1] - 1)]
      new_ids = jnp.where(step < self.prefix_lengths - 1, known, new_ids)
    new_ids = jnp.where(was_done, 0, new_ids)
    state.output_ids = state.output_ids.at[:, step + 1].set(new_ids)
    self._end(state, new_ids, step, was_done)
    self._score(state, logits, sampled, new_ids, step, was_done)
    if self.stream is not None:
      self.stream(state, step)
    state.step += 1
    return state

  def _guided(self, logits: JTensor) -> JTensor:
    """uncond + scale * (cond - uncond), one row for each pair of rows."""
    if self.guidance is None:
      return logits
    n = self.rows.num_samples
    pairs = sample_inputs.split_batch_dim(logits, 0, 2 * n)
    cond, uncond = pairs[:, :n], pairs[:, n:]
    mixed = uncond + self.guidance * (cond - uncond)
    return jnp.reshape(mixed, (-1, logits.shape[-1]))

  def _without_eos(self, logits: JTensor) -> JTensor:
    if not self.optimize_eos:
      return logits
    lowest = py_utils.get_large_negative_number(jnp.float32)
    return logits.at[:, jnp.array(self.eos)].set(lowest.astype(logits.dtype))

  def _keys(self, step, num_rows: int) -> JTensor | None:
    keys = row_keys(self.keys, self.rows.num_samples, step)
    if keys is not None and keys.shape[0] != num_rows:
      raise ValueError(
        f'gumbel_prng_key must have one key for each of {self.rows.examples} examples, '
        f'found shape {self.keys.shape}.'
      )
    return keys

  def _end(self, state: NestedMap, new_ids: JTensor, step, was_done: JTensor) -> None:
    """Updates what tells where rows end."""
    mark_ends(state, new_ids, self.eos, state.output_ids, step + 1)
    if self.max_prefix_len is None:
      in_prefix = step < self.prefix_lengths - 1
      state.done = jnp.where(in_prefix, was_done, state.done)
      offset, lengths = self.prefix_lengths, step + 2
    else:
      offset = self.max_prefix_len
      lengths = self.prefix_lengths + (step - offset + 2)
    state.segment_pos += 1
    if self.constraint is not None:
      state.done = self.constraint(state)
    mark_length(state, was_done, step + 2 - offset >= self.max_steps, lengths)

  def _score(self, state, logits, sampled, new_ids, step, was_done) -> None:
    """Writes log-probabilities, and what else is wanted of the distribution."""
    at = (slice(None), step + 1)
    both = self.rows.of_both
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32))
    if self.use_top_k_for_logprobs and 'logprobs_at_new_ids' in sampled:
      chosen = both(sampled.logprobs_at_new_ids)
    else:
      # With guidance there are fewer rows of logits than of ids; as in Praxis, ids take
      # the row of their own number, or the last one.
      row = jnp.minimum(jnp.arange(new_ids.shape[0]), logprobs.shape[0] - 1)
      chosen = logprobs[row, new_ids]
    chosen = jnp.where(was_done, 1.0, chosen)
    state.logprobs = state.logprobs.at[at].set(chosen)
    if self.num_per_token_logprobs is not None:
      best, ids = top_candidates(self.num_per_token_logprobs, logprobs)
      now = (slice(None), step - state.start_step)
      for name, new in (('top_candidate_logprobs', best), ('top_candidate_ids', ids)):
        state[name] = state[name].at[now].set(both(new))
    if self.optimize_eos:
      best = jnp.argmax(logits.at[:, jnp.array(self.eos)].add(1e6), axis=-1)
      score = jnp.take_along_axis(logprobs, best[:, None], axis=-1)[:, 0]
      state.eos_ids = state.eos_ids.at[at].set(both(best).astype(state.eos_ids.dtype))
      state.eos_logprobs = state.eos_logprobs.at[at].set(both(score))
    if 'entropy' in state:
      entropy = -jnp.sum(logprobs * jnp.exp(logprobs), axis=-1)
      state.entropy = state.entropy.at[at].set(both(entropy))
