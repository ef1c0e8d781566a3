"""What the command line names: models, inputs, checkpoints."""

import functools
import importlib
import json
import os
import pathlib
import re
import sys
from typing import Any

import haiku as hk
import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, interop, pax_fiddle

_DTYPES = {
  'f16': 'float16',
  'bf16': 'bfloat16',
  'f32': 'float32',
  'f64': 'float64',
  'i8': 'int8',
  'i16': 'int16',
  'i32': 'int32',
  'u8': 'uint8',
  'u32': 'uint32',
  'bool': 'bool',
}
_INPUT = re.compile(r'([a-z0-9]+)\[([0-9, ]*)\](?:<(\d+))?')


def load_object(name: str, flag: str) -> Any:
  """The object that `package.module:attribute` or `file.py:attribute` names.

  Raises:
    ValueError: it cannot be imported.
  """
  place, colon, attribute = name.rpartition(':')
  if not colon or not place or not attribute:
    raise ValueError(
      f'{flag}={name!r}: expected package.module:attribute or path/to/file.py:attribute'
    )
  if place.endswith('.py'):
    path = pathlib.Path(place)
    if not path.is_file():
      raise ValueError(f'{flag}={name!r}: there is no file {place}')
    place = path.stem
    loaded = getattr(sys.modules.get(place), '__file__', None)
    if place in sys.modules and loaded != str(path.absolute()):
      raise ValueError(
        f'{flag}={name!r}: there is another module {place!r}; rename the file'
      )
    sys.path.insert(0, str(path.absolute().parent))
  elif os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  try:
    found = importlib.import_module(place)
    for part in attribute.split('.'):
      found = getattr(found, part)
  except (ImportError, AttributeError, SyntaxError) as error:
    raise ValueError(f'{flag}={name!r}: {error}') from None
  return found


def load_model(name: str, flag: str, kwargs: dict[str, Any]) -> Any:
  """What `interop` takes: a transform, a layer, a config or a function.

  A function without arguments that returns one of the first three is called.

  Raises:
    ValueError: it is none of these.
  """
  found = load_object(name, flag)
  if is_model(found):
    return found
  if not callable(found):
    raise ValueError(
      f'{flag}={name!r}: expected a function that uses Haiku modules, a '
      f'Pax layer or config, found {type(found).__name__}'
    )
  made = _made(found)
  if made is not None:
    return made
  if kwargs:
    return functools.partial(found, **kwargs)
  return found


def is_model(found: Any) -> bool:
  kinds = (
    hk.TransformedWithState,
    hk.Transformed,
    pax_fiddle.Config,
    base_layer.BaseLayer,
  )
  return isinstance(found, kinds)


def _made(function: Any) -> Any:
  """What a function without arguments returns, if that is a model."""
  try:
    made = function()
  except Exception:  # it needs arguments, or a transform around it
    return None
  return made if is_model(made) else None


def load_inputs(text: str, seed: int) -> tuple[np.ndarray, ...]:
  """Inputs: from an .npz file, or random ones of given dtypes and shapes.

  Args:
    text: `f32[2,8],i32[2,5]<100` (integers below 100; 2 if not given), or a file.
    seed: of the random ones.

  Raises:
    ValueError: it is neither.
  """
  if text.endswith('.npz'):
    arrays = interop.load_checkpoint(text)
    return tuple(arrays.values())
  rng, inputs, at = np.random.default_rng(seed), [], 0
  for match in _INPUT.finditer(text):
    if text[at : match.start()].strip(' ,') or match.group(1) not in _DTYPES:
      break
    shape = tuple(int(n) for n in match.group(2).split(',') if n.strip())
    dtype = jnp.dtype(_DTYPES[match.group(1)])
    if jnp.issubdtype(dtype, jnp.floating):
      value = rng.standard_normal(shape)
    else:
      value = rng.integers(0, int(match.group(3) or 2), shape)
    inputs.append(np.asarray(value).astype(dtype))
    at = match.end()
  if not inputs or text[at:].strip(' ,'):
    raise ValueError(
      f'--inputs={text!r}: expected dtypes and shapes such as f32[2,8],i32[2,5]<100 '
      f'with dtypes of {", ".join(_DTYPES)}, or an .npz file'
    )
  return tuple(inputs)


def load_kwargs(text: str) -> dict[str, Any]:
  """Keyword arguments as JSON.

  Raises:
    ValueError: it is no JSON object.
  """
  try:
    found = json.loads(text or '{}')
  except json.JSONDecodeError as error:
    raise ValueError(f'--kwargs={text!r}: {error}') from None
  if not isinstance(found, dict):
    raise ValueError(
      f'--kwargs={text!r}: expected an object such as {{"is_training": false}}'
    )
  return found
