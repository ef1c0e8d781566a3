"""What sampling returns, from the last state of its loop."""

import jax
import jax.numpy as jnp

from pax_haiku.decoding import alignment, sample_inputs
from pax_haiku.decoding.types import JTensor, NestedMap


def reorder_with_indices(x: JTensor, indices: JTensor) -> JTensor:
  """`x [B, n, ...]` with axis 1 in the order of `indices [B, n]`.

  Raises:
    ValueError: `indices` is not of rank 2, or `x` is of a smaller rank.
  """
  if indices.ndim != 2 or x.ndim < 2:
    raise ValueError(
      'reorder_with_indices takes x [batch, samples, ...] and indices [batch, '
      f'samples], found {x.shape} and {indices.shape}.'
    )
  return x[jnp.arange(x.shape[0])[:, None], indices]


def sort_samples_by_scores(
  result: NestedMap, top_k_recall_target: float = 0.85
) -> NestedMap:
  """Sorts the samples of each example by the sum of their log-probabilities.

  Args:
    result: arrays `[B, n, ...]`, with `logprobs [B, n, T]`; values >= 1.0, the blank,
      count 0.
    top_k_recall_target: < 1.0: by an approximate top k.

  Returns:
    `result` with all arrays reordered, best sample first.

  Raises:
    ValueError: the recall target is not positive.
  """
  if top_k_recall_target <= 0.0:
    raise ValueError(
      f'top_k_recall_target must be in (0, 1], found {top_k_recall_target}.'
    )
  scores = jnp.sum(jnp.where(result.logprobs >= 1.0, 0.0, result.logprobs), axis=-1)
  num = scores.shape[-1]
  if top_k_recall_target < 1.0:
    _, order = jax.lax.approx_max_k(scores, num, recall_target=top_k_recall_target)
  else:
    _, order = jax.lax.top_k(scores, num)
  return jax.tree.map(lambda x: reorder_with_indices(x, order), result)


def finish(
  state: NestedMap,
  rows: sample_inputs.Rows,
  prefix_ids: JTensor,
  prefix_paddings: JTensor,
  prefix_lengths: JTensor,
  max_prefix_len: int | None,
  post_process,
) -> NestedMap:
  """The result from the last state.

  Args:
    state: of the loop.
    rows: batch and samples.
    prefix_ids, prefix_paddings: `[Bn, P]`.
    prefix_lengths: `[Bn]`.
    max_prefix_len: the prefix is right-aligned in this length; None: left-aligned.
    post_process: of the sampler, `state -> state`.

  Returns:
    arrays `[B, n, ...]`; with guidance `[B / 2, n, ...]`, the conditional rows.
  """
  result = state
  del result.segment_pos
  result.prefix_lengths = prefix_lengths
  count = jnp.sum(1.0 - prefix_paddings, axis=1)
  result.original_lengths = count.astype(jnp.int32)
  if max_prefix_len is not None:

    def align(x):
      return alignment.left_align_tensor(x, prefix_lengths, max_prefix_len)

    prefix_ids = align(prefix_ids)
    for name in ('output_ids', 'logprobs', 'entropy'):
      if name in result:
        result[name] = align(result[name])
  is_prefix = jnp.arange(prefix_ids.shape[1]) < prefix_lengths[:, None]
  result.prefix_ids = jnp.where(is_prefix, prefix_ids, 0)
  del result.start_step, result.step, result.done, result.has_eos
  result = post_process(result)
  n = rows.num_samples
  if rows.guided:
    return jax.tree.map(
      lambda x: sample_inputs.split_batch_dim(x, 0, 2 * n)[:, :n], result
    )
  return jax.tree.map(lambda x: sample_inputs.split_batch_dim(x, 0, n), result)
