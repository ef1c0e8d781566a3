"""The older classes that are built from HParams: `X.HParams(k=7).Instantiate()`."""

import inspect
from typing import Any

from pax_haiku.core import config_fields, config_types
from pax_haiku.core.hyperparams import BaseHyperParams, InstantiableHyperParams


class BaseParameterizable:
  """Base of classes that are built from HParams.

  A subclass may nest a `class HParams(BaseParameterizable.HParams)`, or one of
  `BaseHyperParams` (without `name` and `Instantiate`). Its own `HParams` is a subclass
  of that, whose field `cls` is the class. A subclass has to set
  `_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE = True`: new code is better served by
  `FiddleBaseParameterizable`.

  Class arguments:
    init_params_arg_name: the constructor's parameter for the HParams, if it is not
      called `hparams`.
    nonconfigurable_init_arg_names: parameters of the constructor that `make` and
      configs do not offer.

  Raises:
    ValueError: a subclass does not set the flag.
    TypeError: its constructor has no parameter for the HParams, or one of the name of
      a field of the HParams.
  """

  class HParams(InstantiableHyperParams):
    """HParams of a class; `cls` is that class."""

    _attribute_overrides = ('cls',)

  _config_init_name_for_params_object = 'hparams'
  _nonconfigurable_init_args: tuple[str, ...] = ()

  def __init_subclass__(
      cls,
      *,
      init_params_arg_name: str | None = None,
      nonconfigurable_init_arg_names: tuple[str, ...] = (),
      **kwargs,
  ):
    super().__init_subclass__(**kwargs)
    if not getattr(cls, '_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE', False):
      raise ValueError(
          f'{cls.__module__}.{cls.__qualname__}: new classes should derive from '
          'FiddleBaseParameterizable. To use the older BaseParameterizable, set '
          '_USE_DEPRECATED_HPARAMS_BASE_PARAMETERIZABLE = True in the class.'
      )
    if init_params_arg_name is not None:
      cls._config_init_name_for_params_object = init_params_arg_name
    cls._nonconfigurable_init_args += tuple(nonconfigurable_init_arg_names)
    cls.HParams = _bound_hparams(cls)
    if 'make' not in cls.__dict__:
      cls.make = _maker(cls)

  def __init__(self, hparams: BaseHyperParams):
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
  def config(cls, **kwargs) -> config_types.PaxConfig:
    """A config of `make`: its arguments are those of the HParams and constructor."""
    return _with_default_configs(config_types.PaxConfig(cls.make, **kwargs), cls)

  @classmethod
  def partial(cls, **kwargs) -> config_types.PaxPartial:
    """A config that builds `functools.partial(cls.make, ...)`."""
    partial = config_types.PaxPartial(cls.make, **kwargs)
    return _with_default_configs(
        partial, cls, config_types.configs_to_arg_factories
    )


def _with_default_configs(buildable, cls, convert=lambda value: value):
  """Fills in the configs of the HParams fields that have one as default."""
  for field in config_fields.fields_to_expand(cls.HParams):
    if field.name not in buildable.__arguments__:
      initial = config_fields.initial_value(field)
      if initial is not config_fields.NO_INITIAL_VALUE:
        setattr(buildable, field.name, convert(initial))
  return buildable


def _bound_hparams(cls: type[BaseParameterizable]) -> type[BaseHyperParams]:
  """A subclass of the class's HParams that knows the class."""
  given = cls.HParams
  body = {
      '__module__': cls.__module__,
      '__qualname__': f'{cls.__qualname__}.HParams',
      '__doc__': given.__doc__,
      '__annotations__': {'cls': Any},
      '_attribute_overrides': (*given._attribute_overrides, 'cls'),
      'cls': cls,
  }
  return type('HParams', (given,), body)


def _maker(cls: type[BaseParameterizable]) -> classmethod:
  """`cls.make(**kw)`: builds from keyword arguments of HParams and constructor."""
  argument = cls._config_init_name_for_params_object
  where = f'{cls.__qualname__}.__init__'
  hparams = {
      name: parameter
      for name, parameter in inspect.signature(cls.HParams).parameters.items()
      if name != 'cls'
  }
  own = dict(inspect.signature(cls).parameters)
  if argument not in own:
    raise TypeError(
        f'{where} must have a parameter named {argument}, which takes the HParams; '
        f'it has {sorted(own)}.'
    )
  for name in (argument, *cls._nonconfigurable_init_args):
    own.pop(name, None)
  twice = sorted(set(hparams) & set(own))
  if twice:
    raise TypeError(
        f'Duplicated parameter between {where} and {cls.__qualname__}.HParams: '
        f'{", ".join(twice)}. Rename it in one of the two.'
    )

  def make(owner, /, **kwargs):
    """Builds the object from fields of its HParams and arguments of its constructor."""
    fields = {name: kwargs.pop(name) for name in hparams if name in kwargs}
    return owner(**{argument: owner.HParams(**fields)}, **kwargs)

  make.__signature__ = inspect.Signature([
      inspect.Parameter('owner', inspect.Parameter.POSITIONAL_ONLY),
      *(p if p.kind is p.VAR_KEYWORD else p.replace(kind=p.KEYWORD_ONLY)
        for p in (*hparams.values(), *own.values()) if p.kind is not p.VAR_POSITIONAL),
  ])
  make.__qualname__ = f'{cls.__qualname__}.make'
  make.__module__ = cls.__module__
  return classmethod(make)
