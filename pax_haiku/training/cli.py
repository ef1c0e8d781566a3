"""Command-line programs that explain themselves in one line, never by a traceback."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging


class UserError(Exception):
  """What the user can put right: `run` prints it as one line and exits with code 2.

  Args:
    message: What is wrong and the way out, as one sentence or two.
  """


def one_line(message: object) -> str:
  """Returns `str(message)` with every run of white space made one space."""
  return ' '.join(str(message).split())


def fail(message: object, code: int = 2) -> NoReturn:
  """Ends the program: one line on stderr, `code` as exit code."""
  print(f'{os.path.basename(sys.argv[0])}: {one_line(message)}', file=sys.stderr)
  sys.exit(code)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)[1:]
  except flags.Error as error:
    fail(f'{error} (--help lists the flags)')
  if rest:
    fail(f'unexpected argument {rest[0]!r}: flags are written --name=value')
  if flags.FLAGS['verbosity'].using_default_value:
    logging.set_verbosity(logging.WARNING)  # absl's own choice for programs is INFO
  return rest


def run(main: Callable[[], int | None]) -> NoReturn:
  """Parses absl flags, calls `main()` and exits with what it returns (None is 0).

  What libraries log is shown from warnings on; --verbosity=0 shows all.

  Exit codes: 2 for a wrong flag or a `UserError`, 1 for trouble with files, 130 when
  ctrl-C comes while nothing handles it; each with one line on stderr. Any other
  exception is a bug and keeps its traceback.
  """

  def guarded(_):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
      sys.exit(main() or 0)
    except UserError as error:
      fail(error)
    except OSError as error:
      fail(error, code=1)
    except KeyboardInterrupt:
      fail('interrupted', code=128 + signal.SIGINT)
    finally:
      # Nothing is left to save: another ctrl-C ends what libraries do at exit.
      signal.signal(signal.SIGINT, signal.SIG_DFL)

  app.run(guarded, flags_parser=_parse_flags)
