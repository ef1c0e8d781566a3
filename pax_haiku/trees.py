"""Trees: text paths of leaves, matching by path, one tree being part of another."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pax_haiku.core.tree_utils import Patterns, compile_patterns

__all__ = [
    'Patterns',
    'copy',
    'extract_elements_matching_subset_structure',
    'fullmatch_path',
    'get_shape_dtype',
    'is_subset',
    'to_path_tree',
]


def _path_text(path: tuple[Any, ...]) -> str:
  text = ''
  for key in path:
    if isinstance(key, jax.tree_util.SequenceKey):
      text += f'[{key.idx}]'
      continue
    if isinstance(key, jax.tree_util.GetAttrKey):
      name = key.name
    else:
      name = key.key  # DictKey and FlattenedIndexKey
    text += f'/{name}' if text else f'{name}'
  return text


def to_path_tree(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
  """The same structure with each leaf replaced by its path, such as `a/b[0]/x`.

  Args:
    tree: any pytree.
    is_leaf: leaves for which it is true become None.
  """

  def to_text(path, leaf):
    return None if is_leaf is not None and is_leaf(leaf) else _path_text(path)

  return jax.tree_util.tree_map_with_path(to_text, tree)


def fullmatch_path(
    tree: Any, patterns: Patterns, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
  """The same structure with bools: whether the path fully matches a pattern.

  Args:
    tree: any pytree.
    patterns: one or several regular expressions.
    is_leaf: leaves for which it is true become None.
  """
  compiled = compile_patterns(patterns)
  return jax.tree.map(
      lambda path: any(p.fullmatch(path) for p in compiled),
      to_path_tree(tree, is_leaf),
  )


def _same_kind(a: Any, b: Any) -> bool:
  return type(a) is type(b) or (isinstance(a, dict) and isinstance(b, dict))


def is_subset(subset: Any, superset: Any) -> bool:
  """Whether one tree is part of another.

  Of a dict by keys, of a sequence as its beginning; other values must be equal. Types
  must be the same; dict and NestedMap count as one.
  """
  if not _same_kind(subset, superset):
    return False
  if isinstance(subset, dict):
    return all(k in superset and is_subset(v, superset[k]) for k, v in subset.items())
  if isinstance(subset, list | tuple):
    return len(subset) <= len(superset) and all(
        map(is_subset, subset, superset[: len(subset)])
    )
  return bool(np.all(subset == superset))


def extract_elements_matching_subset_structure(subset: Any, superset: Any) -> Any:
  """The part of `superset` that has the structure of `subset`.

  Raises:
    ValueError: `superset` lacks something that `subset` has, or has another type of
      container there.
  """
  containers = dict, list, tuple, type(None)
  if isinstance(subset, containers) or isinstance(superset, containers):
    if not _same_kind(subset, superset):
      raise ValueError(
          f'The subset has a {type(subset).__name__} where the superset has a '
          f'{type(superset).__name__}: {subset!r} and {superset!r}.'
      )
  if isinstance(subset, dict):
    missing = [k for k in subset if k not in superset]
    if missing:
      raise ValueError(
          f'Keys {missing} of the subset are not contained in the superset, which '
          f'has {list(superset)}.'
      )
    return type(subset)({
        k: extract_elements_matching_subset_structure(v, superset[k])
        for k, v in subset.items()
    })
  if isinstance(subset, list | tuple):
    if len(subset) > len(superset):
      raise ValueError(
          f'The subset has {len(subset)} items where the superset has '
          f'{len(superset)}: {subset!r} and {superset!r}.'
      )
    items = list(
        map(extract_elements_matching_subset_structure, subset, superset[: len(subset)])
    )
    return type(subset)(*items) if hasattr(subset, '_fields') else type(subset)(items)
  return superset


def get_shape_dtype(nested_obj: Any) -> Any:
  """The same structure with a `jax.ShapeDtypeStruct` for each leaf."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nested_obj)


def copy(pytree: Any) -> Any:
  """The same leaves in new containers."""
  return jax.tree.map(lambda x: x, pytree)
