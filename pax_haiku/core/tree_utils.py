"""Helpers for nested structures: text paths, merging, stacking, matching by name."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku.core.nested_map import NestedMap

Patterns = str | re.Pattern | Iterable[re.Pattern | str]


def compile_patterns(patterns: Patterns) -> list[re.Pattern]:
  """One or several regular expressions, compiled."""
  if isinstance(patterns, str | re.Pattern):
    patterns = [patterns]
  return [re.compile(p) for p in patterns]


def merge_dict(dict1: Mapping[str, Any], dict2: Mapping[str, Any]) -> dict[str, Any]:
  """A plain dict with the items of both.

  Raises:
    ValueError: both have a key, with other objects.
  """
  for key in dict1.keys() & dict2.keys():
    if dict1[key] is not dict2[key]:
      raise ValueError(
          f'The same key {key} corresponds to different values in the dictionaries: '
          f'{dict1[key]} vs {dict2[key]}.'
      )
  return {**dict1, **dict2}


def assert_same_shape_and_dtype(
    tree: Any, *rest: Any, is_leaf: Callable[[Any], bool] | None = None
) -> None:
  """Compares trees leaf by leaf.

  Raises:
    AssertionError: two leaves differ in shape or dtype.
    ValueError: the trees differ in structure.
  """

  def compare(path, x, *others):
    for y in others:
      if x.shape != y.shape or x.dtype != y.dtype:
        raise AssertionError(
            f'Leaf {jax.tree_util.keystr(path)}: {x.dtype}{list(x.shape)} and '
            f'{y.dtype}{list(y.shape)} differ.'
        )

  jax.tree_util.tree_map_with_path(compare, tree, *rest, is_leaf=is_leaf)


def tree_unstack(tree: Any, axis: int) -> Sequence[Any]:
  """Splits stacked trees: one tree for each index along `axis` of the leaves.

  Returns:
    A list of trees without that dim; `[tree]` if all leaves are scalars.

  Raises:
    ValueError: the leaves differ in size along `axis`, or one lacks that dim.
  """
  leaves, treedef = jax.tree.flatten(tree)
  if not leaves:
    return []
  if all(np.ndim(x) == 0 for x in leaves):
    return [tree]
  sizes = {
      x.shape[axis] if -x.ndim <= axis < x.ndim else None
      for x in map(jnp.asarray, leaves)
  }
  if len(sizes) != 1 or None in sizes:
    raise ValueError(
        f'All leaves need one size along axis {axis}; got shapes '
        f'{[np.shape(x) for x in leaves]}.'
    )
  (size,) = sizes
  index = (slice(None),) * (axis % np.ndim(leaves[0]))
  if axis < 0:
    index = (...,)
    behind = (slice(None),) * (-1 - axis)
  else:
    behind = ()
  return [
      treedef.unflatten([x[(*index, i, *behind)] for x in leaves]) for i in range(size)
  ]


def concat_nested_maps(map_list: Sequence[Mapping[str, Any]], axis: int) -> NestedMap:
  """Concatenates the arrays of several maps along `axis`.

  Mappings inside are treated likewise. The first map's value is taken as it is for a
  key that the second map lacks, for an array without such an axis and for anything
  else.

  Raises:
    KeyError: the first two maps have a key that another lacks.
  """
  result = NestedMap(map_list[0])
  if len(map_list) == 1:
    return result
  for key, value in map_list[0].items():
    if key not in map_list[1]:
      continue
    if isinstance(value, Mapping):
      result[key] = concat_nested_maps([m[key] for m in map_list], axis)
    elif isinstance(value, jax.Array | np.ndarray) and value.ndim > axis:
      module = jnp if isinstance(value, jax.Array) else np
      result[key] = module.concatenate([m[key] for m in map_list], axis=axis)
  return result


def filter_by_matching_keys(
    batch: Mapping[str, Any], prefixes: Sequence[str]
) -> tuple[NestedMap, NestedMap]:
  """Parts a map into items whose key starts with one of `prefixes`, and the rest."""
  matching, rest = NestedMap(), NestedMap()
  for key, value in batch.items():
    (matching if key.startswith(tuple(prefixes)) else rest)[key] = value
  return matching, rest


def select_nodes_by_indices(indices: Any, *trees: Any) -> Any:
  """A tree whose leaf is that of `trees[i]`, i the leaf of the tree `indices`."""
  return jax.tree.map(lambda index, *leaves: leaves[index], indices, *trees)


def extract_prefixed_keys_from_nested_map(
    node: Any,
    prefix: str = '',
    key_separator: str = '/',
    left_separator: str = '[',
    right_separator: str = ']',
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
  """The same structure with each leaf replaced by its path, such as `a/b[0]`.

  Args:
    node: dicts, lists, tuples, namedtuples and pytree dataclasses are structure.
    prefix: the path of `node` itself.
    key_separator: between keys.
    left_separator: before an index.
    right_separator: behind an index.
    is_leaf: where true, the node becomes None.
  """
  visit = functools.partial(
      extract_prefixed_keys_from_nested_map,
      key_separator=key_separator,
      left_separator=left_separator,
      right_separator=right_separator,
      is_leaf=is_leaf,
  )

  def member(name):
    return f'{prefix}{key_separator}{name}' if prefix else f'{name}'

  if is_leaf is not None and is_leaf(node):
    return None
  if isinstance(node, dict):
    return type(node)({k: visit(v, member(k)) for k, v in node.items()})
  if isinstance(node, tuple) and hasattr(node, '_fields'):
    items = zip(node._fields, node, strict=True)
    return type(node)(*(visit(v, member(name)) for name, v in items))
  if isinstance(node, list | tuple):
    return type(node)(
        visit(v, f'{prefix}{left_separator}{i}{right_separator}')
        for i, v in enumerate(node)
    )
  if _is_pytree_dataclass(node):
    names = [f.name for f in dataclasses.fields(node)]
    return dataclasses.replace(
        node, **{name: visit(getattr(node, name), member(name)) for name in names}
    )
  return prefix if prefix else None


def _is_pytree_dataclass(node: Any) -> bool:
  return (
      dataclasses.is_dataclass(node)
      and not isinstance(node, type)
      and not jax.tree_util.all_leaves([node])
  )


def match_variable_names(
    tree: Any, patterns: Patterns, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
  """The same structure with bools: whether the leaf's path fully matches a pattern.

  Args:
    tree: paths are those of `extract_prefixed_keys_from_nested_map`.
    patterns: one or several regular expressions.
    is_leaf: such nodes have no path, so they do not match.
  """
  compiled = compile_patterns(patterns)
  names = extract_prefixed_keys_from_nested_map(tree, is_leaf=is_leaf)
  return jax.tree.map(
      lambda name: name is not None and any(p.fullmatch(name) for p in compiled),
      names,
      is_leaf=lambda x: x is None,
  )


def update_matched_variables(
    old_tree: Any, new_tree: Any, patterns: Patterns, invert: bool = False
) -> Any:
  """Leaves of `new_tree` where the path matches a pattern, of `old_tree` elsewhere.

  Args:
    old_tree: a tree.
    new_tree: a tree of the same structure.
    patterns: one or several regular expressions.
    invert: swaps the roles of matching and not matching.
  """
  return jax.tree.map(
      lambda matches, old, new: new if matches != invert else old,
      match_variable_names(old_tree, patterns),
      old_tree,
      new_tree,
  )
