"""pax_haiku.training.packing and text_data: rows of tokens with segments."""

import types

import numpy as np
import pytest

from pax_haiku.training import packing, text_data, tokenizers
from pax_haiku.training.cli import UserError
from pax_haiku.training.text_files import Document

BYTES = tokenizers.ByteTokenizer()


@pytest.fixture
def packed():
  return packing.pack([Document('1', 'abcdef'), Document('2', 'gh')], BYTES, 4)


def text(ids):
  return ''.join('.' if i == 0 else chr(i) for i in ids)


def test_rows_are_those_of_the_picture(packed):
  assert packed.num_rows == 3
  batch = packed.rows(np.arange(3))
  assert [text(row) for row in batch['ids']] == ['.abc', 'def.', 'gh..']
  assert [text(row) for row in batch['labels']] == ['abcd', 'ef.g', 'h...']
  assert batch['segment_ids'].tolist() == [[1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 0, 0]]
  assert batch['segment_pos'].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 0]]
  assert batch['weights'].tolist() == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
  assert batch['num_bytes'].tolist() == [4, 3, 1]  # ends of documents are no bytes
  np.testing.assert_array_equal(batch['paddings'], 1 - batch['weights'])
  assert {v.dtype.name for v in batch.values()} == {'int32', 'float32'}


def test_a_row_does_not_depend_on_the_others(packed):
  whole = packed.rows(np.arange(3))
  for i in range(3):
    for name, value in packed.rows(np.array([i])).items():
      np.testing.assert_array_equal(value[0], whole[name][i])


def test_no_token_is_lost_or_read_twice():
  rng = np.random.default_rng(0)
  texts = ['x' * n for n in rng.integers(1, 40, size=50)]
  packed = packing.pack([Document(str(i), t) for i, t in enumerate(texts)], BYTES, 16)
  batch = packed.rows(np.arange(packed.num_rows))
  assert batch['weights'].sum() == sum(len(t) + 1 for t in texts)
  assert batch['num_bytes'].sum() == sum(map(len, texts))
  # In each segment positions count from 0, and each document has one end as input.
  assert (batch['ids'] == 0).sum() - (batch['weights'] == 0).sum() == len(texts)
  begins = (batch['segment_pos'] == 0) & (batch['weights'] > 0)
  ids = batch['segment_ids']
  changes = np.diff(ids, axis=1, prepend=0) != 0
  np.testing.assert_array_equal(begins, changes & (batch['weights'] > 0))


def test_bytes_of_longer_tokens_add_up_to_the_text():
  pairs = types.SimpleNamespace(
    vocab_size=300, end_id=299, encode=lambda t: np.arange(-(-len(t) // 2), dtype='i4')
  )
  packed = packing.pack([Document('a', 'abcdefghi'), Document('b', 'é')], pairs, 4)
  assert packed.rows(np.arange(packed.num_rows))['num_bytes'].sum() == 9 + 2


def test_batches_are_functions_of_the_step(packed):
  batch_at = packing.batch_at(packed, 2, seed=1)
  for name, value in batch_at(7).items():
    np.testing.assert_array_equal(value, packing.batch_at(packed, 2, 1)(7)[name])
  seen = np.concatenate([batch_at(step)['ids'] for step in range(3)])
  assert sorted(map(text, seen)) == sorted(['.abc', 'def.', 'gh..'] * 2)


def test_sample_takes_all_rows_or_some_evenly_spread():
  packed = packing.pack([Document('a', ''.join(map(chr, range(65, 97))))], BYTES, 2)
  assert packed.num_rows == 17
  batches = list(packing.sample(packed, 4, 0))
  assert len(batches) == 5 and batches[-1]['weights'].sum() == 1
  assert sum(batch['num_bytes'].sum() for batch in batches) == 32
  (some,) = packing.sample(packed, 4, 1)
  np.testing.assert_array_equal(
    some['ids'], packed.rows(np.array([0, 4, 8, 12]))['ids']
  )


def test_blank_is_padding_of_the_same_types(packed):
  blank, row = packing.blank(4), packed.rows(np.array([0]))
  assert {k: (v.shape, v.dtype) for k, v in blank.items()} == {
    k: (v.shape, v.dtype) for k, v in row.items()
  }
  assert not any(v.any() for k, v in blank.items() if k != 'paddings')


def test_ids_outside_the_vocabulary():
  wrong = types.SimpleNamespace(
    vocab_size=5, end_id=0, encode=lambda t: np.array([1, 5], 'i4')
  )
  with pytest.raises(UserError, match='ids from 1 to 5 .* vocabulary of 5'):
    packing.pack([Document('a', 'x')], wrong, 4)


def test_text_data_from_files(tmp_path):
  for i in range(4):
    (tmp_path / f'{i}.txt').write_text(str(i) * 10)
  data = text_data.load([f'{tmp_path}/*.txt'], '', 8, 256)
  assert len(data.train.starts) == 3 and len(data.held_out.starts) == 1
  assert data.describe().startswith('text: 0.00 MB in 3 documents to train on')
  (tmp_path / 'other.md').write_text('other')
  data = text_data.load(
    [f'{tmp_path}/*.txt'], None, 8, None, [str(tmp_path / 'other.md')]
  )
  assert len(data.train.starts) == 4
  assert text(data.held_out.tokens) == '.other.'
  with pytest.raises(UserError, match='256 ids, but the model knows only 100'):
    text_data.load([f'{tmp_path}/*.txt'], '', 8, 100)


def test_text_data_of_a_tokenizer_file(tmp_path, monkeypatch):
  class Lossy(tokenizers.ByteTokenizer):
    def decode(self, ids):
      return super().decode(ids).replace('\n', ' ')

  monkeypatch.setattr(tokenizers, 'load', lambda path: Lossy())
  for name in 'ab':
    (tmp_path / name).write_text('x\ny')
  patterns = [f'{tmp_path}/*']
  data = text_data.load(patterns, 'a.model', 8)
  assert data.lossy and 'note: the tokenizer does not keep all' in data.describe()
  (tmp_path / 'b').write_bytes(b'caf\xe9')
  with pytest.raises(UserError, match="'b' is not UTF-8 text, which the tokenizer"):
    text_data.load(patterns, 'a.model', 8)
