"""`python -m pax_haiku.drop_in script.py args` runs the script on pax_haiku."""

import sys

from pax_haiku.drop_in import script

USAGE = 'usage: python -m pax_haiku.drop_in script.py [argument ...]'


def main(arguments: list[str]) -> None:
  if arguments[:1] in (['-h'], ['--help']):
    print(USAGE)
    return
  if not arguments or arguments[0].startswith('-'):
    wrong = f'no option {arguments[0]!r}; ' if arguments else ''
    print(f'pax_haiku.drop_in: {wrong}{USAGE}', file=sys.stderr)
    sys.exit(2)
  try:
    source = script.read(arguments[0])
  except OSError as error:
    print(f"pax_haiku.drop_in: can't open {arguments[0]!r}: {error.strerror}",
          file=sys.stderr)
    sys.exit(2)
  script.run(source, arguments)


if __name__ == '__main__':
  main(sys.argv[1:])
