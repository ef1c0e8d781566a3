"""Runs one test file in this process, which is for nothing else.

  python -m praxis_tests.worker --pkg pax_haiku --file base_layer_test.py --out x.json

Writes {test: [status, reason]}; or {'error': reason} if the file can't be loaded.
"""

import argparse
import builtins
import json
import pathlib
import sys
import traceback
import unittest
from types import ModuleType

import jax
from absl import flags
from absl.testing import absltest

from praxis_tests import stand_ins

PASSED, FAILED, NOT_RUNNABLE = 'passed', 'failed', 'not runnable'


class Result(unittest.TestResult):
  """Statuses by name of test; the first thing that goes wrong in a test counts."""

  def __init__(self):
    super().__init__()
    self.found: dict[str, tuple[str, str]] = {}

  def startTest(self, test):
    super().startTest(test)
    stand_ins.log.clear()

  def stopTest(self, test):
    log = stand_ins.log
    name = _name(test)
    status, reason = self.found.get(name, (PASSED, ''))
    if log.used or (status == FAILED and log.named):
      # whatever came of it: it has not been what the test is about
      status, reason = NOT_RUNNABLE, f'needs {(log.used or log.named)[0]}'
    self.found[name] = (status, reason)
    super().stopTest(test)

  def _note(self, test, status, reason):
    self.found.setdefault(_name(test), (status, reason))

  def addError(self, test, err):
    self._note(test, FAILED, _describe(err[1]))

  addFailure = addError

  def addSubTest(self, test, subtest, err):
    if err is not None:
      self._note(test, FAILED, _describe(err[1]))

  def addSkip(self, test, reason):
    self._note(test, NOT_RUNNABLE, f'skips itself: {reason}')

  def addExpectedFailure(self, test, err):
    pass

  def addUnexpectedSuccess(self, test):
    self._note(test, FAILED, 'unexpected success')


def _name(test: unittest.TestCase) -> str:
  test = getattr(test, 'test_case', test)
  return f'{type(test).__name__}.{getattr(test, "_testMethodName", "?")}'


def _describe(error: BaseException) -> str:
  """Type, text and place of an exception, in one line."""
  text = ' '.join(str(error).split())
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if '/pax_haiku/' in f.filename or '_test.py' in f.filename]
  where = ''
  if ours:
    where = f' [{ours[-1].filename.rpartition("/")[2]}:{ours[-1].lineno}]'
  return f'{type(error).__name__}: {text[:300]}{where}'


def load(path: str) -> ModuleType:
  """The test file as `__main__`, which some tests expect to be their module's name."""
  module = ModuleType('__main__')
  module.__file__ = path
  module.__builtins__ = {**vars(builtins), '__import__': stand_ins.import_}
  sys.modules['__main__'] = module
  with open(path, encoding='utf-8') as file:
    code = compile(file.read(), path, 'exec', dont_inherit=True)
  exec(code, vars(module))
  return module


def main() -> None:
  parser = argparse.ArgumentParser()
  for name in ('pkg', 'file', 'out'):
    parser.add_argument(f'--{name}', required=True)
  options = parser.parse_args()
  stand_ins.package = next(
      (folder for folder in pathlib.Path(options.file).parents
       if (folder / 'base_layer.py').is_file()), None)
  if options.pkg == 'pax_haiku':
    import pax_haiku.drop_in  # noqa: F401
    jax.tree_map = jax.tree_util.tree_map  # newer JAX has dropped the old name
    stand_ins.prepare_flax()
  stand_ins.prepare_lingvo()
  absltest.main = lambda *args, **kwargs: None
  try:
    module = load(options.file)
    flags.FLAGS(sys.argv[:1])
  except Exception as error:
    traceback.print_exc()
    found = {'error': _describe(error)}
  else:
    stand_ins.log.loading = False
    result = Result()
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    suite.run(result)
    found = result.found
  with open(options.out, 'w') as file:
    json.dump(found, file)


if __name__ == '__main__':
  main()
