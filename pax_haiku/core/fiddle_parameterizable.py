"""The present base of what configs build: learners, schedules, ..."""

import copy
import dataclasses
from typing import Any

from pax_haiku.core import config_types
from pax_haiku.core.config_text import nested_struct_to_text


class _HParamsView:
  """Read access to the fields of an object, as older code reads `self.hparams`."""

  def __init__(self, owner: 'FiddleBaseParameterizable'):
    object.__setattr__(self, '_owner', owner)

  @property
  def cls(self) -> type:
    return type(self._owner)

  def clone(self) -> config_types.PaxConfig:
    """A config of the object's class with the present values of its fields."""
    values = {
        f.name: getattr(self._owner, f.name)
        for f in dataclasses.fields(self._owner)
        if f.init
    }
    return copy.deepcopy(config_types.PaxConfig(self.cls, **values))

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
    for name, field in getattr(cls, '__dataclass_fields__', {}).items():
      if name in cls.__dict__ and name not in annotations:
        raise TypeError(
            f'Class attribute {cls.__qualname__}.{name} overrides a dataclass field, '
            'but is missing a type annotation, so it would have no effect. Write '
            f'`{name}: {getattr(field.type, "__name__", field.type)} = ...`.'
        )
    dataclasses.dataclass(kw_only=True)(cls)

  def __new__(cls, *args, **kwargs):
    if args:
      raise TypeError(
          f'Only keyword arguments are supported when constructing {cls!r}. Received '
          f'{args} as positional arguments.'
      )
    return super().__new__(cls)

  @property
  def hparams(self) -> Any:
    """A read-only view of the fields, with `clone()`, `cls` and `to_text()`."""
    return _HParamsView(self)

  _hparams = hparams

  @classmethod
  def config(cls, **kwargs) -> config_types.PaxConfig:
    """`pax_fiddle.Config(cls, **kwargs)`."""
    return config_types.PaxConfig(cls, **kwargs)


dataclasses.dataclass(kw_only=True)(FiddleBaseParameterizable)
