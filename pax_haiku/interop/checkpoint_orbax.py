"""Checkpoints of orbax: a directory with a tree of arrays."""

import logging
import pathlib
from typing import Any

import jax
import numpy as np

from pax_haiku.interop.checkpoint_error import CheckpointError


def _orbax():
  try:
    import orbax.checkpoint as ocp
  except ImportError:
    raise CheckpointError(
      'a directory is read and written by orbax, which is not installed: '
      "pip install 'pax-haiku[examples]', or use .npz or .safetensors"
    ) from None
  logging.getLogger('absl').setLevel(logging.ERROR)  # orbax tells of every step
  return ocp


def load(path: pathlib.Path) -> Any:
  """The tree, with arrays of numpy.

  Raises:
    CheckpointError: it is no complete checkpoint.
  """
  ocp = _orbax()
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      metadata = checkpointer.metadata(path.absolute())
      if metadata.item_metadata is None:
        raise ValueError('there is no tree of arrays in it')
      tree = metadata.item_metadata.tree
      restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
      return checkpointer.restore(path.absolute(), restore_args=restore)
  except Exception as error:  # orbax has no common base class for damaged files
    reason = ' '.join(str(error).split())[:300]
    raise CheckpointError(
      f'{path} is no complete checkpoint of orbax: {reason}'
    ) from None


def save(path: pathlib.Path, tree: Any) -> None:
  """Writes a tree of arrays."""
  ocp = _orbax()
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(path.absolute(), tree)
