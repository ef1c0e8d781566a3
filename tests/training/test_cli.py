"""pax_haiku.training.cli: exit codes, and one line instead of a traceback."""

import json
import os
import subprocess
import sys

import pytest

# Importing takes a second or two, so one process does it and forks for each case.
PROGRAM = """
import json, os, sys
from absl import flags
from pax_haiku.training import cli
flags.DEFINE_integer('steps', 3, 'Steps.', lower_bound=0)
flags.DEFINE_string('do', '', 'What happens.')

def main():
  what = flags.FLAGS.do
  if what == 'user':
    raise cli.UserError('two\\n  lines')
  if what == 'file':
    open('/nonexistent/file')
  if what == 'ctrl-c':
    raise KeyboardInterrupt
  if what == 'bug':
    raise ZeroDivisionError
  if what == 'code':
    return 143
  print('done', flags.FLAGS.steps)

for line in sys.stdin:
  args, out, err = json.loads(line)
  pid = os.fork()
  if not pid:
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    sys.argv[1:] = args
    cli.run(main)
  print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope='module')
def program(tmp_path_factory):
  path = tmp_path_factory.mktemp('cli') / 'program.py'
  path.write_text(PROGRAM)
  with subprocess.Popen(
    [sys.executable, str(path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  ) as process:
    yield process
    process.stdin.close()


@pytest.fixture
def run(program, tmp_path):
  def run(*args):
    out, err = tmp_path / 'out', tmp_path / 'err'
    print(json.dumps([args, str(out), str(err)]), file=program.stdin, flush=True)
    return int(program.stdout.readline()), out.read_text(), err.read_text()

  return run


def test_success(run):
  assert run('--steps=5') == (0, 'done 5\n', '')


@pytest.mark.parametrize(
  'args, code, message',
  [
    (['--stpes=5'], 2, "Unknown command line flag 'stpes'. Did you mean: steps ?"),
    (['--steps=x'], 2, "flag --steps=x: invalid literal for int() with base 10: 'x'"),
    (['--steps=-1'], 2, 'flag --steps=-1: -1 is not a non-negative'),
    (['--do'], 2, 'Missing value for flag --do'),
    (['word'], 2, "unexpected argument 'word': flags are written --name=value"),
    (['--do=user'], 2, 'two lines\n'),
    (['--do=file'], 1, "No such file or directory: '/nonexistent/file'"),
    (['--do=ctrl-c'], 130, 'interrupted\n'),
  ],
)
def test_one_line(run, args, code, message):
  found, out, err = run(*args)
  assert (found, out) == (code, '')
  assert err.startswith('program.py: ') and message in err
  assert err.count('\n') == 1


def test_exit_code_of_main(run):
  assert run('--do=code') == (143, '', '')


def test_a_bug_keeps_its_traceback(run):
  code, _, err = run('--do=bug')
  assert code == 1 and 'ZeroDivisionError' in err and 'Traceback' in err


def test_help_lists_the_flags(run):
  _, out, _ = run('--help')
  assert '--steps' in out and 'What happens.' in out
