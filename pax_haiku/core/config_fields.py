"""Declaring fields that configs can expand: templates, instances, tags.

Each helper returns a `dataclasses.field`. Its metadata says, besides tags, how a
config fills the field in when the user does not (`FieldMetadata`).
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import fiddle as fdl
from fiddle import signatures
from fiddle.experimental import auto_config as fdl_auto_config

from pax_haiku.core.auto_config import auto_config, config, is_auto_config

MISSING = dataclasses.MISSING
NO_INITIAL_VALUE = object()
_METADATA_KEY = 'pax_fiddle'


@dataclasses.dataclass(frozen=True)
class FieldMetadata:
  """What a config has to know of a field.

  Attributes:
    tags: Fiddle tags of the argument.
    buildable_initializer: called without arguments for the field's initial value
      in a config; None where the config leaves the field to the default.
  """

  tags: Collection[type[fdl.Tag]] = ()
  buildable_initializer: Callable[[], Any] | None = None


def field_metadata(dc_field: dataclasses.Field) -> FieldMetadata | None:
  """The field's `FieldMetadata`, or None if it was declared without these helpers."""
  return dc_field.metadata.get(_METADATA_KEY)


def field_has_tag(dc_field: dataclasses.Field, tag: type[fdl.Tag]) -> bool:
  """Whether the field was declared with `tag`."""
  metadata = field_metadata(dc_field)
  return metadata is not None and tag in metadata.tags


_expandable = weakref.WeakKeyDictionary()  # owner -> (its fields, the expandable)


def fields_to_expand(owner: type) -> tuple[dataclasses.Field, ...]:
  """The init fields of a dataclass that carry tags or a default config."""
  declared = owner.__dataclass_fields__
  cached = _expandable.get(owner)
  if cached is None or cached[0] is not declared:
    fields = tuple(
        f
        for f in dataclasses.fields(owner)
        if f.init
        and (_METADATA_KEY in f.metadata or is_auto_config(f.default_factory))
    )
    cached = _expandable[owner] = (declared, fields)
  return cached[1]


def initial_value(dc_field: dataclasses.Field) -> Any:
  """A fresh initial value of the field in a config, or NO_INITIAL_VALUE."""
  metadata = field_metadata(dc_field)
  if metadata is not None and metadata.buildable_initializer is not None:
    return metadata.buildable_initializer()
  if is_auto_config(dc_field.default_factory):
    return dc_field.default_factory.as_buildable()
  return NO_INITIAL_VALUE


def default_factory(owner: Any, name: str) -> Callable[[], Any] | None:
  """The default factory of a dataclass field, None if it has none."""
  if not dataclasses.is_dataclass(owner):
    return None
  dc_field = owner.__dataclass_fields__.get(name)
  if dc_field is None or dc_field.default_factory is MISSING:
    return None
  return dc_field.default_factory


# --- field declarations ---


def _tags(tags: Any) -> tuple[type[fdl.Tag], ...]:
  return (tags,) if isinstance(tags, type) else tuple(tags)


def _is_container(cls: Any) -> bool:
  return cls in (list, tuple, dict, set)


def field(
    *,
    default_factory: Any = MISSING,
    tags: Any = (),
    metadata: Mapping[Any, Any] | None = None,
    configurable_factory: bool = False,
    **kwargs,
) -> Any:
  """`dataclasses.field` with Fiddle tags and, for configs, an expandable factory.

  Args:
    default_factory: as in `dataclasses.field`. If decorated with `auto_config`,
      configs hold what its `as_buildable` makes.
    tags: a tag, or a collection of tags.
    metadata: further metadata.
    configurable_factory: configs hold `Config(default_factory)`.
    **kwargs: passed on to `dataclasses.field`.

  Raises:
    ValueError: `configurable_factory` with a factory that is decorated with
      `auto_config`, missing, or without a signature.
  """
  initializer = None
  if configurable_factory:
    if default_factory is MISSING:
      raise ValueError('configurable_factory=True needs a default_factory.')
    if is_auto_config(default_factory):
      raise ValueError(
          "configurable_factory should not be used with auto_config'ed functions, "
          f'which configs expand anyway; got {default_factory!r}.'
      )
    if not signatures.has_signature(default_factory):
      raise ValueError(
          f'configurable_factory=True: {default_factory!r} has no signature.'
      )
    initializer = functools.partial(config, default_factory)
  elif is_auto_config(default_factory):
    initializer = default_factory.as_buildable
  if default_factory is not MISSING:
    kwargs['default_factory'] = default_factory
  own = FieldMetadata(_tags(tags), initializer)
  return dataclasses.field(metadata={**(metadata or {}), _METADATA_KEY: own}, **kwargs)


fdl_field = field


def expanding_field(
    default_factory: Callable[[], Any], config_factory: Callable[[], Any], **kwargs
) -> Any:
  """A field whose default is made by another function in configs.

  Args:
    default_factory: makes the default of a directly constructed owner.
    config_factory: makes the initial value in a config of the owner.
    **kwargs: as `field`.
  """
  factory = fdl_auto_config.AutoConfig(
      func=default_factory, buildable_func=config_factory, always_inline=True
  )
  return field(default_factory=factory, **kwargs)


def template_field(template: Any = MISSING, tags: Any = ()) -> Any:
  """A field that holds a config: the layer builds its child from it in `setup`.

  Args:
    template: a class (the default is a fresh `Config(template)`), a function whose
      calls become configs, or None (the default is None). Without it the field is
      required.
    tags: a Fiddle tag, or a collection of tags.
  """
  if template is MISSING:
    return field(tags=tags)
  if template is None:
    return field(default=None, tags=tags)
  if isinstance(template, fdl.Buildable):
    raise ValueError(
        'template_field takes a class or a function that makes the config, not a '
        f'config, which all owners would share: {template!r}. '
        'Write template_field(lambda: Config(...)) instead.'
    )
  if _is_container(template):
    return expanding_field(template, template, tags=tags)
  make = auto_config(template).as_buildable
  return expanding_field(make, make, tags=tags)


def instance_field(default_factory: Any, tags: Any = ()) -> Any:
  """A field that holds an object, and in a config of the owner the object's config.

  Args:
    default_factory: a class or function that is called for the object, or None (the
      default is None).
    tags: a Fiddle tag, or a collection of tags.
  """
  if default_factory is None:
    return field(default=None, tags=tags)
  if isinstance(default_factory, fdl.Buildable):
    raise ValueError(
        'instance_field takes a class or a function, not a config: '
        f'{default_factory!r}.'
    )
  if _is_container(default_factory):
    return expanding_field(default_factory, default_factory, tags=tags)
  return field(default_factory=auto_config(default_factory), tags=tags)


# --- the older name ---


def is_hparams_type(cls: Any) -> bool:
  """Whether `cls` is a subclass of `BaseHyperParams`."""
  return isinstance(cls, type) and hasattr(cls, '__pax_hparams__')


class OverrideSubConfigFieldProtocol:
  """What an object has to have that `sub_config_field` takes besides HParams classes.

  The HParams object of a layer class has it.
  """

  def __to_sub_config_field__(self) -> Any:
    """The dataclass field that `sub_config_field` is to return."""
    raise NotImplementedError()


class SubConfigFactory(fdl_auto_config.AutoConfig):
  """The default factory of a field that holds HParams."""

  @classmethod
  def of(cls, get_class: Callable[[], Any]) -> 'SubConfigFactory':
    """The factory for the class that `get_class`, called late, returns."""
    factory = cls(
        func=lambda: _default_of(get_class(), False),
        buildable_func=lambda: _default_of(get_class(), True),
        always_inline=True,
    )
    object.__setattr__(factory, 'get_class', get_class)  # AutoConfigs are frozen
    return factory


def sub_config_field(
    sub_config_cls: Any = None, *, lazy_ref: Callable[[], Any] | None = None
) -> Any:
  """A field that holds HParams, or the config of a layer.

  Args:
    sub_config_cls: an HParams class, the `HParams` of a layer class, or None (the
      default is None).
    lazy_ref: returns such a class; called when the default is first needed.

  Raises:
    TypeError: both arguments are given.
    AssertionError: some other class is given.
  """
  if lazy_ref is not None:
    if sub_config_cls is not None:
      raise TypeError('Specify sub_config_cls or lazy_ref, not both.')
    return field(default_factory=SubConfigFactory.of(lazy_ref))
  if sub_config_cls is None:
    return template_field(None)
  if hasattr(sub_config_cls, '__to_sub_config_field__'):
    return sub_config_cls.__to_sub_config_field__()
  _check_hparams_class(sub_config_cls)
  return field(default_factory=SubConfigFactory.of(lambda: sub_config_cls))


def _check_hparams_class(sub_config_cls: Any) -> None:
  if not is_hparams_type(sub_config_cls):
    raise AssertionError(
        'sub_config_field takes a subclass of BaseHyperParams or the HParams of a '
        f'layer class, not {sub_config_cls!r}.'
    )


def _default_of(sub_config_cls: Any, as_config: bool) -> Any:
  if hasattr(sub_config_cls, '__to_sub_config_field__'):
    return sub_config_cls.__to_sub_config_field__().default_factory()
  _check_hparams_class(sub_config_cls)
  return sub_config_cls.config() if as_config else sub_config_cls()
