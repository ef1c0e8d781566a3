"""Embedding against Haiku's and plain indexing; the token count over steps."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import base_ops
from pax_haiku.layers.embedding_softmax import Embedding, TokenCounter
from tests.layers import harness, reference
from tests.layers.reference import CLASS_IDS, PADDINGS

FIELDS = dict(num_classes=7, input_dims=4)
IDS = CLASS_IDS[..., 0]
TABLE = harness.noise(7, 4)
VARIABLES = {'params': {'emb_var': TABLE}}


def embed(ids, **fields):
  return harness.apply(harness.build(Embedding, **FIELDS, **fields), VARIABLES, ids)[0]


@pytest.mark.parametrize('style', ['index', 'matmul'])
@pytest.mark.parametrize('ids', [IDS, IDS[0], IDS[0, 3], CLASS_IDS])
def test_lookup_equals_haiku_and_indexing(style, ids):
  styles = hk.EmbedLookupStyle
  haiku_style = {'index': styles.ARRAY_INDEX, 'matmul': styles.ONE_HOT}[style]
  net = hk.transform(lambda ids: hk.Embed(7, 4, lookup_style=haiku_style)(ids))
  out = embed(ids, lookup_style=style)
  np.testing.assert_array_equal(out, TABLE[ids])
  expected = net.apply({'embed': {'embeddings': TABLE}}, None, ids)
  np.testing.assert_array_equal(out, expected)


def test_ids_outside_the_table():
  ids = np.array([-9, -1, 6, 7, 100])
  # As numpy for -1, clamped elsewhere.
  np.testing.assert_array_equal(embed(ids), TABLE[[0, 6, 6, 6, 6]])
  zeros = np.zeros(4)
  np.testing.assert_array_equal(
    embed(ids, lookup_style='matmul'), [zeros, zeros, TABLE[6], zeros, zeros]
  )


@pytest.mark.parametrize('style', ['index', 'matmul'])
def test_nan_for_ids_that_are_too_large(style):
  ids = np.array([[-1, 6], [7, 100]])
  out = embed(ids, lookup_style=style, set_nan_for_oob_id=True)
  is_nan = np.isnan(out)
  np.testing.assert_array_equal(is_nan[0], np.zeros((2, 4)))
  np.testing.assert_array_equal(is_nan[1], np.ones((2, 4)))


def test_scale_by_the_root_of_the_depth():
  np.testing.assert_array_equal(embed(IDS, scale_sqrt_depth=True), 2 * TABLE[IDS])


@pytest.mark.parametrize('style', ['index', 'matmul'])
def test_gradient_adds_up_for_repeated_ids(style):
  layer = harness.build(Embedding, **FIELDS, lookup_style=style)
  cotangent = harness.noise(2, 5, 4, seed=1)

  def scalar(table):
    out, _ = harness.apply(layer, {'params': {'emb_var': table}}, IDS)
    return jnp.sum(out * cotangent)

  expected = np.zeros((7, 4))
  np.add.at(expected, IDS, cotangent)
  np.testing.assert_allclose(jax.grad(scalar)(TABLE), expected, rtol=1e-6)


def test_other_ways_to_call():
  layer = harness.build(Embedding, **FIELDS)
  for method, kwargs in (('emb_lookup', {}), ('extend_step', dict(time_step=2))):
    out, _ = harness.apply(layer, VARIABLES, IDS[:, 0], method=method, **kwargs)
    np.testing.assert_array_equal(out, TABLE[IDS[:, 0]])


def test_the_lookup_can_be_replaced():
  class Doubled(base_ops.ArrayLookup):
    def __call__(self, x, idx):
      return 2 * super().__call__(x, idx)

  out = embed(IDS, array_lookup=pax_fiddle.Config(Doubled))
  np.testing.assert_array_equal(out, 2 * TABLE[IDS])


def test_variable():
  wt = pax_fiddle.Config(base_layer.BaseLayer.WeightSharding, wt=['data', 'mdl'])
  layer = harness.build(
    Embedding,
    **FIELDS,
    weight_split_dims_mapping=wt,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
  )
  variables = harness.init(layer, IDS)
  assert harness.shapes(variables) == {'params': {'emb_var': (7, 4)}}
  weight = layer.abstract_init_with_metadata(IDS)['params']['emb_var']
  assert list(weight.tensor_split_dims_mapping) == ['data', 'mdl']
  assert not weight.collections


@pytest.mark.parametrize('style', ['index', 'matmul'])
def test_the_result_has_fprop_dtype(style):
  fields = dict(lookup_style=style, fprop_dtype=jnp.bfloat16)
  out = embed(IDS, **fields, scale_sqrt_depth=True)
  assert out.dtype == jnp.bfloat16


def test_fields_that_do_not_fit():
  with pytest.raises(ValueError, match="'index' or 'matmul', found 'table'"):
    embed(IDS, lookup_style='table')
  for name in FIELDS:
    with pytest.raises(AssertionError, match='must be positive'):
      harness.run(Embedding, IDS, **{**FIELDS, name: 0})


def test_recorded_numbers():
  config = pax_fiddle.Config(Embedding, **FIELDS, scale_sqrt_depth=True)
  out = reference.run(config, IDS)
  reference.check(out, 40, 0.09983341, 0.9985433, 24.93207)


def test_token_counter_counts_in_training():
  layer = harness.build(TokenCounter)
  variables = harness.init(layer, IDS, PADDINGS)
  np.testing.assert_array_equal(
    variables['non_trainable']['approx_total_tokens_mm'], 0.0
  )
  for step in range(3):
    out, written = harness.apply(layer, variables, IDS, PADDINGS)
    assert out is None
    # The summary is of before the call.
    np.testing.assert_allclose(
      written['summaries']['approx_total_tokens_mm_scalar'], step * 8e-6, rtol=1e-6
    )
    variables = {'non_trainable': written['non_trainable']}
  total = variables['non_trainable']['approx_total_tokens_mm']
  assert total.dtype == jnp.float32
  np.testing.assert_allclose(total, 24e-6, rtol=1e-6)


def test_token_counter_rests_in_eval():
  layer = harness.build(TokenCounter)
  variables = harness.init(layer, IDS, PADDINGS)
  _, written = harness.apply(layer, variables, IDS, PADDINGS, do_eval=True)
  assert 'summaries' not in written
  np.testing.assert_array_equal(
    written['non_trainable']['approx_total_tokens_mm'], 0.0
  )


def test_token_counter_labels():
  layer = harness.build(TokenCounter)
  metadata = layer.abstract_init_with_metadata(IDS, PADDINGS)['non_trainable']
  labels = metadata['approx_total_tokens_mm'].collections
  assert {'_requires_sum_sync', '_disallow_bfloat16_conversion'} <= set(labels)
