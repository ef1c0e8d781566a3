"""The metaclass of layers: turns each class body into a Pax-style dataclass.

It does four things that `hk.Module`'s metaclass does not: the nested sharding classes
and the older nested `HParams` become fields, the class becomes a dataclass, methods
learn about the layer's life cycle, and a layer built inside a transform is bound
(given its module name) at once.
"""

import dataclasses
import functools
import inspect
from typing import Any

import fiddle as fdl
import haiku as hk

from pax_haiku import pax_fiddle
from pax_haiku.core import compact as compact_lib
from pax_haiku.core import hparams_compat
from pax_haiku.core import run as run_lib

UNBOUND, BOUND, IN_SETUP, READY = range(4)

_SHARDING_FIELDS = {
  'WeightSharding': 'weight_split_dims_mapping',
  'ActivationSharding': 'activation_split_dims_mapping',
}
# Methods of hk.Module that a layer may define, but that need no life cycle.
_NO_LIFE_CYCLE = ('setup', 'params_dict', 'state_dict')


def _sharding_override(name: str, bases, namespace):
  """Makes nested sharding classes frozen dataclasses behind template fields."""
  annotations = namespace.setdefault('__annotations__', {})
  for class_name, field_name in _SHARDING_FIELDS.items():
    nested = namespace.get(class_name)
    if nested is None:
      continue
    base = next((getattr(b, class_name) for b in bases if hasattr(b, class_name)), None)
    if base is not None and not issubclass(nested, base):
      raise ValueError(
        f'{name}.{class_name} must be a subclass of the {class_name} of its base '
        f'layer ({base.__qualname__}), found bases {nested.__bases__}. Write '
        f'`class {class_name}(BaseLayer.{class_name}):`.'
      )
    if '__dataclass_fields__' not in nested.__dict__:
      nested = dataclasses.dataclass(frozen=True)(nested)
      namespace[class_name] = nested
    annotations[field_name] = pax_fiddle.Config
    namespace[field_name] = pax_fiddle.template_field(nested)


def _check_defaults(name: str, namespace):
  for field in namespace.get('__annotations__', {}):
    if isinstance(namespace.get(field), fdl.Buildable):
      raise ValueError(
        f'The default of field {name}.{field} is a Config object, which every '
        f'{name} would share. Use {field}: ... = '
        'pax_fiddle.template_field(SubLayer) instead.'
      )


# Haiku passes these by name to its own machinery, next to a method's keyword arguments.
_HAIKU_KEYWORDS = frozenset({'method_name', 'bound_method', 'orig_class'})


def _takes_haiku_keywords(raw) -> bool:
  parameters = inspect.signature(raw).parameters
  return not _HAIKU_KEYWORDS.isdisjoint(parameters) or any(
    p.kind is p.VAR_KEYWORD for p in parameters.values()
  )


def _unpacking(raw):
  """`raw`, also taking its keyword arguments as one dict that Haiku cannot mistake."""

  @functools.wraps(raw)
  def unpack(self, *args, pax_kwargs=None, **kwargs):
    return raw(self, *args, **(pax_kwargs or kwargs))

  return unpack


def _packing(in_scope):
  """The caller's side of `_unpacking`."""

  @functools.wraps(in_scope)
  def pack(self, *args, **kwargs):
    if _HAIKU_KEYWORDS.isdisjoint(kwargs):
      return in_scope(self, *args, **kwargs)
    return in_scope(self, *args, pax_kwargs=kwargs)

  return pack


def _setting_up(call):
  """`__call__` that runs `setup` first, in the scope that Haiku has entered for it."""

  @functools.wraps(call)
  def call_after_setup(self, *args, **kwargs):
    if self._pax_phase == BOUND:
      self._pax_run_setup(in_scope=True)
    return call(self, *args, **kwargs)

  return call_after_setup


def _with_life_cycle(raw, in_scope):
  """Runs `setup` before the first call; an unbound layer gets the plain function.

  Args:
    raw: the function as the user wrote it.
    in_scope: the same, wrapped by Haiku: enters the module's name scope.
  """
  is_compact = compact_lib.is_compact(raw)
  sets_up_inside = raw.__name__ == '__call__' and not is_compact

  @functools.wraps(raw)
  def method(self, *args, **kwargs):
    phase = self._pax_phase
    if (phase == READY or (phase == BOUND and sets_up_inside)) and not (
      is_compact or self._pax_run.initializing
    ):
      return in_scope(self, *args, **kwargs)
    if phase == UNBOUND:
      if self._pax_interactive is not None:
        return self._pax_interactive.call(method, args, kwargs)
      return raw(self, *args, **kwargs)
    return self._pax_call_slowly(in_scope, is_compact, args, kwargs)

  return method


class LayerMeta(type(hk.Module)):
  """Metaclass of `BaseLayer`; see the module docstring."""

  def __new__(mcs, name, bases, namespace, **kwargs):
    namespace = dict(namespace)
    hparams_compat.absorb(name, bases, namespace)
    _sharding_override(name, bases, namespace)
    _check_defaults(name, namespace)
    if bases:  # or Haiku's metaclass would put its own in each class
      namespace.setdefault('__repr__', bases[0].__repr__)
    raw_methods = {}
    for key, value in list(namespace.items()):
      if key.startswith('__') and key != '__call__':
        continue
      if isinstance(value, property):
        for accessor in (value.fget, value.fset, value.fdel):
          if accessor is not None:
            hk.transparent(accessor)  # fields and properties never enter a scope
      elif inspect.isfunction(value):
        if (
          key == 'setup'
          or '_pax_is_base_layer' in namespace
          or compact_lib.is_nowrap(value)
        ):
          hk.transparent(value)
        elif key not in _NO_LIFE_CYCLE:
          raw_methods[key] = value
          inner = value
          if key == '__call__' and not compact_lib.is_compact(value):
            inner = _setting_up(inner)
          if _takes_haiku_keywords(value):
            inner = _unpacking(inner)
          namespace[key] = inner
    cls = super().__new__(mcs, name, bases, namespace, **kwargs)
    cls = dataclasses.dataclass(repr=False, eq=False)(cls)
    for key, raw in raw_methods.items():
      in_scope = getattr(cls, key)
      if _takes_haiku_keywords(raw):
        in_scope = _packing(in_scope)
      setattr(cls, key, _with_life_cycle(raw, in_scope))
    cls._pax_has_setup = any(
      'setup' in c.__dict__
      for c in cls.__mro__
      if isinstance(c, LayerMeta) and '_pax_is_base_layer' not in c.__dict__
    )
    fields = [f for f in dataclasses.fields(cls) if f.init]
    cls._pax_field_order = tuple(f.name for f in dataclasses.fields(cls))
    cls._pax_field_names = frozenset(cls._pax_field_order)
    cls._pax_plain_defaults = {
      f.name: f.default for f in fields if f.default is not dataclasses.MISSING
    }
    cls._pax_default_factories = {
      f.name: f.default_factory
      for f in fields
      if f.default_factory is not dataclasses.MISSING
    }
    base = next((c for c in reversed(cls.__mro__) if isinstance(c, LayerMeta)), cls)
    cls._pax_base_overrides = {
      name: default
      for name, default in cls._pax_plain_defaults.items()
      if name in base._pax_plain_defaults
      and base._pax_plain_defaults[name] is not default
    }
    cls._pax_custom_init = '__init__' in namespace or any(
      getattr(b, '_pax_custom_init', False) for b in bases
    )
    hparams_compat.attach(cls)
    return cls

  def __call__(cls, *args, **kwargs) -> Any:
    layer = cls.__new__(cls)
    if args and isinstance(args[0], str | fdl.Buildable):
      raise TypeError(
        f'{cls.__name__}(...) got {type(args[0]).__name__} as its first positional '
        'argument, which is the field `dtype`. To build a layer from a config? Please '
        'use `layer_p.Instantiate()` instead; and pass fields by keyword.'
      )
    cls.__init__(layer, *args, **kwargs)
    if not pax_fiddle.is_building():
      if run_lib.in_setup() and layer.name is not None:
        layer.__dict__['_pax_keeps_name'] = True  # when it is adopted
      layer = layer.__pax_built__()
    return layer

  @property
  def __signature__(cls):
    signature = inspect.signature(cls.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def construct(cls: LayerMeta, arguments: dict[str, Any], lazy=()):
  """An unbound layer from field values, without the cost of a generated `__init__`.

  Args:
    cls: the layer class.
    arguments: {field: value}; every name must be a field.
    lazy: fields that the layer fills in itself when they are first read.
  """
  if cls._pax_custom_init:
    layer = cls.__new__(cls)
    cls.__init__(layer, **arguments)
    return layer
  layer = cls.__new__(cls)
  values = layer.__dict__
  values.update(cls._pax_plain_defaults)
  for name, factory in cls._pax_default_factories.items():
    if name not in arguments and name not in lazy:
      values[name] = factory()
  values.update(arguments)
  layer.__post_init__()
  return layer


def bind_in_new_run(layer):
  """Binds a layer that was built inside a transform, at the place it was built."""
  owner = compact_lib.owner()
  if owner is not None:
    owner._pax_bind_inline(layer)
    return layer
  active = run_lib.active()
  if active is not None and active.root_name is not None:
    here = hk.current_name()
    if here == active.root_name or here.startswith(active.root_name + '/'):
      layer._pax_bind(active, layer.name)
      return layer
  run = run_lib.Run(initializing=hk.running_init())
  layer._pax_bind(run, layer.name)
  return layer
