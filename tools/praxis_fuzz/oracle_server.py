"""One side as a long-lived process: a tree per line in, an answer per line out.

  python -m praxis_fuzz.oracle_server --pkg praxis

A request is {"tree": ..., "out": "x.npz"}; the results go to that file, and the answer
is {"done": "x.npz"} or, if the server itself failed, {"failed": text}.
"""

import argparse
import json
import os
import sys

import jax
from praxis_compare import store

from praxis_fuzz import build

CLEAR_EVERY = 200  # requests; compiled functions pile up otherwise


def save(results: store.Results, path: str) -> None:
  store.subset(results, list(results.cases), path)


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pkg', required=True, choices=('praxis', 'pax_haiku'))
  options = parser.parse_args(argv)
  answers = os.fdopen(os.dup(1), 'w')  # what layers print must not mix with answers
  os.dup2(2, 1)
  side = build.Side(options.pkg)
  print(json.dumps({'ready': side.versions()}), file=answers, flush=True)
  for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    try:
      save(build.run(side, request['tree']), request['out'])
      answer = {'done': request['out']}
    except Exception as error:  # the driver decides
      answer = {'failed': f'{type(error).__name__}: {error}'}
    print(json.dumps(answer), file=answers, flush=True)
    if number % CLEAR_EVERY == CLEAR_EVERY - 1:
      jax.clear_caches()


if __name__ == '__main__':
  main(sys.argv[1:])
