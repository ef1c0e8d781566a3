"""pax_haiku.training.log_dir: a run never destroys another one by accident."""

import pytest

from pax_haiku.training.cli import UserError
from pax_haiku.training.log_dir import LogDir, settings_in


@pytest.fixture
def used(tmp_path):
  log_dir = LogDir(str(tmp_path / 'run'))
  log_dir.history.write_text('')
  log_dir.checkpoints.mkdir()
  (log_dir.checkpoints / '3').mkdir()
  (log_dir.path / 'notes.txt').write_text('mine')
  return log_dir


def test_new_directory_may_be_used_in_any_way(tmp_path):
  for i, (resume, overwrite) in enumerate([(0, 0), (1, 0), (0, 1)]):
    log_dir = LogDir(str(tmp_path / str(i)))
    assert not log_dir.has_run()
    log_dir.begin(resume, overwrite)


def test_used_directory_needs_a_word(used):
  assert used.has_run()
  with pytest.raises(UserError, match='already holds a run; add --resume .* --overwr'):
    used.begin(resume=False, overwrite=False)
  used.begin(resume=True, overwrite=False)
  assert used.has_run()


def test_overwrite_removes_the_run_and_nothing_else(used):
  used.begin(resume=False, overwrite=True)
  assert [path.name for path in used.path.iterdir()] == ['notes.txt']


def test_resume_and_overwrite_contradict(used):
  with pytest.raises(UserError, match='contradict'):
    used.begin(resume=True, overwrite=True)
  assert used.has_run()


def test_changed_settings_are_noted(used, capsys):
  used.note_settings({'seed': '0', 'config': 'x\n' * 99}, resumed=False)
  used.note_settings({'seed': '0', 'config': 'x\n' * 99}, resumed=True)
  assert capsys.readouterr() == ('', '')
  used.note_settings({'seed': '1', 'config': 'y\n' * 99}, resumed=True)
  err = capsys.readouterr().err
  assert 'note: resumed with another seed (was 0, is 1), config: the numbers' in err
  assert err.count('\n') == 1
  assert settings_in(used.path)['seed'] == '1'
  used.settings.write_text('broken')
  assert settings_in(used.path) == settings_in(used.path / 'none') == {}
