"""Documents packed into rows of one length, with segment ids and positions.

All documents are laid one after the other, each led by the tokenizer's end id:

    tokens     E a b c E d e E f ...
    ids        E a b c | E d e E | ...     what a row of length 4 reads
    labels     a b c E | d e E f | ...     what it predicts: the tokens one further on
    segments   1 1 1 1 | 1 1 1 2 | ...     a token attends to its own segment only
    positions  0 1 2 3 | 0 1 2 0 | ...

A document that is longer than a row goes on in the next one, as a segment of its own.
No token is lost and none is read twice. Row r can be had without the rows before it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pax_haiku.training import data
from pax_haiku.training.cli import UserError
from pax_haiku.training.text_files import Document
from pax_haiku.training.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Packed:
  """Tokens of documents, to be read in rows.

  Attributes:
    tokens: Ids, [N + 1]; the last is the end of the last document.
    starts: Where documents begin in `tokens`, sorted, [documents].
    num_bytes: UTF-8 bytes that each label `tokens[i + 1]` stands for, on average over
      its document; 0 for ends. float32 [N].
    length: T, of a row.
  """

  tokens: np.ndarray
  starts: np.ndarray
  num_bytes: np.ndarray
  length: int

  @property
  def num_rows(self) -> int:
    """The number of rows; the last may be padded."""
    return -(-len(self.num_bytes) // self.length)

  def rows(self, indices: np.ndarray) -> Batch:
    """Returns rows as a batch for `models.LanguageModel`.

    Args:
      indices: Which rows, [B]; -1 is a row of padding.

    Returns:
      int32 `ids`, `labels`, `segment_ids` (from 1; 0 at padding), `segment_pos`,
      float32 `paddings`, `weights` (0 at padding), [B, T] each, and `num_bytes`,
      float32 [B].
    """
    indices = np.asarray(indices)[:, None]
    at = indices * self.length + np.arange(self.length)
    real = (at < len(self.num_bytes)) & (indices >= 0)
    at = np.where(real, at, 0)
    document = np.searchsorted(self.starts, at, side='right')  # from 1
    begin = np.maximum(self.starts[document - 1], at[:, :1])
    zero = np.int32(0)
    return {
      'ids': np.where(real, self.tokens[at], zero).astype(np.int32),
      'labels': np.where(real, self.tokens[at + 1], zero).astype(np.int32),
      'segment_ids': np.where(real, document - document[:, :1] + 1, zero).astype(
        np.int32
      ),
      'segment_pos': np.where(real, at - begin, zero).astype(np.int32),
      'paddings': 1.0 - real.astype(np.float32),
      'weights': real.astype(np.float32),
      'num_bytes': np.where(real, self.num_bytes[at], 0).sum(1, dtype=np.float32),
    }


def pack(
  documents: Sequence[Document], tokenizer: Tokenizer, length: int
) -> Packed:
  """Tokenizes documents and lays them one after the other.

  Args:
    documents: At least one.
    tokenizer: From text to ids.
    length: T, of a row.

  Raises:
    UserError: The tokenizer makes ids outside its vocabulary.
  """
  tokens, starts, num_bytes, position = [], [], [], 0
  end = np.asarray([tokenizer.end_id], np.int32)
  for document in documents:
    ids = tokenizer.encode(document.text)
    _check(ids, tokenizer, document)
    size = len(document.text.encode('utf-8', errors='surrogateescape'))
    starts.append(position)
    tokens += [end, ids]
    num_bytes += [np.full(len(ids), size / max(len(ids), 1), np.float32), [0.0]]
    position += len(ids) + 1
  return Packed(
    tokens=_compact(np.concatenate([*tokens, end]), tokenizer.vocab_size),
    starts=np.asarray(starts),
    num_bytes=np.concatenate(num_bytes).astype(np.float32),
    length=length,
  )


def blank(length: int) -> Batch:
  """Returns one row of padding: what matters of it is shapes and types."""
  nothing = Packed(np.zeros(2, np.int32), np.zeros(1, int), np.zeros(1), length)
  return nothing.rows(np.asarray([-1]))


def batch_at(packed: Packed, batch_size: int, seed: int) -> Callable[[int], Batch]:
  """Returns the function from a step to its training batch; see `data.batch_at`."""
  return lambda step: packed.rows(
    data.batch_indices(packed.num_rows, batch_size, seed, step)
  )


def sample(packed: Packed, batch_size: int, num_batches: int) -> Iterator[Batch]:
  """Yields rows in order, in batches of one shape: all, or some evenly spread.

  Args:
    packed: Where rows come from.
    batch_size: Rows of a batch; the last batch is filled up with padding.
    num_batches: The most batches to yield; 0 for no limit.
  """
  count = packed.num_rows
  chosen = np.arange(count)
  if num_batches and count > num_batches * batch_size:
    chosen = np.arange(num_batches * batch_size) * count // (num_batches * batch_size)
  for first in range(0, len(chosen), batch_size):
    rows = chosen[first : first + batch_size]
    yield packed.rows(np.pad(rows, (0, batch_size - len(rows)), constant_values=-1))


def _compact(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
  """Returns tokens in the smallest type that holds them: text sets can be large."""
  return tokens.astype(np.min_scalar_type(vocab_size - 1))


def _check(ids: np.ndarray, tokenizer: Tokenizer, document: Document) -> None:
  if ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size:
    raise UserError(
      f'the tokenizer gives ids from {ids.min()} to {ids.max()} for {document.name!r}, '
      f'outside its vocabulary of {tokenizer.vocab_size}'
    )
