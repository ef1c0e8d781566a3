"""Pytrees that carry what is known about a variable beside its value."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from pax_haiku.core import weights


class _Replaceable:
  """Frozen dataclasses that know how to copy themselves."""

  def replace(self, **changes):
    """Returns a copy with other fields."""
    return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class AuxLossStruct(_Replaceable):
  """An auxiliary loss and its weight: two leaves."""

  value: Any
  weight: Any


jax.tree_util.register_dataclass(AuxLossStruct, ['value', 'weight'], [])


class _Static:
  """Makes any metadata usable as the static part of a pytree: hashable, comparable."""

  __slots__ = ('meta',)

  def __init__(self, meta: Any):
    self.meta = meta

  def __eq__(self, other) -> bool:
    return isinstance(other, _Static) and self.meta == other.meta

  def __hash__(self) -> int:
    return hash(type(self.meta))

  def __repr__(self) -> str:
    return repr(self.meta)


@dataclasses.dataclass(frozen=True)
class WrappedHParams(_Replaceable):
  """Metadata alone: a pytree without leaves."""

  meta: Any


@dataclasses.dataclass(frozen=True)
class BoxedPartitionSpec(_Replaceable):
  """A partition spec as metadata: a pytree without leaves."""

  meta: Any


for _cls in (WrappedHParams, BoxedPartitionSpec):
  jax.tree_util.register_pytree_node(
    _cls,
    lambda box: ((), _Static(box.meta)),
    lambda static, _, cls=_cls: cls(static.meta),
  )


@dataclasses.dataclass(frozen=True)
class BoxedParam(_Replaceable):
  """An array with its WeightHParams. The value is the pytree's child, meta is static.

  Raises:
    AssertionError: the value is itself a box.
  """

  value: Any
  meta: weights.WeightHParams

  def __post_init__(self):
    if isinstance(self.value, BoxedParam):
      raise AssertionError(f'The value is boxed already: {self.value!r}.')

  def unbox(self) -> Any:
    """Returns the value."""
    return self.value

  def replace_boxed(self, value: Any) -> 'BoxedParam':
    """Returns a box of another value with the same meta."""
    return BoxedParam(value, self.meta)

  def add_axis(self, index: int, metadata: Mapping[str, Any]) -> 'BoxedParam':
    """Records in meta that a transform stacked the value along a new first axis.

    Args:
      index: must be 0.
      metadata: `is_initializing` (when False, the box is returned as it is), `x_times`
        (the new axis's size), and `sub_weight_split_dims_mapping` and
        `optimizer_dims_mapping` (None or a sequence of one mesh axis).
    """
    _check_axis(index)
    if not metadata['is_initializing']:
      return self
    meta = self.meta
    entries = [
      _one_entry(metadata, key)
      for key in ('sub_weight_split_dims_mapping', 'optimizer_dims_mapping')
    ]
    return BoxedParam(
      self.value,
      dataclasses.replace(
        meta,
        repeat_prefix=[metadata['x_times'], *(meta.repeat_prefix or ())],
        repeat_prefix_split_dims_mapping=(
          entries[0],
          *(meta.repeat_prefix_split_dims_mapping or ()),
        ),
        repeat_optimizer_dims_mapping=(
          entries[1],
          *(meta.repeat_optimizer_dims_mapping or ()),
        ),
        fan_in_axes=_shift(meta.fan_in_axes, 1),
        fan_out_axes=_shift(meta.fan_out_axes, 1),
      ),
    )

  def remove_axis(self, index: int, metadata: Mapping[str, Any]) -> 'BoxedParam':
    """Undoes `add_axis` of the same arguments."""
    _check_axis(index)
    if not metadata['is_initializing']:
      return self
    meta = self.meta
    if not meta.repeat_prefix or meta.repeat_prefix[0] != metadata['x_times']:
      raise AssertionError(
        f'remove_axis expects a first axis of size {metadata["x_times"]}, found '
        f'repeat_prefix={meta.repeat_prefix}.'
      )
    return BoxedParam(
      self.value,
      dataclasses.replace(
        meta,
        repeat_prefix=list(meta.repeat_prefix[1:]) or None,
        repeat_prefix_split_dims_mapping=(
          tuple(meta.repeat_prefix_split_dims_mapping or ())[1:] or None
        ),
        repeat_optimizer_dims_mapping=(
          tuple(meta.repeat_optimizer_dims_mapping or ())[1:] or None
        ),
        fan_in_axes=_shift(meta.fan_in_axes, -1),
        fan_out_axes=_shift(meta.fan_out_axes, -1),
      ),
    )


jax.tree_util.register_pytree_with_keys(
  BoxedParam,
  lambda b: (((jax.tree_util.GetAttrKey('value'), b.value),), _Static(b.meta)),
  lambda static, children: BoxedParam(children[0], static.meta),
  lambda b: ((b.value,), _Static(b.meta)),
)


def _check_axis(index: int):
  if index != 0:
    raise ValueError(f'Variables are stacked along axis 0 only, got axis {index}.')


def _one_entry(metadata: Mapping[str, Any], key: str) -> Any:
  mapping = metadata.get(key)
  if mapping is None:
    return -1
  if len(mapping) != 1:
    raise AssertionError(f'{key} must be None or have one entry, found {mapping!r}.')
  return mapping[0]


def _shift(axes, by: int):
  """Moves the axes that count from the front; those from the back stay."""
  return None if axes is None else [i + by if i >= 0 else i for i in axes]


def _is_box(x: Any) -> bool:
  return isinstance(x, BoxedParam)


def maybe_unbox_value(tree: Any) -> Any:
  """Replaces the boxes in a tree by their values; other leaves stay."""
  return jax.tree.map(lambda x: x.value if _is_box(x) else x, tree, is_leaf=_is_box)


def unbox_meta(tree: Any) -> Any:
  """Replaces boxes by their WeightHParams, other leaves by one of shape and dtype."""
  return jax.tree.map(
    lambda x: x.meta if _is_box(x) else weights.WeightHParams(x.shape, dtype=x.dtype),
    tree,
    is_leaf=_is_box,
  )
