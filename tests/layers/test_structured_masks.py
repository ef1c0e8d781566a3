"""Masks in parts hide what arrays hide, in every layer, and are never spread out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import (
  attentions,
  grouped_query_attention,
  multi_query_attention,
  structured_masks,
)
from pax_haiku.layers.attentions import StructuredMask
from tests.layers import harness
from tests.layers.attention_reference import make

X = harness.noise(2, 5, 8)
PADDINGS = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]], np.float32)
IDS = np.array([[1, 1, 1, 2, 2], [1, 2, 2, 0, 0]])
FIELDS = dict(input_dim=8, hidden_dim=8, num_heads=2)


def merged(*masks):
  out = masks[0]
  for mask in masks[1:]:
    out = attentions.merge_masks(out, mask)
  return out


# As transformers.compute_attention_masks_for_fprop combines the functions' masks.
PAD = attentions.convert_paddings_to_mask(PADDINGS)
CAUSAL = attentions.causal_mask(X)
SEGMENTS = attentions.segment_mask(IDS)
CASES = {
  'nothing': ({}, jnp.zeros([1, 1, 1, 5])),
  'causal': (dict(causal=True), CAUSAL),
  'paddings': (dict(paddings=PADDINGS), PAD),
  'causal paddings': (dict(causal=True, paddings=PADDINGS), merged(PAD, CAUSAL)),
  'segments': (dict(segment_ids=IDS), SEGMENTS),
  'causal segments': (dict(causal=True, segment_ids=IDS), merged(SEGMENTS, CAUSAL)),
  'all': (
    dict(causal=True, segment_ids=IDS, paddings=PADDINGS),
    merged(merged(PAD, SEGMENTS), CAUSAL),
  ),
  'prefix': (
    dict(causal=True, segment_ids=IDS, causal_attention_mask=PADDINGS),
    attentions.causal_segment_mask(IDS, causal_attention_mask=PADDINGS),
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_array_of_a_structured_mask(case):
  parts, expected = CASES[case]
  mask = StructuredMask(**parts)
  got = mask.as_array(5, 5)
  np.testing.assert_array_equal(*np.broadcast_arrays(got, expected))
  assert mask.as_array(5, 5, jnp.bfloat16).dtype == jnp.bfloat16
  rows = structured_masks.fully_masked_rows(mask, 5, 5)
  expected_rows = structured_masks.fully_masked_rows(expected, 5, 5)
  np.testing.assert_array_equal(*np.broadcast_arrays(rows, expected_rows))


def test_cross_attention_hides_keys_only():
  key_ids, key_paddings = IDS[:, :4], PADDINGS[:, 1:]
  mask = StructuredMask(
    segment_ids=IDS, key_segment_ids=key_ids, paddings=key_paddings
  )
  expected = jnp.minimum(
    attentions.segment_mask(IDS, key_ids),
    attentions.convert_paddings_to_mask(key_paddings),
  )
  np.testing.assert_array_equal(mask.as_array(5, 4), expected)


LAYERS = {
  'plain': (attentions.DotProductAttention, {}),
  'blind': (attentions.DotProductAttention, dict(zero_fully_masked=True)),
  'xl': (attentions.DotProductAttentionXL, dict(rel_pos_emb_dim=4)),
  'local': (attentions.LocalSelfAttention, dict(left_context=2, right_context=1)),
  'mqa': (multi_query_attention.MultiQueryDotProductAttention, {}),
  'groups': (
    multi_query_attention.MultiQueryDotProductAttention,
    dict(num_heads=4, num_kv_heads=2, local_window_size=(2, 1)),
  ),
}


@pytest.mark.parametrize('name', LAYERS)
def test_layers_give_the_same_bits_for_both_kinds_of_masks(name):
  cls, fields = LAYERS[name]
  parts, array = CASES['causal paddings']
  layer, variables = make(cls, X, X, X, array, **{**FIELDS, **fields})
  results = [
    harness.apply(layer, variables, X, X, X, mask)[0]
    for mask in (array, StructuredMask(**parts))
  ]
  for a, b in zip(*results, strict=True):
    np.testing.assert_array_equal(a, b)


def test_grouped_query_attention_gives_the_same_bits_too():
  parts, array = CASES['causal paddings']
  pos = np.tile(np.arange(5), (2, 1))
  layer, variables = make(
    grouped_query_attention.GroupedQueryAttention,
    *(X, X, X, array, pos, pos),
    **dict(input_dim=8, num_heads=4, num_kv_heads=2, dim_per_head=4),
  )
  results = [
    harness.apply(layer, variables, X, X, X, mask, pos, pos)[0]
    for mask in (array, StructuredMask(**parts))
  ]
  for a, b in zip(*results, strict=True):
    np.testing.assert_array_equal(a, b)


def sizes(jaxpr):
  """`(dtype, number of entries)` of all that a program computes."""
  for eqn in jaxpr.eqns:
    for var in eqn.outvars:
      yield var.aval.dtype, var.aval.size
    for inner in eqn.params.values():
      if hasattr(inner, 'jaxpr'):
        yield from sizes(inner.jaxpr)


def count_masks(mask, length=64):
  """How many float32 arrays of the size [1, 1, T, T] a layer of 2 heads computes."""
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  x = jnp.zeros([1, length, 8])
  variables = harness.init(layer, x, x, x, StructuredMask())
  program = jax.make_jaxpr(
    lambda v, x, m: harness.apply(layer, v, x, x, x, m)[0][0]
  )(variables, x, mask)
  return sum(
    dtype == jnp.float32 and size == length * length
    for dtype, size in sizes(program.jaxpr)
  )


def test_no_float_mask_is_made():
  assert count_masks(StructuredMask(causal=True)) == 0
  ids, paddings = jnp.ones([1, 64], jnp.int32), jnp.zeros([1, 64])
  everything = StructuredMask(causal=True, segment_ids=ids, paddings=paddings)
  assert count_masks(everything) == 0
  assert count_masks(everything.as_array(64, 64)) == 0, 'made outside, used as it is'


def test_goes_through_transformations_as_a_pytree():
  mask = StructuredMask(causal=True, paddings=PADDINGS)
  leaves, tree = jax.tree.flatten(mask)
  assert [x.shape for x in leaves] == [(2, 5)]
  assert jax.tree.unflatten(tree, leaves).causal

  def body(carry, _):
    return carry, mask.as_array(5, 5)

  np.testing.assert_array_equal(
    jax.jit(lambda m: jax.lax.scan(body, m, None, length=2)[1])(mask)[1],
    mask.as_array(5, 5),
  )


@pytest.mark.parametrize(
  'parts, message',
  [
    (dict(paddings=PADDINGS[:, :4]), r'paddings of the mask must have shape \[2, 5\]'),
    (dict(segment_ids=IDS[:1, :3]), r'segment_ids .* found \[1, 3\]'),
    (dict(key_segment_ids=IDS), 'need segment_ids of the queries'),
  ],
)
def test_parts_that_do_not_fit(parts, message):
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  with pytest.raises(ValueError, match=f'DotProductAttention at the root: .*{message}'):
    harness.init(layer, X, X, X, StructuredMask(**parts))


def test_causal_needs_as_many_queries_as_keys():
  layer = harness.build(attentions.DotProductAttention, **FIELDS)
  with pytest.raises(ValueError, match='as many queries as keys, found 5 and 3'):
    harness.init(layer, X, X[:, :3], X[:, :3], StructuredMask(causal=True))
  with pytest.raises(ValueError, match='5 queries and 3 keys need key_segment_ids'):
    harness.init(layer, X, X[:, :3], X[:, :3], StructuredMask(segment_ids=IDS))
