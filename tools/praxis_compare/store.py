"""One file of results: many small arrays packed into one .npz, equal ones once.

An .npz member costs some 400 bytes whatever it holds, so thousands of tiny arrays are
laid end to end in one byte buffer; a JSON manifest beside it says what lies where.
bfloat16 is stored as float32, with its real dtype in the manifest. No pickles.
"""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

FORMAT = 1


class Writer:
  """Collects arrays; `ref` returns the JSON entry that stands for one."""

  def __init__(self) -> None:
    self._chunks: list[bytes] = []
    self._size = 0
    self._seen: dict[tuple[bytes, str], int] = {}

  def ref(self, value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    dtype = str(array.dtype)
    if dtype == 'bfloat16':
      array = array.astype(np.float32)
    raw = np.ascontiguousarray(array).tobytes()
    key = (hashlib.sha256(raw).digest(), str(array.dtype))
    if key not in self._seen:
      self._seen[key] = self._size
      self._chunks.append(raw)
      self._size += len(raw)
    return {'dtype': dtype, 'stored': str(array.dtype), 'shape': list(array.shape),
            'at': self._seen[key]}

  def save(self, path: str | pathlib.Path, manifest: dict[str, Any]) -> None:
    text = json.dumps({'format': FORMAT, **manifest}, sort_keys=True)
    np.savez_compressed(
        path, manifest=np.frombuffer(text.encode(), np.uint8),
        data=np.frombuffer(b''.join(self._chunks), np.uint8))


class Results:
  """What one side computed: `cases[name]`, and `array(ref)`."""

  def __init__(self, manifest: dict[str, Any], data: bytes) -> None:
    self.meta = {k: v for k, v in manifest.items() if k != 'cases'}
    self.cases: dict[str, Any] = manifest['cases']
    self._data = data

  def array(self, ref: dict[str, Any]) -> np.ndarray:
    """Float32 where the dtype was bfloat16."""
    dtype = np.dtype(ref['stored'])
    count = int(np.prod(ref['shape'], dtype=np.int64))
    flat = np.frombuffer(self._data, dtype, count, ref['at'])
    return flat.reshape(ref['shape'])


def load(path: str | pathlib.Path) -> Results:
  """Reads a file of `Writer.save`; ValueError if it is not one."""
  with np.load(path, allow_pickle=False) as file:
    if not {'manifest', 'data'} <= set(file.files):
      raise ValueError(f'{path}: not a file of comparison results')
    manifest = json.loads(file['manifest'].tobytes())
    data = file['data'].tobytes()
  if manifest.get('format') != FORMAT:
    raise ValueError(f'{path}: format {manifest.get("format")}, expected {FORMAT}')
  return Results(manifest, data)


def from_writer(writer: Writer, manifest: dict[str, Any]) -> Results:
  """The same, without a file in between."""
  plain = json.loads(json.dumps(manifest))
  return Results(plain, b''.join(writer._chunks))
