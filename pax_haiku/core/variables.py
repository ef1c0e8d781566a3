"""Pax's nested collections <-> Haiku's flat parameters and state, without loss.

Pax:    {'params': {'linear': {'w': a}}, 'non_trainable': {'bn': {'mean': m}},
         'summaries': {'bn': {'x_scalar': s}}}
Haiku:  params {'root/linear': {'w': a}},
        state  {'root/bn': {'mean': m, 'summaries': {'x_scalar': s}}}
"""

from collections.abc import Mapping
from typing import Any

from pax_haiku.core import boxes, constants
from pax_haiku.core.run import BUCKETS

_STATE_COLLECTION = constants.NON_TRAINABLE


def bucket_key(collection: str) -> str:
  """Name of the state entry that holds a collection's values of one module."""
  return collection if collection in BUCKETS else '@' + collection


def _collection_of(entry: str) -> str | None:
  """The collection whose bucket a state entry is; None for a plain variable."""
  if entry in BUCKETS:
    return entry
  return entry[1:] if entry.startswith('@') else None


def is_bucket(entry: str) -> bool:
  """Whether a state entry is a bucket rather than a variable."""
  return _collection_of(entry) is not None


def insert(tree: dict, path: tuple[str, ...], name: str, value):
  for part in path:
    tree = tree.setdefault(part, {})
  tree[name] = value


def _path(module: str, root: str) -> tuple[str, ...]:
  if module == root:
    return ()
  if not module.startswith(root + '/'):
    raise ValueError(
      f'Module {module!r} does not lie below the root {root!r}; pass the module name '
      'of the root layer as root=.'
    )
  return tuple(module[len(root) + 1 :].split('/'))


def sort_keys(tree):
  """The same nested dicts with sorted keys."""
  if not isinstance(tree, dict):
    return tree
  return {k: sort_keys(tree[k]) for k in sorted(tree)}


def to_pax(
  params: Mapping[str, Mapping[str, Any]],
  state: Mapping[str, Mapping[str, Any]],
  *,
  root: str,
) -> dict[str, Any]:
  """Haiku's flat trees as Pax's nested collections.

  Args:
    params: {module: {name: value}}.
    state: {module: {name: value}}.
    root: module name of the root layer, which Pax leaves out.

  Returns:
    {collection: nested dicts}, keys sorted, without empty collections.

  Raises:
    ValueError: a module does not lie below `root`.
  """
  out: dict[str, Any] = {}
  for module, bundle in params.items():
    for name, value in bundle.items():
      tree = out.setdefault(constants.PARAMS, {})
      insert(tree, _path(module, root), name, value)
  for module, bundle in state.items():
    path = _path(module, root)
    for entry, value in bundle.items():
      collection = _collection_of(entry)
      if collection is None:
        insert(out.setdefault(_STATE_COLLECTION, {}), path, entry, value)
        continue
      for name, item in value.items():
        insert(out.setdefault(collection, {}), path, name, item)
  return sort_keys(out)


def walk(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from walk(value, (*path, name))
    else:
      yield path, name, value


def to_haiku(variables: Mapping[str, Any], *, root: str) -> tuple[dict, dict]:
  """Pax's nested collections as Haiku's (params, state); the inverse of `to_pax`.

  Args:
    variables: {collection: nested mappings}. Boxed values are unboxed.
    root: module name of the root layer.
  """
  params: dict[str, dict[str, Any]] = {}
  state: dict[str, dict[str, Any]] = {}
  for collection, tree in boxes.maybe_unbox_value(dict(variables)).items():
    for path, name, value in walk(tree):
      module = '/'.join((root, *path))
      if collection == constants.PARAMS:
        params.setdefault(module, {})[name] = value
      elif collection == _STATE_COLLECTION:
        state.setdefault(module, {})[name] = value
      else:
        bundle = state.setdefault(module, {})
        bundle.setdefault(bucket_key(collection), {})[name] = value
  return params, state
