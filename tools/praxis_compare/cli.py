"""Command lines of the comparison tools: a wrong one is one line and exit status 2."""

import signal
import sys
from collections.abc import Callable

from absl import app, flags


def run(main: Callable[[], int]) -> None:
  """Parses the flags, runs `main`, and exits with what it returns.

  ValueError from `main` is a user's error too.
  """
  name = sys.argv[0].rpartition('/')[2]
  app.define_help_flags()
  # So that a stopped comparison stops its two processes: `finally` clauses run.
  signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
  try:
    rest = flags.FLAGS(sys.argv)
    if len(rest) > 1:
      raise ValueError(f'unexpected argument {rest[1]!r}; --help lists the flags')
    status = main()
  except (flags.Error, ValueError) as error:
    text = ' '.join(str(error).split())
    print(f'{name}: {text}', file=sys.stderr)
    status = 2
  except RuntimeError as error:
    print(f'{name}: {error}', file=sys.stderr)
    status = 1
  sys.exit(status)
