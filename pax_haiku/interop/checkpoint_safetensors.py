"""The safetensors format: a JSON header, then the bytes of all arrays.

https://github.com/huggingface/safetensors describes it: eight bytes with the header's
length (little-endian), the header `{name: {dtype, shape, data_offsets}}`, and the data,
without holes.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from pax_haiku.interop.checkpoint_error import CheckpointError

_DTYPES = {
  'F64': 'float64',
  'F32': 'float32',
  'F16': 'float16',
  'BF16': 'bfloat16',
  'F8_E4M3': 'float8_e4m3fn',
  'F8_E5M2': 'float8_e5m2',
  'I64': 'int64',
  'I32': 'int32',
  'I16': 'int16',
  'I8': 'int8',
  'U64': 'uint64',
  'U32': 'uint32',
  'U16': 'uint16',
  'U8': 'uint8',
  'BOOL': 'bool',
}
_CODES = {name: code for code, name in _DTYPES.items()}
_METADATA = '__metadata__'
_LARGEST = 100_000_000  # bytes of a header


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
  """`{name: array}`.

  Raises:
    CheckpointError: the file is damaged.
  """
  data = path.read_bytes()
  try:
    header, start = _header(data)
    return {
      name: _array(name, entry, data, start)
      for name, entry in header.items()
      if name != _METADATA
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(f'{path} is no complete safetensors file: {error}') from None


def _header(data: bytes) -> tuple[dict[str, Any], int]:
  """The header, and where the data start."""
  length = int.from_bytes(data[:8], 'little')
  if len(data) < 8 or length > _LARGEST or 8 + length > len(data):
    raise ValueError('the header is cut off')
  header = json.loads(data[8 : 8 + length].decode('utf-8'))
  at = 0
  entries = [e for n, e in header.items() if n != _METADATA]
  for first, last in sorted(tuple(e['data_offsets']) for e in entries):
    if first != at or last < first:
      raise ValueError(f'the data have a hole or overlap at byte {at}')
    at = last
  if 8 + length + at != len(data):
    raise ValueError(
      f'the header tells of {at} bytes of data, found {len(data) - 8 - length}'
    )
  return header, 8 + length


def _array(name: str, entry: Mapping[str, Any], data: bytes, start: int) -> np.ndarray:
  if entry['dtype'] not in _DTYPES:
    raise ValueError(f'{name} has the unknown dtype {entry["dtype"]!r}')
  dtype = jnp.dtype(_DTYPES[entry['dtype']])
  first, last = entry['data_offsets']
  shape = tuple(entry['shape'])
  if math.prod(shape) * dtype.itemsize != last - first:
    raise ValueError(f'{name}: {last - first} bytes for {dtype} of shape {shape}')
  piece = np.frombuffer(data, np.uint8, last - first, start + first)
  return piece.copy().view(dtype).reshape(shape)


def save(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes `{name: array}`.

  Raises:
    CheckpointError: a dtype does not exist in the format.
  """
  header: dict[str, Any] = {_METADATA: {'format': 'np'}}
  at = 0
  for name, array in arrays.items():
    code = _CODES.get(array.dtype.name)
    if code is None:
      raise CheckpointError(f'{name}: safetensors has no dtype {array.dtype}')
    header[name] = {
      'dtype': code,
      'shape': list(array.shape),
      'data_offsets': [at, at + array.nbytes],
    }
    at += array.nbytes
  text = json.dumps(header).encode('utf-8')
  text += b' ' * (-len(text) % 8)
  with path.open('wb') as file:
    file.write(len(text).to_bytes(8, 'little') + text)
    for array in arrays.values():
      little = array.astype(array.dtype.newbyteorder('<'), copy=False)
      file.write(np.ascontiguousarray(little).tobytes())
