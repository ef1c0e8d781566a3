"""pax_haiku.training.interrupt: the first signal is noted, the second one ends."""

import os
import signal
import threading

import pytest

from pax_haiku.training.interrupt import Interrupt


@pytest.mark.parametrize(
  'signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_first_signal_is_noted(signum, code):
  former = signal.getsignal(signum)
  with Interrupt() as interrupt:
    assert not interrupt
    assert interrupt.exit_code == 0
    os.kill(os.getpid(), signum)
    assert interrupt
    assert interrupt.exit_code == code
  assert signal.getsignal(signum) is former


def test_second_signal_raises():
  with pytest.raises(KeyboardInterrupt), Interrupt():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_do_without():
  results = []

  def use():
    with Interrupt() as interrupt:
      results.append(bool(interrupt))

  thread = threading.Thread(target=use)
  thread.start()
  thread.join()
  assert results == [False]
