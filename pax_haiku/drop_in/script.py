"""Runs a file as Python itself would run it: as `__main__`, with its own arguments."""

import builtins
import importlib.machinery
import io
import os
import sys
from types import ModuleType, TracebackType

_HERE = os.path.dirname(os.path.abspath(__file__))


def read(path: str) -> bytes:
  """Source text of a script; OSError if it can't be read."""
  with io.open_code(os.path.abspath(path)) as file:
    return file.read()


def run(source: bytes, arguments: list[str]) -> None:
  """Runs `source` as `__main__` with `sys.argv = arguments`.

  Exceptions pass, SystemExit among them; `sys.excepthook` will see those without the
  frames of this package.
  """
  path = os.path.abspath(arguments[0])
  sys.argv[:] = arguments
  if not sys.flags.safe_path:
    sys.path[0] = os.path.dirname(os.path.realpath(path))
  module = ModuleType('__main__')
  module.__file__ = path
  module.__builtins__ = builtins
  module.__loader__ = importlib.machinery.SourceFileLoader('__main__', path)
  module.__cached__ = None
  sys.modules['__main__'] = module
  try:
    exec(compile(source, path, 'exec', dont_inherit=True), vars(module))
  except SystemExit:
    raise
  except BaseException as error:
    _report_without_us(_theirs(error.__traceback__))
    raise


def _theirs(traceback: TracebackType | None) -> TracebackType | None:
  """A traceback without the frames of this package."""
  if traceback is None:
    return None
  rest = _theirs(traceback.tb_next)
  if os.path.dirname(traceback.tb_frame.f_code.co_filename) == _HERE:
    return rest
  return TracebackType(rest, traceback.tb_frame, traceback.tb_lasti,
                       traceback.tb_lineno)


def _report_without_us(traceback: TracebackType | None) -> None:
  """Lets the next report of an uncaught exception show `traceback`."""
  report = sys.excepthook

  def hook(kind, value, _):
    sys.excepthook = report
    report(kind, value.with_traceback(traceback), traceback)

  sys.excepthook = hook
