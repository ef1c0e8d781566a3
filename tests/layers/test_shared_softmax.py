"""The softmax layers whose projection embeds too: lookups, logits, trees, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import activations
from pax_haiku.layers.embedding_softmax import (
  FullSoftmax,
  NClassMajorSharedEmbeddingSoftmax,
  SharedEmbeddingSoftmax,
)
from tests.layers import harness, reference
from tests.layers.reference import CLASS_IDS, CLASS_WEIGHTS, X

FIELDS = dict(input_dims=4, num_classes=7)
IDS = CLASS_IDS[..., 0]
TABLE, B = harness.noise(7, 4, seed=1), harness.noise(7, seed=2)
LOGITS = X @ TABLE.T + B
ARGS = X, CLASS_WEIGHTS, CLASS_IDS
VARIABLES = {
  SharedEmbeddingSoftmax: {
    'params': {'logits_ffn': {'linear': {'w': TABLE.T}, 'bias': {'b': B}}}
  },
  NClassMajorSharedEmbeddingSoftmax: {'params': {'w': TABLE, 'bias': {'b': B}}},
}
both = pytest.mark.parametrize('cls', list(VARIABLES))


def call(cls, *args, method=None, kwargs=None, **fields):
  layer = harness.build(cls, **FIELDS, **fields)
  return harness.apply(
    layer, VARIABLES[cls], *args, method=method, **(kwargs or {})
  )[0]


@both
def test_the_table_embeds(cls):
  for ids in (IDS, IDS[0, 1], CLASS_IDS):
    out = call(cls, ids, method='emb_lookup')
    np.testing.assert_array_equal(out, TABLE[ids])
  out = call(cls, IDS, method='emb_lookup', lookup_style='matmul')
  np.testing.assert_array_equal(out, TABLE[IDS])
  out = call(cls, IDS, method='emb_lookup', scale_sqrt_depth=True)
  np.testing.assert_array_equal(out, 2 * TABLE[IDS])
  step = dict(kwargs=dict(time_step=3), method='extend_step')
  np.testing.assert_array_equal(call(cls, IDS[:, 0], **step), TABLE[IDS[:, 0]])


@both
def test_ids_outside_the_table(cls):
  ids = np.array([-1, 6, 100])
  out = call(cls, ids, method='emb_lookup')
  np.testing.assert_array_equal(out, TABLE[[6, 6, 6]])
  out = call(cls, ids, method='emb_lookup', lookup_style='matmul')
  np.testing.assert_array_equal(out, [np.zeros(4), TABLE[6], np.zeros(4)])
  with pytest.raises(ValueError, match="found 'table'"):
    call(cls, ids, method='emb_lookup', lookup_style='table')


@both
@pytest.mark.parametrize('fields', [{}, dict(z_loss_weight=0.1, soft_cap_logits=2.0)])
def test_the_loss_is_that_of_full_softmax(cls, fields):
  full = harness.build(FullSoftmax, **FIELDS, **fields, label_smoothing_prob=0.1)
  variables = VARIABLES[SharedEmbeddingSoftmax]
  expected, expected_written = harness.apply(full, variables, *ARGS)
  layer = harness.build(cls, **FIELDS, **fields, label_smoothing_prob=0.1)
  out, written = harness.apply(layer, VARIABLES[cls], *ARGS)
  assert jax.tree.structure((out, written)) == jax.tree.structure(
    (expected, expected_written)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), out, expected
  )


@both
def test_chunks_give_the_same_numbers(cls):
  expected = call(cls, *ARGS)
  out = call(cls, *ARGS, chunk_size=2)
  assert out.logits is None
  np.testing.assert_allclose(out.avg_xent, expected.avg_xent, rtol=1e-6)


@both
def test_gradients_of_both_uses_add_up(cls):
  layer = harness.build(cls, **FIELDS)

  def ours(params):
    def embed_and_predict(layer, ids):
      return layer(layer.emb_lookup(ids), CLASS_WEIGHTS, CLASS_IDS).total_xent

    variables = {'params': params}
    return harness.apply(layer, variables, IDS, method=embed_and_predict)[0]

  def expected(table):
    xent = optax.softmax_cross_entropy_with_integer_labels(
      table[IDS] @ table.T + B, IDS
    )
    return jnp.sum(xent * CLASS_WEIGHTS[..., 0])

  grads = jax.grad(ours)(VARIABLES[cls]['params'])
  if cls is SharedEmbeddingSoftmax:
    grad = grads['logits_ffn']['linear']['w'].T
  else:
    grad = grads['w']
  np.testing.assert_allclose(grad, jax.grad(expected)(TABLE), rtol=1e-4, atol=1e-5)


@both
def test_variables(cls):
  layer = harness.build(cls, **FIELDS, bias_init=0.5)
  variables = harness.init(layer, *ARGS)
  assert harness.shapes(variables) == harness.shapes(VARIABLES[cls])
  params = variables['params']
  bias = params.get('logits_ffn', params)['bias']['b']
  np.testing.assert_array_equal(bias, np.full(7, 0.5))


def test_lookup_alone_makes_the_table_alone():
  layer = harness.build(SharedEmbeddingSoftmax, **FIELDS)
  variables = harness.init(layer, IDS, method='emb_lookup')
  assert harness.shapes(variables) == {
    'params': {'logits_ffn': {'linear': {'w': (4, 7)}}}
  }


def test_n_class_major_options():
  cls = NClassMajorSharedEmbeddingSoftmax
  # These have no effect, as in Pax.
  out = call(cls, *ARGS, scale_before_logits=True, feed_forward_tpl=None)
  np.testing.assert_allclose(out.logits, LOGITS, rtol=1e-5, atol=1e-5)
  out = call(cls, X, method='get_logits', use_bias=False)
  np.testing.assert_allclose(out, LOGITS - B, rtol=1e-5, atol=1e-5)
  # The activation comes before the cap.
  relu = pax_fiddle.Config(activations.ReLU)
  out = call(cls, X, method='get_logits', activation_tpl=relu, soft_cap_logits=2.0)
  expected = 2 * np.tanh(np.maximum(LOGITS, 0) / 2)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  layer = harness.build(cls, **FIELDS, use_bias=False)
  assert harness.shapes(harness.init(layer, *ARGS)) == {'params': {'w': (7, 4)}}


@both
def test_sharding(cls):
  layer = harness.build(
    cls,
    **FIELDS,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
    weight_split_dims_mapping=pax_fiddle.Config(cls.WeightSharding, wt=['data', 'mdl']),
    activation_split_dims_mapping=pax_fiddle.Config(
      cls.ActivationSharding, out=['data', None, 'mdl']
    ),
  )
  params = layer.abstract_init_with_metadata(*ARGS)['params']
  params = params.get('logits_ffn', params)
  if cls is SharedEmbeddingSoftmax:
    table, expected = params['linear']['w'], ['data', 'mdl']
  else:
    table, expected = params['w'], ['mdl', 'data']
  assert list(table.tensor_split_dims_mapping) == expected
  assert list(params['bias']['b'].tensor_split_dims_mapping) == ['mdl']


@both
def test_sharded_results_must_have_the_rank_of_their_mapping(cls):
  def config(**mappings):
    return dict(
      mesh_axis_names=['data', 'mdl'],
      activation_split_dims_mapping=pax_fiddle.Config(
        cls.ActivationSharding, **mappings
      ),
    )

  fields = config(out=['data', None, 'mdl'])
  assert call(cls, X, method='get_logits', **fields).shape == (2, 5, 7)
  # A single step takes the first and last entry, or its own mapping.
  assert call(cls, X[:, 0], method='get_logits', **fields).shape == (2, 7)
  fields = config(out=['data', None, None, 'mdl'], extend_step_out=['data', 'mdl'])
  assert call(cls, X[:, 0], method='get_logits', **fields).shape == (2, 7)
  with pytest.raises(AssertionError):
    call(cls, X, method='get_logits', **fields)
  fields = config(emb_out_split_dims_mapping=['data', None, 'mdl'])
  assert call(cls, IDS, method='emb_lookup', **fields).shape == (2, 5, 4)
  with pytest.raises(AssertionError):
    call(cls, IDS[0], method='emb_lookup', **fields)


@both
def test_dtypes_under_bfloat16(cls):
  fields = dict(fprop_dtype=jnp.bfloat16)
  assert call(cls, IDS, method='emb_lookup', **fields).dtype == jnp.bfloat16
  x = X.astype(jnp.bfloat16)
  out = call(cls, x, CLASS_WEIGHTS, CLASS_IDS, **fields)
  assert out.logits.dtype == jnp.bfloat16
  assert out.per_example_xent.dtype == jnp.float32


def test_recorded_numbers():
  config = pax_fiddle.Config(NClassMajorSharedEmbeddingSoftmax, **FIELDS)
  out = reference.run(config, *ARGS)
  reference.check(out.per_example_xent, 10, 1.395487, 1.051033, 21.9968)
