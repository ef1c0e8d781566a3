"""A progress bar on a terminal, and plain lines everywhere."""

import sys
import time
from typing import TextIO


class Progress:
  """Shows how far a run is, with loss and examples (or tokens) per second.

  The bar goes to stderr and only to a terminal; into files and pipes go lines alone.

  Args:
    first: Updates done before.
    last: Updates to be done in all.
    batch_size: Examples in an update.
    show: Whether to draw a bar; by default when stderr is a terminal.
    stream: Where lines go; by default stdout.
    unit: What `batch_size` counts.
  """

  def __init__(
    self,
    first: int,
    last: int,
    batch_size: int,
    show: bool | None = None,
    stream: TextIO | None = None,
    unit: str = 'examples',
  ):
    import tqdm

    self._batch_size = batch_size
    self._unit = unit
    self._stream = stream
    self._examples_per_second = 0.0
    self._mark: tuple[int, float] | None = None
    self._tqdm = tqdm.tqdm
    self._bar = tqdm.tqdm(
      initial=first,
      total=last,
      unit='step',
      # Without tqdm's own rate: it counts compiling and evaluating, and updates only.
      bar_format='{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]',
      dynamic_ncols=True,
      disable=not (sys.stderr.isatty() if show is None else show),
    )

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_):
    self._bar.close()

  @property
  def examples_per_second(self) -> float:
    """Speed between the last two updates; 0 before the second."""
    return self._examples_per_second

  def update(self, step: int, loss: float) -> None:
    """Tells that `step` updates are done; `loss` is that of the last one.

    Call it when the step's numbers are there: the time of compiling then counts for the
    first call alone, which only sets the clock.
    """
    now = time.perf_counter()
    if self._mark is not None:
      before, then = self._mark
      elapsed = max(now - then, 1e-9)
      self._examples_per_second = (step - before) * self._batch_size / elapsed
    self._mark = step, now
    speed = self._examples_per_second
    shown = f'loss={loss:.4f}' + (f', {speed:,.0f} {self._unit}/s' if speed else '')
    self._bar.set_postfix_str(shown, refresh=False)
    self._bar.update(step - self._bar.n)

  def pause(self) -> None:
    """Leaves out the time until the next update: something else is being done."""
    self._mark = None

  def line(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    stream = sys.stdout if self._stream is None else self._stream
    self._tqdm.write(text, file=stream)
    stream.flush()
