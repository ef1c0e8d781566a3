"""Pax code for one Haiku module: a template of its counterpart, or a host for it."""

import ast
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Child:
  """What the port creates for a module.

  Attributes:
    code: the template, as Python.
    hosted: whether a HaikuModule hosts it; its call then takes what the original takes.
    note: a comment.
    imports: modules that the code needs.
  """

  code: str
  hosted: bool = False
  note: str = ''
  imports: frozenset[str] = frozenset()


def config(layer: str, **fields: Any) -> str:
  """`pax_fiddle.Config(layers.X, field=value, ...)`."""
  given = ''.join(
    f', {k}={v if isinstance(v, _Code) else repr(v)}' for k, v in fields.items()
  )
  return f'pax_fiddle.Config({layer}{given})'


class _Code(str):
  """Python code rather than a value."""


def _linear(m, shape, args) -> Child | None:
  if len(shape) < 2:
    return None
  dims = {'input_dims': shape[-1], 'output_dims': m.output_size}
  if not m.with_bias:
    return Child(config('layers.Linear', **dims))
  identity = _Code(config('layers.Identity'))
  return Child(config('layers.FeedForward', **dims, activation_tpl=identity))


def _layer_norm(m, shape, args) -> Child | None:
  last = ((-1,), (len(shape) - 1,))
  if tuple(m.axis) not in last or tuple(m.param_axis) not in last:
    return None
  return Child(
    config(
      'layers.LayerNorm',
      dim=shape[-1],
      epsilon=m.eps,
      direct_scale=True,
      use_scale=m.create_scale,
      use_bias=m.create_offset,
    )
  )


def _rms_norm(m, shape, args) -> Child | None:
  last = ((-1,), (len(shape) - 1,))
  if tuple(m.axis) not in last or not m.create_scale:
    return None
  return Child(
    config('layers.RmsNorm', dim=shape[-1], epsilon=m.eps, direct_scale=True)
  )


def _batch_norm(m, shape, args) -> Child | None:
  plain = (
    m.eps == 1e-3
    and m.create_scale
    and m.create_offset
    and m.axis is None
    and m.cross_replica_axis is None
    and m.channel_index == -1
    and m.mean_ema.zero_debias
    and not m.mean_ema.warmup_length
  )
  if not plain or len(shape) < 2 or not isinstance(args.get('is_training'), bool):
    return None
  fields = {'dim': shape[-1], 'decay': m.mean_ema.decay}
  if not args['is_training']:
    return Child(
      config('layers.BatchNorm', **fields, force_eval_mode=True),
      note='traced with is_training=False',
    )
  return Child(config('layers.BatchNorm', **fields))


def _conv2d(m, shape, args) -> Child | None:
  if (
    m.data_format != 'NHWC'
    or m.padding not in ('SAME', 'VALID')
    or set(m.lhs_dilation) != {1}
    or m.mask is not None
    or len(shape) != 4
  ):
    return None
  kernel = (*m.kernel_shape, shape[-1] // m.feature_group_count, m.output_channels)
  return Child(
    config(
      'layers.Conv2D',
      filter_shape=tuple(kernel),
      filter_stride=tuple(m.stride),
      dilations=tuple(m.kernel_dilation),
      bias=m.with_bias,
      padding=m.padding,
      tf_equivalent_padding=True,
    )
  )


def _depthwise(m, shape, args) -> Child | None:
  if (
    getattr(m, 'data_format', 'NHWC') != 'NHWC'
    or len(shape) != 4
    or m.padding not in ('SAME', 'VALID')
    or set(m.lhs_dilation) != {1}
  ):
    return None
  kernel = (*m.kernel_shape, 1, shape[-1] * m.channel_multiplier)
  return Child(
    config(
      'layers.Conv2D',
      filter_shape=tuple(kernel),
      filter_stride=tuple(m.stride),
      dilations=tuple(m.rhs_dilation),
      bias=m.with_bias,
      padding=m.padding,
      tf_equivalent_padding=True,
    )
  )


def _embed(m, shape, args) -> Child | None:
  return Child(
    config(
      'layers.Embedding',
      num_classes=m.vocab_size,
      input_dims=m.embed_dim,
      lookup_style='index',
    )
  )


_COUNTERPARTS: dict[type, Callable] = {
  hk.Linear: _linear,
  hk.LayerNorm: _layer_norm,
  hk.RMSNorm: _rms_norm,
  hk.BatchNorm: _batch_norm,
  hk.Conv2D: _conv2d,
  hk.DepthwiseConv2D: _depthwise,
  hk.Embed: _embed,
}
# Modules whose inside is better kept together than taken apart.
_WHOLE = (
  hk.MultiHeadAttention,
  hk.RNNCore,
  hk.ExponentialMovingAverage,
  hk.nets.VectorQuantizer,
  hk.nets.VectorQuantizerEMA,
)


def counterpart(module: hk.Module, shape: tuple[int, ...], args: dict) -> Child | None:
  """The Pax layer that computes the same, None if there is none.

  Args:
    module: the module, of exactly a class in the table.
    shape: of its first argument.
    args: name -> argument of the call.
  """
  rule = _COUNTERPARTS.get(type(module))
  try:
    return rule(module, shape, args) if rule else None
  except AttributeError:  # another version of Haiku keeps other attributes
    return None


def wants_host(module: hk.Module) -> bool:
  """Whether a module without counterpart is hosted rather than taken apart."""
  return isinstance(module, _WHOLE) or type(module) in _COUNTERPARTS


def host(module: hk.Module) -> Child | None:
  """A HaikuModule that makes this module again; None if its arguments are unknown."""
  found = reference(type(module))
  try:
    call = ast.parse(repr(module), mode='eval').body
    assert isinstance(call, ast.Call) and not call.args
    keywords = {k.arg: k.value for k in call.keywords}
  except (SyntaxError, AssertionError):
    keywords = _without_objects(repr(module))
  if found is None or keywords is None:
    return None
  fields, imports = {}, {found[1]}
  for name, node in keywords.items():
    if name == 'name':
      continue
    try:
      fields[name] = ast.literal_eval(node) if node is not None else _missing(name)
    except (ValueError, _Missing):
      code = _value(getattr(module, name, None))
      if code is not None:
        fields[name] = _Code(code)
      elif 'init' not in name:
        return None
  fields['name'] = module.name
  inner = config(found[0], **fields)
  return Child(
    config('layers.HaikuModule', module_tpl=_Code(inner)),
    hosted=True,
    imports=frozenset(i for i in imports if i),
  )


class _Missing(Exception):
  """A value that the text does not show."""


def _missing(name):
  raise _Missing(name)


def _without_objects(text: str) -> dict[str, Any] | None:
  """Keywords of a repr with `<...>` in it; None as the node of these."""
  clean, depth = '', 0
  for c in text:
    depth += c == '<'
    if not depth:
      clean += c
    elif c == '<' and depth == 1:
      clean += '__object__'
    depth -= c == '>'
  try:
    call = ast.parse(clean, mode='eval').body
  except SyntaxError:
    return None
  if not isinstance(call, ast.Call) or call.args:
    return None
  return {
    k.arg: None if any(isinstance(n, ast.Name) for n in ast.walk(k.value)) else k.value
    for k in call.keywords
  }


def reference(cls: Any) -> tuple[str, str] | None:
  """`(code, import)` that names a class or function; None if it cannot be imported."""
  name = getattr(cls, '__name__', '')
  for space, code in (
    (hk, 'hk'),
    (hk.nets, 'hk.nets'),
    (hk.initializers, 'hk.initializers'),
    (jax.nn, 'jax.nn'),
    (jnp, 'jnp'),
    (jax.lax, 'jax.lax'),
  ):
    if name and getattr(space, name, None) is cls:
      return f'{code}.{name}', ''
  module, qualname = getattr(cls, '__module__', None), getattr(cls, '__qualname__', '')
  if not module or '<' in qualname or module == '__main__':
    return None
  return f'{module}.{qualname}', module


def _value(value: Any) -> str | None:
  """Code for an initializer or a function; None for other objects."""
  found = reference(value) if callable(value) else None
  if found is not None and not found[1]:
    return found[0]
  kind = reference(type(value))
  if kind is None or not kind[0].startswith('hk.initializers.'):
    return None
  names = inspect.signature(type(value)).parameters
  fields = {
    n: v
    for n, v in vars(value).items()
    if n in names and isinstance(v, int | float | str | tuple)
  }
  return config(kind[0], **fields)
