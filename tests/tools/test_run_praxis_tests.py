"""The tool that runs Praxis's own tests; here on a wheel with tests made up for it."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import types
import zipfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / 'tools'
if str(TOOLS) not in sys.path:
  sys.path.insert(0, str(TOOLS))

from praxis_compare import process  # noqa: E402
from praxis_tests import (  # noqa: E402
    known,
    praxis_test_utils,
    sources,
    stand_ins,
    table,
)

TESTS = """
    import dataclasses
    from absl.testing import absltest
    from absl.testing import parameterized
    from flax import struct
    from flax import linen as nn
    import jax
    from lingvo.core import layers as lingvo_layers
    from lingvo.core import nested_map
    from praxis import base_layer, py_utils
    from praxis import test_utils
    from praxis.layers import not_landed
    import tensorflow.compat.v2 as tf

    class State(struct.PyTreeNode):
      step: int = struct.field(pytree_node=False)

    class Layer(base_layer.BaseLayer):
      @nn.remat
      def __call__(self, x):
        return x

    class PyUtilsTest(test_utils.TestCase):

      def setUp(self):
        super().setUp()
        tf.random.set_seed(1)

      def test_passes(self):
        self.assertIs(nested_map.NestedMap, py_utils.NestedMap)
        self.assertEqual(base_layer.__name__, 'pax_haiku.base_layer')
        self.assertAllClose({'a': [1.0]}, {'a': jax.numpy.ones(1) + 1e-7})
        self.assertEqual(jax.tree_map(lambda x: x + 1, [1]), [2])
        self.assertEqual(type(self).__module__, '__main__')

      def test_fails(self):
        self.assertAllClose([1.0], [1.1])

      def test_subtest_fails(self):
        for i in range(3):
          with self.subTest(str(i)):
            self.assertNotEqual(i, 1)

      def test_needs_lingvo(self):
        lingvo_layers.Linear.Params().Set(a=tf.float32)

      def test_needs_flax(self):
        State(step=0)

      def test_needs_flax_in_a_layer(self):
        Layer(name='x')(1)

      def test_needs_what_has_not_landed(self):
        not_landed.Layer()

      def test_swallows_everything(self):
        with self.assertRaises(Exception):
          tf.constant(1)

      @parameterized.parameters(1, 2)
      def test_parameters(self, x):
        self.assertLen([0] * x, x)

      def test_skips(self):
        self.skipTest('no reason')

    if __name__ == '__main__':
      absltest.main()
    """


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  path = tmp_path_factory.mktemp('wheel') / 'praxis-1-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as file:
    for name, text in {
        'py_utils': '', 'py_utils_test': TESTS, 'trees': '', 'nope': '',
        'trees_test': 'from praxis import trees\ntrees.no_such_name\n',
        'nope_test': 'this is not to be run', 'layers/linears': '',
        'both_test': 'from praxis import trees\nfrom praxis import py_utils\n',
        'other_test': 'from praxis import nope\nfrom praxis import py_utils\n',
    }.items():
      file.writestr(f'praxis/{name}.py', textwrap.dedent(text))
  return path


def command(*arguments):
  return subprocess.run(
      [sys.executable, str(TOOLS / 'run_praxis_tests.py'), *map(str, arguments)],
      capture_output=True, text=True, env=process.environment('pax_haiku'))


def test_every_test_is_counted_once_and_told_why(wheel, tmp_path):
  report = tmp_path / 'r.json'
  python = os.path.relpath(sys.executable)  # the workers run somewhere else
  done = command('--wheel', wheel, '--report', report, '--python', python)
  assert done.returncode == 1, done.stderr
  found = {(row['module'], row['test'].removeprefix('PyUtilsTest.')):
           (row['status'], row['reason']) for row in json.loads(report.read_text())}
  status = {test: s for (module, test), (s, _) in found.items() if module == 'py_utils'}
  assert status == {
      'test_passes': 'passed', 'test_parameters0': 'passed',
      'test_parameters1': 'passed', 'test_fails': 'failed',
      'test_subtest_fails': 'failed', **dict.fromkeys((
          'test_needs_lingvo', 'test_needs_flax', 'test_needs_flax_in_a_layer',
          'test_needs_what_has_not_landed', 'test_swallows_everything', 'test_skips',
      ), 'not runnable')}
  reason = {test: r for (_, test), (_, r) in found.items()}
  assert reason['test_needs_lingvo'] == 'needs lingvo.core.layers.Linear.Params'
  assert reason['test_needs_what_has_not_landed'].startswith('needs praxis.layers.not')
  assert reason['test_skips'] == 'skips itself: no reason'
  assert 'AssertionError' in reason['test_fails']
  assert {module for module, _ in found} == {'py_utils', 'trees'}
  assert 'no_such_name' in found['trees', '(the whole file)'][1]
  lines = done.stdout.split('\n')
  assert lines[0].split() == ['module', 'passed', 'failed', 'known', 'not', 'runnable',
                              'needs']
  assert lines[1].split()[:5] == ['py_utils', '3', '2', '0', '6']
  assert 'flax 2' in lines[1] and 'praxis.layers.not_landed' in lines[1]
  assert [line for line in lines if line.startswith('failed: py_utils')]


def test_which_files_are_run(wheel, tmp_path):
  chosen, others = sources.find(sources.in_wheel(wheel, tmp_path))
  assert [t.module for t in chosen] == ['py_utils', 'trees', 'both']
  assert others == ['nope', 'other']


@pytest.mark.parametrize('arguments, text', [
    (['--praxis_python', '/nowhere/python'], 'make_praxis_env.sh'),
    (['--wheel', '/nowhere.whl'], 'No such file'),
    (['--report', 'x.html'], 'must be a .json'),
    (['--python', 'nowhere/python'], '--python=nowhere/python does not exist'),
    (['--wheel', __file__], 'not a zip file'),
])
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, text):
  done = command(*arguments)
  assert done.returncode == 2
  assert done.stderr.count('\n') == 1 and text in done.stderr


def test_a_wrong_module_is_named(wheel):
  done = command('--wheel', wheel, '--module', 'nope')
  assert done.returncode == 2 and 'pax_haiku has no module of that' in done.stderr


# --- the table ---


def test_only_what_passes_on_praxis_has_to_pass_here(monkeypatch):
  monkeypatch.setitem(known.KNOWN, 'm', {'T.c': 'because', 'T.d': 'no longer'})
  ours = {'T.a': ['failed', 'x'], 'T.b': ['failed', 'y'], 'T.c': ['failed', 'z'],
          'T.d': ['passed', ''], 'T.e': ['passed', '']}
  there = {'T.a': ['failed', ''], 'T.b': ['passed', ''], 'T.c': ['passed', ''],
           'T.d': ['passed', ''], 'T.f': ['passed', '']}
  rows = {row.test: row for row in table.rows('m', ours, there)}
  assert {test: row.status for test, row in rows.items()} == {
      'T.a': 'failed', 'T.b': 'failed', 'T.c': 'known', 'T.d': 'failed',
      'T.e': 'passed', 'T.f': 'failed'}
  assert {test for test, row in rows.items() if row.is_wrong} == {'T.b', 'T.d', 'T.f'}
  assert rows['T.c'].reason == 'because'
  text = '\n'.join(table.lines(list(rows.values()), with_baseline=True))
  assert 'pass on Praxis' in text and 'known to fail: m T.c' in text


def test_a_file_that_breaks_fails_each_of_its_tests():
  rows = table.rows('m', {'error': 'boom'}, {'T.a': ['passed', ''],
                                             'T.b': ['failed', '']})
  assert [(row.test, row.status, row.is_wrong) for row in rows] == [
      ('T.a', 'failed', True), ('T.b', 'failed', False)]
  row, = table.rows('m', {'error': 'boom'}, None)
  assert row.is_wrong and row.reason == 'boom'


# --- stand-ins ---


def test_absent_things_do_no_harm_until_they_are_used(monkeypatch):
  monkeypatch.setattr(stand_ins.log, 'loading', True)
  absent = stand_ins.Absent('flax')

  @absent.struct.dataclass
  class Decorated:
    pass

  class Derived(absent.linen.Module):
    pass

  monkeypatch.setattr(stand_ins.log, 'loading', False)
  for use in (absent, lambda: Decorated(), Derived, lambda: isinstance(1, absent.x),
              lambda: absent[0], lambda: list(absent), lambda: bool(absent),
              lambda: absent.__version__):
    with pytest.raises(stand_ins.NotRunnable, match='needs flax'):
      use()
  assert stand_ins.log.used[:2] == ['flax', 'flax.struct.dataclass']
  stand_ins.log.clear()


def test_what_is_there_is_imported():
  assert stand_ins.import_('json.decoder').__name__ == 'json'
  from_ = stand_ins.import_('jax.experimental', fromlist=('pjit', 'jax2tf'))
  assert from_.pjit.__name__ == 'jax.experimental.pjit'
  with pytest.raises(ImportError):
    stand_ins.import_('no_such_package')


def test_lingvo_is_prepared_with_and_without_tensorflow(monkeypatch):
  names = ('tensorflow.compat.v2', 'lingvo.core.ops.gen_x_ops', 'tensorflow',
           'tensorflow.python.trackable.data_structures')
  for name in names:
    monkeypatch.delitem(sys.modules, name, raising=False)
  monkeypatch.setattr(stand_ins, 'has_tensorflow', lambda: False)
  stand_ins.prepare_lingvo()
  assert sys.modules[names[0]].DType and names[1] not in sys.modules
  monkeypatch.setattr(stand_ins, 'has_tensorflow', lambda: True)
  monkeypatch.setitem(
      sys.modules, 'tensorflow', types.SimpleNamespace(no_op=lambda: 'nothing'))
  theirs, ours = types.SimpleNamespace(NestedMap=1), types.SimpleNamespace(NestedMap=2)
  monkeypatch.setitem(sys.modules, 'lingvo.core.nested_map', theirs)
  monkeypatch.setitem(sys.modules, 'praxis.py_utils', ours)
  stand_ins.prepare_lingvo()
  assert theirs.NestedMap == 2
  operations = sys.modules[names[1]]
  assert operations.assert_shape_match([1], [1]) == 'nothing'
  with pytest.raises(stand_ins.NotRunnable, match='lingvo.core.ops.beam_search_step'):
    operations.beam_search_step()
  stand_ins.log.clear()
  for name in names:
    sys.modules.pop(name, None)


def test_praxiss_own_test_utils_are_used_where_they_can_be(monkeypatch, tmp_path):
  monkeypatch.setattr(stand_ins, 'has_tensorflow', lambda: True)
  (tmp_path / 'test_utils.py').write_text('own = True')
  for package, own in ((None, False), (tmp_path / 'no', False), (tmp_path, True)):
    stand_ins._test_utils.cache_clear()
    monkeypatch.setattr(stand_ins, 'package', package)
    assert (stand_ins._test_utils() is not praxis_test_utils) == own
  monkeypatch.setattr(stand_ins, 'has_tensorflow', lambda: False)
  stand_ins._test_utils.cache_clear()
  assert stand_ins._test_utils() is praxis_test_utils


def test_comparisons_of_the_test_case():
  case = praxis_test_utils.TestCase()
  case.assertAllClose([[1.0, 2.0]], np.array([[1.0, 2.0 + 1e-7]]))
  case.assertAllClose([np.ones(2), np.ones(3)], [np.ones(2), np.ones(3)])
  case.assertNotAllClose([1.0], [1.001])
  case.assertDtypesMatch(np.int64, np.zeros(2, np.int32))
  for wrong in (lambda: case.assertAllClose([1.0], [1.001]),
                lambda: case.assertAllClose({'a': 1.0}, {'b': 1.0}),
                lambda: case.assertAllClose([np.ones(2), np.ones(3)],
                                            [np.ones(2), np.zeros(3)]),
                lambda: case.assertNotAllClose([1.0], [1.0]),
                lambda: case.assertArraysEqual([1], [2]),
                lambda: case.assertDtypesMatch(np.float32, np.float16)):
    with pytest.raises(AssertionError):
      wrong()


def test_known_reasons_are_for_tests_of_modules_that_are_here():
  ours = ROOT / 'pax_haiku'
  for module, tests in known.KNOWN.items():
    assert (ours / module.replace('.', '/')).with_suffix('.py').is_file()
    assert all(reason and '.' in test for test, reason in tests.items())
