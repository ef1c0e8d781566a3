"""Devices and meshes: thin wrappers over public JAX under their Pax names."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from pax_haiku.core.sharding import _with_sharding_constraint


def global_mesh_defined() -> bool:
  """Whether a device mesh is active: `with jax.set_mesh(mesh)` or `with mesh`."""
  if not jax.sharding.get_abstract_mesh().empty:
    return True
  try:  # `with mesh` shows only in what it allows.
    jax.eval_shape(
        lambda: jax.lax.with_sharding_constraint(jnp.zeros(()), PartitionSpec())
    )
  except RuntimeError:
    return False
  return True


def with_sharding_constraint(
    x: jax.Array, axis_resources: PartitionSpec | None
) -> jax.Array:
  """`jax.lax.with_sharding_constraint` where a mesh is active; elsewhere `x`."""
  return x if axis_resources is None else _with_sharding_constraint(x, axis_resources)


def is_tpu() -> bool:
  """Whether the first local device is a TPU."""
  return jax.local_devices()[0].platform == 'tpu'


def is_mock_tpu_backend() -> bool:
  """False: mocked backends are not supported."""
  return False


def set_globally_use_rbg_prng_key() -> None:
  """Makes `jax.random` use the rbg generator, which is faster on TPU."""
  jax.config.update('jax_default_prng_impl', 'rbg')


def create_device_mesh(
    ici_mesh_shape: Sequence[int],
    dcn_mesh_shape: Sequence[int] | None = None,
    contiguous_submeshes: bool | None = False,
) -> np.ndarray:
  """An array of all devices, arranged for fast communication along its axes.

  Args:
    ici_mesh_shape: mesh shape within a slice.
    dcn_mesh_shape: mesh shape across slices, of the same rank; None or ones for one
      slice.
    contiguous_submeshes: whether devices of one host are to form a submesh.

  Returns:
    Shape: product of both, dim by dim.
  """
  from jax.experimental import mesh_utils

  contiguous_submeshes = bool(contiguous_submeshes)
  if dcn_mesh_shape is None or all(n == 1 for n in dcn_mesh_shape):
    return mesh_utils.create_device_mesh(
        ici_mesh_shape, contiguous_submeshes=contiguous_submeshes
    )
  return mesh_utils.create_hybrid_device_mesh(ici_mesh_shape, dcn_mesh_shape)


def sync_global_devices(name: str) -> None:
  """Waits until all processes have got here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def put_to_devices(
    host_array: np.ndarray, local_devices: Sequence[Any]
) -> list[jax.Array]:
  """Splits an array along its first dim, one part for each device.

  Raises:
    ValueError: the number of devices does not divide the first dim.
  """
  if host_array.shape[0] % len(local_devices):
    raise ValueError(
        f'{len(local_devices)} devices cannot share the first dim of an array of '
        f'shape {host_array.shape} evenly.'
    )
  parts = np.split(host_array, len(local_devices), axis=0)
  return [jax.device_put(p, d) for p, d in zip(parts, local_devices, strict=True)]


def make_array(
    host_arrays: Any,
    global_shapes: Any,
    global_mesh: jax.sharding.Mesh,
    pspecs: Any = None,
    sharding: Any = None,
) -> Any:
  """Global arrays from this process's part of the data.

  Args:
    host_arrays: tree of numpy arrays.
    global_shapes: tree of `ShapeDtypeStruct`.
    global_mesh: all devices.
    pspecs: tree of `PartitionSpec`; None splits the first dim over the mesh.
    sharding: tree of shardings, instead of mesh and specs.
  """
  if sharding is None:
    if pspecs is None:
      pspecs = jax.tree.map(
          lambda _: PartitionSpec(global_mesh.axis_names), global_shapes
      )
    sharding = jax.tree.map(
        lambda spec: jax.sharding.NamedSharding(global_mesh, spec),
        pspecs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
  return jax.tree.map(
      lambda x, shape, s: jax.make_array_from_process_local_data(s, x, shape.shape),
      host_arrays,
      global_shapes,
      sharding,
  )


def get_global_input_shape_dtype(x: Any) -> jax.ShapeDtypeStruct:
  """Global shape of an input of which each process has an equal part of the batch."""
  shape = (x.shape[0] * jax.process_count(), *x.shape[1:])
  return jax.ShapeDtypeStruct(shape, x.dtype)


def maybe_unreplicate_for_fully_replicated(data: Any) -> Any:
  """Each fully replicated array in a tree as this process's first copy of it."""
  return jax.tree.map(
      lambda x: x.addressable_data(0)
      if isinstance(x, jax.Array) and x.is_fully_replicated
      else x,
      data,
  )


def maybe_unreplicate_for_first_shard(data: Any) -> Any:
  """The first shard that this process holds of each array in a tree."""
  return jax.tree.map(
      lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, data
  )


def convert_fully_replicated_array_to_pmap_array(arr: jax.Array) -> jax.Array:
  """One copy for each local device in a new first dim."""
  devices = jax.local_devices()
  value = np.asarray(arr.addressable_data(0))[None]
  return _over_local_devices([value] * len(devices), devices)


def convert_host_local_array_to_global_array(arr: jax.Array) -> jax.Array:
  """An array that is split over this process's devices, as part of a global array."""
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ('devices',))
  sharding = jax.sharding.NamedSharding(mesh, PartitionSpec('devices'))
  return jax.make_array_from_process_local_data(sharding, np.asarray(arr))


def _over_local_devices(parts: Sequence[np.ndarray], devices) -> jax.Array:
  mesh = jax.sharding.Mesh(np.asarray(devices), ('devices',))
  sharding = jax.sharding.NamedSharding(mesh, PartitionSpec('devices'))
  buffers = [jax.device_put(p, d) for p, d in zip(parts, devices, strict=True)]
  shape = (len(parts), *parts[0].shape[1:])
  return jax.make_array_from_single_device_arrays(shape, sharding, buffers)


# --- dims that do not divide evenly ---


def get_uneven_sharding_paddings(
    partition_spec: PartitionSpec,
    shape: Sequence[int],
    mesh_shape: Sequence[int],
    mesh_axis_names: Sequence[str],
) -> list[int]:
  """For each dim, how much is missing to a multiple of its number of shards."""
  sizes = dict(zip(mesh_axis_names, mesh_shape, strict=True))
  paddings = [0] * len(shape)
  for i, axes in enumerate(partition_spec):
    axes = () if axes is None else (axes,) if isinstance(axes, str) else axes
    shards = int(np.prod([sizes[a] for a in axes]))
    paddings[i] = -shape[i] % shards
  return paddings


def maybe_pad_uneven_sharding(
    xs: Any,
    partition_specs: Any,
    unpadded_shapes: Any,
    mesh_shape: Sequence[int],
    mesh_axis_names: Sequence[str],
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
  """Pads arrays at the end of each dim to a multiple of its number of shards.

  Args:
    xs: tree of arrays.
    partition_specs: tree of `PartitionSpec`.
    unpadded_shapes: tree of shapes, or of things that have a shape.
    mesh_shape: sizes of the mesh axes.
    mesh_axis_names: names of the mesh axes.
    is_leaf: leaves of `xs`.
  """

  def pad(x, spec, shape):
    paddings = get_uneven_sharding_paddings(
        spec, _shape(shape), mesh_shape, mesh_axis_names
    )
    return jnp.pad(x, [(0, p) for p in paddings]) if any(paddings) else x

  return _map_up_to(pad, is_leaf, xs, partition_specs, unpadded_shapes)


def maybe_slice_uneven_sharding(
    xs: Any,
    partition_spec: Any,
    unpadded_shapes: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
  """Undoes `maybe_pad_uneven_sharding`; `partition_spec` plays no role."""
  del partition_spec

  def cut(x, shape):
    shape = _shape(shape)
    return x if x.shape == shape else x[tuple(slice(n) for n in shape)]

  return _map_up_to(cut, is_leaf, xs, unpadded_shapes)


def _shape(shape: Any) -> tuple[int, ...]:
  return tuple(getattr(shape, 'shape', shape))


def _map_up_to(fn, is_leaf, tree: Any, *rest: Any) -> Any:
  """`jax.tree.map` where the other trees' leaves may be tuples."""
  leaves, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
  columns = [treedef.flatten_up_to(r) for r in rest]
  return treedef.unflatten(list(map(fn, leaves, *columns)))
