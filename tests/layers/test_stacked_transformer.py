"""Stacks of blocks: masks without arrays, repetition, pipelines, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import (
  attentions,
  grouped_query_attention,
  multi_query_attention,
  transformers,
)
from tests.layers import harness

X = harness.noise(2, 6, 4)
PAD = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]], np.float32)
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 0, 0]], np.int32)
FIELDS = {'model_dims': 4, 'hidden_dims': 5, 'num_heads': 2, 'num_layers': 2}


def stack(**fields):
  return pax_fiddle.Config(
    transformers.StackedTransformer, name='layer', **{**FIELDS, **fields}
  )


def shapes_in(jaxpr, found):
  """(shape, dtype) of all values of a jaxpr and those inside it."""
  for eqn in jaxpr.eqns:
    found.update((v.aval.shape, str(v.aval.dtype)) for v in eqn.outvars)
    for value in eqn.params.values():
      for inner in value if isinstance(value, list | tuple) else [value]:
        if hasattr(inner, 'eqns'):
          shapes_in(inner, found)
        elif hasattr(getattr(inner, 'jaxpr', None), 'eqns'):
          shapes_in(inner.jaxpr, found)
  return found


class ArrayAttention(attentions.DotProductAttention):
  """An attention that must not be given anything but arrays."""

  def __call__(self, query_vec, key_vec, value_vec, atten_mask, *args, **kwargs):
    assert atten_mask.shape[-2:] == (6, 6)
    return super().__call__(query_vec, key_vec, value_vec, atten_mask, *args, **kwargs)


@pytest.mark.parametrize('packed', [False, True])
def test_no_float_mask_is_made_unless_needed(packed):
  kwargs = {}
  if packed:
    kwargs['segment_mask'] = attentions.StructuredMask(segment_ids=SEGMENTS)
  tpl = stack(mask_self_attention=True, packed_input=packed)
  layer = tpl.Instantiate()
  variables = harness.randomize(harness.init(layer, X, PAD, **kwargs))

  def call(x):
    return layer.apply(variables, x, PAD, **kwargs)

  squares = {s for s in shapes_in(jax.make_jaxpr(call)(X).jaxpr, set())
             if s[0][-2:] == (6, 6)}
  floats = {shape for shape, dtype in squares if dtype.startswith('float')}
  assert floats == {(2, 2, 6, 6)}  # logits and probabilities of 2 heads, no mask

  # The same stack with an attention that wants arrays, and with an array given.
  tpl.transformer_layer_params_tpl.tr_atten_tpl = pax_fiddle.Config(ArrayAttention)
  arrays = tpl.Instantiate()
  np.testing.assert_array_equal(call(X), arrays.apply(variables, X, PAD, **kwargs))
  if packed:
    given = {'segment_mask': attentions.segment_mask(SEGMENTS)}
    np.testing.assert_array_equal(call(X), layer.apply(variables, X, PAD, **given))


@pytest.mark.parametrize(
  'attention',
  [
    multi_query_attention.MultiQueryDotProductAttention,
    grouped_query_attention.GroupedQueryAttention,
  ],
)
def test_other_attentions_take_structured_masks(attention):
  tpl = stack(mask_self_attention=True, num_layers=1, dim_per_head=2)
  tpl.transformer_layer_params_tpl.tr_atten_tpl = pax_fiddle.Config(attention)
  layer, kwargs = tpl.Instantiate(), {'segment_pos': np.tile(np.arange(6), (2, 1))}
  variables = harness.randomize(harness.init(layer, X, PAD, **kwargs))
  structured = layer.apply(variables, X, PAD, **kwargs)
  no_segments = {'segment_mask': jnp.zeros([2, 1, 6, 6])}
  array = layer.apply(variables, X, PAD, **kwargs, **no_segments)
  # The same, but for products that are summed in another order.
  np.testing.assert_allclose(structured, array, atol=1e-6)


def test_no_paddings_are_zero_paddings():
  layer = stack(mask_self_attention=True).Instantiate()
  variables = harness.randomize(harness.init(layer, X, PAD))
  none, zeros = (layer.apply(variables, X, p) for p in (None, 0 * PAD))
  np.testing.assert_array_equal(none, zeros)


def test_repeated_and_pipelined_equal_the_plain_stack():
  """One set of weights in four stacks."""
  block = stack(num_layers=1, mask_self_attention=True).set(name=None)
  configs = [
    pax_fiddle.Config(transformers.StackedTransformerRepeated, block=block, x_times=2),
    pax_fiddle.Config(
      transformers.PipelineCompatibleStackedTransformerRepeated, block=block, x_times=2
    ),
    pax_fiddle.Config(
      transformers.PipelinedTransformer,
      pipeline_stage=block,
      num_pipeline_stages=2,
      num_pipeline_microbatches=2,
    ),
  ]
  plain = stack(mask_self_attention=True).Instantiate()
  params = harness.randomize(harness.init(plain, X, PAD))['params']
  expected = plain.apply({'params': params}, X, PAD)
  stacked = {
    'x_layers_0': jax.tree.map(
      lambda *v: jnp.stack(v), params['x_layers_0'], params['x_layers_1']
    )
  }
  trees = [{'repeat': {'sub': stacked}}] + 2 * [{'pipeline': {'body': stacked}}]
  for config, tree in zip(configs, trees, strict=True):
    layer = config.set(name='layer').Instantiate()
    out = layer.apply({'params': tree}, X, PAD)
    # The same operations in other programs, compiled or not: the tolerance of float32
    # in table.py, for values of up to 5 and sums through two blocks.
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_fields_of_blocks():
  tpl = stack(
    num_layers=4,
    dropout_prob=0.1,
    relu_dropout_prob=0.3,
    residual_dropout_prob=0.0,
    residual_droppath_prob=0.4,
    moe_layers=[3],
    num_experts=2,
  )
  with harness.context():
    found = {}

    def look(layer, x, pad):
      for i, block in enumerate(layer.x_layers):
        found[i] = block.hparams
      return layer(x, pad)

    jax.eval_shape(
      lambda: tpl.Instantiate().init(harness.KEYS, X, PAD, method=look)
    )
  assert [found[i].residual_droppath_prob for i in range(4)] == pytest.approx(
    [0, 0.1, 0.2, 0.3]
  )
  probs = (found[0].residual_dropout_prob, found[0].relu_dropout_prob)
  assert probs == (0.1, 0.3)  # 0.0 stands for dropout_prob
  assert found[3].tr_fflayer_tpl.cls is transformers.TransformerFeedForwardMoe
  assert found[0].tr_fflayer_tpl.cls is transformers.TransformerFeedForward


@pytest.mark.parametrize(
  'fields, kwargs, error, message',
  [
    ({'num_heads': 0}, {}, AssertionError, 'layer.*num_heads must be > 0, found 0'),
    ({'dropout_prob': 1.0}, {}, AssertionError, r'in \[0, 1\), found 1.0'),
    ({'moe_layers': [0]}, {}, AssertionError, 'num_experts must be > 0'),
    ({'packed_input': True}, {}, AssertionError, 'segment_mask must be given'),
    ({'use_cross_attention': True}, {}, AssertionError, 'cross_inputs must be'),
    ({'local_window_size': [(1, 0)]}, {}, AssertionError, 'for each of 2 layers'),
    (
      {'fold_padding_with_segment_mask': True},
      {},
      AssertionError,
      'segment_mask must be given if paddings are folded',
    ),
  ],
)
def test_errors(fields, kwargs, error, message):
  with pytest.raises(error, match=message):
    harness.init(stack(**fields).Instantiate(), X, PAD, **kwargs)


def test_inputs_of_another_depth_name_the_block():
  layer = stack().Instantiate()
  variables = harness.init(layer, X, PAD)
  text = r'layer/x_layers_0.*\[batch, time, 4\].*\(2, 6, 5'
  with pytest.raises(ValueError, match=text):
    layer.apply(variables, harness.noise(2, 6, 5), PAD)
