"""`pax_haiku.transform`: the short way from a config to Haiku's pure functions."""

import contextlib
from collections.abc import Callable
from typing import Any

import fiddle as fdl
import haiku as hk

from pax_haiku import pax_fiddle
from pax_haiku.core import context, functional
from pax_haiku.core.metaclass import LayerMeta, bind_in_new_run

_HOW = (
  'Give a config such as pax_fiddle.Config(Linear, name=...), an unbound layer, or a '
  'function that builds its layers and Haiku modules when it is called.'
)


def transform(
  cfg_or_fn, *, method: Any = None, do_eval: bool | None = None
) -> hk.TransformedWithState:
  """`hk.transform_with_state` of a layer or of a function.

      net = pax_haiku.transform(pax_fiddle.Config(Linear, name='linear', ...))
      params, state = net.init(key, x)
      y, state = net.apply(params, state, None, x)

  Args:
    cfg_or_fn: a config of a layer, an unbound layer, or a function.
    method: of a layer, what to run in place of `__call__`: a name, a method, or any
      function that takes the layer first.
    do_eval: run in a JaxContext that says so; None: in the one around the call, if any.

  Returns:
    `init(key, *args, **kwargs) -> (params, state)` and `apply(params, state, key,
    *args, **kwargs) -> (output, state)`. The parameters of a layer called `net` are
    those of the module `net`; `interop.to_pax` turns both trees into Pax's variables.

  Raises:
    TypeError: something else was given, or a method with a function.
  """
  call = _as_function(cfg_or_fn, method)

  def function(*args, **kwargs):
    with _mode(do_eval):
      return call(*args, **kwargs)

  return hk.transform_with_state(function)


def _as_function(cfg_or_fn, method) -> Callable[..., Any]:
  if isinstance(cfg_or_fn, fdl.Buildable):
    made = fdl.get_callable(cfg_or_fn)
    if not isinstance(made, LayerMeta):
      raise TypeError(f'pax_haiku.transform got a config of {made!r}. {_HOW}')
    return lambda *args, **kwargs: _run(
      pax_fiddle.instantiate(cfg_or_fn), method, args, kwargs
    )
  if isinstance(type(cfg_or_fn), LayerMeta):
    cfg_or_fn._pax_require_unbound('transform')
    return lambda *args, **kwargs: _run(
      bind_in_new_run(cfg_or_fn.clone()), method, args, kwargs
    )
  if isinstance(cfg_or_fn, LayerMeta) or not callable(cfg_or_fn):
    raise TypeError(f'pax_haiku.transform got {cfg_or_fn!r}. {_HOW}')
  if method is not None:
    raise TypeError(
      f'pax_haiku.transform: method={method!r} is for a layer, found a function.'
    )
  return cfg_or_fn


def _run(layer, method, args, kwargs):
  return functional.as_function(layer, method)(layer, *args, **kwargs)


def _mode(do_eval: bool | None):
  if do_eval is None:
    return contextlib.nullcontext()
  top = context.JaxContext.top()
  hparams = context.JaxContext.HParams() if top is None else top.hparams.clone()
  hparams.do_eval = do_eval
  return context.JaxContext.new_context(hparams=hparams)
