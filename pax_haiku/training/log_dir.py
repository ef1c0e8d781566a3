"""The directory of a run: what it holds, how a run begins in it and goes on."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from pax_haiku.training import files
from pax_haiku.training.cli import UserError, one_line


class LogDir:
  """Paths of a run under one directory, which is made and tried out at once.

  Attributes:
    path: The directory.
    checkpoints: Directory of checkpoints.
    tensorboard: Directory of event files, a subdirectory for each set of examples.
    history: JSON lines with all numbers.
    curves: PNG with the curves.
    settings: JSON with what determines the numbers.

  Raises:
    UserError: The directory cannot be made or written.
  """

  def __init__(self, path: str):
    self.path = files.writable_dir(path, '--log_dir')
    self.checkpoints = self.path / 'checkpoints'
    self.tensorboard = self.path / 'tensorboard'
    self.history = self.path / 'history.jsonl'
    self.curves = self.path / 'curves.png'
    self.settings = self.path / 'settings.json'

  def has_run(self) -> bool:
    """True if a run left a checkpoint or numbers here."""
    if self.history.exists():
      return True
    return self.checkpoints.is_dir() and any(self.checkpoints.iterdir())

  def begin(self, resume: bool, overwrite: bool) -> None:
    """Makes sure that this run may use the directory.

    Raises:
      UserError: It holds a run, and neither `resume` nor `overwrite` says what to do.
    """
    if resume and overwrite:
      raise UserError('--resume and --overwrite contradict each other; give one')
    if overwrite:
      self._remove()
    elif self.has_run() and not resume:
      raise UserError(
        f'--log_dir {str(self.path)!r} already holds a run; add --resume to go on with '
        'it, --overwrite to replace it, or choose another --log_dir'
      )

  def note_settings(self, settings: Mapping[str, str], resumed: bool) -> None:
    """Stores the settings; says on stderr in which ones a resumed run differs."""
    if resumed:
      former = settings_in(self.path)
      changed = [
        f'{name} (was {one_line(former[name])}, is {one_line(value)})'
        if len(value) < 40
        else name
        for name, value in settings.items()
        if name in former and former[name] != value
      ]
      if changed:
        print(
          f'note: resumed with another {", ".join(changed)}: the numbers will differ '
          'from those of an uninterrupted run',
          file=sys.stderr,
        )
    files.write_text(self.settings, json.dumps(dict(settings), indent=1) + '\n')

  def _remove(self) -> None:
    for path in (
      self.checkpoints, self.tensorboard, self.history, self.curves, self.settings
    ):
      _remove(path)


def settings_in(path: str | Path) -> dict[str, str]:
  """Returns the settings of the run in a directory; none if it notes none."""
  file = Path(path).expanduser() / 'settings.json'
  try:
    settings = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}
  return settings if isinstance(settings, dict) else {}


def _remove(path: Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
