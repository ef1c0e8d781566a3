"""pax_haiku.training.history: numbers on disk and back."""

import pytest

from pax_haiku.training.cli import UserError
from pax_haiku.training.history import History


@pytest.fixture
def history(tmp_path):
  history = History(tmp_path / 'history.jsonl')
  history.add(1, 'batch', {'loss': 0.1 + 0.2})
  history.add(2, 'batch', {'loss': float('inf')})
  history.add(2, 'held_out', {'loss': 3.0, 'accuracy': 0.5})
  history.add(3, 'batch', {'loss': 1e-30})
  return history


def test_numbers_return_exactly(history):
  history.save()
  again = History(history.path)
  again.load(last_step=3)
  assert again.records == history.records


def test_later_records_are_dropped(history):
  history.save()
  again = History(history.path)
  again.load(last_step=2)
  assert [r['step'] for r in again.records] == [1, 2, 2]


def test_series_and_sets(history):
  assert history.sets() == ['batch', 'held_out']
  assert history.series('held_out', 'accuracy') == ([2], [0.5])
  assert history.series('batch', 'accuracy') == ([], [])


def test_missing_file_is_an_empty_history(tmp_path):
  history = History(tmp_path / 'none')
  history.load(9)
  assert history.records == []


@pytest.mark.parametrize('text', ['{"step": 1', '{}\n', '[1]\n'])
def test_damaged_file_names_the_way_out(tmp_path, text):
  (tmp_path / 'h').write_text(text)
  with pytest.raises(UserError, match='h is damaged .*; remove it'):
    History(tmp_path / 'h').load(9)
