"""From text to batches of a language model: read, split, tokenize, pack."""

import dataclasses
from collections.abc import Sequence

from pax_haiku.training import packing, text_files, tokenizers
from pax_haiku.training.cli import UserError


@dataclasses.dataclass(frozen=True)
class TextData:
  """The text of a run.

  Attributes:
    tokenizer: From text to ids and back.
    train: What is trained on.
    held_out: What is not.
    lossy: The tokenizer changes the text, as SentencePiece does with white space.
  """

  tokenizer: tokenizers.Tokenizer
  train: packing.Packed
  held_out: packing.Packed
  lossy: bool = False

  def describe(self) -> str:
    """Returns a line on how much text there is, and one on what it loses."""
    train, held_out = (
      f'{part.num_bytes.sum(dtype="float64") / 1e6:,.2f} MB in {len(part.starts):,}'
      for part in (self.train, self.held_out)
    )
    text = f'text: {train} documents to train on, {held_out} held out'
    if self.lossy:
      text += (
        '\nnote: the tokenizer does not keep all of the text (white space, for '
        'example); bits per byte leave out what it drops'
      )
    return text


def load_tokenizer(path: str | None, vocab_size: int | None) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a file, see `tokenizers.load`, for a model of some size.

  Raises:
    UserError: It does not load, or its vocabulary is larger than the model's.
  """
  loaded = tokenizers.load(path)
  if vocab_size is not None and loaded.vocab_size > vocab_size:
    raise UserError(
      f'the tokenizer has {loaded.vocab_size} ids, but the model knows only '
      f'{vocab_size}; give --vocab_size={loaded.vocab_size} or more'
    )
  return loaded


def load(
  patterns: Sequence[str],
  tokenizer: str | None,
  length: int,
  vocab_size: int | None = None,
  held_out_patterns: Sequence[str] = (),
) -> TextData:
  """Reads text, splits it by document and packs it.

  Args:
    patterns: Files and patterns; none: Python's standard library.
    tokenizer: File of a tokenizer; empty or None: bytes.
    length: Tokens of a row.
    vocab_size: How many ids the model knows; None does not check.
    held_out_patterns: Files to hold out; none: a part of the text, see
      `text_files.split`.

  Raises:
    UserError: A file cannot be used, or not by this tokenizer; the tokenizer does not
      load, or its vocabulary is larger than the model's.
  """
  loaded = load_tokenizer(tokenizer, vocab_size)
  documents = (
    text_files.named(patterns) if patterns else text_files.standard_library()
  )
  if held_out_patterns:
    train, held_out = documents, text_files.named(held_out_patterns, '--held_out_data')
  else:
    train, held_out = text_files.split(documents)
  if tokenizer:
    for document in [*train, *held_out]:
      _check_unicode(document)
  return TextData(
    loaded,
    packing.pack(train, loaded, length),
    packing.pack(held_out, loaded, length),
    lossy=not tokenizers.keeps(loaded, train[0].text[:10_000]),
  )


def _check_unicode(document: text_files.Document) -> None:
  try:
    document.text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise UserError(
      f'{document.name!r} is not UTF-8 text, which the tokenizer needs; convert it, or '
      'leave --tokenizer out to train on bytes'
    ) from error
