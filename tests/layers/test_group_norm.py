"""GroupNorm against Haiku's, formulas in float64, and recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers.normalizations import GroupNorm
from tests.layers import harness, reference
from tests.layers.reference import PADDINGS, X

FIELDS = dict(dim=4, num_groups=2, input_rank=3)


def expected_group_norm(x, keep, groups, cumulative=False, epsilon=0.001):
  """The formula in float64, without beta and gamma, one group and step at a time."""
  x = np.asarray(x, np.float64)
  grouped = x.reshape(*x.shape[:-1], groups, -1)
  out = np.zeros_like(grouped)
  for b in range(x.shape[0]):
    for g in range(groups):
      values, kept = grouped[b, ..., g, :], keep[b].astype(bool)
      if not cumulative:
        sample = values[kept]
        out[b, ..., g, :] = (values - sample.mean()) / np.sqrt(sample.var() + epsilon)
        continue
      squares, count = 0.0, 0
      for t in range(x.shape[1]):
        seen = values[: t + 1][kept[: t + 1]]
        mean = seen.mean()
        if kept[t]:
          squares += np.sum((values[t] - mean) ** 2)
          count += values[t].size
        out[b, t, ..., g, :] = (values[t] - mean) / np.sqrt(squares / count + epsilon)
  return out.reshape(x.shape)


@pytest.mark.parametrize('rank', [3, 4, 5])
def test_equals_haiku(rank):
  x = harness.noise(2, 3, 4, 2, 6)[(slice(None), *[0] * (5 - rank))]
  beta, gamma = harness.noise(6, seed=1), harness.noise(6, seed=2)
  layer = harness.build(GroupNorm, dim=6, num_groups=3, input_rank=rank)
  shape = (1,) * (rank - 1) + (6,)
  variables = {'params': {'beta': beta.reshape(shape), 'gamma': gamma.reshape(shape)}}
  assert harness.shapes(harness.init(layer, x)) == harness.shapes(variables)
  out, written = harness.apply(layer, variables, x)
  assert not written
  grads, grad_x = harness.gradients(layer, variables, x)
  expected, (expected_grads, expected_grad_x) = harness.haiku_result(
    lambda: hk.GroupNorm(3, eps=0.001), {'scale': 1 + gamma, 'offset': beta}, x
  )
  # Haiku takes E[x^2] - E[x]^2 for the variance, which loses a few digits.
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(grad_x, expected_grad_x, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    grads['gamma'].ravel(), expected_grads['scale'], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    grads['beta'].ravel(), expected_grads['offset'], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('cumulative', [False, True])
def test_padded_steps_are_left_out(cumulative):
  expected = expected_group_norm(X, 1 - PADDINGS, 2, cumulative)
  for zero in (False, True):
    layer = harness.build(
      GroupNorm, **FIELDS, cumulative=cumulative, set_padded_output_to_zero=zero
    )
    out, _ = harness.apply(layer, harness.init(layer, X, PADDINGS), X, PADDINGS)
    if zero:
      expected = expected * (1 - PADDINGS)[..., np.newaxis]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_cumulative_norm_of_a_prefix_is_the_prefix():
  whole = harness.run(GroupNorm, X, np.zeros_like(PADDINGS), cumulative=True, **FIELDS)
  prefix = harness.run(
    GroupNorm, X[:, :3], np.zeros((2, 3), np.float32), cumulative=True, **FIELDS
  )
  np.testing.assert_allclose(whole[:, :3], prefix, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'num_groups, min_group_size, groups', [(2, 1, 2), (4, 2, 2), (32, 1, 4), (32, 4, 1)]
)
def test_number_of_groups(num_groups, min_group_size, groups):
  fields = dict(dim=4, num_groups=num_groups, min_group_size=min_group_size)
  out = harness.run(GroupNorm, X, input_rank=3, **fields)
  expected = expected_group_norm(X, np.ones((2, 5)), groups)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'fields, names',
  [
    ({}, {'beta', 'gamma'}),
    (dict(use_bias=False), {'gamma'}),
    (dict(use_scale=False), {'beta'}),
  ],
)
def test_variables_and_their_labels(fields, names):
  layer = harness.build(GroupNorm, **FIELDS, **fields)
  variables = harness.init(layer, X)
  assert set(variables['params']) == names
  for weight in layer.abstract_init_with_metadata(X)['params'].values():
    assert '__lingvo_jax_skip_regularization' in weight.collections
  out = harness.apply(layer, harness.randomize(variables), X)[0]
  v = harness.randomize(variables)['params']
  plain = expected_group_norm(X, np.ones((2, 5)), 2)
  expected = plain * (1 + v.get('gamma', 0)) + v.get('beta', 0)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_without_variables():
  layer = harness.build(GroupNorm, **FIELDS, use_scale=False, use_bias=False)
  assert not harness.init(layer, X)


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('args', [(), (PADDINGS,)])
def test_dtype_of_the_result_under_bfloat16(given, args):
  layer = harness.build(GroupNorm, fprop_dtype=jnp.bfloat16, **FIELDS)
  x = X.astype(given)
  variables = harness.init(layer, x, *args)
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
  assert harness.apply(layer, variables, x, *args)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(num_groups=0), 'num_groups must be positive'),
    (dict(min_group_size=0), 'min_group_size must be positive'),
    (dict(min_group_size=5, num_groups=32), 'min_group_size must not exceed dim'),
    (dict(min_group_size=3), 'min_group_size must divide dim'),
    (dict(num_groups=3), 'num_groups must divide dim'),
    (dict(input_rank=2), 'input_rank must be 3, 4 or 5'),
    (dict(input_rank=None), 'input_rank must be 3, 4 or 5'),
    (dict(input_rank=4), r'input_rank=4, found shape \(2, 5, 4\)'),
  ],
)
def test_fields_that_do_not_fit(fields, message):
  with pytest.raises(ValueError, match=f'GroupNorm.*{message}'):
    harness.run(GroupNorm, X, **{**FIELDS, **fields})


def test_cumulative_needs_paddings():
  with pytest.raises(TypeError, match='cumulative=True needs paddings'):
    harness.run(GroupNorm, X, cumulative=True, **FIELDS)


@pytest.mark.parametrize(
  'fields, args, expected',
  [
    ({}, (), (40, 0.3576255, 1.733999, 50.64479)),
    ({}, (PADDINGS,), (40, -0.370029, 1.733999, 41.23548)),
    (dict(cumulative=True), (PADDINGS,), (40, -1.124755, 2.026839, 46.99225)),
  ],
)
def test_recorded_numbers(fields, args, expected):
  config = pax_fiddle.Config(GroupNorm, **FIELDS, **fields)
  reference.check(reference.run(config, X, *args), *expected)
