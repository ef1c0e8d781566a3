"""Helpers for what comes from Flax; expectations are what Praxis 1.4 returns."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, flax_utils


def test_summaries_are_unpacked_and_repacked():
  tree = {'a': jnp.arange(6.0).reshape(3, 2), 'b': {'c': jnp.arange(3.0)}}
  unpacked = flax_utils.maybe_unpack_summary(tree, True, 3)
  assert [x.shape for x in unpacked['a']] == [(1, 2)] * 3
  assert [float(x[0]) for x in unpacked['b']['c']] == [0, 1, 2]
  packed = flax_utils.maybe_repack_summary(unpacked, True, 3)
  np.testing.assert_array_equal(packed['a'], tree['a'][:, None])
  np.testing.assert_array_equal(packed['b']['c'], tree['b']['c'][:, None])
  for function in (flax_utils.maybe_unpack_summary, flax_utils.maybe_repack_summary):
    assert function(tree, False, 3) is tree
  for wrong in (tree, unpacked['a'][:2]):
    with pytest.raises(ValueError, match='expected a list of 3 summaries'):
      flax_utils.maybe_repack_summary(wrong, True, 3)


def axes(*names):
  return types.SimpleNamespace(names=names)


VARIABLES = {
    'params': {'d': {'kernel': jnp.ones([2, 3]), 'bias': jnp.ones(3)}},
    'params_axes': {'d': {'kernel_axes': axes('e', 'm'), 'bias_axes': axes('m')}},
    'batch_stats': {'bn': {'mean': jnp.zeros(3, jnp.bfloat16)}},
}


@pytest.mark.parametrize('rules, kernel, bias', [
    (None, [None, None], [None]),
    ([('e', None), ('m', 'mdl')], [None, 'mdl'], ['mdl']),
    ([('e', 'x'), ('m', 'x'), ('m', 'y')], ['x', 'y'], ['x']),
    ([('m', 'x'), ('e', 'x')], [None, 'x'], ['x']),
])
def test_logical_axes(rules, kernel, bias):
  out = flax_utils.convert_to_boxed_params(VARIABLES, rules, mesh_shape=[1, 2])
  assert out.keys() == {'params', 'batch_stats'}
  params = out['params']['d']
  assert params['kernel'].meta.tensor_split_dims_mapping == kernel
  assert params['bias'].meta.tensor_split_dims_mapping == bias
  assert params['kernel'].meta.mesh_shape == [1, 2]
  assert params['kernel'].meta.shape == (2, 3)
  mean = out['batch_stats']['bn']['mean']
  assert mean.meta.tensor_split_dims_mapping == (-1,)
  assert mean.value is VARIABLES['batch_stats']['bn']['mean']
  assert mean.meta.dtype == jnp.bfloat16 and mean.meta.init is None


def test_labels():
  labels = base_layer.WeightHParamsCollection
  out = flax_utils.convert_to_boxed_params(VARIABLES)
  assert out['params']['d']['bias'].meta.collections == []
  assert out['batch_stats']['bn']['mean'].meta.collections == [
      labels.NON_TRAINABLE, labels.REQUIRES_MEAN_SYNC]
  out = flax_utils.convert_to_boxed_params(
      VARIABLES, var_collection_map={'batch_stats': [labels.REQUIRES_SUM_SYNC]})
  assert out['batch_stats']['bn']['mean'].meta.collections == [
      labels.REQUIRES_SUM_SYNC]
  assert out['params']['d']['bias'].meta.collections == []
