"""Results of a sampling loop while it runs: what a StreamingResultCallback is given."""

import dataclasses

import jax
import jax.numpy as jnp

from pax_haiku.decoding import sample_inputs
from pax_haiku.decoding.types import JTensor, NestedMap, StreamingResultCallback


@dataclasses.dataclass
class Stream:
  """Calls the callback every `interval_steps` steps, and when all rows are done.

  Attributes:
    callback: the user's.
    rows: batch and samples.
    start_step: step at which the loop began.
    num_per_token_logprobs: `[Bn]`, or None.
  """

  callback: StreamingResultCallback
  rows: sample_inputs.Rows
  start_step: int
  num_per_token_logprobs: JTensor | None

  def __call__(self, state: NestedMap, step) -> None:
    interval = self.callback.interval_steps
    is_due = (step - self.start_step + 1) % interval == 0
    jax.lax.cond(
      is_due | jnp.all(state.done),
      lambda: self.callback.callback_fn(self._payload(state, step)),
      lambda: None,
    )

  def _newest(self, x: JTensor, step, offset: int, blank) -> JTensor:
    """The entries of the present interval, blanks behind the last.

    Args:
      x: `[Bn, T, ...]`.
      step: of the loop.
      offset: where in `x` the first step writes.
      blank: fills up what is too short.
    """
    interval = self.callback.interval_steps
    missing = (offset - x.shape[1]) % interval
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, widths, constant_values=blank)
    start = (step - self.start_step) // interval * interval + offset
    return jax.lax.dynamic_slice_in_dim(x, start, interval, axis=1)

  def _payload(self, state: NestedMap, step) -> NestedMap:
    first = self.start_step + 1
    out = NestedMap(output_ids=self._newest(state.output_ids, step, first, 0))
    logprobs = self._newest(state.logprobs, step, first, 1)
    if self.num_per_token_logprobs is not None:
      out.num_per_token_logprobs = self.num_per_token_logprobs
      out.top_candidate_ids = self._newest(state.top_candidate_ids, step, 0, 0)
      out.top_candidate_logprobs = self._newest(
        state.top_candidate_logprobs, step, 0, 1
      )
      out.logprobs = logprobs
    interval = self.callback.interval_steps
    out.decode_lengths = jnp.full_like(state.decode_lengths, interval)
    if 'prefix_scores' in state:
      out.scores = state.prefix_scores
    else:
      out.scores = jnp.sum(jnp.minimum(logprobs, 0.0), axis=-1)
    out.done = state.done
    n = self.rows.num_samples
    out = jax.tree.map(lambda x: sample_inputs.split_batch_dim(x, 0, n), out)
    out.prefix_lengths = jnp.zeros([self.rows.batch], jnp.int32)
    return out
