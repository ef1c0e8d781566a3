"""pax_haiku.training.tokenizers: bytes, and files of packages that may be missing."""

import sys
import types

import numpy as np
import pytest

from pax_haiku.training import tokenizers
from pax_haiku.training.cli import UserError


def test_bytes_there_and_back():
  tokenizer = tokenizers.load('')
  ids = tokenizer.encode('né\n')
  np.testing.assert_array_equal(ids, [0x6E, 0xC3, 0xA9, 0x0A])
  assert ids.dtype == np.int32 and tokenizer.vocab_size == 256
  assert tokenizer.decode(ids) == 'né\n'
  assert tokenizer.decode([0x61, 0xC3, 0]) == 'a\ufffd\ufffd'


@pytest.mark.parametrize(
  'name, message',
  [
    ('none.model', 'is not there'),
    ('.model', 'is not a file'),
    ('a.txt', 'of unknown kind'),
  ],
)
def test_files_of_no_known_kind(tmp_path, name, message):
  (tmp_path / 'a.txt').write_text('x')
  (tmp_path / '.model').mkdir()
  with pytest.raises(UserError, match=message):
    tokenizers.load(str(tmp_path / name))


@pytest.mark.parametrize(
  'suffix, package', [('.model', 'sentencepiece'), ('.json', 'tokenizers')]
)
def test_missing_package_is_named(tmp_path, monkeypatch, suffix, package):
  monkeypatch.setitem(sys.modules, package, None)  # import raises ImportError
  path = tmp_path / f'file{suffix}'
  path.write_text('x')
  with pytest.raises(UserError, match=f'pip install {package}'):
    tokenizers.load(str(path))


class Words:
  """As `tokenizers.Tokenizer`: the letters of the file are the vocabulary."""

  def __init__(self, letters):
    self.letters = letters

  @classmethod
  def from_file(cls, path):
    with open(path, encoding='utf-8') as file:
      text = file.read()
    if text == 'broken':
      raise Exception('expected value at line 1')  # as that package does
    return cls(text.split())

  def get_vocab(self):
    return {letter: i for i, letter in enumerate(self.letters)}

  def token_to_id(self, name):
    return self.letters.index(name) if name in self.letters else None

  def encode(self, text, add_special_tokens):
    assert not add_special_tokens
    return types.SimpleNamespace(ids=[self.letters.index(c) for c in text])

  def decode(self, ids, skip_special_tokens):
    assert all(type(i) is int for i in ids) and not skip_special_tokens
    return ''.join(self.letters[i] for i in ids)


def test_hugging_face_file(tmp_path, monkeypatch):
  stand_in = types.SimpleNamespace(Tokenizer=Words)
  monkeypatch.setitem(sys.modules, 'tokenizers', stand_in)
  path = tmp_path / 'tokenizer.json'
  path.write_text('a b <|endoftext|>')
  tokenizer = tokenizers.load(str(path))
  assert (tokenizer.vocab_size, tokenizer.end_id) == (3, 2)
  np.testing.assert_array_equal(tokenizer.encode('ba'), [1, 0])
  assert tokenizer.decode(np.array([1, 0, 2])) == 'ba<|endoftext|>'
  path.write_text('a b')
  with pytest.raises(UserError, match='no token for the end of a document'):
    tokenizers.load(str(path))
  path.write_text('broken')
  with pytest.raises(UserError, match='does not load as .* expected value'):
    tokenizers.load(str(path))


class Pieces:
  """As `sentencepiece.SentencePieceProcessor`, for files of letters."""

  def Load(self, path):  # noqa: N802
    with open(path, encoding='utf-8') as file:
      self.letters = file.read().split()
    if self.letters == ['broken']:
      raise RuntimeError('Internal: could not parse ModelProto')

  def GetPieceSize(self):  # noqa: N802
    return len(self.letters)

  def _id(self, name):
    return self.letters.index(name) if name in self.letters else -1

  def eos_id(self):
    return self._id('</s>')

  def pad_id(self):
    return self._id('<pad>')

  def bos_id(self):
    return self._id('<s>')

  def EncodeAsIds(self, text):  # noqa: N802
    return [self.letters.index(c) for c in text]

  def DecodeIds(self, ids):  # noqa: N802
    assert all(type(i) is int for i in ids)
    return ''.join(self.letters[i] for i in ids)


def test_sentencepiece_file(tmp_path, monkeypatch):
  stand_in = types.SimpleNamespace(SentencePieceProcessor=Pieces)
  monkeypatch.setitem(sys.modules, 'sentencepiece', stand_in)
  path = tmp_path / 'spm.model'
  path.write_text('a b <s>')
  tokenizer = tokenizers.load(str(path))
  assert (tokenizer.vocab_size, tokenizer.end_id) == (3, 2)
  np.testing.assert_array_equal(tokenizer.encode('ba'), [1, 0])
  assert tokenizer.decode(np.array([1, 0])) == 'ba'
  path.write_text('a b')
  with pytest.raises(UserError, match='neither an end, a start nor a padding token'):
    tokenizers.load(str(path))
  path.write_text('broken')
  with pytest.raises(UserError, match='does not load as a SentencePiece .* parse'):
    tokenizers.load(str(path))


def test_words_are_told_apart_after_a_prompt():
  class Starts(tokenizers.ByteTokenizer):
    def decode(self, ids):
      return super().decode(ids).lstrip(' ')

  before, after = Starts().encode('a'), Starts().encode(' b')
  assert tokenizers.continuation(Starts(), before, after) == ' b'
  assert tokenizers.continuation(Starts(), before[:0], after) == 'b'
  assert not tokenizers.keeps(Starts(), ' a') and tokenizers.keeps(Starts(), 'a b')
  latin = b'caf\xe9'.decode('utf-8', 'surrogateescape')
  assert tokenizers.keeps(tokenizers.ByteTokenizer(), latin)


def test_another_tokenizer_is_refused(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('x')
  former = tokenizers.fingerprint(str(path))
  moved = path.rename(tmp_path / 'b.json')
  tokenizers.check_same(former, str(moved), 'run')
  tokenizers.check_same(None, str(moved), 'run')
  tokenizers.check_same('bytes', '', 'run')
  with pytest.raises(UserError, match=r"run was .* 'a.json'; give that file as --tok"):
    tokenizers.check_same(former, None, 'run')
  with pytest.raises(UserError, match='with bytes; leave --tokenizer out'):
    tokenizers.check_same('bytes', str(moved), 'run')
  with pytest.raises(UserError, match='cannot be read: No such file'):
    tokenizers.fingerprint(str(path))


def trained_sentencepiece(tmp_path):
  module = pytest.importorskip('sentencepiece')
  text = tmp_path / 'text.txt'
  text.write_text('a few words, and a few more words\n' * 20)
  prefix = str(tmp_path / 'spm')
  module.SentencePieceTrainer.train(
    input=str(text), model_prefix=prefix, vocab_size=30, hard_vocab_limit=False,
    minloglevel=2,
  )
  return tmp_path / 'spm.model'


def test_real_sentencepiece_files(tmp_path):
  path = trained_sentencepiece(tmp_path)
  tokenizer = tokenizers.load(str(path))
  ids = tokenizer.encode('few words')
  assert ids.dtype == np.int32 and ids.max() < tokenizer.vocab_size
  assert tokenizer.decode(ids) == 'few words' and tokenizer.end_id not in ids
  after = tokenizer.encode('more')
  assert tokenizers.continuation(tokenizer, ids, after) == ' more'
  whole = path.read_bytes()
  for data in (whole[: len(whole) // 2], b'just text', b''):
    path.write_bytes(data)
    with pytest.raises(UserError, match='does not load as a SentencePiece file'):
      tokenizers.load(str(path))


def test_real_hugging_face_files(tmp_path):
  module = pytest.importorskip('tokenizers')
  path = tmp_path / 'words.json'
  vocabulary = {'</s>': 0, 'few': 1, 'words': 9}
  model = module.Tokenizer(module.models.WordLevel(vocabulary))
  model.pre_tokenizer = module.pre_tokenizers.Whitespace()
  model.save(str(path))
  tokenizer = tokenizers.load(str(path))
  assert tokenizer.vocab_size == 10  # ids need not be consecutive
  np.testing.assert_array_equal(tokenizer.encode('words few'), [9, 1])
  with pytest.raises(UserError, match=r'cannot encode the text: .*UNK'):
    tokenizer.encode('other words')
  whole = path.read_text()
  for data in (whole[:-20], '{"a": 1}', '[]', '', 'just text'):
    path.write_text(data)
    with pytest.raises(UserError, match='does not load as a Hugging Face'):
      tokenizers.load(str(path))
