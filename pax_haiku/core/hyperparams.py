"""HParams of the older convention: mutable dataclasses that refuse unknown names."""

import copy
import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar, TypeVar

from pax_haiku.core import config_types
from pax_haiku.core.config_text import nested_struct_to_text
from pax_haiku.core.config_traversal import register_hparams

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
  def config(cls, **kwargs) -> config_types.PaxConfig:
    """A config of this class."""
    return config_types.PaxConfig(cls, **kwargs)

  @classmethod
  def partial(cls, **kwargs) -> config_types.PaxPartial:
    """A partial config of this class."""
    return config_types.PaxPartial(cls, **kwargs)


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
