"""Tokenizers: bytes by default, SentencePiece or Hugging Face files where given.

Every tokenizer keeps one id, `end_id`, for the end of a document; it is also what the
first token of a document is predicted from.
"""

import hashlib
import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pax_haiku.training.cli import UserError

_END_NAMES = (
  '</s>', '<|endoftext|>', '<|end_of_text|>', '<eos>', '[SEP]', '<s>', '<pad>', '[PAD]'
)


class Tokenizer(Protocol):
  """What text data needs of a tokenizer.

  Attributes:
    vocab_size: Number of ids.
    end_id: The id between two documents; `encode` never returns it for plain text.
  """

  vocab_size: int
  end_id: int

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of `text`, int32 [number of tokens]."""

  def decode(self, ids: np.ndarray) -> str:
    """Returns the text of ids; what is no text becomes a replacement character."""


class ByteTokenizer:
  """UTF-8 bytes as ids; 0, which no text contains, is the end of a document."""

  vocab_size = 256
  end_id = 0

  def encode(self, text: str) -> np.ndarray:
    """Returns the bytes of `text`, int32."""
    data = text.encode('utf-8', errors='surrogateescape')
    return np.frombuffer(data, np.uint8).astype(np.int32)

  def decode(self, ids: np.ndarray) -> str:
    """Returns the text of bytes; ends of documents and broken characters show."""
    data = np.asarray(ids, np.uint8).tobytes()
    return data.decode('utf-8', errors='replace').replace('\0', '\ufffd')


class SentencePieceTokenizer:
  """A SentencePiece model file; needs the package `sentencepiece`.

  Kudo and Richardson 2018, "SentencePiece".
  """

  def __init__(self, path: Path):
    module = _package('sentencepiece', path)
    self._path = path
    self._model = module.SentencePieceProcessor()
    try:
      self._model.Load(str(path))
    except Exception as error:  # the package raises RuntimeError, TypeError and OSError
      raise _does_not_load(path, 'SentencePiece', error) from error
    self.vocab_size = self._model.GetPieceSize()
    ends = (self._model.eos_id(), self._model.pad_id(), self._model.bos_id())
    known = [end for end in ends if end >= 0]
    if not known:
      raise UserError(
        f'{path} has neither an end, a start nor a padding token; train it with one of '
        'eos_id, bos_id and pad_id'
      )
    self.end_id = known[0]

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of `text`, int32."""
    try:
      return np.asarray(self._model.EncodeAsIds(text), np.int32)
    except Exception as error:
      raise _does_not_encode(self._path, error) from error

  def decode(self, ids: np.ndarray) -> str:
    """Returns the text of ids."""
    return self._model.DecodeIds([int(i) for i in ids])


class HuggingFaceTokenizer:
  """A `tokenizer.json` file; needs the package `tokenizers`."""

  def __init__(self, path: Path):
    module = _package('tokenizers', path)
    self._path = path
    try:
      self._model = module.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exceptions
      raise _does_not_load(path, 'Hugging Face tokenizers', error) from error
    self.vocab_size = max(self._model.get_vocab().values(), default=0) + 1
    known = [self._model.token_to_id(name) for name in _END_NAMES]
    known = [end for end in known if end is not None]
    if not known:
      raise UserError(
        f'{path} has no token for the end of a document; add one of '
        f'{", ".join(_END_NAMES)}'
      )
    self.end_id = known[0]

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of `text`, int32, without special tokens."""
    try:
      ids = self._model.encode(text, add_special_tokens=False).ids
    except Exception as error:
      raise _does_not_encode(self._path, error) from error
    return np.asarray(ids, np.int32)

  def decode(self, ids: np.ndarray) -> str:
    """Returns the text of ids, special tokens included."""
    return self._model.decode([int(i) for i in ids], skip_special_tokens=False)


_KINDS = {'.model': SentencePieceTokenizer, '.json': HuggingFaceTokenizer}


def load(path: str | None) -> Tokenizer:
  """Returns the tokenizer of a file; of bytes when there is none.

  Args:
    path: `*.model` is a SentencePiece model, `*.json` a Hugging Face tokenizers file;
      empty or None: bytes.

  Raises:
    UserError: The file is not there or does not load, or its package is missing.
  """
  if not path:
    return ByteTokenizer()
  file = Path(path).expanduser()
  if not file.is_file():
    what = 'is not a file' if file.exists() else 'is not there'
    raise UserError(f'the tokenizer {str(path)!r} {what}')
  kind = _KINDS.get(file.suffix)
  if kind is None:
    raise UserError(
      f'the tokenizer {str(path)!r} is of unknown kind: expected a SentencePiece file '
      '*.model or a Hugging Face tokenizers file *.json'
    )
  return kind(file)


def fingerprint(path: str | None) -> str:
  """Returns 'bytes', or the hash and name of a file that `load` takes.

  Raises:
    UserError: The file cannot be read.
  """
  if not path:
    return 'bytes'
  file = Path(path).expanduser()
  try:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
  except OSError as error:
    raise UserError(
      f'the tokenizer {str(path)!r} cannot be read: {error.strerror or error}'
    ) from error
  return f'{digest} {file.name}'


def check_same(former: str | None, path: str | None, where: str) -> None:
  """Raises a UserError unless a file is the tokenizer that a model was trained with.

  Args:
    former: What `fingerprint` returned then; None: not known, nothing is checked.
    path: The file, as in `load`.
    where: What holds the model.
  """
  if former is None or former.split()[0] == fingerprint(path).split()[0]:
    return
  name = former.partition(' ')[2]
  if name:
    way_out = f'the tokenizer {name!r}; give that file as --tokenizer'
  else:
    way_out = 'bytes; leave --tokenizer out'
  raise UserError(f'the model in {where} was trained with {way_out}')


def continuation(tokenizer: Tokenizer, before: np.ndarray, after: np.ndarray) -> str:
  """Returns the text of ids that follow others.

  Read alone they may lose a space: SentencePiece starts words, and no text, with one.
  """
  whole = tokenizer.decode(np.concatenate([before, after]))
  start = tokenizer.decode(before)
  return whole[len(start) :] if whole.startswith(start) else tokenizer.decode(after)


def keeps(tokenizer: Tokenizer, text: str) -> bool:
  """Returns whether a text is the same after `encode` and `decode`.

  What is not UTF-8 may become replacement characters: `decode` cannot show it.
  """
  shown = text.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')
  return tokenizer.decode(tokenizer.encode(text)) == shown


def _package(name: str, path: Path) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f'the tokenizer {str(path)!r} needs the package {name}: pip install {name}'
    ) from error


def _does_not_load(path: Path, kind: str, error: Exception) -> UserError:
  return UserError(f'{path} does not load as a {kind} file: {error}')


def _does_not_encode(path: Path, error: Exception) -> UserError:
  return UserError(f'the tokenizer {str(path)!r} cannot encode the text: {error}')
