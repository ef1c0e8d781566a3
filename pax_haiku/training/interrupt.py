"""ctrl-C and SIGTERM as a request that a loop can look at between two steps."""

import signal
import threading


class Interrupt:
  """Context in which the first SIGINT or SIGTERM is only noted.

  A second signal raises KeyboardInterrupt at once, so a program that hangs can still be
  ended. On exit the former handlers are back. Outside the main thread, where Python
  cannot set handlers, the context does nothing.

  Attributes:
    signum: The signal that came, None if none did.
  """

  SIGNALS = (signal.SIGINT, signal.SIGTERM)

  def __init__(self):
    self.signum: int | None = None
    self._former = {}

  def __enter__(self) -> 'Interrupt':
    if threading.current_thread() is threading.main_thread():
      self._former = {s: signal.signal(s, self._note) for s in self.SIGNALS}
    return self

  def __exit__(self, *_):
    for signum, handler in self._former.items():
      signal.signal(signum, handler)
    self._former = {}

  def __bool__(self) -> bool:
    return self.signum is not None

  @property
  def exit_code(self) -> int:
    """128 + signal as shells report it: 130 for ctrl-C, 143 for SIGTERM; else 0."""
    return 128 + self.signum if self.signum is not None else 0

  def _note(self, signum, _):
    if self.signum is not None:
      raise KeyboardInterrupt
    self.signum = signum
