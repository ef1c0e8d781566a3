"""What the loops generate against the model's forward pass, and against brute force."""

import itertools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, decoder_utils, sample_decode
from tests.decoding import cases

EOS, VOCAB = 8, 11


@pytest.fixture(scope='module')
def runner():
  return cases.Runner('pax_haiku')


@pytest.fixture(scope='module')
def forward(runner):
  """ids -> log-probabilities of the next token at each position, [T, V]."""

  @jax.jit
  def run(ids):
    logits = runner.model.apply(runner.variables, ids[None], jnp.zeros([1, len(ids)]))
    return jax.nn.log_softmax(logits[0])

  def padded(ids):  # one length: compiled once
    ids = np.asarray(ids, np.int32)
    return np.asarray(run(np.pad(ids, (0, 14 - len(ids)))))[: len(ids)]

  return padded


def _rows(result):
  """(ids, log-probabilities, prefix length, length) of each row."""
  for name in ('output_ids', 'logprobs'):
    result[name] = np.reshape(result[name], (-1, result[name].shape[-1]))
  lengths = np.ravel(result['prefix_lengths']), np.ravel(result['decode_lengths'])
  return zip(result['output_ids'], result['logprobs'], *lengths, strict=True)


@pytest.mark.parametrize('name', ['greedy_filled', 'greedy_stepped'])
def test_greedy_takes_the_best_of_the_forward_pass(runner, forward, name):
  for ids, logprobs, prefix, length in _rows(runner.run(cases.SAMPLE[name])):
    scores = forward(ids[:length])
    assert length > prefix
    for t in range(prefix, length):
      assert ids[t] == scores[t - 1].argmax()
      np.testing.assert_allclose(logprobs[t], scores[t - 1][ids[t]], atol=1e-5)
    assert ids[length - 1] == EOS and EOS not in ids[prefix : length - 1]
    assert not ids[length:].any()


@pytest.mark.parametrize('name', ['sample_top_k', 'sample_stages', 'sample_lazy'])
def test_logprobs_are_those_of_the_forward_pass(runner, forward, name):
  for ids, logprobs, prefix, length in _rows(runner.run(cases.SAMPLE[name])):
    scores = forward(ids[:length])
    want = [scores[t - 1][ids[t]] for t in range(prefix, length)]
    np.testing.assert_allclose(logprobs[prefix:length], want, atol=1e-5)
    assert (logprobs[length:] >= 0).all()


def test_gradients_through_a_scan_are_those_of_the_forward_pass(runner):
  """d/dw of the log-probabilities of what was sampled, with early_exit off."""
  run, arrays = runner.function(
    cases.filled(
      'sample', top_k=0, num_samples=1, temperature=1.0, early_exit=False, steps=2
    )
  )

  def sampled(variables):
    result, _ = run(variables, jax.random.PRNGKey(0), arrays)
    logprobs = [result.logprobs[i, 0, n : n + 2] for i, n in enumerate(cases.LENGTHS)]
    return sum(map(jnp.sum, logprobs)), result.output_ids[:, 0]

  def forced(variables, ids):
    logits = runner.model.apply(variables, ids, jnp.zeros(ids.shape))
    scores = jax.nn.log_softmax(logits)
    return sum(
      scores[i, t - 1, ids[i, t]]
      for i, n in enumerate(cases.LENGTHS)
      for t in range(n, n + 2)
    )

  (value, ids), got = jax.jit(jax.value_and_grad(sampled, has_aux=True))(
    runner.variables
  )
  want_value, want = jax.jit(jax.value_and_grad(forced))(runner.variables, ids)
  np.testing.assert_allclose(value, want_value, rtol=1e-5)
  for name, grad in want['params']['lm'].items():
    assert np.abs(grad).max() > 0.1
    np.testing.assert_allclose(got['params']['lm'][name], grad, rtol=1e-4, atol=1e-5)


def _best_by_brute_force(forward, prefix, steps, alpha):
  """All sequences that end within `steps` tokens: [(score, ids)], best first."""
  found = []
  tokens = [t for t in range(VOCAB) if t != EOS]
  for n in range(steps):
    for body in itertools.product(tokens, repeat=n):
      ids = [*prefix, *body, EOS]
      scores = forward(ids)
      total = sum(scores[t - 1][ids[t]] for t in range(len(prefix), len(ids)))
      found.append((total / ((n + 1 + 5) / 5) ** alpha, ids))
  return sorted(found, key=lambda x: -x[0])


def test_wide_beams_find_the_best_of_all(runner, forward):
  """10 beams of 10 tokens keep everything that can become the best in 3 steps."""
  result = runner.run(
    cases.right(
      'beam', beam_size=10, max_decode_steps=3, eos_id=EOS, length_norm_alpha=0.5
    )
  )
  for b, prefix in enumerate(([5, 3], [1, 4, 9, 6])):
    best = _best_by_brute_force(forward, prefix, 3, 0.5)[:4]
    for k, (score, ids) in enumerate(best):
      length = result['decode_lengths'][b, k]
      np.testing.assert_array_equal(result['output_ids'][b, k, :length], ids)
      np.testing.assert_allclose(result['scores'][b, k], score, rtol=1e-5)


def test_offset_of_output_ids(runner, forward):
  """The newest Praxis adds it to the chosen ids, after their scores are looked up."""
  result = runner.run(
    cases.right(
      'beam',
      beam_size=1,
      max_decode_steps=2,
      min_decode_steps=1,
      eos_id=EOS,
      output_id_offset=2,
      length_norm_alpha=0.0,
    )
  )
  for b, prefix in enumerate(([5, 3], [1, 4, 9, 6])):
    scores = forward(prefix)[-1].copy()
    scores[EOS] = -np.inf
    chosen, n = scores.argmax(), len(prefix)
    ids = [*prefix, chosen + 2, EOS]
    np.testing.assert_array_equal(result['output_ids'][b, 0, : n + 2], ids)
    want = scores[chosen] + forward(ids)[n][EOS]
    np.testing.assert_allclose(result['scores'][b, 0], want, rtol=1e-5)


def test_flat_search_of_several_examples(runner):
  """Praxis's own search adds the scores of one example only; here each has its own."""
  case = cases.right('flat', seq_len=6, beam_size=3, eos_id=2)
  both = runner.run(case)
  for row in range(2):
    method, args, (ids, paddings), kwargs = case
    one = (method, args, (ids[row : row + 1], paddings[row : row + 1]), kwargs)
    for name, value in runner.run(one).items():
      np.testing.assert_allclose(both[name][row], value[0], rtol=1e-5, err_msg=name)


def test_inside_a_haiku_transform(runner):
  """The same tokens as by `layer.apply`; keys come from Haiku's own sequence."""
  sampler = sample_decode.DefaultNextTokenSampler(top_k=4)

  def decode(ids, paddings, temperature):
    model = base_layer.instantiate(runner.lib.pax_fiddle.Config(
      runner.layers.ToyModel, name='model'))  # fmt: skip
    return model.sample(
      sampler,
      ids,
      paddings,
      seq_len=10,
      num_samples=2,
      temperature=temperature,
      prefix_lengths=jnp.array(cases.LENGTHS),
      max_decode_steps=6,
      fprop_for_prefix=True,
      eos_id=EOS,
    )

  f = hk.transform_with_state(decode)
  args = (cases.RIGHT, cases.RIGHT_PADDINGS)
  params, state = jax.jit(f.init)(jax.random.PRNGKey(0), *args, jnp.zeros(2))
  assert list(params) == ['model/lm']
  params = {'model/lm': runner.variables['params']['lm']}
  step = jax.jit(f.apply)
  greedy, state = step(params, state, jax.random.PRNGKey(0), *args, jnp.zeros(2))
  want = runner.run(cases.SAMPLE['greedy_filled'])['output_ids'][:, 0]
  for sample in range(2):
    np.testing.assert_array_equal(greedy.output_ids[:, sample], want)
  hot = [
    step(params, state, jax.random.PRNGKey(i), *args, jnp.full([2], 2.0))[0]
    for i in (1, 2)
  ]
  assert (hot[0].output_ids != hot[1].output_ids).any()


def test_streams_results_while_it_runs(runner):
  got = []

  class Recorder:
    def __call__(self, payload):
      jax.debug.callback(lambda p: got.append(jax.tree.map(np.asarray, p)), payload)

  calls = []
  callback = decoder_utils.StreamingResultCallback(
    Recorder(), 2, init_fn=calls.append, done_fn=lambda: calls.append('done')
  )
  result = runner.run(
    cases.filled(
      'sample',
      steps=5,
      top_k=5,
      num_samples=2,
      temperature=1.0,
      sort_samples=False,
      result_callback=callback,
      num_per_token_logprobs=np.array([2, 1], np.int32),
    )
  )
  jax.effects_barrier()
  assert calls == [(2, 2), 'done'] and len(got) == 3
  ids = np.concatenate([p.output_ids for p in got], axis=-1)
  for b, n in enumerate(cases.LENGTHS):
    np.testing.assert_array_equal(ids[b, :, :5], result['output_ids'][b, :, n : n + 5])
  assert ids.shape == (2, 2, 6) and not ids[:, :, 5:].any()
  assert got[0].done.tolist() == [[False] * 2] * 2 and got[2].done.all()
  scores = sum(p.scores for p in got)
  want = np.minimum(result['logprobs'], 0).sum(-1)
  prefix = [result['logprobs'][b, :, :n] for b, n in enumerate(cases.LENGTHS)]
  want -= np.stack([np.minimum(p, 0).sum(-1) for p in prefix])
  np.testing.assert_allclose(scores, want, rtol=1e-5)
  candidates = np.concatenate([p.top_candidate_ids for p in got], axis=2)
  np.testing.assert_array_equal(
    candidates[:, :, :5], result['top_candidate_ids'][:, :, :5]
  )


class EndsAtStep(sample_decode.BaseSampleTerminationConstraint):
  """Ends the rows that must keep to it at a step."""

  step: int = 0

  def __call__(self, enforce_sample_constraints, decode_loop_state):
    ends = enforce_sample_constraints & (decode_loop_state.step >= self.step)
    return decode_loop_state.done | ends


def test_a_constraint_ends_samples(runner):
  result = runner.run(
    cases.filled(
      'sample',
      top_k=0,
      num_samples=1,
      temperature=0.0,
      sample_constraint=EndsAtStep(step=5),
      enforce_sample_constraints=np.array([True, False]),
    )
  )
  # Steps 3, 4 and 5 of the loop write three tokens behind the prefix of length 2.
  np.testing.assert_array_equal(result['decode_lengths'][:, 0], [5, 10])


def test_vanilla_takes_keys_of_rows(runner):
  """Praxis refuses them by a mistaken check; the draws are those of the formula."""
  keys = np.array([[1, 2], [3, 4]], np.uint32)
  case = cases.right('vanilla', top_k=0, temperature=1.0, max_decode_steps=1, eos_id=0)
  result = runner.run((*case[:3], {**case[3], 'gumbel_prng_key': keys}))
  for b, prefix in enumerate(([5, 3], [1, 4, 9, 6])):
    key = jax.random.fold_in(jnp.array(keys[b]), 3)
    noise = jax.random.gumbel(key, [VOCAB])
    logits = runner.model.apply(
      runner.variables, np.array([prefix]), np.zeros([1, len(prefix)], np.float32)
    )[0, -1]
    assert result['output_ids'][b, len(prefix)] == jnp.argmax(logits + noise)
