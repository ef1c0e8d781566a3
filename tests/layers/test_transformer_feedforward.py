"""TransformerFeedForward: norm policies by formula, summaries, trace, errors."""

import jax
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import activations, transformers
from tests.layers import harness

X = harness.noise(2, 6, 4)
PAD = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]], np.float32)
KEEP = 1 - PAD[..., None]


def build(**fields):
  fields = {'input_dims': 4, 'hidden_dims': 5, **fields}
  return harness.build(transformers.TransformerFeedForward, **fields)


def norm(x, p):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * (1 + p['scale']) + p['bias']


def project(x, p):
  return x @ p['linear']['w'] + p['bias']['b']


def feed(x, p, keep, gated=False):
  hidden = project(x, p['ffn_layer1'])
  if gated:
    hidden = hidden * np.tanh(project(x, p['ffn_layer1_gate']))
  else:
    hidden = np.tanh(hidden)
  return project(hidden * keep, p['ffn_layer2']) * keep


def expected(policy, x, p, gated):
  if policy == 'pre':
    return x + feed(norm(x, p['layer_norm']), p, KEEP, gated)
  if policy == 'primer_hybrid':
    inner = feed(norm(x, p['pre_layer_norm']), p, KEEP, gated)
    return x + norm(inner, p['post_layer_norm'])
  if policy == 'post':
    return x + norm(feed(x, p, KEEP, gated), p['layer_norm'])
  return norm(x + feed(x, p, KEEP, gated), p['layer_norm'])


@pytest.mark.parametrize('gated', [False, True])
@pytest.mark.parametrize('policy', ['pre', 'primer_hybrid', 'post', 'post_skip'])
def test_formula(policy, gated):
  layer = build(
    norm_policy=policy,
    use_gated_activation=gated,
    activation_tpl=pax_fiddle.Config(activations.Tanh),
  )
  variables = harness.randomize(harness.init(layer, X, PAD))
  out, _ = harness.apply(layer, variables, X, PAD)
  params = jax.tree.map(lambda v: np.asarray(v, np.float64), variables['params'])
  # A norm of a row that is nearly constant magnifies float32 rounding.
  np.testing.assert_allclose(out, expected(policy, X, params, gated), atol=2e-5)


def test_padded_steps_do_not_matter():
  layer = build()
  variables = harness.randomize(harness.init(layer, X, PAD))
  out, _ = harness.apply(layer, variables, X, PAD)
  np.testing.assert_array_equal(out[1, 3:], X[1, 3:])
  first = build(apply_padding_first=True)
  out, _ = harness.apply(first, variables, X, PAD)
  assert not np.array_equal(out[1, 3:], X[1, 3:])  # the bias of a zero row


def test_summaries_are_computed_only_if_asked_for():
  layer = build(output_dims=4)
  variables = harness.init(layer, X)
  _, updated = harness.apply(layer, variables, X)
  names = 'input_rms input_norm_rms activation_rms output_rms output_rel_cos'
  assert sorted(updated['summaries']) == sorted(f'{n}_scalar' for n in names.split())

  def call(x):  # no summaries are mutable here
    return layer.apply(variables, x)

  text = str(jax.make_jaxpr(call)(X))
  assert 'sqrt' not in text.replace('rsqrt', '')


@pytest.mark.parametrize(
  'fields, error, message',
  [
    ({'norm_policy': 'none'}, ValueError, "layer.*'none', expected one of"),
    ({'output_dims': 3}, ValueError, r'input_dims \(4\) and output_dims \(3\)'),
    (
      {'residual_droppath_prob': 0.1, 'add_skip_connection': False},
      AssertionError,
      'residual_droppath_prob=0.1 needs add_skip_connection',
    ),
  ],
)
def test_errors(fields, error, message):
  with pytest.raises(error, match=message):
    harness.init(build(**fields), X)
