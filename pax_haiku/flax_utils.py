"""Helpers for variables and summaries of Flax modules; Flax itself is not needed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku.core import constants
from pax_haiku.core.boxes import BoxedParam
from pax_haiku.core.weights import WeightHParams, WeightHParamsCollection

__all__ = [
    'convert_to_boxed_params',
    'maybe_repack_summary',
    'maybe_unpack_summary',
]

_AXES = '_axes'
_FOREIGN = (
    WeightHParamsCollection.NON_TRAINABLE,
    WeightHParamsCollection.REQUIRES_MEAN_SYNC,
)


def maybe_unpack_summary(tree: Any, unpack_summaries: bool, x_times: int) -> Any:
  """Stacked summaries [x_times, ...] as lists of `x_times` arrays [1, ...].

  Args:
    tree: a tree of arrays.
    unpack_summaries: whether to do anything.
    x_times: size of the leading axis.
  """
  if not unpack_summaries:
    return tree
  return jax.tree.map(lambda x: [x[i : i + 1] for i in range(x_times)], tree)


def maybe_repack_summary(tree: Any, unpack_summaries: bool, x_times: int) -> Any:
  """Lists of `x_times` arrays stacked along a new leading axis, [x_times, ...].

  Args:
    tree: a tree with such lists in place of leaves.
    unpack_summaries: whether to do anything.
    x_times: length of the lists.

  Raises:
    ValueError: something in the tree is not such a list.
  """
  if not unpack_summaries:
    return tree

  def stack(x: Any) -> jax.Array:
    if not isinstance(x, list) or len(x) != x_times:
      raise ValueError(f'expected a list of {x_times} summaries, found {x!r}')
    return jnp.stack(x)

  return jax.tree.map(stack, tree, is_leaf=lambda x: isinstance(x, list))


def _mesh_axes(
    names: Sequence[str], rules: Sequence[tuple[str, str | None]]
) -> list[str | None]:
  """The mesh axis of each dim; the first rule counts whose mesh axis is still free."""
  found: dict[str, str | None] = {}
  for name, axis in rules:
    is_free = axis is None or axis not in found.values()
    if name in names and name not in found and is_free:
      found[name] = axis
  return [found.get(name) for name in names]


def convert_to_boxed_params(
    var_tree: Mapping[str, Any],
    logical_axes_rules: Sequence[tuple[str, str | None]] | None = None,
    mesh_shape: Sequence[int] | None = None,
    var_collection_map: Mapping[str, list[str]] | None = None,
) -> dict[str, Any]:
  """Boxes the variables of a Flax module with declarations that Pax understands.

  Args:
    var_tree: {collection: nested dict of arrays}. The collection `params_axes` holds
      under `kernel_axes` an object whose `names` are the logical axes of `kernel` in
      `params`; `x_axes` likewise for a collection `x`.
    logical_axes_rules: (logical axis, mesh axis or None) pairs; of the rules for one
      logical axis the first counts whose mesh axis no other dim has taken.
    mesh_shape: the logical mesh.
    var_collection_map: {collection: labels of its variables, see
      `WeightHParamsCollection`}. Without an entry `params` has none and others are
      non-trainable and averaged over replicas.

  Returns:
    The collections other than `*_axes`, each array a `BoxedParam`.
  """
  labels = {constants.PARAMS: [], **(var_collection_map or {})}

  def boxed(tree: Mapping[str, Any], axes: Mapping[str, Any], collection: str):
    out = {}
    for name, value in tree.items():
      if isinstance(value, Mapping):
        out[name] = boxed(value, axes.get(name, {}), collection)
        continue
      logical = axes.get(name + _AXES)
      out[name] = BoxedParam(value, WeightHParams(
          shape=tuple(value.shape),
          dtype=value.dtype,
          collections=list(labels.get(collection, _FOREIGN)),
          mesh_shape=mesh_shape,
          tensor_split_dims_mapping=(
              None if logical is None
              else _mesh_axes(logical.names, logical_axes_rules or ())),
      ))  # fmt: skip
    return out

  return {
      collection: boxed(tree, var_tree.get(collection + _AXES, {}), collection)
      for collection, tree in var_tree.items()
      if not collection.endswith(_AXES)
  }
