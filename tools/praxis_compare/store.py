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

  def data(self) -> bytes:
    return b''.join(self._chunks)

  def save(self, path: str | pathlib.Path, manifest: dict[str, Any]) -> None:
    text = json.dumps({'format': FORMAT, **manifest}, sort_keys=True)
    np.savez_compressed(
        path, manifest=np.frombuffer(text.encode(), np.uint8),
        data=np.frombuffer(self.data(), np.uint8))


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
  return Results({'format': FORMAT, **plain}, writer.data())


def subset(results: Results, names: list[str], path: str | pathlib.Path) -> None:
  """Writes the cases `names` of `results` to a file of their own.

  How long a case took is left out, so that the same numbers make the same file.
  """
  writer = Writer()

  def move(node: Any) -> Any:
    if isinstance(node, dict) and 'at' in node and 'stored' in node:
      return {**writer.ref(results.array(node)), 'dtype': node['dtype']}
    if isinstance(node, dict):
      return {k: move(v) for k, v in node.items() if k != 'seconds'}
    return node

  meta = {k: v for k, v in results.meta.items() if k != 'format'}
  writer.save(path, {**meta, 'cases': {n: move(results.cases[n]) for n in names}})


def load_folder(folder: str | pathlib.Path) -> Results:
  """All files of a folder as one; ValueError if there is none."""
  files = sorted(pathlib.Path(folder).glob('*.npz'))
  if not files:
    raise ValueError(f'no recorded numbers (*.npz) in {folder}')
  data, all_cases, meta = b'', {}, {}

  def shift(node: Any, by: int) -> Any:
    if isinstance(node, dict):
      return {k: v + by if k == 'at' else shift(v, by) for k, v in node.items()}
    return node

  for file in files:
    one = load(file)
    all_cases.update(shift(one.cases, len(data)))
    data, meta = data + one._data, one.meta
  return Results({**meta, 'cases': all_cases}, data)
