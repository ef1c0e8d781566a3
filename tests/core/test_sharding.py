"""split_dims_mapping -> PartitionSpec, and constraints on real meshes."""

import os
import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from pax_haiku.core import sharding
from pax_haiku.core.context import JaxContext
from pax_haiku.core.weights import WeightHParams

AXES = ('a', 'b')


def one_device_mesh(axis_type=AxisType.Auto):
  devices = np.array(jax.devices()[:1]).reshape(1, 1)
  return Mesh(devices, AXES, axis_types=(axis_type,) * 2)


@pytest.mark.parametrize(
  'mapping, spec',
  [
    ([], PartitionSpec()),
    ([0, 1], PartitionSpec('a', 'b')),
    ([-1, None, -2], PartitionSpec(None, None, None)),
    (('b', ('a', 1)), PartitionSpec('b', ('a', 'b'))),
    ([['a', None], (-1, 1)], PartitionSpec(('a', None), (None, 'b'))),
  ],
)
def test_to_partition_spec(mapping, spec):
  found = sharding.to_partition_spec(mapping, AXES)
  assert isinstance(found, PartitionSpec) and tuple(found) == tuple(spec)


def test_to_partition_spec_of_unknown_axes():
  with pytest.raises(AssertionError, match=r"number 2 .*\['a', 'b'\]"):
    sharding.to_partition_spec([None, 2], AXES)
  with pytest.raises(AssertionError, match=r"'c' .*\['a', 'b'\]"):
    sharding.to_partition_spec([None, ('a', 'c')], AXES)


def test_var_partition_specs():
  tree = {
    'w': WeightHParams([2, 3], tensor_split_dims_mapping=['a', -1]),
    'stacked': WeightHParams(
      [2], repeat_prefix=[4], repeat_prefix_split_dims_mapping=('b',)
    ),
    'plain': WeightHParams([2, 3]),
  }
  assert sharding.var_partition_specs(tree, [2, 4], AXES) == {
    'w': PartitionSpec('a', None),
    'stacked': PartitionSpec('b', None),
    'plain': PartitionSpec(None, None),
  }
  with pytest.raises(AssertionError, match=r'mesh_shape=\[2\]'):
    sharding.var_partition_specs(tree, [2], AXES)


# What Praxis makes of these settings.
SPEC = PartitionSpec('a', None, ('a', 'b'), 'c', ('b', 'c'))


@pytest.mark.parametrize(
  'mapping, spec',
  [
    (None, SPEC),
    ({}, SPEC),
    ({'a': 'b', 'b': 'a'}, PartitionSpec('b', None, ('b', 'a'), 'c', ('a', 'c'))),
    ({'a': 'b', 'b': None}, PartitionSpec('b', None, ('b',), 'c', ('c',))),
    ({'a': ''}, PartitionSpec('', None, ('b',), 'c', ('b', 'c'))),
  ],
)
def test_maybe_transpose_mesh_axes(mapping, spec):
  hparams = JaxContext.HParams(mesh_axes_transpose=mapping)
  with JaxContext.new_context(hparams=hparams):
    assert tuple(sharding.maybe_transpose_mesh_axes(SPEC)) == tuple(spec)
  assert sharding.maybe_transpose_mesh_axes(SPEC) is SPEC, 'no context'


def test_transpose_keeps_unconstrained_dims():
  spec = PartitionSpec(PartitionSpec.UNCONSTRAINED, 'a')
  hparams = JaxContext.HParams(mesh_axes_transpose={'a': 'b'})
  with JaxContext.new_context(hparams=hparams):
    found = sharding.maybe_transpose_mesh_axes(spec)
  assert tuple(found) == (PartitionSpec.UNCONSTRAINED, 'b')


def test_transpose_one_axis():
  assert sharding.transpose_one_axis('a', None) == 'a'
  assert sharding.transpose_one_axis('a', {'a': 'b'}) == 'b'
  assert sharding.transpose_one_axis('z', {'a': 'b'}) == 'z'
  assert sharding.transpose_one_axis('a', {'a': None}) is None


def test_maybe_shard_does_nothing_without_mapping_names_or_mesh():
  x = jnp.ones((2, 2))
  for mapping, names in [(None, AXES), (['a', None], None), (['a', None], AXES)]:
    assert sharding.maybe_shard(x, mapping, names) is x
  jaxpr = jax.make_jaxpr(lambda x: sharding.maybe_shard(x, ['a', None], AXES))(x)
  assert not jaxpr.eqns


def test_maybe_shard_checks_even_without_a_mesh():
  x = jnp.ones((2, 2))
  with pytest.raises(AssertionError, match=r"\['a'\].*\(2, 2\)"):
    sharding.maybe_shard(x, ['a'], AXES)
  with pytest.raises(AssertionError, match="'c'"):
    sharding.maybe_shard(x, ['c', None], AXES)


def constrained(x, mapping, **kwargs):
  return sharding.maybe_shard(2 * x, mapping, AXES, **kwargs)


def constraint(mapping, **kwargs):
  """The PartitionSpec of the one constraint that maybe_shard leaves in the jaxpr."""
  jaxpr = jax.make_jaxpr(lambda x: constrained(x, mapping, **kwargs))(jnp.ones((2, 2)))
  (eqn,) = [e for e in jaxpr.eqns if e.primitive.name == 'sharding_constraint']
  return tuple(eqn.params['sharding'].spec)


def test_constraint_under_set_mesh():
  with jax.set_mesh(one_device_mesh()):
    assert constraint(['a', -1]) == ('a', None)
    unconstrained = PartitionSpec.UNCONSTRAINED
    assert constraint(['a', 'b'], unconstrained_dims=[1]) == ('a', unconstrained)
    assert constraint(['a', 'b'], unconstrained_dims=[-2]) == (unconstrained, 'b')
    hparams = JaxContext.HParams(mesh_axes_transpose={'a': 'b', 'b': 'a'})
    with JaxContext.new_context(hparams=hparams):
      assert constraint(['a', 'b']) == ('b', 'a')


def test_constraint_under_with_mesh():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)  # It is what Pax code does.
    with one_device_mesh():
      assert constraint(['a', -1]) == ('a', None)


@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
def test_eager_jit_grad_and_vmap_under_a_mesh(axis_type):
  x = jnp.arange(4.0).reshape(2, 2)
  with jax.set_mesh(one_device_mesh(axis_type)):
    for f in (
      lambda x: constrained(x, ['a', None]),
      jax.jit(lambda x: constrained(x, ['a', 'b'], unconstrained_dims=[1])),
      jax.vmap(lambda x: constrained(x, ['b'])),
      lambda x: jax.grad(lambda x: (constrained(x, ['a', None]) * x).sum())(x) / 2,
    ):
      np.testing.assert_array_equal(f(x), 2 * np.arange(4.0).reshape(2, 2))


def test_errors_of_jax_pass_through_under_a_mesh():
  with jax.set_mesh(one_device_mesh()), pytest.raises(ValueError, match='nope'):
    sharding.maybe_shard(jnp.ones((2, 2)), ['nope', None], ['nope'])


def test_per_device_code_is_left_alone():
  def f(x):
    return constrained(x, ['a'])

  spec = PartitionSpec('a')
  with jax.set_mesh(one_device_mesh()):
    mapped = jax.jit(jax.shard_map(f, in_specs=spec, out_specs=spec))
    np.testing.assert_array_equal(mapped(jnp.ones(2)), [2, 2])


EIGHT_DEVICES = """
  import jax, jax.numpy as jnp, numpy as np
  from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
  from pax_haiku.core.sharding import maybe_shard

  devices = np.array(jax.devices()).reshape(2, 4)
  names = ('a', 'b')
  x = jnp.arange(64.0).reshape(8, 8)

  def f(x):
    return maybe_shard(2 * x, ['a', 'b'], names)

  def shards(y):
    np.testing.assert_array_equal(y, 2 * x)
    return {s.data.shape for s in y.addressable_shards}

  assert shards(f(x)) == {(8, 8)}
  for axis_type in (AxisType.Auto, AxisType.Explicit):
    mesh = Mesh(devices, names, axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
      assert shards(f(x)) == {(4, 2)}, axis_type
      assert shards(jax.jit(f)(x)) == {(4, 2)}, axis_type
      given = jax.device_put(x, NamedSharding(mesh, P(None, 'b')))
      kept = jax.jit(lambda x: maybe_shard(2 * x, ['a', None], names, [1]))(given)
      assert shards(kept) == {(4, 2)}, axis_type
  with Mesh(devices, names):
    assert shards(jax.jit(f)(x)) == {(4, 2)}
"""


def test_tensors_are_split_over_eight_devices():
  env = dict(
    os.environ,
    JAX_PLATFORMS='cpu',
    XLA_FLAGS='--xla_force_host_platform_device_count=8',
    PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
  )
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(EIGHT_DEVICES)],
    env=env,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
