"""Injectable operations: einsum, gated einsum, indexing."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.layers import base_ops
from tests.layers import harness

X = harness.noise(2, 5, 4)
K = harness.noise(4, 2, 3, seed=1)
G = harness.noise(4, 2, 3, seed=2)


def apply(cls, *args, **fields):
  return harness.apply(harness.build(cls, **fields), {}, *args)[0]


def test_einsum_is_a_sum_of_products():
  out = apply(base_ops.EinsumOp, 'btd,dnh->btnh', X, K)
  expected = np.tensordot(X.astype(np.float64), K, axes=1)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_einsum_takes_any_number_of_arrays():
  assert apply(base_ops.EinsumOp, 'btd->td', X).shape == (5, 4)
  out = apply(base_ops.EinsumOp, 'ab,bc,cd->ad', X[0], K[:, 0], G[:3, 0])
  np.testing.assert_allclose(out, X[0] @ K[:, 0] @ G[:3, 0], rtol=1e-5, atol=1e-6)


def test_gated_einsum_does_two():
  value, gate = apply(base_ops.EinsumGatedOp, 'btd,dnh->btnh', X, K, G)
  np.testing.assert_allclose(value, np.tensordot(X, K, 1), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(gate, np.tensordot(X, G, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('arrays', [(X, K), (X, K, G, G)])
def test_gated_einsum_needs_three_arrays(arrays):
  with pytest.raises(AssertionError, match=f'expected 3 arrays.*got {len(arrays)}'):
    apply(base_ops.EinsumGatedOp, 'btd,dnh->btnh', *arrays)


def test_lookup_counts_from_the_end_then_clamps():
  table = jnp.arange(6).reshape(3, 2)
  ids = jnp.array([[0, 2], [3, -1], [-3, -9]])
  out = apply(base_ops.ArrayLookup, table, (ids,))
  np.testing.assert_array_equal(out, np.asarray(table)[[[0, 2], [2, 2], [0, 0]]])


def test_lookup_takes_any_index():
  out = apply(base_ops.ArrayLookup, jnp.asarray(X), (0, slice(1, 3)))
  np.testing.assert_array_equal(out, X[0, 1:3])


def test_nothing_is_cast():
  out = apply(
    base_ops.EinsumOp,
    'ab,bc->ac',
    jnp.ones((2, 3), jnp.bfloat16),
    jnp.ones((3, 2), jnp.bfloat16),
    fprop_dtype=jnp.float32,
  )
  assert out.dtype == jnp.bfloat16


def test_no_variables():
  layer = harness.build(base_ops.EinsumOp)
  assert harness.init(layer, 'ab,bc->ac', X[0], K[:, 0]) == {}
