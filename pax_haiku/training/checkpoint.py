"""Checkpoints of a train state with orbax: numbered, atomic, checked before reading.

What a step recomputes anyway (summaries, auxiliary losses) is not stored. Arrays are
restored exactly, bit for bit, and nothing that is loaded can run code.
"""

import os
from pathlib import Path
from typing import Any

import jax

from pax_haiku.training.cli import UserError
from pax_haiku.training.train_state import RECOMPUTED, TrainState

MOST_PROBLEMS = 6  # entries that an error message names


class MismatchError(UserError):
  """A checkpoint does not hold what the model needs; the message names entries."""


class Checkpointer:
  """Saves and restores train states under one directory, a step each.

  Args:
    directory: Where checkpoints are, as subdirectories named by their step. It is made
      if need be.
    keep: How many of the newest to keep; None keeps all.
    in_background: Write files while training goes on. `save` then returns as soon as
      the arrays are out of the way of the next update, and a checkpoint counts from the
      moment in which it is complete; `close` waits for it.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    keep: int | None = 3,
    in_background: bool = False,
  ):
    import orbax.checkpoint as ocp

    self.directory = Path(directory).absolute()
    self._args = ocp.args
    self._in_background = in_background
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=in_background
      ),
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    """Waits for what is being written and ends orbax's threads."""
    self._manager.close()

  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  def save(self, state: TrainState) -> None:
    """Writes a checkpoint of `state`; does nothing when its step is already there."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    stored = _stored(state)
    if self._in_background and jax.default_backend() == 'cpu':
      # Here orbax may read the arrays' own memory, which the next update reuses.
      stored = jax.tree.map(jax.numpy.copy, stored)
    self._manager.save(step, args=self._args.StandardSave(stored))

  def restore(self, like: TrainState, step: int | None = None) -> TrainState:
    """Returns a stored state.

    Args:
      like: State of the model to restore into, or its `jax.eval_shape`: gives the
        structure, shapes and dtypes that the checkpoint must have.
      step: Which checkpoint; the newest by default.

    Returns:
      The state. Recomputed entries (summaries, ...) are zeros.

    Raises:
      UserError: There is no such checkpoint, or it cannot be read.
      MismatchError: It has missing, extra or differently shaped entries.
    """
    steps = self._manager.all_steps()
    step = max(steps, default=None) if step is None else step
    if step not in steps:
      raise UserError(
        f'{self.directory} holds no checkpoint'
        + (f' of step {step}, only of {sorted(steps)}' if steps else '')
      )
    like = jax.tree.map(_described, like)
    stored_like = _stored(like)
    try:
      metadata = self._manager.item_metadata(step)
      found = _shapes(getattr(metadata, 'tree', metadata))
    except Exception as error:  # orbax has no common base class for damaged files
      raise UserError(
        f'the checkpoint {self.directory / str(step)} cannot be read ({error}); '
        'remove that directory to use an older one'
      ) from error
    _check(found, _shapes(stored_like), self.directory / str(step))
    restored = self._manager.restore(
      step, args=self._args.StandardRestore(stored_like)
    )
    return _with_recomputed(restored, like)


def _described(x) -> jax.ShapeDtypeStruct:
  """Returns shape, dtype and place of an array; the first device if it has none.

  A place is always given: else orbax takes the one that the array was saved from, which
  this machine may not have.
  """
  place = getattr(x, 'sharding', None)
  place = place or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _stored(state: TrainState) -> TrainState:
  """Returns `state` without what a step recomputes."""
  kept = {
    module: {k: v for k, v in entries.items() if k not in RECOMPUTED}
    for module, entries in state.state.items()
  }
  return state._replace(state={module: e for module, e in kept.items() if e})


def _with_recomputed(restored: TrainState, like: TrainState) -> TrainState:
  """Returns `restored` with Haiku's state completed to the structure of `like`."""
  state = {
    module: {
      name: restored.state[module][name]
      if name not in RECOMPUTED
      else jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), value)
      for name, value in entries.items()
    }
    for module, entries in like.state.items()
  }
  return restored._replace(state=state)


def _shapes(tree) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns `{path: (shape, dtype name)}` for each array of `tree`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {_path(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}


def _path(keys: tuple[Any, ...]) -> str:
  """Returns one name for a leaf, however its containers are typed."""
  parts = []
  for key in keys:
    for attribute in ('key', 'name', 'idx'):
      if hasattr(key, attribute):
        parts.append(str(getattr(key, attribute)))
        break
  return '/'.join(parts)


def _check(found, wanted, path) -> None:
  """Raises MismatchError unless both have the same paths, shapes and dtypes."""

  def show(entry):
    shape, dtype = entry
    return f'{dtype}[{",".join(map(str, shape))}]'

  # Optimizer entries repeat those of the parameters: named only when all else fits.
  for skip in ('opt_state/', None):
    names = [
      n for n in sorted({*found, *wanted}) if skip is None or not n.startswith(skip)
    ]
    problems = [
      f'{n} is missing in the checkpoint (the model has {show(wanted[n])})'
      for n in names
      if n not in found
    ]
    problems += [
      f'{n} is in the checkpoint ({show(found[n])}) and not in the model'
      for n in names
      if n not in wanted
    ]
    problems += [
      f'{n} is {show(found[n])} in the checkpoint and {show(wanted[n])} in the model'
      for n in names
      if n in found and n in wanted and found[n] != wanted[n]
    ]
    if problems:
      more = len(problems) - MOST_PROBLEMS
      if more > 0:
        problems[MOST_PROBLEMS:] = [f'and {more} more']
      raise MismatchError(
        f'the checkpoint {path} is of another model; give the flags it was made with, '
        'or another directory: ' + '; '.join(problems)
      )
