"""Building configs: which arguments stay templates, who inherits, what is called.

`build(cfg)` works in three steps, none of which changes `cfg`:

1. copy the configs that will be built, keeping template arguments as they are;
2. hand the base fields of each layer's config down to the layer configs below it;
3. make the calls, innermost first, each config once.
"""

import contextlib
import copy
import dataclasses
import inspect
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fiddle as fdl
from fiddle import building, daglish

from pax_haiku.core import nested_map
from pax_haiku.core.config_fields import is_hparams_type

_state = threading.local()


def is_building() -> bool:
  """Whether a `build` is constructing objects in this thread."""
  return getattr(_state, 'depth', 0) > 0


@contextlib.contextmanager
def empty_flax_module_stack():
  """Layers constructed inside belong to no layer that is being set up around them."""
  _state.depth = getattr(_state, 'depth', 0) + 1
  try:
    yield
  finally:
    _state.depth -= 1


# --- which arguments are templates ---

_SEQUENCES = (list, tuple, Sequence)
_MAPPINGS = (dict, Mapping)


def _is_config_type(annotation: Any) -> bool:
  """Whether the annotation is a type of config (or stands for one, as `X.HParams`)."""
  if getattr(annotation, '__pax_config_type__', False):
    return True
  return isinstance(annotation, type) and issubclass(annotation, fdl.Buildable)


def _names(is_type: Callable[[Any], bool], annotation: Any) -> bool:
  """Whether a type of the given kind occurs anywhere inside the annotation."""
  if is_type(annotation) or is_type(typing.get_origin(annotation)):
    return True
  if typing.get_origin(annotation) is typing.Literal:
    return False
  return any(
      any(_names(is_type, a) for a in arg) if isinstance(arg, list)
      else _names(is_type, arg)
      for arg in typing.get_args(annotation)
  )


def _holds_configs(annotation: Any) -> bool:
  """Whether arguments so annotated are, or contain, configs.

  Raises:
    ValueError: the type is inside a generic type that is not supported.
  """
  origin = typing.get_origin(annotation)
  if _is_config_type(annotation) or _is_config_type(origin):
    return True
  if not _names(_is_config_type, annotation):
    return False
  args = typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType, typing.Annotated) or (
      origin in _SEQUENCES
  ):
    return any(_holds_configs(arg) for arg in args)
  if origin in _MAPPINGS:
    return _holds_configs(args[1])
  raise ValueError(
      f'Unsupported type {annotation} around a Config: use Config, a union, list, '
      'tuple, Sequence, dict or Mapping of it.'
  )


@dataclasses.dataclass(frozen=True)
class _ArgumentKinds:
  """Names of the arguments annotated with config types, with HParams types, and with
  strings that cannot be resolved (with the error)."""

  config_typed: frozenset[str]
  hparams_typed: frozenset[str]
  unresolved: dict[str, Exception]


_kinds_cache = weakref.WeakKeyDictionary()


def _argument_kinds(fn_or_cls: Any) -> _ArgumentKinds:
  try:
    return _kinds_cache[fn_or_cls]
  except (KeyError, TypeError):  # TypeError: not hashable or not weakly referable.
    pass
  hints, unresolved = _type_hints(fn_or_cls)
  result = _ArgumentKinds(
      frozenset(name for name, hint in hints.items() if _holds_configs(hint)),
      frozenset(name for name, hint in hints.items() if _names(is_hparams_type, hint)),
      unresolved,
  )
  with contextlib.suppress(TypeError):
    _kinds_cache[fn_or_cls] = result
  return result


def template_arguments(fn_or_cls: Any) -> frozenset[str]:
  """Names of the arguments whose annotation says that they hold configs.

  Raises:
    ValueError: a config type is inside a generic type that is not supported.
  """
  return _argument_kinds(fn_or_cls).config_typed


def _is_template(fn_or_cls: Any, name: str, value: Any) -> bool:
  """Whether an argument that holds configs is to be left as it is.

  In the older convention an annotation with HParams means a template too, unless
  HParams are what the config makes.
  """
  kinds = _argument_kinds(fn_or_cls)
  if name in kinds.unresolved:
    raise TypeError(
        f'The annotation of {name!r} of {fn_or_cls!r} cannot be resolved: '
        f'{kinds.unresolved[name]}. Whether the Config in it is a template is decided '
        'by its annotation, so import the name in the module of the class.'
    )
  if name in kinds.hparams_typed and name not in kinds.config_typed:
    makes_hparams = isinstance(value, fdl.Buildable) and is_hparams_type(
        fdl.get_callable(value)
    )
    return not makes_hparams
  return name in kinds.config_typed


def _type_hints(fn_or_cls: Any) -> tuple[dict[str, Any], dict[str, Exception]]:
  """Annotations, strings resolved; and the errors of those that cannot be."""
  origin = typing.get_origin(fn_or_cls)
  target = fn_or_cls if origin is None else origin
  if isinstance(target, type) and not (
      hasattr(target, '__dataclass_fields__') or hasattr(target, '_fields')
  ):  # Dataclasses and named tuples have the annotations of their constructors.
    target = target.__init__
  try:
    return typing.get_type_hints(target), {}
  except (TypeError, AttributeError):
    return {}, {}  # A callable without annotations, such as a builtin.
  except NameError:
    pass
  hints, unresolved = {}, {}
  for owner in reversed(getattr(target, '__mro__', (target,))):
    names = getattr(sys.modules.get(owner.__module__), '__dict__', {})
    for name, annotation in inspect.get_annotations(owner).items():
      one = types.SimpleNamespace(__annotations__={name: annotation})
      try:
        hints[name] = typing.get_type_hints(one, globalns=names)[name]
        unresolved.pop(name, None)
      except NameError as e:
        unresolved[name] = e
  return hints, unresolved


# --- the three steps ---


class _Template:
  """An argument to be left as it is."""

  def __init__(self, value):
    self.value = value


def _holds_buildable(value: Any) -> bool:
  if isinstance(value, fdl.Buildable):
    return True
  if not daglish.is_traversable_type(type(value)):
    return False
  return any(isinstance(v, fdl.Buildable) for v, _ in daglish.iterate(value))


def _copy_to_build(root: Any) -> Any:
  """Step 1: copies of the configs to build, with templates wrapped."""

  def visit(value, state):
    if not isinstance(value, fdl.Buildable):
      return state.map_children(value) if state.is_traversable(value) else value
    fn_or_cls = fdl.get_callable(value)
    wrapped = copy.copy(value)
    arguments = wrapped.__arguments__
    for name, argument in arguments.items():
      if not _holds_buildable(argument):
        continue
      if _is_template(fn_or_cls, name, argument):
        arguments[name] = _Template(argument)
    return state.map_children(wrapped)

  return daglish.MemoizedTraversal.run(visit, root)


def _has_base_fields(value: Any) -> bool:
  if not isinstance(value, fdl.Config):
    return False
  fn_or_cls = fdl.get_callable(value)
  return isinstance(fn_or_cls, type) and hasattr(fn_or_cls, 'copy_base_hparams')


def _inherit(root: Any) -> None:
  """Step 2: base fields flow from each layer config to those below, in place."""
  seen = set()

  def visit(value, parent):
    if not daglish.is_traversable_type(type(value)):
      return
    if id(value) in seen:  # What is shared inherits from the first owner only.
      return
    seen.add(id(value))
    if _has_base_fields(value):
      if parent is not None:
        fdl.get_callable(parent).copy_base_hparams(parent, value)
      parent = value
    children, _ = daglish.find_node_traverser(type(value)).flatten(value)
    for child in children:
      visit(child, parent)

  visit(root, None)


def _construct(root: Any) -> Any:
  """Step 3: the calls, depth first, each config once."""

  def visit(value, state):
    if isinstance(value, _Template):
      return value.value
    if isinstance(value, fdl.Buildable):
      children = state.flattened_map_children(value)
      return building.call_buildable(
          value,
          children.metadata.arguments(children.values),
          current_path=state.current_path,
      )
    return state.map_children(value) if state.is_traversable(value) else value

  return daglish.MemoizedTraversal.run(visit, root)


def build(buildable: Any) -> Any:
  """Builds a config, or each config in a nested structure of them.

  Arguments whose annotation is a config type stay configs, the same objects as in
  `buildable`. One config object in two places becomes one object. Layers made here
  have no parent, whatever is being set up around them. Errors of constructors keep
  their type and say which part of the config failed.

  Raises:
    TypeError: an argument's string annotation cannot be resolved.
    ValueError: an argument's annotation has a config type in an unsupported place.
  """
  with empty_flax_module_stack():
    to_build = _copy_to_build(buildable)
    _inherit(to_build)
    result = _construct(to_build)
  if not is_building() and hasattr(type(result), '__pax_built__'):
    return result.__pax_built__()
  return result


def instantiate(config: fdl.Buildable, **overrides) -> Any:
  """Builds a config after setting `overrides` on a shallow copy of it.

  Raises:
    AttributeError: an override is not an argument of the config.
  """
  if overrides:
    config = fdl.copy_with(config, **overrides)
  return build(config)


def _flatten_map(value: nested_map.NestedMap):
  return tuple(value.values()), tuple(value.keys())


def _unflatten_map(values, keys) -> nested_map.NestedMap:
  result = nested_map.NestedMap()
  dict.update(result, zip(keys, values, strict=True))
  return result


daglish.register_node_traverser(
    nested_map.NestedMap,
    flatten_fn=_flatten_map,
    unflatten_fn=_unflatten_map,
    path_elements_fn=lambda value: tuple(daglish.Key(key) for key in value),
)
