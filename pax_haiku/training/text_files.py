"""Text files as documents: Python's standard library, or files by name and pattern."""

import dataclasses
import glob
import hashlib
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from pax_haiku.training.cli import UserError

# Directories that not every Python has, or that hold no text worth learning.
_SKIPPED = frozenset({
  'site-packages', 'dist-packages', '__pycache__', 'test', 'tests', 'idle_test',
  'lib2to3',
})


@dataclasses.dataclass(frozen=True)
class Document:
  """One text.

  Attributes:
    name: What it is called; decides whether it is held out.
    text: What it says. Bytes that are not UTF-8 are surrogate escapes.
  """

  name: str
  text: str


def standard_library() -> list[Document]:
  """Returns the .py files of the Python that runs this, by name, without its tests.

  About 12 MB, under the PSF license, on every machine that can run this.
  """
  root = Path(sysconfig.get_paths()['stdlib'])
  paths = [
    path for path in root.rglob('*.py')
    if not _SKIPPED.intersection(path.relative_to(root).parts)
  ]
  names = {path.relative_to(root).as_posix(): path for path in paths}
  documents = [Document(name, _text(names[name])) for name in sorted(names)]
  documents = [document for document in documents if document.text]
  if not documents:
    raise UserError(f'there is no standard library in {root}; name files with --data')
  return documents


def named(patterns: Sequence[str], flag: str = '--data') -> list[Document]:
  """Returns the documents that file names and patterns such as `books/*.txt` name.

  `**` stands for any number of directories. A file that several patterns match counts
  once. Documents are sorted by path, and called by what follows the fixed directories
  of their pattern, so that moving all of them changes nothing.

  Args:
    patterns: File names and patterns.
    flag: What they were given by.

  Raises:
    UserError: A pattern matches no file, or a file is empty or no text.
  """
  names: dict[Path, str] = {}
  for pattern in patterns:
    expanded = Path(pattern).expanduser()
    found = map(Path, glob.glob(str(expanded), recursive=True))
    files = [path for path in found if path.is_file()]
    if not files:
      message = f'{flag} {pattern!r} matches no file'
      if expanded.is_dir():
        files = f'{pattern.rstrip("/")}/**/*.txt'
        message += f', it is a directory; name its files, such as {files!r}'
      raise UserError(message)
    root = _fixed_part(expanded)
    for path in files:
      names.setdefault(path, path.relative_to(root).as_posix())
  documents = []
  for path in sorted(names):
    text = _text(path)
    if not text:
      raise UserError(f'the data file {str(path)!r} is empty')
    documents.append(Document(names[path], text))
  return documents


def _fixed_part(pattern: Path) -> Path:
  """Returns the directories of a pattern before the first wildcard."""
  for parent in pattern.parents:
    if not glob.has_magic(str(parent)):
      return parent
  return Path()


def split(
  documents: Sequence[Document], held_out: float = 0.05
) -> tuple[list[Document], list[Document]]:
  """Splits documents into a training set and a held-out set, by their names alone.

  The held-out ones are those whose names have the smallest hashes: the choice looks
  random and is the same everywhere. Of a single document the end is held out.

  Args:
    documents: At least one.
    held_out: Fraction of the documents to hold out, at least one.

  Raises:
    UserError: There is just one document and it is too short to be cut.
  """
  if len(documents) == 1:
    return _cut(documents[0], held_out)
  hashes = [hashlib.sha256(d.name.encode('utf-8')).digest() for d in documents]
  ranked = sorted(range(len(documents)), key=lambda i: hashes[i])
  count = min(max(1, round(len(documents) * held_out)), len(documents) - 1)
  chosen = set(ranked[:count])
  return (
    [d for i, d in enumerate(documents) if i not in chosen],
    [d for i, d in enumerate(documents) if i in chosen],
  )


def _cut(document: Document, held_out: float) -> tuple[list[Document], list[Document]]:
  text = document.text
  cut = round(len(text) * (1 - held_out))
  if not 0 < cut < len(text):
    raise UserError(
      f'{document.name!r} is too short ({len(text)} characters) to hold out a part of '
      'it; add more text'
    )
  return (
    [Document(document.name, text[:cut])],
    [Document(f'{document.name} (end)', text[cut:])],
  )


def _text(path: Path) -> str:
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(
      f'the data file {str(path)!r} cannot be read: {error.strerror or error}'
    ) from error
  if b'\0' in data:
    raise UserError(
      f'the data file {str(path)!r} is binary (it contains zero bytes); expected text'
    )
  return data.decode('utf-8', errors='surrogateescape')
