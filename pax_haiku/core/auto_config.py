"""auto_config: a function's body as a config, for Pax's config types."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import fiddle as fdl
from fiddle.experimental import auto_config as fdl_auto_config

is_auto_config = fdl_auto_config.is_auto_config


def config(fn_or_cls: Any, /, *args, **kwargs) -> fdl.Config:
  """A Pax config."""
  from pax_haiku.core import config_types  # It needs this module.

  return config_types.PaxConfig(fn_or_cls, *args, **kwargs)


def _keep_call(fn_or_cls: Any) -> bool:
  """Calls that auto_config makes rather than writes down."""
  if isinstance(fn_or_cls, type) and issubclass(fn_or_cls, fdl.Buildable):
    return True
  return fdl_auto_config.auto_config_policy.latest(fn_or_cls)


def _rewrite(fn: Any, options: Mapping[str, Any]) -> fdl_auto_config.AutoConfig:
  from pax_haiku.core import config_types  # It needs this module.

  types = fdl_auto_config.ConfigTypes(
      config_cls=config_types.PaxConfig,
      partial_cls=config_types.PaxPartial,
      arg_factory_cls=config_types.PaxArgFactory,
  )
  defaults = {
      'experimental_allow_dataclass_attribute_access': True,
      'experimental_allow_control_flow': True,
      'experimental_exemption_policy': _keep_call,
      'experimental_result_must_contain_buildable': False,
      'experimental_config_types': types,
  }
  return fdl_auto_config.auto_config(fn, **{**defaults, **options})


class _LateAutoConfig:
  """The config-making twin of a function, rewritten when it is first needed.

  Rewriting parses source code, which is too slow to do for every field at import.
  """

  def __init__(self, fn: Callable[..., Any], options: Mapping[str, Any]):
    self._fn = fn
    self._options = options

  @functools.cached_property
  def _rewritten(self):
    return _rewrite(self._fn, self._options).as_buildable

  def __call__(self, *args, **kwargs):
    return self._rewritten(*args, **kwargs)

  def __get__(self, obj, objtype=None):
    if obj is None:
      return self
    return functools.partial(self, obj)


def auto_config(fn: Any = None, **options) -> Any:
  """Gives a function the attribute `as_buildable`, which makes a config instead.

  Calling the result runs `fn` as it is. `as_buildable(...)` runs the same code with
  each call of a class or function written down as a `Config` (and `functools.partial`
  as a `Partial`). Control flow and comprehensions are allowed.

  Args:
    fn: a function, staticmethod, classmethod or class. Without it, returns a
      decorator.
    **options: passed on to Fiddle's `auto_config`.
  """
  if fn is None:
    return functools.partial(auto_config, **options)
  if is_auto_config(fn):
    return fn
  inline = options.get('experimental_always_inline')
  inline = True if inline is None else inline
  make = functools.partial(fdl_auto_config.AutoConfig, always_inline=inline)
  if isinstance(fn, type):
    return make(func=fn, buildable_func=functools.partial(config, fn))
  if isinstance(fn, staticmethod):
    if is_auto_config(fn.__func__):
      return fn.__func__
    late = _LateAutoConfig(fn.__func__, options)
    return make(func=fn, buildable_func=staticmethod(late))
  if isinstance(fn, classmethod):
    return _rewrite(fn, options)
  if not inspect.isfunction(fn):
    raise ValueError(
        'auto_config takes functions, static and class methods, and classes; '
        f'got {fn!r}.'
    )
  return make(func=fn, buildable_func=_LateAutoConfig(fn, options))
