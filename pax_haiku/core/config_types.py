"""The config objects: Fiddle's `Config`, `Partial` and `ArgFactory` with Pax manners.

A Pax config expands the template and instance fields of a dataclass at once, so that
`cfg.child_tpl.dim = 3` can be written before anything is built, and has the methods
of the older HParams objects (`clone`, `set`, `Instantiate`, `copy_fields_from`).
"""

import copy
import dataclasses
import difflib
import functools
import inspect
from typing import Any, Generic, TypeVar

import fiddle as fdl
import fiddle.history
from fiddle import daglish

from pax_haiku.core import config_clone, config_fields

T = TypeVar('T')

_MISSING = object()


def _has_parameter(buildable: fdl.Buildable, name: str) -> bool:
  return name in buildable.__signature_info__.parameters


def _member(buildable: fdl.Buildable, name: str) -> str:
  owner = fdl.get_callable(buildable)
  return f'{getattr(owner, "__qualname__", owner)}.{name}'


def _expand_fields(buildable: fdl.Buildable, convert) -> None:
  """Gives `buildable` the tags and the default configs of its dataclass fields."""
  owner = fdl.get_callable(buildable)
  if not (isinstance(owner, type) and dataclasses.is_dataclass(owner)):
    return
  arguments = buildable.__arguments__
  for field in config_fields.fields_to_expand(owner):
    metadata = config_fields.field_metadata(field)
    if metadata is not None:
      for tag in metadata.tags:
        fdl.add_tag(buildable, field.name, tag)
    if field.name not in arguments:
      initial = config_fields.initial_value(field)
      if initial is not config_fields.NO_INITIAL_VALUE:
        setattr(buildable, field.name, convert(initial))


def mesh_shape_of(layer_or_config: Any) -> list[int] | None:
  """Sizes of the logical mesh: `ici_mesh_shape`, times `dcn_mesh_shape` if set.

  Raises:
    AssertionError: the mesh has not one name per axis.
  """
  ici = layer_or_config.ici_mesh_shape
  if ici is None:
    return None
  names = layer_or_config.mesh_axis_names
  if names is None or len(ici) != len(names):
    raise AssertionError(
        f'ici_mesh_shape {ici} needs one mesh axis name per axis, '
        f'but mesh_axis_names is {names}.'
    )
  dcn = layer_or_config.dcn_mesh_shape
  if dcn is None:
    return ici
  if len(dcn) != len(ici):
    raise AssertionError(
        f'dcn_mesh_shape {dcn} and ici_mesh_shape {ici} must have one length.'
    )
  return [i * d for i, d in zip(ici, dcn, strict=True)]


class CloneAndSetMixin:
  """`clone()` (deep copy) and `set(**kwargs)` (alias `Set`) for mutable objects."""

  def clone(self):
    return copy.deepcopy(self)

  def set(self, **kwargs):
    for name, value in kwargs.items():
      setattr(self, name, value)
    return self

  Set = set


@functools.lru_cache(maxsize=4096)
def _plain_defaults(fn_or_cls: Any) -> dict[str, Any]:
  """Defaults of a dataclass's constructor arguments that need no factory.

  A class may have a constructor of its own, whose arguments are not the fields.
  """
  if not (isinstance(fn_or_cls, type) and dataclasses.is_dataclass(fn_or_cls)):
    return {}
  parameters = inspect.signature(fn_or_cls).parameters
  return {
      f.name: f.default
      for f in dataclasses.fields(fn_or_cls)
      if f.name in parameters and parameters[f.name].default is f.default
  }


class PaxConfig(Generic[T], fdl.Config[T], CloneAndSetMixin):
  """A call that has been written down but not made: `Config(Linear, output_dims=4)`.

  Reading an attribute gives the value set, or else the declared default; setting an
  unknown one is an AttributeError. `Instantiate()` makes the call.
  """

  def __init__(self, fn_or_cls, /, *args, **kwargs):
    super().__init__(fn_or_cls, *args, **kwargs)
    _expand_fields(self, lambda value: value)

  def __getattr__(self, name: str):
    # Fiddle finds defaults by going through the class's fields; layers read some
    # configs in every trace, so the plain defaults are looked up first.
    if not name.startswith('__'):
      arguments = self.__arguments__
      if name in arguments:
        return arguments[name]
      defaults = _plain_defaults(self.__fn_or_cls__)
      if name in defaults:
        return defaults[name]
    return super().__getattr__(name)

  @property
  def cls(self):
    """The class or function that will be called; assigning switches it."""
    if _has_parameter(self, 'cls'):
      return self.__getattr__('cls')
    return fdl.get_callable(self)

  @property
  def mesh_shape(self):
    """The layer's logical mesh, or the parameter of that name where there is one."""
    if _has_parameter(self, 'mesh_shape') or not _has_parameter(
        self, 'ici_mesh_shape'
    ):
      return self.__getattr__('mesh_shape')
    return mesh_shape_of(self)

  def __setattr__(self, name: str, value: Any):
    # As in __getattr__: what a layer's setup sets takes the short way.
    if (
        name in _plain_defaults(self.__fn_or_cls__)
        and not fiddle.history.tracking_enabled()
        and not isinstance(value, fdl.Buildable)
    ):
      self.__arguments__[name] = value
    elif name == 'cls' and not _has_parameter(self, 'cls'):
      update_callable(self, value)
    else:
      try:
        super().__setattr__(name, value)
      except AttributeError as e:
        names = self.__signature_info__.valid_param_names
        close = difflib.get_close_matches(name, names, n=1)
        if close:
          raise AttributeError(f'{e} Did you mean {close[0]!r}?') from None
        raise

  def clone(self):
    """A deep copy; sharing between nested configs is kept."""
    return config_clone.clone_value(self)

  def Instantiate(self, **overrides):
    """Builds the object, after setting `overrides` on a copy of this config."""
    from pax_haiku.core import config_build  # It needs this module.

    return config_build.instantiate(self, **overrides)

  def copy_fields_from(self, source: 'PaxConfig', missing_fields_in_self=()) -> None:
    """Overwrites the arguments with those of `source`, its defaults included.

    Args:
      source: the config to read; it is deep-copied first.
      missing_fields_in_self: fields of `source` that may be absent here.

    Raises:
      TypeError: `source` is not a config.
      ValueError: a field of `source` is absent here and not listed, or has no value.
    """
    if not isinstance(source, PaxConfig):
      raise TypeError(
          f'copy_fields_from needs a Config, not {type(source).__name__}.'
      )
    source = copy.deepcopy(source)
    own = self.__signature_info__.valid_param_names
    for name in source.__signature_info__.valid_param_names:
      if name == 'parent':
        continue
      if name not in own:
        if name in missing_fields_in_self:
          continue
        raise ValueError(
            f'Copying incompatible HParams: {name!r} not in self '
            f'({fdl.get_callable(self)}); it comes from {fdl.get_callable(source)}.'
        )
      if name in source.__arguments__:
        setattr(self, name, source.__arguments__[name])
        continue
      factory = config_fields.default_factory(fdl.get_callable(source), name)
      if factory is not None:
        if factory is not config_fields.default_factory(fdl.get_callable(self), name):
          raise ValueError(
              f"Can't copy from default_factory of {_member(source, name)}: "
              f'{_member(self, name)} is made by another one. Set the field in either '
              'config.'
          )
        if name in self.__arguments__:
          delattr(self, name)
        continue
      default = source.__signature_info__.get_default(name, _MISSING)
      if default is _MISSING:
        raise ValueError(
            f"Can't copy from missing required {_member(source, name)}: it has neither "
            'a value nor a default.'
        )
      setattr(self, name, default)

  def to_text(self, include_types: bool = False, separator: str = ':'):
    """One line per value; see `base_hyperparams.nested_struct_to_text`."""
    from pax_haiku import base_hyperparams  # It needs this module.

    return base_hyperparams.nested_struct_to_text(self, include_types, separator)


class PaxArgFactory(Generic[T], fdl.ArgFactory[T]):
  """Fiddle's `ArgFactory`, with the default configs of fields expanded."""

  def __init__(self, fn_or_cls, /, *args, **kwargs):
    super().__init__(fn_or_cls, *args, **kwargs)
    _expand_fields(self, configs_to_arg_factories)


class PaxPartial(Generic[T], fdl.Partial[T]):
  """Fiddle's `Partial`: builds a `functools.partial`.

  Default configs of fields are expanded into factories, so that each call of the
  partial makes its own objects.
  """

  def __init__(self, fn_or_cls, /, *args, **kwargs):
    super().__init__(fn_or_cls, *args, **kwargs)
    _expand_fields(self, configs_to_arg_factories)


def configs_to_arg_factories(value: Any) -> Any:
  """Replaces every `Config` inside `value` by an `ArgFactory`.

  Raises:
    ValueError: a `Partial` contains a `Config`, which would have to be made at each
      call of the partial inside.
  """

  def convert(node, state):
    if isinstance(node, fdl.Partial):
      for inner, _ in daglish.iterate(node):
        if isinstance(inner, fdl.Config):
          raise ValueError(
              'Unable to safely replace a Config that is inside a Partial in a '
              f'default value: {node!r}.'
          )
      return node
    if isinstance(node, fdl.Config):
      node = PaxArgFactory.__unflatten__(*node.__flatten__())
    return state.map_children(node) if state.is_traversable(node) else node

  return daglish.MemoizedTraversal.run(convert, value)


def update_callable(
    buildable: fdl.Buildable, new_callable: Any, drop_invalid_args: bool = False
) -> None:
  """Makes `buildable` call `new_callable`, keeping what has been set explicitly.

  Raises:
    TypeError: an argument is unknown to `new_callable` (unless
      `drop_invalid_args`).
  """
  fdl.update_callable(buildable, new_callable, drop_invalid_args)
  is_config = isinstance(buildable, fdl.Config)
  _expand_fields(
      buildable, (lambda value: value) if is_config else configs_to_arg_factories
  )


