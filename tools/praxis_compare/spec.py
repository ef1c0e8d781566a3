"""What a comparison case is: plain data that either library can be built from.

Nothing here imports JAX or a layer library, so the same declarations are read by
both sides, by the reports and by the tests.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MODES = ('train', 'eval')
DTYPES = ('float32', 'bfloat16')
FLOAT32, BFLOAT16 = DTYPES[:1], DTYPES[1:]
# What is compared, in the order of the report.
SECTIONS = ('tree', 'metadata', 'init', 'outputs', 'grads', 'state', 'summaries',
            'aux_loss', 'extra')


@dataclasses.dataclass(frozen=True)
class Cfg:
  """A layer's configuration: `module.Class` and its fields.

  A field name may be dotted, to set a field of a template that the config holds
  already: `{'ff_tpl.has_bias': False}`. `local.X` is a class of `local_layers.py`.
  """

  layer: str
  fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Init:
  """`WeightInit.<method>(*args)`."""

  method: str
  args: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Name:
  """An object of the library by its path below `layers`, e.g. an enum member."""

  path: str


@dataclasses.dataclass(frozen=True)
class Dtype:
  """`jax.numpy.<name>`."""

  name: str


class Map(dict):
  """Becomes a `NestedMap`."""


def cfg(layer: str, **fields: Any) -> Cfg:
  return Cfg(layer, fields)


def init(method: str, *args: Any) -> Init:
  return Init(method, args)


@dataclasses.dataclass(frozen=True)
class Case:
  """One configuration of one layer, with inputs.

  Attributes:
    name: `module.Class/variant`.
    config: the layer.
    args, kwargs: arguments of the call; arrays are numpy, the rest is static.
    modes: which of train and eval to run.
    dtypes: fprop dtypes; for bfloat16 float inputs are cast unless `cast_inputs` is
      False. Variables stay float32.
    method: None for `__call__`, a method's name, or a function of (layer, *args).
    prepare: a function of (layer, *args) run first, in an apply of its own; what it
      leaves in `collections` is there when the call runs.
    raises: name of the exception type that both sides must raise.
    collections: further collections to record (`decoder_cache`, `intermediates`).
    precision: 'bfloat16' where variables are, so that no result is exact to float32.
    known: section (or `error`), or `dtype section` -> a declared difference: how the
      newest Praxis, which the project follows, differs from the 1.4.0 that runs here,
      or what no one should want to be equal.
    tol: (dtype, section) -> (rtol, atol, reason) where the usual ones are too tight.
    grads: False where the layer cannot be differentiated in reverse mode.
    slow: compared where all dtypes are, and not in each run of the tests.
  """

  name: str
  config: Cfg
  args: tuple[Any, ...] = ()
  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  modes: tuple[str, ...] = MODES
  dtypes: tuple[str, ...] = DTYPES
  method: str | Callable[..., Any] | None = None
  prepare: Callable[..., Any] | None = None
  cast_inputs: bool = True
  raises: str | None = None
  collections: tuple[str, ...] = ()
  precision: str = ''
  known: Mapping[str, str] = dataclasses.field(default_factory=dict)
  tol: Mapping[tuple[str, str], tuple[float, float, str]] = dataclasses.field(
      default_factory=dict)
  grads: bool = True
  slow: bool = False

  @property
  def layer(self) -> str:
    """`module.Class`."""
    return self.config.layer

  @property
  def module(self) -> str:
    return self.layer.partition('.')[0]


def case(layer: str, variant: str, fields: Mapping[str, Any], *args: Any,
         **options: Any) -> Case:
  """Declares `layer/variant`; positional arguments are those of the call."""
  return Case(f'{layer}/{variant}', Cfg(layer, dict(fields)), args, **options)


def family(layer: str, *args: Any, **defaults: Any) -> Callable[..., Case]:
  """`make(variant, *args, **given)` for cases of one layer that share a start.

  What is given by keyword is an option of the case if `Case` has one of that name, else
  a field of the layer; both override `defaults`. Without arguments, `args` are used.
  """
  names = {f.name for f in dataclasses.fields(Case)}

  def make(variant: str, *own: Any, **given: Any) -> Case:
    options, fields = {}, {}
    for name, value in {**defaults, **given}.items():
      (options if name in names else fields)[name] = value
    return case(layer, variant, fields, *own or args, **options)

  return make


def describe(value: Any) -> str:
  """Short text of a configuration or an argument."""
  if isinstance(value, Cfg):
    inner = ', '.join(f'{k}={describe(v)}' for k, v in value.fields.items())
    return f'{value.layer}({inner})'
  if isinstance(value, Init):
    return f'{value.method}({", ".join(map(describe, value.args))})'
  if isinstance(value, Name):
    return value.path
  if isinstance(value, Dtype):
    return value.name
  if isinstance(value, np.ndarray):
    return f'{value.dtype}{list(value.shape)}'
  if isinstance(value, Mapping):
    return '{' + ', '.join(f'{k}: {describe(v)}' for k, v in value.items()) + '}'
  if isinstance(value, list | tuple):
    return '[' + ', '.join(map(describe, value)) + ']'
  if callable(value):
    return getattr(value, '__name__', 'function')
  return repr(value)


def fingerprint(one: Case) -> int:
  """Changes when the configuration or the inputs of a case change."""
  text = '|'.join(describe(part) for part in (
      one.config, one.args, one.kwargs, one.modes, one.dtypes, one.method,
      one.prepare, one.cast_inputs, one.collections))
  crc = zlib.crc32(text.encode())
  for array in arrays_of((one.args, dict(one.kwargs))):
    crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
  return crc


def arrays_of(tree: Any) -> list[np.ndarray]:
  """All arrays of nested dicts, lists and tuples, in order."""
  if isinstance(tree, np.ndarray):
    return [tree]
  if isinstance(tree, Mapping):
    return [a for v in tree.values() for a in arrays_of(v)]
  if isinstance(tree, list | tuple):
    return [a for v in tree for a in arrays_of(v)]
  return []
