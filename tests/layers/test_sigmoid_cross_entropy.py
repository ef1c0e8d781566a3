"""SigmoidCrossEntropy against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers.embedding_softmax import SigmoidCrossEntropy
from tests.layers import harness, reference
from tests.layers.reference import CLASS_IDS, CLASS_WEIGHTS, X

FIELDS = dict(input_dims=4, num_classes=7)
W, B = harness.noise(4, 7, seed=1), harness.noise(7, seed=2)
VARIABLES = {'params': {'logits_ffn': {'linear': {'w': W}, 'bias': {'b': B}}}}
LOGITS = X @ W + B
LABELS = (harness.noise(2, 5, 7, seed=3) > 0).astype(np.float32)
ONE_HOT = np.eye(7, dtype=np.float32)[CLASS_IDS[..., 0]]
PER_CLASS = np.abs(harness.noise(2, 5, 7, seed=4))


def sigmoid(*args, variables=VARIABLES, **fields):
  layer = harness.build(SigmoidCrossEntropy, **{**FIELDS, **fields})
  out, written = harness.apply(layer, variables, *args)
  assert not written
  return out


@pytest.mark.parametrize('targets', ['ids', 'labels', 'both'])
def test_weights_of_examples(targets):
  args = {'ids': [CLASS_IDS], 'labels': [None, LABELS], 'both': [CLASS_IDS, LABELS]}
  out = sigmoid(X, CLASS_WEIGHTS, *args[targets])
  expected = ONE_HOT if targets == 'ids' else LABELS
  xent = np.sum(optax.sigmoid_binary_cross_entropy(LOGITS, expected), -1)
  total = np.sum(xent * CLASS_WEIGHTS[..., 0])
  expected = dict(
    logits=LOGITS,
    log_probs=jax.nn.log_sigmoid(LOGITS),
    per_example_argmax=np.argmax(LOGITS, -1),
    per_example_xent=xent,
    total_xent=total,
    total_weight=np.sum(CLASS_WEIGHTS),
    avg_xent=total / (np.sum(CLASS_WEIGHTS) + 1e-6),
  )
  assert sorted(out) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(out[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_weights_of_classes():
  out = sigmoid(X, PER_CLASS, None, LABELS)
  xent = optax.sigmoid_binary_cross_entropy(LOGITS, LABELS) * PER_CLASS
  np.testing.assert_allclose(out.per_example_xent, np.sum(xent, -1), rtol=1e-5)
  np.testing.assert_allclose(out.total_xent, np.sum(xent), rtol=1e-5)
  np.testing.assert_allclose(out.total_weight, np.sum(PER_CLASS), rtol=1e-6)


def test_gradient_equals_that_of_optax():
  layer = harness.build(SigmoidCrossEntropy, **FIELDS)
  grads, grad_x = harness.gradients(
    layer, VARIABLES, X, PER_CLASS, None, LABELS, loss=lambda out: out.total_xent
  )

  def scalar(w, x):
    return jnp.sum(optax.sigmoid_binary_cross_entropy(x @ w + B, LABELS) * PER_CLASS)

  expected_w, expected_x = jax.grad(scalar, argnums=(0, 1))(W, X)
  w = grads['logits_ffn']['linear']['w']
  np.testing.assert_allclose(w, expected_w, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(grad_x, expected_x, rtol=1e-4, atol=1e-5)


def test_soft_cap():
  out = sigmoid(X, CLASS_WEIGHTS, CLASS_IDS, soft_cap_logits=2.0)
  np.testing.assert_allclose(out.logits, 2 * np.tanh(LOGITS / 2), rtol=1e-5, atol=1e-5)


def test_logits_can_be_the_inputs_and_then_have_no_cap():
  fields = dict(input_dims=7, feed_forward_tpl=None, soft_cap_logits=2.0)
  out = sigmoid(LOGITS, CLASS_WEIGHTS, CLASS_IDS, variables={}, **fields)
  np.testing.assert_array_equal(out.logits, LOGITS)
  with pytest.raises(ValueError, match='input_dims=4 must equal num_classes=7'):
    sigmoid(X, CLASS_WEIGHTS, CLASS_IDS, feed_forward_tpl=None, variables={})


def test_variables():
  layer = harness.build(SigmoidCrossEntropy, **FIELDS, bias_init=-2.0)
  variables = harness.init(layer, X, CLASS_WEIGHTS, CLASS_IDS)
  assert harness.shapes(variables) == harness.shapes(VARIABLES)
  bias = variables['params']['logits_ffn']['bias']['b']
  np.testing.assert_array_equal(bias, np.full(7, -2.0))


def test_arguments_that_do_not_fit():
  with pytest.raises(ValueError, match='give class_ids or class_probabilities'):
    sigmoid(X, CLASS_WEIGHTS)
  for weights in (PER_CLASS[..., :3], CLASS_WEIGHTS[..., 0]):
    with pytest.raises(ValueError, match='expected class_weights'):
      sigmoid(X, weights, CLASS_IDS)
  one_class = {'params': {'logits_ffn': {'linear': {'w': W[:, :1]}}}}
  with pytest.raises(ValueError, match='num_classes=1'):
    sigmoid(X, CLASS_WEIGHTS, CLASS_IDS, num_classes=1, variables=one_class)


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
def test_dtypes_under_bfloat16(given):
  out = sigmoid(
    X.astype(given), CLASS_WEIGHTS, CLASS_IDS, fprop_dtype=jnp.bfloat16
  )
  for name, value in out.items():
    expected = {'per_example_argmax': jnp.int32, 'total_weight': jnp.float32}
    assert value.dtype == expected.get(name, given)


def test_recorded_numbers():
  config = pax_fiddle.Config(SigmoidCrossEntropy, **FIELDS)
  out = reference.run(config, X, CLASS_WEIGHTS, CLASS_IDS)
  reference.check(out.per_example_xent, 10, 5.114354, 5.050478, 52.72713)
