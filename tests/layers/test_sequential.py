"""Sequential: names by position, and how results are handed on."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import activations, linears, sequential
from tests.layers import harness

Config = pax_fiddle.Config
X = harness.noise(2, 5, 4)
LINEAR = Config(linears.Linear, input_dims=4, output_dims=3)
FEED_FORWARD = Config(linears.FeedForward, input_dims=3, output_dims=2)


def build(*layers, **fields):
  return harness.build(sequential.Sequential, layers=list(layers), **fields)


@pytest.mark.parametrize('second', [Config(activations.ReLU), jax.nn.relu])
def test_chain(second):
  layer = build(LINEAR, second, FEED_FORWARD)
  variables = harness.randomize(harness.init(layer, X))
  params = variables['params']
  # Position 1 has no variables, and keeps its number.
  assert harness.shapes(params) == {
    'layers_0': {'w': (4, 3)},
    'layers_2': {'linear': {'w': (3, 2)}, 'bias': {'b': (2,)}},
  }
  hidden = np.maximum(X @ params['layers_0']['w'], 0)
  last = params['layers_2']
  expected = np.maximum(hidden @ last['linear']['w'] + last['bias']['b'], 0)
  out = harness.apply(layer, variables, X)[0]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_built_layers_may_be_given():
  layer = build(LINEAR.Instantiate())
  assert harness.shapes(harness.init(layer, X)) == {
    'params': {'layers_0': {'w': (4, 3)}}
  }


def test_same_variables_as_the_layers_alone():
  alone = harness.build(linears.Linear, input_dims=4, output_dims=3)
  w = harness.init(alone, X)['params']['w']
  chained = harness.init(build(jnp.sin, LINEAR), X)['params']['layers_1']['w']
  assert np.any(np.asarray(w) != chained)  # the key depends on the path
  np.testing.assert_allclose(
    harness.apply(build(LINEAR), {'params': {'layers_0': {'w': w}}}, X)[0],
    X @ w,
    rtol=1e-5,
    atol=1e-6,
  )


def test_base_fields_are_handed_down():
  variables = harness.init(build(LINEAR, dtype=jnp.bfloat16), X)
  assert variables['params']['layers_0']['w'].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'first, second, expected',
  [
    (lambda a: (a, 2), lambda a, b: a * b, 6),
    (lambda a: {'b': a, 'a': 10}, lambda a, b: a - b, 7),
    (lambda a: base_layer.NestedMap(b=a, a=10), lambda a, b: a - b, 7),
    (lambda a: [a, 2], lambda a: a[0] * a[1], 6),
    (lambda a: None, lambda a: a is None, True),
  ],
)
def test_results_are_handed_on(first, second, expected):
  assert harness.apply(build(first, second), {}, 3)[0] == expected


def test_first_layer_gets_all_arguments():
  layer = build(lambda a, b, c=0: a + b + c, lambda a: a * 2)
  assert harness.apply(layer, {}, 1, 2, c=3)[0] == 12


def test_nested():
  layer = build(LINEAR, Config(sequential.Sequential, layers=[FEED_FORWARD, jnp.tanh]))
  assert list(harness.init(layer, X)['params']['layers_1']) == ['layers_0']


def test_gradients_flow_through():
  layer = build(LINEAR, jnp.tanh)
  variables = harness.init(layer, X)
  grads, grad_x = harness.gradients(layer, variables, X)
  w = variables['params']['layers_0']['w']
  back = harness.noise(2, 5, 3, seed=99) * (1 - np.tanh(X @ w) ** 2)
  np.testing.assert_allclose(grad_x, back @ w.T, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    grads['layers_0']['w'], np.einsum('btd,bth->dh', X, back), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('fields', [{}, {'layers': []}])
def test_empty_is_refused(fields):
  with pytest.raises(ValueError, match='at the root: .*at least one layer'):
    harness.run(sequential.Sequential, X, **fields)


def test_in_a_haiku_model():
  cfg = Config(sequential.Sequential, name='chain', layers=[LINEAR, FEED_FORWARD])
  net = hk.transform_with_state(lambda x: cfg.Instantiate()(x))
  params, _ = net.init(jax.random.PRNGKey(0), X)
  assert sorted(params) == [
    'chain/layers_0',
    'chain/layers_1/bias',
    'chain/layers_1/linear',
  ]
