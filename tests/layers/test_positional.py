"""Positional embeddings against formulas in float64 and recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers.embedding_softmax import (
  PositionalEmbedding,
  PositionalEmbedding2D,
  TrainablePositionalEmbedding,
)
from tests.layers import harness, reference

POSITION = np.array([[0, 3, 1, 2, 9], [4, 4, 0, 7, 5]])


def sinusoids(position, dims, low=1, high=10_000):
  n = dims // 2
  frequency = low * (high / low) ** (-np.arange(n) / max(n - 1, 1))
  angle = np.asarray(position, np.float64)[..., np.newaxis] * frequency
  odd = np.zeros((*angle.shape[:-1], dims % 2))
  return np.concatenate([np.sin(angle), np.cos(angle), odd], -1)


@pytest.mark.parametrize('dims', [1, 2, 5, 6])
@pytest.mark.parametrize('timescales', [(1, 10_000), (3, 700)])
def test_sinusoids(dims, timescales):
  fields = dict(
    embedding_dims=dims, min_timescale=timescales[0], max_timescale=timescales[1]
  )
  out = harness.run(PositionalEmbedding, call=dict(seq_length=5), **fields)
  expected = sinusoids(np.arange(5)[np.newaxis], dims, *timescales)
  # Angles reach 27, so a float32 angle is off by up to 1e-6.
  np.testing.assert_allclose(out, expected, atol=5e-6)
  for length in (None, 3):
    call = dict(position=POSITION, seq_length=length)
    out = harness.run(PositionalEmbedding, call=call, **fields)
    expected = sinusoids(POSITION, dims, *timescales)
    np.testing.assert_allclose(out, expected, atol=5e-6)


def test_sinusoids_have_fprop_dtype_and_no_variables():
  layer = harness.build(
    PositionalEmbedding, embedding_dims=4, fprop_dtype=jnp.bfloat16
  )
  assert not harness.init(layer, 5)
  assert harness.apply(layer, {}, 5)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize('cls', [PositionalEmbedding, TrainablePositionalEmbedding])
def test_arguments_that_do_not_fit(cls):
  with pytest.raises(AssertionError, match='give seq_length or position'):
    harness.run(cls, embedding_dims=4)
  with pytest.raises(AssertionError, match=r'\[batch, time\], found shape \(5,\)'):
    harness.run(cls, call=dict(position=POSITION[0]), embedding_dims=4)


def expected_2d(h, w, dims):
  frequency = 10_000.0 ** (-np.arange(dims // 4) / (dims // 4))

  def axis(size):
    angle = (np.arange(size) - size / 2)[:, np.newaxis] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], -1)

  rows, columns = axis(h), axis(w)
  cells = [np.concatenate([rows[r], columns[c]]) for r in range(h) for c in range(w)]
  return np.stack(cells)[np.newaxis]


@pytest.mark.parametrize('h, w', [(2, 3), (3, 5), (1, 1)])
def test_2d_sinusoids(h, w):
  out = harness.run(PositionalEmbedding2D, h=h, w=w, embedding_dims=8)
  np.testing.assert_allclose(out, expected_2d(h, w, 8), atol=1e-6)


def test_2d_cls_tokens_are_zeros():
  out = harness.run(
    PositionalEmbedding2D,
    h=2,
    w=3,
    embedding_dims=4,
    num_prepend_cls_tokens=1,
    num_append_cls_tokens=2,
  )
  expected = np.pad(expected_2d(2, 3, 4), [(0, 0), (1, 2), (0, 0)])
  np.testing.assert_allclose(out, expected, atol=1e-6)


def test_2d_ignores_its_arguments_and_fprop_dtype():
  fields = dict(h=2, w=1, embedding_dims=8)
  out = harness.run(
    PositionalEmbedding2D, 3, POSITION, **fields, fprop_dtype=jnp.bfloat16
  )
  assert out.dtype == jnp.float32
  np.testing.assert_array_equal(out, harness.run(PositionalEmbedding2D, **fields))


@pytest.mark.parametrize('dims', [0, 2, 6])
def test_2d_dims_that_do_not_fit(dims):
  with pytest.raises(TypeError, match=f'multiple of 4, found {dims}'):
    harness.run(PositionalEmbedding2D, h=2, w=2, embedding_dims=dims)


TABLE = harness.noise(7, 4)
TRAINABLE = dict(max_seq_length=7, embedding_dims=4)


def learned(**call):
  fields = {k: call.pop(k) for k in ('lookup_style', 'fprop_dtype') if k in call}
  layer = harness.build(TrainablePositionalEmbedding, **TRAINABLE, **fields)
  return harness.apply(layer, {'params': {'emb_var': TABLE}}, **call)[0]


@pytest.mark.parametrize('style', ['matmul', 'index'])
def test_learned_rows(style):
  out = learned(lookup_style=style, seq_length=5)
  np.testing.assert_array_equal(out, TABLE[np.newaxis, :5])
  position = POSITION % 5
  for length in (None, 5, 7):
    out = learned(lookup_style=style, seq_length=length, position=position)
    np.testing.assert_array_equal(out, TABLE[position])


def test_learned_rows_beyond_the_length():
  table = np.concatenate([TABLE[:3], np.zeros((10, 4), np.float32)])
  out = learned(seq_length=3, position=POSITION)
  np.testing.assert_array_equal(out, table[POSITION])
  # Without a length matmul takes that of `position`.
  table = np.concatenate([TABLE[:5], np.zeros((10, 4), np.float32)])
  np.testing.assert_array_equal(learned(position=POSITION), table[POSITION])
  out = learned(lookup_style='index', seq_length=3, position=POSITION)
  np.testing.assert_array_equal(out, TABLE[np.minimum(POSITION, 2)])
  out = learned(lookup_style='index', position=POSITION)
  np.testing.assert_array_equal(out, TABLE[np.minimum(POSITION, 6)])


def test_learned_fields_that_do_not_fit():
  with pytest.raises(TypeError, match='seq_length=8 exceeds max_seq_length=7'):
    learned(seq_length=8)
  with pytest.raises(ValueError, match="found 'table'"):
    learned(lookup_style='table', seq_length=5)


@pytest.mark.parametrize('style', ['matmul', 'index'])
def test_learned_dtype_and_gradient(style):
  out = learned(lookup_style=style, fprop_dtype=jnp.bfloat16, seq_length=5)
  assert out.dtype == jnp.bfloat16
  layer = harness.build(TrainablePositionalEmbedding, **TRAINABLE, lookup_style=style)
  cotangent = harness.noise(2, 5, 4, seed=1)
  position = POSITION % 7

  def scalar(table):
    variables = {'params': {'emb_var': table}}
    out, _ = harness.apply(layer, variables, seq_length=7, position=position)
    return jnp.sum(out * cotangent)

  expected = np.zeros((7, 4))
  np.add.at(expected, position, cotangent)
  np.testing.assert_allclose(jax.grad(scalar)(TABLE), expected, rtol=1e-6)


def test_learned_variable():
  wt = pax_fiddle.Config(base_layer.BaseLayer.WeightSharding, wt=['data', None])
  layer = harness.build(
    TrainablePositionalEmbedding,
    **TRAINABLE,
    weight_split_dims_mapping=wt,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
  )
  assert harness.shapes(harness.init(layer, 5)) == {'params': {'emb_var': (7, 4)}}

  def metadata():
    return layer.abstract_init_with_metadata(position=POSITION)['params']['emb_var']

  assert list(metadata().tensor_split_dims_mapping) == ['data', None]


@pytest.mark.parametrize(
  'cls, fields, call, expected',
  [
    (
      PositionalEmbedding,
      dict(embedding_dims=6),
      dict(seq_length=5),
      (30, 0, 0.9999999, 16.34826),
    ),
    (
      PositionalEmbedding2D,
      dict(embedding_dims=8, h=2, w=3),
      {},
      (48, -0.841471, 0.9999875, 26.78939),
    ),
    (
      TrainablePositionalEmbedding,
      TRAINABLE,
      dict(seq_length=5),
      (20, 0.04991671, 0.3701879, 6.170338),
    ),
  ],
)
def test_recorded_numbers(cls, fields, call, expected):
  out = reference.run(pax_fiddle.Config(cls, **fields), **call)
  reference.check(out, *expected)
