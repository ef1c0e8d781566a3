"""BregmanPCA: divergences, what is learned, and bigrams of its coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import bregman, bregman_losses, ngrammer
from tests.layers import harness

Type = bregman.ActivationType
X = harness.noise(6, 4)
FIELDS = dict(num_components=2, input_dims=4, coefficients_steps=5, end_step=9)


@pytest.mark.parametrize('kind', list(Type))
def test_gradient_of_the_divergence_is_the_difference(kind):
  r = jnp.asarray(harness.noise(3, 4, seed=1))
  y = bregman_losses.activate(jnp.asarray(harness.noise(3, 4)), kind, 0.2)
  loss, grad = jax.value_and_grad(bregman_losses.divergence)(r, y, kind, 0.2)
  f = bregman_losses.activate(r, kind, 0.2)
  # Of the mean over 3 rows; float32.
  np.testing.assert_allclose(3 * grad, f - y, atol=1e-6)
  assert loss > 0
  inverse = bregman_losses.invert(y, kind, 0.2)
  np.testing.assert_allclose(bregman_losses.activate(inverse, kind, 0.2), y, atol=1e-6)
  least = bregman_losses.divergence(inverse, y, kind, 0.2)
  np.testing.assert_allclose(least, 0, atol=1e-6)


def unit(x):
  return x / np.sqrt(np.mean(np.square(x)))


def test_training_by_the_formula():
  layer = harness.build(
    bregman.BregmanPCA, components_lr=0.1, constant_lr_schedule=False, **FIELDS
  )
  variables = harness.init(layer, X)
  state = variables['non_trainable']
  state['step'], state['mean'] = jnp.float32(3), jnp.ones([1, 4])
  (same, coefficients), updated = harness.apply(layer, variables, X)
  np.testing.assert_array_equal(same, X)

  components = np.asarray(state['components'], np.float64)
  mean = 0.99 + 0.01 * X.mean(0)
  c = m = np.zeros([6, 2])
  for i in range(5):
    m = 0.9 * m + 0.1 * unit((c @ components + mean - X) @ components.T)
    c = c - (1 - i / 5) * 0.01 * m
  slope = unit(c.T @ (c @ components + mean - X))
  new = components - (1 - 3 / 9) * 0.1 * 0.1 * slope
  now = updated['non_trainable']
  # Float32 against float64.
  np.testing.assert_allclose(coefficients, c, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(now['mean'][0], mean, rtol=1e-6)
  np.testing.assert_allclose(now['components'], new, rtol=1e-5, atol=1e-6)
  assert now['step'] == 4 and not np.any(now['components_momentum'])
  loss = np.mean(np.sum((c @ new + mean - X) ** 2 / 2, 1))
  found = updated['summaries']['bregman_loss_scalar']
  np.testing.assert_allclose(found, loss, rtol=1e-6)


@pytest.mark.parametrize(
  'fields, error, message',
  [
    (dict(num_components=0), AssertionError, 'num_components must be positive'),
    (dict(input_dims=[4, 0]), AssertionError, r'input_dims .* found \[4, 0\]'),
    (dict(end_step=0), AssertionError, 'end_step must be greater than start_step = 0'),
    (dict(activation_type='TANH'), ValueError,
     "must be one of IDENTITY, LEAKY_RELU, SOFTMAX, found 'TANH'"),
    (dict(activation_type=Type.LEAKY_RELU), ValueError, 'set negative_slope'),
    (dict(input_dims=5), ValueError, r'expected inputs .batch, 5\], found .*\(6, 4\)'),
  ],
)  # fmt: skip
def test_errors(fields, error, message):
  layer = harness.build(bregman.BregmanPCA, **{**FIELDS, **fields})
  with pytest.raises(error, match=f'BregmanPCA at the root: .*{message}'):
    layer.abstract_init_with_metadata(X)


def test_bigrams_of_coefficients_by_the_formula():
  fields = dict(num_heads=2, dim_per_head=4, num_components=2, end_step=9)
  layer = harness.build(
    ngrammer.BregmanNgrammer, ngram_vocab_size=5, ngram_emb_dim=3, **fields
  )
  x = harness.noise(2, 3, 2, 4)
  variables = harness.init(layer, None, x)
  params = variables['params'] = harness.randomize(variables['params'])
  out, _ = harness.apply(layer, variables, None, x, merge_heads=False, do_eval=True)
  coefficients, _ = harness.apply(
    layer, variables, x, do_eval=True,
    method=lambda mdl, x: mdl.bregman_compression_layer(x),
  )  # fmt: skip
  own = np.asarray(coefficients, np.float64)
  before = own[:, [0, 0, 1]]
  for i in range(2):
    corr, table = params['correlation'][..., i], params['embedding_table'][..., i]
    scores = np.einsum('blj,jkv,blk->blv', before[:, :, i], corr, own[:, :, i])
    e = scores @ np.asarray(table, np.float64)
    e = (e - e.mean(-1, keepdims=True)) / np.sqrt(e.var(-1, keepdims=True) + 1e-6)
    norm = params[f'ngram_layer_norm_{i}']
    e = e * (1 + np.asarray(norm['scale'])) + np.asarray(norm['bias'])
    # Float32; the coefficients, and so the scores, are small.
    np.testing.assert_allclose(out[:, :, i, 1:], e, rtol=1e-4, atol=1e-4)
  with pytest.raises(ValueError, match='num_components must be at most dim_per_head'):
    layer.clone(num_components=5).abstract_init_with_metadata(None, x)


def test_a_bound_layer_has_its_functions():
  layer = harness.build(bregman.BregmanPCA, **FIELDS)
  bound = layer.bind(harness.init(layer, X))
  assert bound.reconstruct(jnp.ones([6, 2])).shape == X.shape
  components, mean = jnp.eye(4), jnp.zeros([1, 4])  # in which X describes itself
  for gradient in (bound.coefficients_grad_fn, bound.components_grad_fn):
    np.testing.assert_allclose(gradient(X, components, mean, X), 0, atol=1e-6)
