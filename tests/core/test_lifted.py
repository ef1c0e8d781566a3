"""Lifted scans, as a layer other than Repeat would use them, and their small parts."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.core import lifted

BaseLayer = base_layer.BaseLayer
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
KEY = jax.random.PRNGKey(0)


class Cell(BaseLayer):
  """carry w + x; counts."""

  def setup(self):
    self.create_variable('w', WeightHParams([2, 2], WeightInit.Gaussian(0.5)))
    self.create_variable('n', WeightHParams([], WeightInit.Constant(0.0)), False)

  def __call__(self, carry, x):
    self.update_var('n', self.get_var('n') + 1)
    return carry @ self.theta.w + x


class Chain(BaseLayer):
  """Runs cells over the rows of its input, each with weights of its own."""

  length: int = 3

  def setup(self):
    self.create_child('cell', pax_fiddle.Config(Cell))

  def __call__(self, xs):
    def body(cell, carry, x):
      carry = cell(carry, x)
      return carry, carry.sum()

    stacking = lifted.Stacking(length=self.length, prefix=(self.length,))
    return lifted.scan(self, self.cell, body, jnp.zeros(2), xs, stacking)


XS = jnp.arange(6.0).reshape(3, 2)


def by_hand(w):
  carry, ys = jnp.zeros(2), []
  for wi, x in zip(w, XS, strict=True):
    carry = carry @ wi + x
    ys.append(carry.sum())
  return carry, jnp.stack(ys)


def close(found, expected):
  # The order of float32 sums differs between a compiled and an eager loop.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               found, expected)


def test_scan_of_a_layer():
  layer = Chain(name='chain')
  variables = layer.init(KEY, XS)
  w = variables['params']['cell']['w']
  assert w.shape == (3, 2, 2) and len(np.unique(w)) == 12
  found, updated = layer.apply(variables, XS, mutable=['non_trainable'])
  close(found, by_hand(w))
  np.testing.assert_array_equal(updated['non_trainable']['cell']['n'], [1, 1, 1])


def test_scan_under_a_transform():
  net = hk.transform_with_state(lambda xs: Chain(name='chain')(xs))
  params, state = net.init(KEY, XS)
  found, new_state = net.apply(params, state, None, XS)
  close(found, by_hand(params['chain/cell']['w']))
  np.testing.assert_array_equal(new_state['chain/cell']['n'], [1, 1, 1])
  assert jax.tree.structure(state) == jax.tree.structure(new_state)


def test_a_lifted_child_is_a_pure_function():
  class Owner(BaseLayer):
    def setup(self):
      self.create_child('cell', pax_fiddle.Config(Cell))

    def __call__(self, x):
      if self.is_initializing():
        return self.cell(x, x)
      child = lifted.Lifted(self, self.cell)
      params, state = child.read()
      assert set(params) == set(state) == {'cell'}
      streams, _ = lifted.Streams.split(self._pax_run, 1, split_params=False)
      streams = jax.tree.map(lambda k: k[0], streams)
      body = Cell.__call__
      half = jax.tree.map(lambda w: w / 2, params)
      (out, changed), (halved, _) = (
        child.apply(p, state, streams, body, x, x) for p in (params, half))
      assert self.cell.get_var('n') == 0
      child.write(changed)
      return out, halved, self.cell.get_var('n')

  layer, x = Owner(name='owner'), jnp.ones(2)
  variables = layer.init(KEY, x)
  w = variables['params']['cell']['w']
  (out, halved, n), updated = layer.apply(variables, x, mutable=['non_trainable'])
  close((out, halved), (x @ w + x, x @ w / 2 + x))
  assert n == 1 and updated['non_trainable']['cell']['n'] == 1


def test_stacking_is_row_major():
  stacking = lifted.Stacking(length=6, prefix=(3, 2))
  tree = {'w': jnp.arange(24.0).reshape(6, 4), 'n': jnp.arange(6)}
  stored = stacking.unflatten(tree)
  assert stored['w'].shape == (3, 2, 4) and stored['n'].shape == (3, 2)
  assert stored['n'][2, 1] == 5
  close(stacking.flatten(stored), tree)


@pytest.mark.parametrize('prefix, split, optimizer, expected', [
  ((3,), None, None, ((-1,), (-1,))), ((3,), ('a',), ('b',), (('a',), ('b',))),
  ((3, 2), None, None, ((-1, -1), (-1, -1)))])
def test_stacked_metadata(prefix, split, optimizer, expected):
  given = WeightHParams([2, 4, 8], fan_in_axes=[0, -2], fan_out_axes=None)
  found = lifted.stacked_metadata(given, prefix, split, optimizer)
  n = len(prefix)
  assert found.repeat_prefix == list(prefix) and found.shape == [2, 4, 8]
  assert (found.repeat_prefix_split_dims_mapping,
          found.repeat_optimizer_dims_mapping) == expected
  assert (found.fan_in_axes, found.fan_out_axes) == ([n, -2], None)
  assert given.repeat_prefix is None
  twice = lifted.stacked_metadata(found, (5,), ('o',))
  assert twice.repeat_prefix == [5, *prefix]
  assert twice.repeat_prefix_split_dims_mapping == ('o', *expected[0])
  assert twice.fan_in_axes == [n + 1, -2]


def test_buckets_are_told_from_variables():
  state = {'m': {'n': 1, 'summaries': {'s': 2}, '@mine': {'q': 3}}}
  assert lifted.map_variables(lambda v: 10 * v, state) == {
    'm': {'n': 10, 'summaries': {'s': 2}, '@mine': {'q': 3}}}
  assert lifted.without_buckets(state, ['summaries']) == {
    'm': {'n': 1, '@mine': {'q': 3}}}
