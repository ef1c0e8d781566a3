"""The softmax whose loss holds few logits: same numbers, less memory, errors."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import base_ops, chunked_xent, linears
from pax_haiku.layers.embedding_softmax import FullSoftmax, SharedEmbeddingSoftmax
from pax_haiku.layers.lean_softmax import LeanFullSoftmax, LeanSharedEmbeddingSoftmax
from tests.layers import harness

FIELDS = dict(input_dims=4, num_classes=7)
X = harness.noise(3, 5, 4)  # 15 tokens
IDS = np.random.default_rng(1).integers(0, 7, (3, 5, 1))
IDS[0, 0] = -1  # no class
WEIGHTS = np.ones((3, 5, 1), np.float32)
WEIGHTS[1], WEIGHTS[2, :2] = 0, 0.5
VARIABLES = {
  'params': {
    'logits_ffn': {
      'linear': {'w': harness.noise(4, 7, seed=1)},
      'bias': {'b': harness.noise(7, seed=2)},
    }
  }
}
CASES = {
  'plain': ({}, WEIGHTS),
  'all': (
    dict(
      soft_cap_logits=2.0,
      label_smoothing_prob=0.3,
      z_loss_weight=0.1,
      scale_before_logits=True,
    ),
    WEIGHTS,
  ),
  'no weights': (dict(label_smoothing_prob=0.3), 0 * WEIGHTS),
}


def assert_close(ours, expected):
  """To float32 sums in another order: 1e-6 of the largest number."""
  atol = 1e-6 * np.max(np.abs(expected), initial=0)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


def everything(layer, weights, params, x):
  """What the layer returns and writes, and the gradients of a mixture of losses."""

  def loss(params, x):
    variables = {'params': params}
    out, written = harness.apply(layer, variables, x, weights, IDS)
    mixture = jnp.sum(out.per_example_xent * harness.noise(3, 5, seed=4))
    return mixture + out.total_xent + out.get('z_loss', 0.0), (out, written)

  grads, rest = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
  return grads, rest


@functools.cache
def usual(case):
  fields, weights = CASES[case]
  layer = harness.build(FullSoftmax, **FIELDS, **fields)
  run = jax.jit(functools.partial(everything, layer, weights))
  return run(VARIABLES['params'], X)


# 15 tokens: in chunks that divide 15 and that do not, and in one.
@pytest.mark.parametrize(
  'case, size', [('all', 4), ('all', 100), ('plain', 5), ('no weights', 4)]
)
def test_same_numbers_as_the_whole(case, size):
  fields, weights = CASES[case]
  layer = harness.build(LeanFullSoftmax, **FIELDS, **fields, tokens_per_chunk=size)
  run = jax.jit(functools.partial(everything, layer, weights))
  grads, (out, written) = run(VARIABLES['params'], X)
  expected_grads, (expected, expected_written) = usual(case)
  assert out.logits is None and out.log_probs is None
  assert sorted(out) == sorted(expected)
  for name in set(out) - {'logits', 'log_probs', 'accuracy'}:
    assert_close(out[name], expected[name])
  np.testing.assert_array_equal(out.accuracy, expected.accuracy)  # nan without weights
  jax.tree.map(assert_close, grads, expected_grads)
  jax.tree.map(assert_close, written, expected_written)
  assert np.all(np.isfinite(jax.tree.leaves(grads)[0]))


def test_bfloat16_gradients_add_up_in_float32():
  """In 400 chunks, where a sum in bfloat16 would stop at 256 equal parts."""
  w = jnp.zeros([1, 2], jnp.bfloat16)
  x, ids = jnp.ones([400, 1], jnp.bfloat16), jnp.zeros([400], jnp.int32)

  def total(w):
    return jnp.sum(chunked_xent.losses(chunked_xent.Formula(), 1, {'w': w}, x, ids)[0])

  grad = jax.jit(jax.grad(total))(w)
  assert grad.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(grad), [[-200, 200]])


def loss_and_grads(cls, **fields):
  """Jitted, of a Haiku transform; and its parameters."""
  config = pax_fiddle.Config(cls, name='softmax', **fields)
  net = hk.without_apply_rng(
    hk.transform_with_state(lambda x, *args: config.Instantiate()(x, *args).avg_xent)
  )
  return net, jax.jit(
    jax.value_and_grad(lambda p, *args: net.apply(p, {}, *args)[0], argnums=(0, 1))
  )


def test_memory_does_not_hold_all_logits():
  """2048 tokens, 5000 classes: of 41 MB of float32 logits, a quarter at a time."""
  tokens, classes, dim = 2048, 5000, 32
  sizes = dict(input_dims=dim, num_classes=classes)
  spec = jax.ShapeDtypeStruct
  args = (
    spec([1, tokens, dim], jnp.float32),
    spec([1, tokens, 1], jnp.float32),
    spec([1, tokens, 1], jnp.int32),
  )
  found = {}
  for cls, fields in ((FullSoftmax, {}), (LeanFullSoftmax, {'tokens_per_chunk': 512})):
    net, run = loss_and_grads(cls, **sizes, **fields)
    params, _ = jax.eval_shape(net.init, jax.random.PRNGKey(0), *args)
    compiled = run.lower(params, *args).compile()
    program = compiled.as_text()
    found[cls] = compiled.memory_analysis().temp_size_in_bytes
    held = [f'[{tokens},{classes}]', f'[1,{tokens},{classes}]']
    assert any(shape in program for shape in held) == (cls is FullSoftmax)
  logits = 4 * tokens * classes
  assert found[FullSoftmax] > logits
  assert found[LeanFullSoftmax] < 0.8 * logits


def test_the_table_that_embeds_as_well():
  """Gradients of both uses of the weights add up, as in Pax's own class."""
  layers = [
    harness.build(SharedEmbeddingSoftmax, **FIELDS),
    harness.build(LeanSharedEmbeddingSoftmax, **FIELDS, tokens_per_chunk=4),
  ]
  args = X, WEIGHTS, IDS
  assert harness.shapes(harness.init(layers[1], *args)) == harness.shapes(VARIABLES)

  def loss(layer, params):
    def embed_and_predict(layer, ids):
      return layer(layer.emb_lookup(ids[..., 0]), WEIGHTS, ids).total_xent

    variables = {'params': params}
    return harness.apply(layer, variables, IDS, method=embed_and_predict)[0]

  expected, ours = (
    jax.jit(jax.value_and_grad(functools.partial(loss, x)))(VARIABLES['params'])
    for x in layers
  )
  jax.tree.map(assert_close, ours, expected)


def test_where_all_logits_are_computed_after_all():
  probabilities = np.full((3, 5, 7), 1 / 7, np.float32)
  layer = harness.build(LeanFullSoftmax, **FIELDS)
  out, _ = harness.apply(layer, VARIABLES, X, WEIGHTS, IDS, probabilities)
  assert out.logits.shape == (3, 5, 7)
  layer = harness.build(LeanFullSoftmax, **FIELDS, feed_forward_tpl=None)
  out, _ = harness.apply(layer, {}, probabilities, WEIGHTS, IDS)
  assert out.logits.shape == (3, 5, 7)


class OwnEinsum(base_ops.EinsumOp):
  pass


OWN = pax_fiddle.Config(
  linears.FeedForward,
  linear_tpl=pax_fiddle.Config(
    linears.Linear, einsum_tpl=pax_fiddle.Config(OwnEinsum)
  ),
)


@pytest.mark.parametrize(
  'fields, args, message',
  [
    (dict(tokens_per_chunk=0), (X, WEIGHTS, IDS), 'must be 1 or more, found 0'),
    (dict(feed_forward_tpl=OWN), (X, WEIGHTS, IDS), 'Use FullSoftmax for another'),
    ({}, (X, WEIGHTS, IDS[..., 0]), r'at the root: expected class_ids \[3, 5, 1\]'),
    ({}, (X[..., :3], WEIGHTS, IDS), r'expected inputs \[..., 4\]'),
    ({}, (X, WEIGHTS), 'give class_ids or class_probabilities'),
  ],
)
def test_errors(fields, args, message):
  layer = harness.build(LeanFullSoftmax, **{**FIELDS, **fields})
  with pytest.raises(ValueError, match=message):
    harness.apply(layer, VARIABLES, *args)
