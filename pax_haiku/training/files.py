"""Files that are either complete or not there, and directories that can be written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pax_haiku.training.cli import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields a temporary path beside `path`; on success it takes that file's place.

  Readers see the former content or the new one, never a part. After an exception the
  former content stays. The temporary name keeps the suffix of `path`.
  """
  path = Path(path)
  temporary = path.with_name(f'.{path.stem}-{os.getpid()}{path.suffix}')
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes `text` to `path`, all of it or nothing."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def writable_dir(path: str | os.PathLike, what: str = 'the directory') -> Path:
  """Makes the directory `path` if need be and proves that files can be made in it.

  Args:
    path: Directory; `~` is expanded.
    what: How messages call it, such as '--log_dir'.

  Returns:
    Its absolute path.

  Raises:
    UserError: It cannot be made or written.
  """
  if not str(path):
    raise UserError(f'{what} is empty; name a directory')
  directory = Path(path).expanduser().absolute()
  try:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
      pass
  except OSError as error:
    raise UserError(
      f'{what} {str(path)!r} cannot be written: {error.strerror or error}; '
      'choose another one'
    ) from error
  return directory
