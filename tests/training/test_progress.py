"""pax_haiku.training.progress: lines for pipes, a bar for terminals, and speed."""

import io

from pax_haiku.training import progress


def clock(monkeypatch, *times):
  times = iter(times)
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: next(times))


def test_speed_is_of_the_time_between_updates(monkeypatch):
  clock(monkeypatch, 10.0, 12.0, 100.0, 104.0)
  with progress.Progress(0, 100, batch_size=8, show=False) as shown:
    shown.update(10, 1.0)
    assert shown.examples_per_second == 0
    shown.update(20, 1.0)
    assert shown.examples_per_second == 10 * 8 / 2
    shown.pause()
    shown.update(30, 1.0)
    assert shown.examples_per_second == 40
    shown.update(40, 1.0)
    assert shown.examples_per_second == 10 * 8 / 4


def test_without_a_terminal_there_are_lines_alone(capsys):
  with progress.Progress(0, 10, batch_size=8) as shown:
    shown.update(5, 1.0)
    shown.line('step 5')
  assert capsys.readouterr() == ('step 5\n', '')


def test_bar_shows_loss_and_speed(capsys):
  stream = io.StringIO()
  with progress.Progress(5, 10, batch_size=8, show=True, stream=stream) as shown:
    shown.update(6, 1.0)
    shown.update(7, 0.25)
    shown.line('a line')
  assert stream.getvalue() == 'a line\n'
  bar = capsys.readouterr().err
  assert '7/10' in bar and 'loss=0.2500' in bar and 'examples/s' in bar
