"""pax_haiku.training.files: all or nothing, and messages about directories."""

import os

import pytest

from pax_haiku.training import files
from pax_haiku.training.cli import UserError


def test_replaces_as_a_whole(tmp_path):
  path = tmp_path / 'a.txt'
  files.write_text(path, 'one')
  files.write_text(path, 'two')
  assert path.read_text() == 'two'
  assert os.listdir(tmp_path) == ['a.txt']


def test_failure_leaves_the_former_content(tmp_path):
  path = tmp_path / 'a.txt'
  files.write_text(path, 'one')
  with pytest.raises(KeyError):
    with files.replacing(path) as temporary:
      temporary.write_text('tw')
      raise KeyError
  assert path.read_text() == 'one'
  assert os.listdir(tmp_path) == ['a.txt']


def test_temporary_name_keeps_the_suffix(tmp_path):
  with files.replacing(tmp_path / 'a.png') as temporary:
    assert (temporary.suffix, temporary.parent) == ('.png', tmp_path)
    temporary.touch()


def test_writable_dir_is_made(tmp_path):
  assert files.writable_dir(tmp_path / 'a' / 'b').is_dir()
  assert list((tmp_path / 'a' / 'b').iterdir()) == []


def test_home_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.writable_dir('~/runs') == tmp_path / 'runs'


def test_no_name():
  with pytest.raises(UserError, match='--log_dir is empty'):
    files.writable_dir('', '--log_dir')


def test_a_file_in_the_way(tmp_path):
  (tmp_path / 'file').touch()
  for path in (tmp_path / 'file', tmp_path / 'file' / 'below'):
    with pytest.raises(UserError, match=f"--log_dir '{path}' cannot be written: "):
      files.writable_dir(path, '--log_dir')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_no_permission(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match='Permission denied'):
    files.writable_dir(tmp_path)
