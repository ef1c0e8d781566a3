"""The older ways to configure: HParams dataclasses, and classes that take them.

New code uses `pax_fiddle.Config`. `BaseHyperParams` are mutable dataclasses that
refuse unknown names; `BaseParameterizable` classes are built from one;
`FiddleBaseParameterizable` classes are keyword-only dataclasses, built from configs.
"""

import copy
import dataclasses
import inspect
from collections.abc import Collection
from typing import Any, ClassVar, TypeVar

import fiddle as fdl

from pax_haiku import pax_fiddle
from pax_haiku.core.config_fields import sub_config_field
from pax_haiku.core.config_text import (
    StrOverride,
    nested_struct_to_text,
    visit_nested_struct,
)
from pax_haiku.core.config_traversal import register_hparams

__all__ = [
    'BaseHyperParams',
    'BaseParameterizable',
    'FiddleBaseParameterizable',
    'HParams',
    'InstantiableHyperParams',
    'OverrideSubConfigFieldProtocol',
    'StrOverride',
    'check_overrides',
    'instantiate',
    'nested_struct_to_text',
    'sub_config_field',
    'visit_nested_struct',
]

BaseHyperParamsSelf = TypeVar('BaseHyperParamsSelf', bound='BaseHyperParams')

_FROZEN = '_internal_frozen'


def check_overrides(
    annotations: Collection[str], inherited: Collection[str], allowed: Collection[str]
) -> None:
  """Refuses a field that redeclares an inherited one without being listed.

  Raises:
    AttributeError: names the field.
  """
  for name in annotations:
    if name in inherited and name not in allowed:
      raise AttributeError(
          f'Attribute {name} was overridden while it is not explicitly listed in the '
          f'_attribute_overrides list: {tuple(allowed)}. Add it there if you mean to '
          'change the inherited field.'
      )


@dataclasses.dataclass
class BaseHyperParams:
  """Base of HParams classes: annotated subclasses become dataclasses by themselves.

  Setting an unknown attribute is an error, and so is setting any after `freeze()`.
  A subclass that redeclares a field lists it in `_attribute_overrides`.
  """

  __pax_hparams__: ClassVar[bool] = True
  _attribute_overrides: ClassVar[tuple[str, ...]] = ()

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    annotations = cls.__dict__.get('__annotations__', {})
    annotations.pop('_attribute_overrides', None)
    inherited = getattr(cls, '__dataclass_fields__', {})
    check_overrides(annotations, inherited, cls._attribute_overrides)
    dataclasses.dataclass(cls)
    register_hparams(cls)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, BaseHyperParams):
        object.__setattr__(self, field.name, value.clone())

  def __setattr__(self, name: str, value: Any) -> None:
    if self.__dict__.get(_FROZEN, False):
      raise AttributeError(f'This HParam object is frozen: {self!r}')
    if name not in self.__dataclass_fields__ and not isinstance(
        getattr(type(self), name, None), property
    ):
      raise AttributeError(f"Attribute {name} doesn't exist on {type(self).__name__}.")
    object.__setattr__(self, name, value)

  def _set_frozen(self, frozen: bool) -> None:
    self.__dict__[_FROZEN] = frozen
    for field in dataclasses.fields(self):
      value = getattr(self, field.name, None)
      if isinstance(value, BaseHyperParams):
        value._set_frozen(frozen)

  def freeze(self) -> None:
    """Refuses changes from now on, here and in HParams held in fields."""
    self._set_frozen(True)

  def unfreeze(self) -> None:
    """Undoes `freeze`."""
    self._set_frozen(False)

  def clone(self: BaseHyperParamsSelf) -> BaseHyperParamsSelf:
    """A deep copy that is not frozen."""
    result = copy.deepcopy(self)
    result.unfreeze()
    return result

  def set(self: BaseHyperParamsSelf, **kwargs) -> BaseHyperParamsSelf:
    """Sets several attributes; returns self."""
    for name, value in kwargs.items():
      setattr(self, name, value)
    return self

  def copy_fields_from(
      self,
      source: 'BaseHyperParams',
      missing_fields_in_self: Collection[str] | None = None,
  ) -> None:
    """Takes over the fields of `source`, except `cls`.

    Args:
      source: other HParams, possibly of another class.
      missing_fields_in_self: fields of `source` that may be absent here.

    Raises:
      TypeError: `source` is not HParams.
      ValueError: a field of `source` is absent here and not listed.
    """
    if not isinstance(source, BaseHyperParams):
      raise TypeError(
          'copy_fields_from copies from another BaseHyperParams, not from '
          f'{type(source).__name__}.'
      )
    source = source.clone()
    for field in dataclasses.fields(source):
      if field.name == 'cls':
        continue
      if field.name in self.__dataclass_fields__:
        setattr(self, field.name, getattr(source, field.name))
      elif field.name not in (missing_fields_in_self or ()):
        raise ValueError(
            f'Copying incompatible HParams: {field.name} not in self '
            f'({type(self).__name__}); it comes from {type(source).__name__}.'
        )

  def to_text(self, include_types: bool = False, separator: str = ':'):
    """One line per value; see `nested_struct_to_text`."""
    return nested_struct_to_text(self, include_types, separator)

  @classmethod
  def config(cls, **kwargs) -> pax_fiddle.Config:
    """A config of this class."""
    return pax_fiddle.Config(cls, **kwargs)

  @classmethod
  def partial(cls, **kwargs) -> pax_fiddle.Partial:
    """A partial config of this class."""
    return pax_fiddle.Partial(cls, **kwargs)


HParams = BaseHyperParams


class OverrideSubConfigFieldProtocol:
  """What an object has to have that `sub_config_field` takes besides HParams classes.

  The HParams object of a layer class has it.
  """

  def __to_sub_config_field__(self) -> Any:
    """The dataclass field that `sub_config_field` is to return."""
    raise NotImplementedError()


class InstantiableHyperParams(BaseHyperParams):
  """HParams that know the class that they configure.

  Attributes:
    cls: called with these HParams by `Instantiate`.
    name: name of the object.
  """

  cls: Any = None
  name: str = ''

  def Instantiate(self, **kwargs) -> Any:
    """`self.cls(self, **kwargs)`."""
    if self.cls is None:
      raise ValueError(f'These HParams have no `cls` to instantiate: {self!r}')
    return self.cls(self, **kwargs)


class BaseParameterizable:
  """Base of classes that are built from HParams: `X.HParams(k=7).Instantiate()`.

  A subclass may nest `class HParams(BaseParameterizable.HParams)`. It has to set
  `_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE = True`: new code is better served by
  `FiddleBaseParameterizable`.
  """

  class HParams(InstantiableHyperParams):
    """HParams of a class; `cls` is that class."""

    _attribute_overrides = ('cls',)

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    if not getattr(cls, '_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE', False):
      raise ValueError(
          f'{cls.__module__}.{cls.__qualname__}: new classes should derive from '
          'FiddleBaseParameterizable. To use the older BaseParameterizable, set '
          '_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE = True in the class.'
      )
    body = {
        '__module__': cls.__module__,
        '__qualname__': f'{cls.__qualname__}.HParams',
        '__annotations__': {'cls': Any},
        '_attribute_overrides': (*cls.HParams._attribute_overrides, 'cls'),
        'cls': cls,
    }
    cls.HParams = type('HParams', (cls.HParams,), body)
    cls.make = _make_from_hparams(cls)

  def __init__(self, hparams: 'BaseParameterizable.HParams'):
    if not isinstance(hparams, BaseHyperParams):
      raise TypeError(
          f'{type(self).__name__} is built from its HParams, not from '
          f'{type(hparams).__name__}.'
      )
    self._hparams = hparams.clone()
    self._hparams.freeze()

  @property
  def hparams(self) -> Any:
    """The frozen HParams that this object was built from."""
    return self._hparams

  @classmethod
  def config(cls, **kwargs) -> pax_fiddle.Config:
    """A config whose arguments are those of the HParams."""
    return pax_fiddle.Config(cls.make, **kwargs)


def _make_from_hparams(cls: type[BaseParameterizable]) -> classmethod:
  """`cls.make(**kw)`: builds from keyword arguments of HParams and constructor."""
  fields = [f.name for f in dataclasses.fields(cls.HParams) if f.name != 'cls']
  from_hparams = inspect.signature(cls.HParams).parameters
  from_init = list(inspect.signature(cls.__init__).parameters.values())[2:]

  def make(owner, **kwargs):
    """Builds the object from fields of its HParams and further arguments."""
    own = {k: kwargs.pop(k) for k in fields if k in kwargs}
    return owner.HParams(**own).Instantiate(**kwargs)

  keyword = inspect.Parameter.KEYWORD_ONLY
  parameters = [inspect.Parameter('owner', inspect.Parameter.POSITIONAL_ONLY)]
  for parameter in [from_hparams[name] for name in fields] + from_init:
    if parameter.name not in {p.name for p in parameters}:
      if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        parameter = parameter.replace(kind=keyword)
      parameters.append(parameter)
  make.__signature__ = inspect.Signature(parameters)
  make.__qualname__ = f'{cls.__qualname__}.make'
  make.__module__ = cls.__module__
  return classmethod(make)


class _HParamsView:
  """Read access to the fields of an object, as older code reads `self.hparams`."""

  def __init__(self, owner: 'FiddleBaseParameterizable'):
    object.__setattr__(self, '_owner', owner)

  @property
  def cls(self) -> type:
    return type(self._owner)

  def clone(self) -> pax_fiddle.Config:
    """A config of the object's class with the present values of its fields."""
    values = {
        f.name: getattr(self._owner, f.name)
        for f in dataclasses.fields(self._owner)
        if f.init
    }
    return copy.deepcopy(pax_fiddle.Config(self.cls, **values))

  def to_text(self, include_types: bool = False, separator: str = ':'):
    """One line per value; see `nested_struct_to_text`."""
    return nested_struct_to_text(self.clone(), include_types, separator)

  def __getattr__(self, name: str) -> Any:
    if name in self.cls.__dataclass_fields__:
      return getattr(self._owner, name)
    raise AttributeError(f'{self.cls!r}.HParams has no attribute {name!r}')

  def __setattr__(self, name: str, value: Any) -> None:
    raise AttributeError(
        f'{self.cls.__qualname__}.hparams is read-only: cannot set {name} to {value!r}.'
    )


class FiddleBaseParameterizable:
  """Base of keyword-only dataclasses that configs build: learners, schedules, ...

  Attributes:
    name: name of the object.
  """

  name: str = ''

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(**kwargs)
    annotations = cls.__dict__.get('__annotations__', {})
    for name in getattr(cls, '__dataclass_fields__', {}):
      if name in cls.__dict__ and name not in annotations:
        raise TypeError(
            f'Class attribute {cls.__qualname__}.{name} overrides a dataclass field, '
            'but is missing a type annotation, so it would have no effect. Add one.'
        )
    dataclasses.dataclass(kw_only=True)(cls)

  def __new__(cls, *args, **kwargs):
    if args:
      raise TypeError(
          f'Only keyword arguments are supported when constructing {cls!r}; received '
          f'{args} as positional arguments.'
      )
    return super().__new__(cls)

  @property
  def hparams(self) -> Any:
    """A read-only view of the fields, with `clone()`, `cls` and `to_text()`."""
    return _HParamsView(self)

  @classmethod
  def config(cls, **kwargs) -> pax_fiddle.Config:
    """`pax_fiddle.Config(cls, **kwargs)`."""
    return pax_fiddle.Config(cls, **kwargs)


dataclasses.dataclass(kw_only=True)(FiddleBaseParameterizable)


def instantiate(config: Any, **kwargs) -> Any:
  """Builds the object that a config, or HParams with a `cls`, describe.

  Args:
    config: a Fiddle config or instantiable HParams.
    **kwargs: for a config: arguments to override; for HParams: further constructor
      arguments.

  Raises:
    ValueError: `config` is neither.
  """
  if isinstance(config, fdl.Buildable):
    return pax_fiddle.instantiate(config, **kwargs)
  if isinstance(config, InstantiableHyperParams):
    return config.Instantiate(**kwargs)
  raise ValueError(
      f'Unknown configuration type: {type(config)}. (Full config: {config})'
  )
