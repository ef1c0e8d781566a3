"""Mixtures of experts against a loop over tokens and experts; groups and errors."""

import numpy as np
import pytest

from pax_haiku.layers import transformers
from tests.layers import harness

X = harness.noise(2, 6, 4)
FIELDS = {
  'input_dims': 4,
  'hidden_dims': 5,
  'num_experts': 3,
  'num_groups': 1,
  'expert_capacity_dim': 100,
}


def build(**fields):
  return harness.build(transformers.TransformerFeedForwardMoe, **{**FIELDS, **fields})


@pytest.mark.parametrize('gating_func', ['top2', 'dense_top2'])
def test_with_room_for_all_each_token_has_its_two_best_experts(gating_func):
  layer = build(gating_func=gating_func)
  variables = harness.randomize(harness.init(layer, X))
  out, updated = harness.apply(layer, variables, X)
  p = {k: np.asarray(v, np.float64) for k, v in variables['params'].items() if k[0] in
       'gw'}
  norm = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 1e-6)
  ln = variables['params']['layer_norm']
  norm = norm * (1 + np.asarray(ln['scale'])) + np.asarray(ln['bias'])
  expected = np.zeros_like(X)
  for at in np.ndindex(2, 6):
    gates = np.exp(norm[at] @ p['gate'])
    best = np.argsort(-gates)[:2]
    for expert in best:
      hidden = np.maximum(norm[at] @ p['wi_0'][expert], 0)
      weight = gates[expert] / gates[best].sum()
      expected[at] += weight * hidden @ p['wo_0'][expert]
  # Sums of a few float32 products of order one.
  np.testing.assert_allclose(out, X + expected, atol=1e-5)
  loss = updated['aux_loss']['aux_moe_load_balance_loss']
  assert (loss.value > 0) == (gating_func == 'top2')
  assert loss.weight == 1


def test_variables():
  layer = build(use_gated_activation=True)
  params = harness.init(layer, X)['params']
  assert harness.shapes(params) == {
    'gate': (4, 3),
    'wi_0': (3, 4, 5),
    'wi_gate_0': (3, 4, 5),
    'wo_0': (3, 5, 4),
    'layer_norm': {'scale': (4,), 'bias': (4,)},
  }
  assert np.abs(params['wo_0']).max() <= np.sqrt(3 / 5)


@pytest.mark.parametrize(
  'fields, error, message',
  [
    ({'num_groups': 5}, ValueError, 'layer.*12 tokens.* into 5 equal groups'),
    ({'num_experts': 0}, AssertionError, 'num_experts must be > 0, found 0'),
    ({'expert_weight_shards': 2}, AssertionError, 'shards must be 1, found 2'),
    ({'norm_policy': 'post_skip'}, ValueError, "'post_skip', expected one of"),
    ({'moe_load_balance_loss_weight': 0.0}, AssertionError, 'must not be 0'),
    ({'moe_gating_embedding_level': 'word'}, ValueError, "'sentence', found 'word'"),
    (
      {'gating_func': 'dense_top2', 'use_gated_activation': True},
      AssertionError,
      'set use_gated_activation=False',
    ),
  ],
)
def test_errors(fields, error, message):
  with pytest.raises(error, match=message):
    harness.init(build(**fields), X)
