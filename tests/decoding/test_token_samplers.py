"""Samplers against formulas in numpy, and the distribution that they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle, py_utils, token_samplers
from pax_haiku.py_utils import NestedMap

LOGITS = np.array([[0.1, 2.0, -1.0, 1.5, 0.3], [3.0, -2.0, 0.0, 0.2, 2.9]], np.float32)
LOWEST = py_utils.get_large_negative_number(jnp.float32)


class Keys:
  """Stands for a model: gives random keys."""

  def __init__(self, seed=0):
    self.key, self.drawn = jax.random.PRNGKey(seed), 0

  def next_prng_key(self):
    self.drawn += 1
    return jax.random.fold_in(self.key, self.drawn)


def _softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def _top_p(row, p):
  """The logits that top p keeps: the fewest likeliest tokens of probability >= p."""
  order = np.argsort(-row)
  kept, total = set(), 0.0
  for i in order:
    kept.add(i)
    total += _softmax(row)[i]
    if total >= p:
      break
  return kept


def test_top_k():
  values, indices = token_samplers.get_top_k(jnp.array(LOGITS), 3, None)
  np.testing.assert_array_equal(indices, np.argsort(-LOGITS)[:, :3])
  np.testing.assert_array_equal(values, -np.sort(-LOGITS)[:, :3])
  values, _ = token_samplers.get_top_k(jnp.array(LOGITS), 3, jnp.array([1, 9]))
  np.testing.assert_array_equal(values[0, 1:], [LOWEST, LOWEST])
  assert (values[1] > -3).all()
  approximate = token_samplers.get_top_k(jnp.array(LOGITS), 3, None, 0.9)
  np.testing.assert_array_equal(approximate[1], indices)  # exact on a CPU
  values, indices = token_samplers.get_top_k(jnp.array(LOGITS), 0, None)
  np.testing.assert_array_equal(values, LOGITS)
  np.testing.assert_array_equal(indices, [range(5)] * 2)


@pytest.mark.parametrize('p', [0.0, 0.2, 0.5, 0.83, 0.97])
def test_top_p(p):
  for logits, is_sorted in ((LOGITS, False), (-np.sort(-LOGITS), True)):
    masked = token_samplers.top_p_mask_logits(jnp.array(logits), p, is_sorted)
    per_row = jnp.full([2, 1], p)
    rows = token_samplers.top_p_mask_logits(jnp.array(logits), per_row, is_sorted)
    np.testing.assert_array_equal(rows, masked)
    for row, got in zip(logits, np.asarray(masked), strict=True):
      assert set(np.flatnonzero(got > LOWEST)) == _top_p(row, p)


def test_top_p_of_one_keeps_all():
  logits = jnp.array(LOGITS)
  assert token_samplers.top_p_mask_logits(logits, 1.0) is logits


def test_epsilon():
  masked = token_samplers.epsilon_mask_logits(jnp.array(LOGITS), 0.1)
  np.testing.assert_array_equal(masked > LOWEST, _softmax(LOGITS) >= 0.1)
  logits = jnp.array(LOGITS)
  assert token_samplers.epsilon_mask_logits(logits, 0.0) is logits


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
def test_draws_from_the_softmax_at_a_temperature(temperature):
  """20000 draws: each frequency within 4.5 standard deviations of the probability."""
  num = 20000
  rows = jnp.broadcast_to(jnp.array(LOGITS[0]), (num, 5))
  sampler = token_samplers.DefaultCategoricalLogitsSampler()
  ids, _ = sampler(jax.random.PRNGKey(1), rows, None, temperature, NestedMap())
  counts = np.bincount(np.asarray(ids), minlength=5)
  p = _softmax(LOGITS[0] / temperature)
  sigma = np.sqrt(num * p * (1 - p))
  assert (np.abs(counts - num * p) < 4.5 * sigma).all()


def test_sampling_stays_within_top_k_and_top_p():
  num = 2000
  rows = jnp.broadcast_to(jnp.array(LOGITS[0]), (num, 5))
  ids, logprobs = token_samplers.sample_from_top_k_and_top_p(
    rows, jax.random.PRNGKey(0), 5.0, 4, top_p=0.9
  )
  best = np.argsort(-LOGITS[0])[:4]
  allowed = {best[i] for i in _top_p(LOGITS[0][best], 0.9)}
  assert set(np.asarray(ids)) == allowed
  of_four = dict(zip(best, np.log(_softmax(LOGITS[0][best])), strict=True))
  want = [of_four[i] for i in np.asarray(ids)]
  np.testing.assert_allclose(logprobs, want, rtol=1e-5)


def test_a_key_for_each_row():
  logits = jnp.zeros([4, 50])
  sampler = token_samplers.DefaultCategoricalLogitsSampler()
  keys = jnp.array([[0, 1], [0, 2], [0, 1], [5, 5]], jnp.uint32)
  ids, _ = sampler(keys, logits, None, 1.0, NestedMap())
  assert ids[0] == ids[2] and len(set(np.asarray(ids))) == 3
  for i in range(4):
    want = jnp.argmax(jax.random.gumbel(keys[i], [50]))
    assert ids[i] == want
  with pytest.raises(ValueError, match=r'one for each row.*\(3, 2\).*\(4, 50\)'):
    sampler(keys[:3], logits, None, 1.0, NestedMap())


def _next(temperature=1.0, model=None, **fields):
  sampler = token_samplers.DefaultNextTokenSampler(**fields)
  return sampler(model or Keys(), jnp.array(LOGITS), temperature, NestedMap())


@pytest.mark.parametrize(
  'fields,temperature,draws',
  [
    ({'top_k': 1}, 1.0, 0),
    ({'top_k': 0}, 0.0, 0),
    ({'top_k': 3}, 0.0, 1),
    ({'top_k': 0, 'top_p': 0.01}, 1.0, 1),
    ({'top_k': 0, 'epsilon_p': 0.45}, 1.0, 1),
  ],
)
def test_greedy_in_several_ways(fields, temperature, draws):
  model = Keys()
  out = _next(temperature, model, **fields)
  np.testing.assert_array_equal(out.new_ids, LOGITS.argmax(-1))
  np.testing.assert_array_equal(out.logits, LOGITS)
  assert out.new_ids.dtype == jnp.int32
  assert model.drawn == draws


def test_dummy_keys_stand_for_the_models_own():
  sampler = token_samplers.DefaultNextTokenSampler(top_k=0)
  logits = jnp.zeros([2, 40])

  def ids(keys):
    return sampler(Keys(), logits, 1.0, NestedMap(), gumbel_prng_key=keys).new_ids

  dummy = jnp.full([2, 2], token_samplers.DUMMY_PRNG_KEY, jnp.uint32)
  own = jax.random.split(Keys().next_prng_key(), 2)
  np.testing.assert_array_equal(ids(dummy), ids(own))
  assert (ids(dummy) != ids(dummy.at[0, 0].set(1))).any()


def test_is_configured_as_in_pax():
  config = pax_fiddle.Config(token_samplers.DefaultNextTokenSampler, top_k=2)
  sampler = config.Instantiate()
  assert isinstance(sampler.logits_sampler, token_samplers.BaseLogitsSampler)
  assert (sampler.top_k, sampler.top_p, sampler.epsilon_p) == (2, None, 0.0)
  assert token_samplers.DefaultNextTokenSampler().top_k == 40


@pytest.mark.parametrize(
  'fields,temperature,what',
  [
    ({'top_k': 6}, 1.0, r'top_k must be between 0 .* 5, found 6'),
    ({'top_k': -1}, 1.0, 'found -1'),
    ({'top_k': 3, 'top_p': -0.5}, 1.0, r'top_p must be in \[0, 1\], found -0.5'),
    ({'top_k': 3, 'top_p': 1.01}, 1.0, 'found 1.01'),
    ({'top_k': 3}, -0.5, 'temperature must be >= 0, found -0.5'),
    ({'top_k': 3}, np.array([[1.0], [-2.0]]), 'found -2.0'),
    ({'top_k': 3, 'top_k_recall_target': 0.0}, 1.0, 'top_k_recall_target'),
  ],
)
def test_settings_that_do_not_fit(fields, temperature, what):
  with pytest.raises(ValueError, match=what):
    _next(temperature, **fields)
