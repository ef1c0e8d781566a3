"""From split_dims_mapping, Pax's way to say how a tensor is sharded, to JAX's."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pax_haiku.core import context


def to_partition_spec(
  split_dims_mapping: Sequence[Any], mesh_axis_names: Sequence[str]
) -> PartitionSpec:
  """Returns the PartitionSpec that a mapping means on a mesh.

  Args:
    split_dims_mapping: for each dim a mesh axis by name or by index, a tuple of them,
      or None or a negative number for replicated.
    mesh_axis_names: the names of the mesh's axes.

  Raises:
    AssertionError: an entry is not an axis of the mesh.
  """

  def to_axis(entry):
    if entry is None:
      return None
    if isinstance(entry, (list, tuple)):
      return tuple(to_axis(e) for e in entry)
    if isinstance(entry, str):
      if entry not in mesh_axis_names:
        raise AssertionError(
          f'Mesh axis {entry!r} of split_dims_mapping {split_dims_mapping!r} is not '
          f'among the mesh axis names {list(mesh_axis_names)}.'
        )
      return entry
    if entry >= len(mesh_axis_names):
      raise AssertionError(
        f'Mesh axis number {entry} of split_dims_mapping {split_dims_mapping!r} is out '
        f'of range for the mesh axis names {list(mesh_axis_names)}.'
      )
    return mesh_axis_names[entry] if entry >= 0 else None

  return PartitionSpec(*(to_axis(entry) for entry in split_dims_mapping))


def var_partition_specs(
  var_specs: Any, mesh_shape: Sequence[int], device_axis_names: Sequence[str]
) -> Any:
  """Returns the tree of PartitionSpecs of a tree of WeightHParams.

  Raises:
    AssertionError: `mesh_shape` and `device_axis_names` differ in length.
  """
  if len(mesh_shape) != len(device_axis_names):
    raise AssertionError(
      f'Every mesh dim needs a name, found mesh_shape={list(mesh_shape)} and '
      f'device_axis_names={list(device_axis_names)}.'
    )
  return jax.tree.map(
    lambda var_p: to_partition_spec(var_p.full_split_dims_mapping, device_axis_names),
    var_specs,
  )


def maybe_shard(
  x: jax.Array,
  split_dims_mapping: Sequence[Any] | None = None,
  mesh_axis_names: Sequence[str] | None = None,
  unconstrained_dims: Sequence[int] | None = None,
) -> jax.Array:
  """Constrains the sharding of `x`, if a device mesh is active.

  A mesh is active inside `with jax.set_mesh(mesh):`, and inside the deprecated
  `with mesh:`. Where all its axes are Explicit, a constraint would only be checked, so
  `x` is resharded; where all are Manual, as in pmap and shard_map, nothing is done.

  Args:
    x: a tensor.
    split_dims_mapping: for each dim of `x`, as `to_partition_spec`. None: `x` is
      returned as it is.
    mesh_axis_names: the names of the mesh's axes. None: `x` is returned as it is.
    unconstrained_dims: dims of `x` whose sharding is left to the compiler.

  Raises:
    AssertionError: the mapping's length is not the rank of `x`.
  """
  if split_dims_mapping is None or mesh_axis_names is None:
    return x
  if len(split_dims_mapping) != x.ndim:
    raise AssertionError(
      'A split dims mapping needs one entry for each dim: found '
      f'{split_dims_mapping!r} for shape {x.shape}.'
    )
  spec = to_partition_spec(split_dims_mapping, mesh_axis_names)
  spec = maybe_transpose_mesh_axes(spec)
  if unconstrained_dims is not None:
    entries = list(spec)
    for dim in unconstrained_dims:
      entries[dim] = PartitionSpec.UNCONSTRAINED
    spec = PartitionSpec(*entries)
  return _with_sharding_constraint(x, spec)


def _with_sharding_constraint(x: jax.Array, spec: PartitionSpec) -> jax.Array:
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    # `with mesh:` does not show in get_abstract_mesh; without it, JAX raises.
    try:
      return jax.lax.with_sharding_constraint(x, spec)
    except RuntimeError:
      return x
  kinds = set(mesh.axis_types)
  if kinds == {AxisType.Manual}:
    return x
  if kinds == {AxisType.Explicit}:
    return jax.sharding.reshard(x, _keep_unconstrained_dims(x, spec))
  try:
    # What runs op by op needs the devices; inside jit they are unknown, and not needed.
    return jax.lax.with_sharding_constraint(
      x, NamedSharding(jax.sharding.get_mesh(), spec)
    )
  except ValueError:
    return jax.lax.with_sharding_constraint(x, spec)


def _keep_unconstrained_dims(x: jax.Array, spec: PartitionSpec) -> PartitionSpec:
  current = jax.typeof(x).sharding.spec
  return PartitionSpec(
    *(
      old if entry is PartitionSpec.UNCONSTRAINED else entry
      for entry, old in zip(spec, current, strict=True)
    )
  )


def maybe_transpose_mesh_axes(spec: PartitionSpec) -> PartitionSpec:
  """Renames mesh axes by the active JaxContext's `mesh_axes_transpose`.

  The setting maps an axis name of the model to the one to use instead; names that it
  does not contain stay, and inside a tuple those mapped to None or '' are dropped.
  Without a context or the setting, `spec` is returned as it is.
  """
  ctx = context.JaxContext.top()
  mapping = ctx.hparams.mesh_axes_transpose if ctx is not None else None
  if not mapping:
    return spec

  def transpose(entry):
    if isinstance(entry, (list, tuple)):
      return tuple(axis for e in entry if (axis := transpose(e)))
    return transpose_one_axis(entry, mapping)

  return PartitionSpec(*(transpose(entry) for entry in spec))


def transpose_one_axis(axis: Any, mapping: Mapping[str, Any] | None) -> Any:
  """Returns what `mapping` has for an axis name, or the name itself."""
  return mapping.get(axis, axis) if mapping else axis
