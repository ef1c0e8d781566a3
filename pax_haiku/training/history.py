"""The numbers of a run as a file of JSON lines, and back for a resumed run."""

import json
import os
from pathlib import Path
from typing import Any

from pax_haiku.training import files
from pax_haiku.training.cli import UserError


class History:
  """Records of a run, in the order in which they came.

  A record is a flat dictionary with 'step' (updates done), 'set' (which examples:
  'batch', or the name of an evaluation set) and numbers.

  Args:
    path: The file. `save` replaces it as a whole.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = Path(path)
    self.records: list[dict[str, Any]] = []

  def load(self, last_step: int) -> None:
    """Reads what is on disk up to `last_step`; later records were never confirmed.

    A file that is missing is an empty history.

    Raises:
      UserError: The file is not one of this class.
    """
    if not self.path.exists():
      return
    try:
      lines = self.path.read_text(encoding='utf-8').splitlines()
      records = [json.loads(line) for line in lines]
      self.records = [r for r in records if r['step'] <= last_step]
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{self.path} is damaged ({error!r}); remove it to go on without the past'
      ) from error

  def add(self, step: int, which: str, numbers: dict[str, float]) -> None:
    """Appends one record of Python numbers."""
    self.records.append({'step': step, 'set': which, **numbers})

  def series(self, which: str, name: str) -> tuple[list[int], list[float]]:
    """Returns the steps and values of one number of one set."""
    chosen = [r for r in self.records if r['set'] == which and name in r]
    return [r['step'] for r in chosen], [r[name] for r in chosen]

  def sets(self) -> list[str]:
    """Returns the names of all sets, in the order of their first record."""
    return list(dict.fromkeys(r['set'] for r in self.records))

  def save(self) -> None:
    """Writes all records."""
    files.write_text(self.path, ''.join(json.dumps(r) + '\n' for r in self.records))
