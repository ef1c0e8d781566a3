"""Layers in the older HParams convention: what the metaclass of layers does for them.

In Pax releases of 2022 a layer declared its fields in a nested `class HParams`, and
`Layer.HParams(...)` was its config. Here such fields become fields of the layer, and
`Layer.HParams` stands for `Config(Layer)`: it can be called, used with isinstance,
in annotations and in `sub_config_field`, and be subclassed in a layer's body.
"""

import copy
import dataclasses
import inspect
import typing
from typing import Any

import fiddle as fdl

from pax_haiku import base_hyperparams, pax_fiddle

_OLD_NAMES = {
    'WeightShardingHParams': 'WeightSharding',
    'ActivationShardingHParams': 'ActivationSharding',
}
# Fields that every HParams object had and that a layer has anyway.
_GIVEN = ('cls', 'name')


class _NestedHParams:
  """What `class HParams(Layer.HParams)` in a layer's body derives from."""


class LayerHParams:
  """`Layer.HParams` of a layer class: stands for its configs."""

  __pax_config_type__ = True  # Arguments annotated with it are templates.

  def __init__(self, layer_cls: type):
    self._layer_cls = layer_cls
    self.__name__ = 'HParams'
    self.__qualname__ = f'{layer_cls.__qualname__}.HParams'
    self.__module__ = layer_cls.__module__

  @property
  def cls(self) -> type:
    """The layer class."""
    return self._layer_cls

  def __call__(self, **kwargs) -> pax_fiddle.Config:
    """A config of the layer."""
    return pax_fiddle.Config(self._layer_cls, **kwargs)

  def config(self, **kwargs) -> pax_fiddle.Config:
    """A config of the layer."""
    return pax_fiddle.Config(self._layer_cls, **kwargs)

  def __instancecheck__(self, instance: Any) -> bool:
    if not isinstance(instance, fdl.Buildable):
      return False
    made = fdl.get_callable(instance)
    return isinstance(made, type) and issubclass(made, self._layer_cls)

  def __subclasscheck__(self, subclass: Any) -> bool:
    return isinstance(subclass, LayerHParams) and issubclass(
        subclass.cls, self._layer_cls
    )

  def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
    first = next(base for base in bases if isinstance(base, LayerHParams))
    return (_NestedHParams,) if first is self else ()

  def __to_sub_config_field__(self) -> Any:
    return pax_fiddle.template_field(self._layer_cls)

  def __or__(self, other: Any) -> Any:
    return typing.Union[self, other]  # noqa: UP007

  def __ror__(self, other: Any) -> Any:
    return typing.Union[other, self]  # noqa: UP007

  def __repr__(self) -> str:
    return f'<{self.__module__}.{self.__qualname__}>'


def absorb(name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
  """Turns older declarations in a layer's body into current ones, in place.

  A nested `class HParams` disappears; its fields become fields of the layer, except
  `cls` and `name`. Nested `WeightShardingHParams` and `ActivationShardingHParams`
  get their present names.

  Args:
    name: the name of the layer class.
    bases: its bases.
    namespace: its body.

  Raises:
    AttributeError: a field redeclares an inherited one that is not listed in
      `_attribute_overrides` of the nested class, or the layer has another attribute
      of its name.
  """
  for old, new in _OLD_NAMES.items():
    if isinstance(namespace.get(old), type):
      nested = namespace[new] = namespace.pop(old)
      _strip_overrides(nested)
  hparams = namespace.get('HParams')
  if not isinstance(hparams, type):
    return
  del namespace['HParams']
  inherited = {}
  for base in bases:
    inherited.update(getattr(base, '__dataclass_fields__', {}))
  annotations = namespace.setdefault('__annotations__', {})
  for part in _own_parts(hparams):
    _strip_overrides(part)
    own = {
        key: annotation
        for key, annotation in part.__dict__.get('__annotations__', {}).items()
        if key not in _GIVEN
    }
    allowed = getattr(hparams, '_attribute_overrides', ())
    base_hyperparams.check_overrides(own, inherited, allowed)
    for key, annotation in own.items():
      if key in namespace and key not in annotations:
        raise AttributeError(
            f'{name} has an attribute {key!r} and a field {key!r} in its HParams. '
            'Fields of HParams are attributes of the layer, so rename one of them.'
        )
      annotations[key] = annotation
      default = _declared_default(part, key)
      if default is not dataclasses.MISSING:
        namespace[key] = _as_layer_field(default)


def _own_parts(hparams: type) -> list[type]:
  """The nested class, and before it the ordinary classes that it mixes in."""
  mixed_in = [
      base
      for base in hparams.__mro__[:0:-1]
      if base not in (object, _NestedHParams, base_hyperparams.BaseHyperParams)
      and base.__dict__.get('__annotations__')
      and not issubclass(base_hyperparams.InstantiableHyperParams, base)
  ]
  return [*mixed_in, hparams]


def _strip_overrides(nested: type) -> None:
  """An annotated `_attribute_overrides` is no field."""
  nested.__dict__.get('__annotations__', {}).pop('_attribute_overrides', None)


def _declared_default(part: type, key: str) -> Any:
  """A field's default or `dataclasses.field`, also if `part` is a dataclass."""
  made = part.__dict__.get('__dataclass_fields__', {}).get(key)
  return part.__dict__.get(key, dataclasses.MISSING) if made is None else made


def _as_layer_field(default: Any) -> Any:
  """The default of an HParams field in a form that suits a layer and its configs.

  In the older convention the value of each field could be read, and changed in
  place, as soon as the HParams existed; so configs are given defaults of factories.
  """
  if isinstance(default, dataclasses.Field):
    if default.default is not dataclasses.MISSING:
      return _as_layer_field(default.default)
    if default.default_factory is dataclasses.MISSING:
      return dataclasses.MISSING
    if pax_fiddle.field_metadata(default) is not None:
      return dataclasses.field(
          default_factory=default.default_factory, metadata=default.metadata
      )
    return pax_fiddle.expanding_field(default.default_factory, default.default_factory)
  if isinstance(default, fdl.Buildable) or type(default).__hash__ is None:

    def make():
      return copy.deepcopy(default)

    return pax_fiddle.expanding_field(make, make)
  return default


def attach(cls: type) -> None:
  """Gives a new layer class its `HParams` and the older names of sharding classes."""
  cls.HParams = LayerHParams(cls)
  for old, new in _OLD_NAMES.items():
    if inspect.isclass(getattr(cls, new, None)):
      setattr(cls, old, getattr(cls, new))
