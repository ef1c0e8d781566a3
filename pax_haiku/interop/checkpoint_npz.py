"""Checkpoints as .npz files; dtypes that numpy does not know are kept by name."""

import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from pax_haiku.interop.checkpoint_error import CheckpointError

_DTYPES = '__dtypes__'  # entry with the names of dtypes such as bfloat16, as JSON


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
  """`{key: array}`.

  Raises:
    CheckpointError: the file is damaged or holds Python objects.
  """
  if not zipfile.is_zipfile(path):
    raise CheckpointError(
      f'{path} is no complete .npz file of arrays: it is no archive, or cut off'
    )
  try:
    with path.open('rb') as raw, np.load(raw, allow_pickle=False) as file:
      arrays = {key: file[key] for key in file.files}
    dtypes = json.loads(bytes(arrays.pop(_DTYPES, np.array([], np.uint8))) or b'{}')
    for key, dtype in dtypes.items():
      arrays[key] = arrays[key].view(jnp.dtype(dtype))
  except (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
  ) as error:
    raise CheckpointError(
      f'{path} is no complete .npz file of arrays: {error}'
    ) from None
  return arrays


def save(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes `{key: array}`."""
  plain, dtypes = {}, {}
  for key, array in arrays.items():
    if array.dtype.isbuiltin != 1:
      dtypes[key] = array.dtype.name
      array = array.view(f'u{array.dtype.itemsize}')
    plain[key] = array
  if dtypes:
    plain[_DTYPES] = np.frombuffer(json.dumps(dtypes).encode(), np.uint8)
  with path.open('wb') as file:
    np.savez(file, **plain)
