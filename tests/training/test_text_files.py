"""pax_haiku.training.text_files: documents, and which of them are held out."""

import sysconfig

import pytest

from pax_haiku.training import text_files
from pax_haiku.training.cli import UserError
from pax_haiku.training.text_files import Document


def documents(count):
  return [Document(f'{i}.txt', f'text {i}') for i in range(count)]


def test_standard_library_is_real_text_by_name():
  found = text_files.standard_library()
  names = [document.name for document in found]
  assert names == sorted(names) and 'os.py' in names and 'json/decoder.py' in names
  assert not any('test' in name.split('/') or 'site-packages' in name for name in names)
  assert sum(len(document.text) for document in found) > 5e6
  with open(f'{sysconfig.get_paths()["stdlib"]}/os.py', encoding='utf-8') as file:
    assert file.read() == found[names.index('os.py')].text


def test_patterns_name_each_file_once(tmp_path):
  (tmp_path / 'deep').mkdir()
  for name in ('b.txt', 'a.txt', 'deep/c.txt', 'd.md'):
    (tmp_path / name).write_text(name)
  found = text_files.named([f'{tmp_path}/**/*.txt', f'{tmp_path}/a.txt'])
  assert [document.text for document in found] == ['a.txt', 'b.txt', 'deep/c.txt']
  assert [document.name for document in found] == ['a.txt', 'b.txt', 'deep/c.txt']
  (alone,) = text_files.named([f'{tmp_path}/deep/c.txt'])
  assert alone.name == 'c.txt'


def test_a_directory_is_no_file(tmp_path):
  with pytest.raises(UserError, match=r"--held '.*' matches no file, it is .*/\*\*/"):
    text_files.named([f'{tmp_path}/'], '--held')


def test_bytes_that_are_not_utf_8_are_kept(tmp_path):
  (tmp_path / 'latin.txt').write_bytes(b'caf\xe9')
  (found,) = text_files.named([str(tmp_path / 'latin.txt')])
  assert found.text.encode('utf-8', 'surrogateescape') == b'caf\xe9'


@pytest.mark.parametrize(
  'content, message',
  [(None, 'matches no file'), (b'', 'is empty'), (b'PNG\0\1', 'is binary')],
)
def test_files_that_are_no_text(tmp_path, content, message):
  path = tmp_path / 'file'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    text_files.named([str(path)])
  assert str(path) in str(error.value)


def test_split_is_by_name_alone():
  whole = documents(100)
  train, held_out = text_files.split(whole, 0.1)
  assert len(held_out) == 10
  assert sorted(train + held_out, key=lambda d: d.name) == sorted(
    whole, key=lambda d: d.name
  )
  again = text_files.split([Document(d.name, 'other') for d in reversed(whole)], 0.1)
  assert {d.name for d in again[1]} == {d.name for d in held_out}


def test_split_of_few_documents_leaves_both_sides_some():
  for count in (2, 3):
    train, held_out = text_files.split(documents(count), 0.05)
    assert (len(train), len(held_out)) == (count - 1, 1)
  same_name = [Document('a', 'x'), Document('a', 'y')]
  assert list(map(len, text_files.split(same_name))) == [1, 1]
  train, held_out = text_files.split([Document('a', 'x' * 100)], 0.05)
  assert [len(part[0].text) for part in (train, held_out)] == [95, 5]
  with pytest.raises(UserError, match='too short'):
    text_files.split([Document('a', 'x')], 0.05)
