"""Helpers of decoding against formulas written out row by row."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import decoder_hparams, decoder_utils, sample_decode
from pax_haiku.py_utils import NestedMap

IDS = np.array([[5, 3, 0, 0], [1, 4, 9, 6], [7, 0, 0, 0]], np.int32)
LENGTHS = np.array([2, 4, 1], np.int32)


def test_right_align():
  got = decoder_utils.right_align_tensors(jnp.array(IDS), jnp.array(LENGTHS))
  np.testing.assert_array_equal(got, [[0, 0, 5, 3], [1, 4, 9, 6], [0, 0, 0, 7]])
  cache = np.arange(24.0).reshape(3, 4, 2)
  moved = decoder_utils.right_align_state_fn(jnp.array(LENGTHS))(jnp.array(cache), 0, 1)
  for row, length, want in zip(np.asarray(moved), LENGTHS, cache, strict=True):
    np.testing.assert_array_equal(row[4 - length :], want[:length])
    assert not row[: 4 - length].any()
  with pytest.raises(ValueError, match=r'align_dim=2.*\(3, 4\)'):
    decoder_utils.right_align_tensors(jnp.array(IDS), jnp.array(LENGTHS), 2)


def test_left_align_undoes_right_align():
  right = decoder_utils.right_align_tensors(jnp.array(IDS), jnp.array(LENGTHS))
  decoded = jnp.concatenate([right, jnp.full([3, 2], 8)], axis=1)
  got = decoder_utils.left_align_tensor(decoded, jnp.array(LENGTHS), 4, pad_value=-1)
  want = [[5, 3, 8, 8, -1, -1], [1, 4, 9, 6, 8, 8], [7, 8, 8, -1, -1, -1]]
  np.testing.assert_array_equal(got, want)
  cache = jnp.stack([decoded, 10 * decoded], axis=-1)
  for rank4 in (False, True):
    x = cache[..., None] if rank4 else cache
    aligned = decoder_utils.left_align_kv_cache(x, jnp.array(LENGTHS), 4, -1, 3)
    plain = aligned[..., 0, 0] if rank4 else aligned[..., 0]
    np.testing.assert_array_equal(plain, want)
  with pytest.raises(ValueError, match=r'\(6,\)'):
    decoder_utils.left_align_tensor(decoded[0], jnp.array(LENGTHS), 4)
  with pytest.raises(ValueError, match=r'\(3, 6\)'):
    decoder_utils.left_align_kv_cache(decoded, jnp.array(LENGTHS), 4)


def test_positions_and_paddings_of_right_aligned_prefixes():
  ids, paddings = sample_decode.right_align_prefix_ids(
    jnp.array(IDS), jnp.array(LENGTHS), jnp.float32
  )
  np.testing.assert_array_equal(paddings, [[1, 1, 0, 0], [0] * 4, [1, 1, 1, 0]])
  assert paddings.dtype == jnp.float32 and ids.dtype == jnp.int32
  positions = sample_decode.right_align_segment_position(jnp.array(LENGTHS), 4)
  np.testing.assert_array_equal(positions, [[0, 0, 0, 1], [0, 1, 2, 3], [0] * 4])


def test_suffixes():
  decoded = jnp.array([[0, 5, 6, 0], [1, 2, 3, 4]])  # prefix of 2, right-aligned
  suffix = jnp.array([[71, 72], [73, 74], [75, 76], [77, 78]])
  got = decoder_utils.concat_suffix_and_left_align(
    decoded, suffix, jnp.array([3, 4]), jnp.array([1, 2]), 2, 2, 2, -1
  )
  want = [
    [[5, 6, 71, 72, -1, -1], [1, 2, 3, 4, 75, 76]],
    [[5, 6, 73, 74, -1, -1], [1, 2, 3, 4, 77, 78]],
  ]
  np.testing.assert_array_equal(got, [want])


def test_state_functions():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(
    decoder_utils.pad_state_fn(2)(x, 0, 1), np.pad(x, [(0, 0), (0, 2)])
  )
  np.testing.assert_array_equal(decoder_utils.slice_state_fn(0, -1)(x, 0, 1), x[:, :-1])
  np.testing.assert_array_equal(decoder_utils.slice_state_fn(-2, 3)(x, 0, 1), x[:, 1:])
  np.testing.assert_array_equal(
    decoder_utils.batch_broadcast_state_fn(2)(x, 0, 1), x[np.array([0, 0, 1, 1])]
  )
  for fn in (
    decoder_utils.pad_state_fn(2),
    decoder_utils.slice_state_fn(0, 1),
    decoder_utils.right_align_state_fn(jnp.array([1, 1])),
  ):
    assert fn(x, 0, -1) is x
  assert decoder_utils.batch_broadcast_state_fn(2)(x, -1, 1) is x


@pytest.mark.parametrize('step', [0, 1, 3])
def test_stop_sequences(step):
  stops = np.array([[0, 3], [9, 6], [0, 0]], np.int32)
  got = decoder_utils.end_with_sequences(jnp.array(stops), jnp.array(IDS), step)
  for row, stop, found in zip(IDS, stops, np.asarray(got), strict=True):
    before = np.concatenate([[0, 0], row])[step + 1 : step + 3]
    assert found == all(s in (0, b) for s, b in zip(stop, before, strict=True))


def test_first_stop_sequence():
  got = decoder_utils.find_first_new_stop_seq_match(
    jnp.array([1, 0, 0]), 2, jnp.array([[[0, 3], [1, 1]]] * 3), jnp.array(IDS)
  )
  np.testing.assert_array_equal(got, [0, 2, 2])


def test_eos_ids():
  for ids in (3, [3], [3, 9]):
    got = decoder_utils.has_any_eos(jnp.array(IDS), ids)
    np.testing.assert_array_equal(got, np.isin(IDS, ids))


def test_best_end():
  """Against a loop over all ends of each row."""
  rng = np.random.default_rng(0)
  shape, start = (3, 6), 1
  logprobs = -rng.random(shape).astype(np.float32)
  eos_logprobs = -3 * rng.random(shape).astype(np.float32)
  ids = rng.integers(1, 9, shape).astype(np.int32)
  state = NestedMap(
    output_ids=jnp.array(ids),
    logprobs=jnp.array(logprobs).at[:, : start + 1].set(1.0),
    eos_logprobs=jnp.array(eos_logprobs),
    eos_ids=jnp.full(shape, 2.0),
    start_step=start,
    done=jnp.zeros(3, bool),
    has_eos=jnp.zeros(3, bool),
    decode_lengths=jnp.full(3, 6),
  )
  got = decoder_utils.collect_results_to_optimize_eos(state, 1)
  assert 'eos_ids' in state and 'eos_ids' not in got
  filled = np.asarray(state.logprobs)
  for i in range(3):
    # As in Praxis, the blanks of the prefix are part of the sum from step 3 on.
    before = [0.0 if p - 1 <= start else filled[i, :p].sum() for p in range(6)]
    scores = {p: before[p] + eos_logprobs[i, p] for p in range(start + 1, 6)}
    end = max(scores, key=scores.get)
    want = [*ids[i, :end], 2, *[0] * (5 - end)]
    np.testing.assert_array_equal(got.output_ids[i], want)
    np.testing.assert_array_equal(got.logprobs[i, end + 1 :], 1.0)
    assert got.logprobs[i, end] == eos_logprobs[i, end]
    assert got.decode_lengths[i] == end
  assert got.done.all() and got.has_eos.all()


def test_extend_step_functions_of_three_and_four_parameters():
  three = decoder_utils.coerce_to_expanded_extend_step_fn(lambda m, i, p: (m, i, p))
  assert three(1, 2, 3, 4) == (1, 2, 3)
  four = lambda m, i, p, s: s  # noqa: E731
  assert decoder_utils.coerce_to_expanded_extend_step_fn(four) is four


def test_length_norm_and_choices_of_beams():
  np.testing.assert_allclose(
    decoder_utils.length_norm(jnp.array([0, 5, 10]), 0.8), np.array([1, 2, 3.0]) ** 0.8,
    rtol=1e-6,
  )  # fmt: skip
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(2, 3, 7)).astype(np.float32)
  scores = rng.normal(size=(2, 3)).astype(np.float32)
  _, ids, best, chosen = decoder_utils.two_stage_topk(
    jnp.array(logits), jnp.array(scores), [4], 5
  )
  total = (logits + scores[..., None]).astype(np.float64)
  total[:, :, 4] -= 1e9
  got_ids = decoder_utils.gather_output_id(ids, chosen)
  hyps = np.asarray(chosen) // 5
  for b in range(2):
    order = np.argsort(-total[b].ravel())[:3]
    np.testing.assert_array_equal(hyps[b], order // 7)
    np.testing.assert_array_equal(got_ids[b], order % 7)
    np.testing.assert_allclose(best[b], total[b].ravel()[order], rtol=1e-6)
  got = decoder_utils.gather_logprobs(jnp.array(logits), jnp.array(hyps), got_ids)
  rows = np.arange(2)[:, None]
  np.testing.assert_array_equal(got, logits[rows, hyps, np.asarray(got_ids)])


def test_samples_are_sorted_by_their_logprob():
  logprobs = jnp.array([[[-1.0, -1.0], [-0.5, 1.0], [-3.0, 0.0]]])
  result = NestedMap(logprobs=logprobs, ids=jnp.array([[10, 11, 12]]))
  got = sample_decode.sort_samples_by_scores(result)
  np.testing.assert_array_equal(got.ids, [[11, 10, 12]])
  np.testing.assert_array_equal(got.logprobs[0, 0], [-0.5, 1.0])
  exact = sample_decode.sort_samples_by_scores(result, 1.0)
  jax.tree.map(np.testing.assert_array_equal, got, exact)
  with pytest.raises(ValueError, match='recall_target'):
    sample_decode.sort_samples_by_scores(result, 0.0)
  with pytest.raises(ValueError, match='indices'):
    sample_decode.reorder_with_indices(logprobs, jnp.zeros(3, jnp.int32))
  with pytest.raises(ValueError, match=r'num_samples=2'):
    sample_decode.split_batch_dim(logprobs, 1, 2)


def test_settings_have_the_defaults_of_pax():
  greedy = decoder_hparams.GreedyDecoderHParams()
  assert (greedy.seqlen, greedy.eos_id, greedy.min_prefix_len) == (0, 2, 5)
  sample = decoder_hparams.SampleDecoderHParams(seqlen=7)
  assert (sample.k, sample.temperature, sample.num_samples) == (40, 1.0, 1)
  tpl = sample.next_token_sampler_tpl
  assert tpl.cls is sample_decode.DefaultNextTokenSampler
  copy = sample.clone()
  copy.next_token_sampler_tpl.top_k = 3
  assert sample.next_token_sampler_tpl.top_k == 40
  flat = decoder_hparams.FlatBeamSearchHParams(beam_size=4)
  assert isinstance(flat, decoder_hparams.BeamSearchHParams)
  assert flat.length_norm_alpha == 0.8
  assert 'clone' in dict(inspect.getmembers(flat))
