"""Pax's nested collections <-> Haiku's flat parameters and state, without loss.

Pax:    {'params': {'linear': {'w': a}}, 'non_trainable': {'bn': {'mean': m}},
         'summaries': {'bn': {'x_scalar': s}}}
Haiku:  params {'root/linear': {'w': a}},
        state  {'root/bn': {'mean': m, 'summaries': {'x_scalar': s}}}

A plain Haiku module may keep a dict as one value. In Pax's tree an `@` before its name
tells such a value from a layer: {'non_trainable': {'bn': {'@cache': {'k': a}}}}.
"""

from collections.abc import Mapping
from typing import Any

from pax_haiku.core import boxes, constants
from pax_haiku.core.run import BUCKETS

_STATE_COLLECTION = constants.NON_TRAINABLE
DICT_MARK = '@'


def bucket_key(collection: str) -> str:
  """Name of the state entry that holds a collection's values of one module."""
  return collection if collection in BUCKETS else '@' + collection


def collection_of(entry: str) -> str | None:
  """The collection whose bucket a state entry is; None for a plain variable."""
  if entry in BUCKETS:
    return entry
  return entry[1:] if entry.startswith('@') else None


def is_bucket(entry: str) -> bool:
  """Whether a state entry is a bucket rather than a variable."""
  return collection_of(entry) is not None


def insert(tree: dict, path: tuple[str, ...], name: str, value):
  for part in path:
    tree = tree.setdefault(part, {})
  tree[name] = value


def module_path(module: str, root: str) -> tuple[str, ...]:
  """Where Pax keeps a module's variables; ValueError if it isn't below `root`."""
  if module == root:
    return ()
  if not module.startswith(root + '/'):
    raise ValueError(
      f'Module {module!r} does not lie below the root {root!r}; pass the module name '
      'of the root layer as root=.'
    )
  return tuple(module[len(root) + 1 :].split('/'))


def _add(tree: dict, path: tuple[str, ...], name: str, value):
  """`insert`, but refuses what nested dicts cannot hold."""
  for depth, part in enumerate(path, 1):
    tree = tree.setdefault(part, {})
    if not isinstance(tree, dict):
      _refuse(path[:depth])
  if name in tree:
    _refuse((*path, name))
  tree[name] = value


def _refuse(path: tuple[str, ...]):
  raise ValueError(
    f'{"/".join(path)!r} is the name of a module and of a variable (or of two '
    "variables), which one of Pax's nested dicts cannot hold. Rename one of them."
  )


def _marked(name: str, value) -> str:
  return DICT_MARK + name if isinstance(value, Mapping) else name


def sort_keys(tree):
  """The same nested dicts with sorted keys; values that are dicts stay as they are."""
  if not isinstance(tree, dict):
    return tree
  return {
    k: tree[k] if str(k).startswith(DICT_MARK) else sort_keys(tree[k])
    for k in sorted(tree)
  }


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
    ValueError: a module does not lie below `root`, or has the full name of a variable.
  """
  out: dict[str, Any] = {}
  for module, bundle in params.items():
    path = module_path(module, root)
    for name, value in bundle.items():
      tree = out.setdefault(constants.PARAMS, {})
      _add(tree, path, _marked(name, value), value)
  for module, bundle in state.items():
    path = module_path(module, root)
    for entry, value in bundle.items():
      collection = collection_of(entry)
      if collection is None or not isinstance(value, Mapping):
        tree = out.setdefault(_STATE_COLLECTION, {})
        _add(tree, path, _marked(entry, value), value)
        continue
      for name, item in value.items():
        _add(out.setdefault(collection, {}), path, name, item)
  return sort_keys(out)


def walk(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
  """Yields (path, name, value) of all leaves."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from walk(value, (*path, name))
    else:
      yield path, name, value


def _walk_values(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
  """`walk` that yields a value that is a dict whole, under its own name."""
  for name, value in tree.items():
    if not isinstance(value, Mapping):
      yield path, name, value
    elif name.startswith(DICT_MARK):
      if name != DICT_MARK:  # which says that there is nothing, see interop/trees.py
        yield path, name.removeprefix(DICT_MARK), value
    else:
      yield from _walk_values(value, (*path, name))


def to_haiku(variables: Mapping[str, Any], *, root: str) -> tuple[dict, dict]:
  """Pax's nested collections as Haiku's (params, state); the inverse of `to_pax`.

  Args:
    variables: {collection: nested mappings}. Boxed values are unboxed.
    root: module name of the root layer.
  """
  params: dict[str, dict[str, Any]] = {}
  state: dict[str, dict[str, Any]] = {}
  for collection, tree in boxes.maybe_unbox_value(dict(variables)).items():
    plain = collection in (constants.PARAMS, _STATE_COLLECTION)
    for path, name, value in (_walk_values if plain else walk)(tree):
      module = '/'.join((root, *path))
      bundle = (params if collection == constants.PARAMS else state).setdefault(
        module, {}
      )
      if plain:
        bundle[name] = value
      else:
        bundle.setdefault(bucket_key(collection), {})[name] = value
  return params, state
