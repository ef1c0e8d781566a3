"""Variables as Pax nests them and as Haiku keeps them, converted without loss.

    {'params': {'ffn': {'w': w}}, 'non_trainable': {'bn': {'mean': m}}}      Pax
    {'net/ffn': {'w': w}}, {'net/bn': {'mean': m}}                          Haiku

Leaves are passed on as they are, so anything goes: arrays, shapes, random keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pax_haiku.core import constants
from pax_haiku.core import variables as variables_lib

_EMPTY = variables_lib.DICT_MARK  # `{'@': {}}`: a module that holds nothing


def to_haiku(variables: Mapping[str, Any], *, root: str) -> tuple[dict, dict]:
  """Pax's variables as Haiku's parameters and state.

  Args:
    variables: {collection: nested dicts}, as `layer.init` returns them. Boxed values
      are unboxed.
    root: module name of the outermost layer, which Pax leaves out: the `name` of its
      config. '' if the first keys below a collection are module names themselves.

  Returns:
    (params, state), each {module: {name: value}}. `non_trainable` variables are entries
    of the state; other collections are one entry each per module, a dict.

  Raises:
    TypeError: `variables` is not of that form.
    ValueError: `root` is '', but there are variables outside all modules.
  """
  _check_mapping(variables, 'variables', '{collection: nested dicts}')
  for collection, tree in variables.items():
    _check_mapping(tree, f'variables[{collection!r}]', 'nested dicts of arrays')
  params, state = variables_lib.to_haiku(variables, root=root)
  for collection, tree in variables.items():
    for path in _empty_modules(tree):
      module = '/'.join((root, *path))
      if collection == constants.PARAMS:
        params.setdefault(module, {})
        continue
      bundle = state.setdefault(module, {})
      if collection != constants.NON_TRAINABLE:
        bundle.setdefault(variables_lib.bucket_key(collection), {})
  if root:
    return params, state
  return _without_root(params), _without_root(state)


def to_pax(
  params: Mapping[str, Mapping[str, Any]],
  state: Mapping[str, Mapping[str, Any]] | None = None,
  *,
  root: str | None = None,
) -> dict[str, Any]:
  """Haiku's parameters and state as Pax's variables; the inverse of `to_haiku`.

  Args:
    params: {module: {name: value}}, as from `hk.transform(...).init`.
    state: {module: {name: value}}; None: there is none.
    root: module name of the layer that is to be the outermost one. None takes the
      module that all others lie below. '' keeps all module names.

  Returns:
    {collection: nested dicts}, keys sorted, collections without variables left out.
    A module that holds an empty dict becomes `{'@': {}}`. A value that is itself a dict
    keeps it as it is, under the name `@name`.

  Raises:
    TypeError: a tree is not of that form.
    ValueError: a module does not lie below `root`, there is no module that all others
      lie below, or a module has the full name of a variable.
  """
  state = {} if state is None else state
  for name, tree in (('params', params), ('state', state)):
    _check_mapping(tree, name, '{module: {name: value}}')
    for module, bundle in tree.items():
      _check_mapping(bundle, f'{name}[{module!r}]', '{name: value}')
  if root is None:
    root = _common_root({*params, *state})
  elif not root:
    params, state = _with_root(params), _with_root(state)
  out = variables_lib.to_pax(params, state, root=root)
  for collection, module in _empty_entries(params, state):
    path = variables_lib.module_path(module, root)
    variables_lib.insert(out.setdefault(collection, {}), path, _EMPTY, {})
  return variables_lib.sort_keys(out)


def _check_mapping(value, what: str, form: str):
  if not isinstance(value, Mapping):
    raise TypeError(f'Expected {what} to be {form}, found {type(value).__name__}.')


def _common_root(modules: set[str]) -> str:
  if not modules:
    return ''
  first = sorted({m.split('/')[0] for m in modules})
  if len(first) > 1:
    raise ValueError(
      f'There is no one root: the outermost modules are {first}. Pass root= with the '
      "name of the outermost layer, or root='' to keep all module names."
    )
  return first[0]


def _with_root(tree):
  return {f'/{module}': bundle for module, bundle in tree.items()}


def _without_root(tree):
  if '' in tree:
    raise ValueError(
      f'The variables {sorted(tree[""])} belong to the outermost layer itself, which '
      'needs a module name in Haiku: pass root=.'
    )
  return {module[1:]: bundle for module, bundle in tree.items()}


def _empty_entries(params, state) -> Iterator[tuple[str, str]]:
  """(collection, module) of all empty bundles and buckets."""
  yield from ((constants.PARAMS, m) for m, bundle in params.items() if not bundle)
  yield from ((constants.NON_TRAINABLE, m) for m, bundle in state.items() if not bundle)
  for module, bundle in state.items():
    for entry, value in bundle.items():
      collection = variables_lib.collection_of(entry)
      if collection is not None and isinstance(value, Mapping) and not value:
        yield collection, module


def _empty_modules(tree, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
  """Paths that are marked as empty."""
  for name, value in tree.items():
    if not isinstance(value, Mapping):
      continue
    if name == _EMPTY:
      yield path
    elif not str(name).startswith(variables_lib.DICT_MARK):
      yield from _empty_modules(value, (*path, name))
