"""Gating functions against a plain loop over tokens, and their helpers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import gshard_utils
from tests.layers import harness

GROUPS, TOKENS, EXPERTS, ROOM = 2, 8, 3, 4
LOGITS = 2 * harness.noise(GROUPS, TOKENS, EXPERTS)
PADDINGS = np.zeros((GROUPS, TOKENS), np.float32)
PADDINGS[:, -2:] = 1


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def top2_by_loop(logits, paddings):
  """First choices take their slots in order, then second choices."""
  gates = softmax(logits)
  combine = np.zeros((*logits.shape, ROOM))
  for group, gate in enumerate(gates):
    free = np.zeros(EXPERTS, int)
    best = np.argsort(-gate, axis=-1)[:, :2]
    for choice in range(2):
      for token in range(TOKENS):
        expert = best[token, choice]
        if paddings[group, token]:
          continue
        if free[expert] < ROOM:
          both = gate[token, best[token]].sum()
          combine[group, token, expert, free[expert]] = gate[token, expert] / both
          free[expert] += 1
  return combine


def test_top2_equals_a_loop():
  _, combine, dispatch, (over_1, over_2, *sent) = gshard_utils.top2_gating_on_logits(
    PADDINGS, LOGITS, EXPERTS, ROOM, jnp.float32
  )
  expected = top2_by_loop(LOGITS, PADDINGS)
  # Float32 softmax against float64.
  np.testing.assert_allclose(combine, expected, atol=2e-7)
  np.testing.assert_array_equal(dispatch, expected > 0)
  used = (expected > 0).sum((-1, -2))[PADDINGS == 0]
  np.testing.assert_array_equal(sent, [np.sum(used == n) for n in range(3)])
  assert 0 <= over_1 < over_2 <= 1  # the second choices come last


def test_balanced_gates_have_the_least_loss():
  logits = 20 * np.eye(4, dtype=np.float32)[np.newaxis, np.arange(8) % 4]
  loss = gshard_utils.top2_gating_on_logits(None, logits, 4, 8, jnp.float32)[0]
  np.testing.assert_allclose(loss, 1.0, atol=1e-6)
  same = jnp.broadcast_to(logits[:, :1], logits.shape)
  loss = gshard_utils.top2_gating_on_logits(None, same, 4, 8, jnp.float32)[0]
  np.testing.assert_allclose(loss, 4.0, atol=1e-5)


def test_experts_that_choose_have_no_empty_slots():
  _, combine, dispatch = gshard_utils.expert_choice_gating_on_logits_v2(
    None, LOGITS, EXPERTS, ROOM, jnp.float32
  )
  np.testing.assert_array_equal(np.sum(dispatch, axis=1), np.ones((2, EXPERTS, ROOM)))
  gates = np.sum(combine, axis=-1)
  np.testing.assert_allclose(gates[gates > 0], softmax(LOGITS)[gates > 0], atol=1e-6)
  _, gate, permutation = gshard_utils.expert_choice_gating_on_logits(
    LOGITS, EXPERTS, 0, jnp.float32, capacity_factor=2.0
  )
  assert gate.shape == (GROUPS, EXPERTS, 4) and np.all(np.diff(gate) >= 0)
  picked = np.einsum('gebs,gse->geb', permutation, softmax(LOGITS))
  np.testing.assert_allclose(gate, picked, atol=1e-6)


@pytest.mark.parametrize(
  'factor, least, expected', [(2.0, 0, 8), (0.5, 3, 3), (None, 5, 5), (1.9, 0, 8)]
)
def test_room_is_rounded_up_to_a_multiple_of_four(factor, least, expected):
  combine = gshard_utils.topk_gating_on_logits(
    None, jnp.zeros([1, 12, 3]), 3, least, jnp.float32, capacity_factor=factor
  )[1]
  assert combine.shape[-1] == expected


def test_helpers():
  x = np.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(
    gshard_utils.cum_sum(x, 1, exclusive=True, reverse=True), [[3, 2, 0], [9, 5, 0]]
  )
  values, index = gshard_utils.top_k(-x, 2)
  np.testing.assert_array_equal(values, [[-1, 0], [-4, -3]])
  np.testing.assert_array_equal(index, [[1, 0], [1, 0]])
  assert gshard_utils.remove_dim(1, ['a', 'b', None]) == ['a', None]
  assert gshard_utils.remove_dim(1, None) is None


def test_errors():
  args = (None, jnp.zeros([1, 4, 3]), 3, 0, jnp.bfloat16)
  with pytest.raises(AssertionError, match='needs room: set capacity_factor'):
    gshard_utils.top2_gating_on_logits(*args)
  with pytest.raises(AssertionError, match='integer mask_dtype'):
    gshard_utils.top2_gating_on_logits(*args, capacity_factor=1.0, mask_dtype=None)
  with pytest.raises(ValueError, match="'top3', expected 'top2', 'expert_choice'"):
    gshard_utils.compute_gating(*args, gating_func='top3')


def test_gates_have_gradients_and_slots_none():
  def loss(logits):
    out = gshard_utils.top2_gating_on_logits(None, logits, EXPERTS, ROOM, jnp.float32)
    return jnp.sum(out[1] ** 2), jnp.sum(out[2])

  grad = jax.grad(lambda x: loss(x)[0])(LOGITS)
  np.testing.assert_allclose(np.sum(grad, -1), 0, atol=1e-6)  # softmax: sums to zero
  assert np.any(grad != 0)
  assert not np.any(jax.grad(lambda x: loss(x)[1])(LOGITS))
