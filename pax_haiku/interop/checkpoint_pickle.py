"""Pickles, read by an unpickler that admits arrays and plain containers only.

A pickle is a program that names functions to call. Here every name is looked up in a
short table of functions that build arrays and containers; nothing is imported.
"""

import collections
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from pax_haiku.interop.checkpoint_error import CheckpointError

_FLOATS = (
  'bfloat16',
  'float8_e4m3fn',
  'float8_e5m2',
  'float8_e4m3b11fnuz',
  'int4',
  'uint4',
)


class _Array:
  """An array that its pickle has not filled yet."""

  def __new__(cls, *_):
    return super().__new__(cls)

  def __setstate__(self, state):
    _, shape, dtype, _, data = state
    if isinstance(data, str):
      data = data.encode('latin1')
    self.array = _from_bytes(data, dtype, shape, 'F' if state[3] else 'C')


def _plain(dtype) -> np.dtype:
  if isinstance(dtype, _Dtype):
    dtype = dtype.dtype
  dtype = np.dtype(dtype)
  if dtype.hasobject:
    raise CheckpointError('it holds an array of Python objects')
  return dtype


def _from_bytes(data, dtype, shape, order) -> np.ndarray:
  if not isinstance(data, bytes | bytearray):
    raise CheckpointError('it holds an array of Python objects')
  return np.frombuffer(bytes(data), _plain(dtype)).reshape(shape, order=order).copy()


class _Dtype:
  """A dtype whose byte order comes later."""

  def __init__(self, code, *_):
    self.dtype = np.dtype(code if isinstance(code, type) else str(code))

  def __setstate__(self, state):
    order = state[1]
    if order in '<>':
      self.dtype = self.dtype.newbyteorder(order)


def _reconstruct(kind, *_) -> _Array:
  return _Array()


def _from_buffer(data, dtype, shape, order) -> np.ndarray:
  return _from_bytes(bytes(data), dtype, shape, order)


def _scalar(dtype, data=b''):
  if isinstance(data, str):
    data = data.encode('latin1')
  return _from_bytes(data, dtype, (), 'C')[()]


def _jax_array(function, args, state, *_) -> Any:
  array = function(*args)
  array.__setstate__(state)
  return array.array


def _encode(text: str, encoding: str = 'latin1') -> bytes:
  return str(text).encode('latin1')


def _mapping(*args) -> dict:
  return dict(*args)


class _FlatMapping(dict):
  """Haiku's former mappings: a dict under another name."""

  def __init__(self, *args):
    super().__init__(args[0] if args and isinstance(args[0], dict) else {})

  def __setstate__(self, state):
    self.update(state.get('_mapping', state))


_NUMPY = (
  'numpy',
  'numpy.core.multiarray',
  'numpy._core.multiarray',
  'numpy.core.numeric',
  'numpy._core.numeric',
)
_TABLE: dict[tuple[str, str], Callable] = {
  ('collections', 'OrderedDict'): collections.OrderedDict,
  ('builtins', 'dict'): dict,
  ('builtins', 'list'): list,
  ('builtins', 'tuple'): tuple,
  ('builtins', 'set'): set,
  ('builtins', 'bytearray'): bytearray,
  ('builtins', 'complex'): complex,
  ('builtins', 'slice'): slice,
  ('_codecs', 'encode'): _encode,
  ('jax._src.array', '_reconstruct_array'): _jax_array,
  ('haiku._src.data_structures', 'FlatMapping'): _FlatMapping,
  ('haiku._src.data_structures', 'FlatMap'): _FlatMapping,
  ('haiku._src.data_structures', 'to_immutable_dict'): _mapping,
}
for _module in _NUMPY:
  _TABLE.update(
    {
      (_module, '_reconstruct'): _reconstruct,
      (_module, 'scalar'): _scalar,
      (_module, '_frombuffer'): _from_buffer,
      (_module, 'ndarray'): _Array,
      (_module, 'dtype'): _Dtype,
    }
  )
for _name in _FLOATS:
  if hasattr(jnp, _name):
    _TABLE['ml_dtypes', _name] = jnp.dtype(_name).type
    _TABLE['ml_dtypes._ml_dtypes_ext', _name] = jnp.dtype(_name).type


class _Unpickler(pickle.Unpickler):
  """Looks names up in the table, and nowhere else."""

  def find_class(self, module, name):
    try:
      return _TABLE[module, name]
    except KeyError:
      raise CheckpointError(
        f'it asks for {module}.{name}, and only arrays and plain containers are '
        'admitted. Convert it to .npz where its program is trusted'
      ) from None

  def persistent_load(self, pid):
    raise CheckpointError('it refers to objects outside the file')


def load(path: pathlib.Path) -> Any:
  """The pickled tree, with arrays of numpy.

  Raises:
    CheckpointError: it is damaged, or holds anything but arrays and containers.
  """
  try:
    with path.open('rb') as file:
      return _finished(_Unpickler(file).load())
  except CheckpointError as error:
    raise CheckpointError(f'{path} is not read: {error}') from None
  except Exception as error:  # a damaged pickle can raise anything
    raise CheckpointError(f'{path} is no complete pickle of arrays: {error}') from None


def _finished(tree: Any) -> Any:
  """Arrays in place of what was being built."""
  if isinstance(tree, _Array):
    return tree.array
  if isinstance(tree, dict):
    return {k: _finished(v) for k, v in tree.items()}
  if isinstance(tree, list | tuple):
    return type(tree)(map(_finished, tree))
  return tree
