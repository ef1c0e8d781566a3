"""Checkpoints as `{entry name: array}`: .npz, .safetensors, orbax, pickles if asked.

Loading cannot run code. What is written is complete or not there.
"""

import os
import pathlib
import shutil
from collections.abc import Mapping as MappingType
from typing import Any

import jax
import numpy as np

from pax_haiku.interop import (
  checkpoint_npz,
  checkpoint_orbax,
  checkpoint_pickle,
  checkpoint_safetensors,
)
from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop.checkpoint_error import CheckpointError

_PICKLES = ('.pkl', '.pickle', '.p')
_FORMATS = {'.npz': checkpoint_npz, '.safetensors': checkpoint_safetensors}
_COLLECTIONS = ('params', 'state', 'non_trainable', 'opt_state')


def load_checkpoint(
  path: str | os.PathLike, *, allow_pickle: bool = False
) -> dict[str, np.ndarray]:
  """Reads a checkpoint.

  Args:
    path: a .npz or .safetensors file, an orbax directory, or a pickle.
    allow_pickle: read pickles too, but only arrays and plain containers in them.

  Returns:
    `{entry name: array}`, with names such as `params:mlp/~/linear_0/w`. Entries of
    files that do not say their collection are parameters.

  Raises:
    CheckpointError: there is no such checkpoint, it is damaged, or it is a pickle.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise CheckpointError(f'{path}: no such checkpoint')
  if path.is_dir():
    return entries_of(checkpoint_orbax.load(path), path)
  if path.suffix in _FORMATS:
    return _named(_FORMATS[path.suffix].load(path), path)
  if path.suffix not in _PICKLES:
    raise CheckpointError(
      f'{path}: unknown kind of checkpoint; expected .npz, .safetensors, a directory '
      f'of orbax, or a pickle ({", ".join(_PICKLES)})'
    )
  if not allow_pickle:
    raise CheckpointError(
      f'{path} is a pickle, and pickles can run code when they are read. With '
      'allow_pickle (--allow_pickle) it is read by an unpickler that admits arrays and '
      'plain containers only'
    )
  return entries_of(checkpoint_pickle.load(path), path)


def save_checkpoint(
  path: str | os.PathLike, entries: MappingType[str, Any], *, form: str = 'haiku'
) -> None:
  """Writes a checkpoint: to a temporary name, then in its place.

  Args:
    path: ends in .npz or .safetensors; without a suffix, a directory for orbax.
    entries: `{entry name: array}`.
    form: how an orbax checkpoint is nested, 'haiku' or 'pax'.

  Raises:
    CheckpointError: the suffix is another one, or it cannot be written.
  """
  path = pathlib.Path(path)
  if path.suffix not in ('', *_FORMATS):
    raise CheckpointError(
      f'{path}: can write .npz, .safetensors, and (without a suffix) a directory of '
      'orbax'
    )
  arrays = {name: np.asarray(value) for name, value in entries.items()}
  temporary = path.with_name(f'.{path.stem}-{os.getpid()}{path.suffix}')
  try:
    if path.suffix:
      _FORMATS[path.suffix].save(temporary, arrays)
      temporary.replace(path)
    else:
      checkpoint_orbax.save(temporary, mapping_lib.unflatten(arrays, form))
      if path.exists():
        raise CheckpointError(f'{path} is there already; remove it or name another one')
      temporary.rename(path)
  except OSError as error:
    raise CheckpointError(
      f'{path} cannot be written: {error.strerror or error}'
    ) from None
  finally:
    if temporary.is_dir():
      shutil.rmtree(temporary, ignore_errors=True)
    else:
      temporary.unlink(missing_ok=True)


def entries_of(tree: Any, where: str | os.PathLike = 'the tree') -> dict[str, Any]:
  """`{entry name: array}` of what people store: collections, params, (params, state).

  Raises:
    CheckpointError: it is none of these.
  """
  if isinstance(tree, list | tuple) and len(tree) == 2:
    tree = {'params': tree[0], 'state': tree[1]}
  if not isinstance(tree, MappingType):
    raise CheckpointError(
      f'{where}: expected a tree of variables, found {type(tree).__name__}'
    )
  if not set(tree) & set(_COLLECTIONS):
    tree = {'params': tree}
  entries = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(dict(tree))[0]:
    keys = [
      str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path
    ]
    array = np.asarray(leaf)
    if array.dtype == object:
      raise CheckpointError(f'{where}: {"/".join(keys)} is no array of numbers')
    entries[keys[0] + ':' + '/'.join(keys[1:])] = array
  return entries


def _named(arrays: MappingType[str, np.ndarray], where) -> dict[str, np.ndarray]:
  """Entry names of a flat file's keys."""
  entries: dict[str, np.ndarray] = {}
  for key, value in arrays.items():
    name = entry_name(key)
    if name in entries:
      raise CheckpointError(f'{where}: two entries are called {name}')
    entries[name] = value
  return entries


def entry_name(key: str) -> str:
  """`params:module/name` of a key in one of the usual spellings.

  These are `params:a/b/w`, `params/a/b/w`, `a/b//w` and `a/b/w`.
  """
  collection, colon, _ = key.partition(':')
  if colon and collection.isidentifier():
    return key
  first, slash, rest = key.replace('//', '/').partition('/')
  if slash and first in _COLLECTIONS:
    return f'{first}:{rest}'
  return 'params:' + key.replace('//', '/')


def check_entries(
  found: MappingType[str, Any], wanted: MappingType[str, Any], where: str
) -> None:
  """Refuses entries that do not fit, listing every misfit.

  Args:
    found: what the checkpoint has.
    wanted: what the model has: arrays or shapes.
    where: how the message calls the checkpoint.

  Raises:
    CheckpointError: entries are missing, surplus or of another shape.
  """
  problems = [f'missing {n} {np.shape(x)}' for n, x in wanted.items() if n not in found]
  problems += [
    f'surplus {n} {np.shape(x)}' for n, x in found.items() if n not in wanted
  ]
  problems += [
    f'{n} has shape {np.shape(found[n])}, the model {np.shape(x)}'
    for n, x in wanted.items()
    if n in found and np.shape(found[n]) != np.shape(x)
  ]
  if problems:
    raise CheckpointError(f'{where} does not fit: ' + '; '.join(problems))
