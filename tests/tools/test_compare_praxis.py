"""The comparison tool itself: what it must notice, and what it must not.

No Praxis here: the judge is a copy of pax_haiku's own results, or the recorded numbers,
with a fault planted in it where the test is about finding one.
"""

import dataclasses
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / 'tools'
if str(TOOLS) not in sys.path:
  sys.path.insert(0, str(TOOLS))

from praxis_compare import (  # noqa: E402
    cases,
    process,
    report_html,
    report_json,
    report_text,
    runner,
    side,
    spec,
    store,
    table,
)

import pax_haiku.layers  # noqa: E402
from pax_haiku import base_layer  # noqa: E402

NAMES = ['normalizations.BatchNorm/paddings', 'embedding_softmax.FullSoftmax/z-loss',
         'normalizations.BatchNorm/rank-1']


@pytest.fixture(scope='module')
def ours():
  """Results of pax_haiku for NAMES."""
  side_ = side.Side('pax_haiku')
  writer = store.Writer()
  done = {n: runner.run_case(side_, cases.by_name(n), writer) for n in NAMES}
  return store.from_writer(writer, {'cases': done, 'versions': side_.versions()})


def compare(a, b, names=NAMES):
  return [r for n in names for r in table.compare_case(cases.by_name(n), a, b)]


def changed(results, name, dtype, section, change, mode=None):
  """A copy of `results` in which `change(section dict, writer)` was made."""
  writer = store.Writer()

  def move(node):
    if isinstance(node, dict) and 'at' in node:
      return {**writer.ref(results.array(node)), 'dtype': node['dtype']}
    return {k: move(v) for k, v in node.items()} if isinstance(node, dict) else node

  moved = move(results.cases)
  place = moved[name]['dtypes'][dtype]
  change((place['modes'][mode] if mode else place)[section], writer)
  return store.from_writer(writer, {**results.meta, 'cases': moved})


def add(path, amount):
  """A change that adds `amount` to the first element of the array at `path`."""
  def change(entries, writer):
    ref = entries[path]
    # The reference is into the copy being written, so read it from there.
    whole = store.from_writer(writer, {'cases': {}})
    array = whole.array(ref).copy()
    array.flat[0] += amount
    entries[path] = {**writer.ref(array), 'dtype': ref['dtype']}
  return change


# --- the table ---


def test_a_side_equals_itself(ours):
  rows = compare(ours, ours)
  assert [r for r in rows if r.failed] == []
  assert {r.status for r in rows} == {'equal', 'error as declared'}
  sections = {r.section for r in rows}
  assert {'tree', 'metadata', 'init', 'outputs', 'grads', 'state', 'summaries',
          'aux_loss', 'error'} <= sections
  assert {(r.dtype, r.mode) for r in rows if r.section == 'outputs'} == {
      (d, m) for d in ('float32', 'bfloat16') for m in ('train', 'eval')}


BN, SOFTMAX = NAMES[0], NAMES[1]
FAULTS = [
    (BN, 'float32', 'outputs', 'train', add('', 1e-3)),
    (BN, 'bfloat16', 'outputs', 'eval', add('', 0.2)),
    (BN, 'float32', 'grads', 'train', add('params/gamma', 1e-3)),
    (BN, 'float32', 'grads', 'eval', add('input/0', 1e-3)),
    (BN, 'float32', 'state', 'train', add('moving_mean', 1e-3)),
    (SOFTMAX, 'float32', 'summaries', 'train', add('aux_z_loss_scalar', 1e-3)),
    (BN, 'float32', 'init', None, add('params/beta', 1e-7)),
    (SOFTMAX, 'float32', 'aux_loss', 'train', add('aux_z_loss/weight', 1.0)),
    (SOFTMAX, 'float32', 'outputs', 'train', add('per_example_argmax', 1)),
    (SOFTMAX, 'float32', 'outputs', 'train', add('z_loss', np.nan)),
]


@pytest.mark.parametrize(
    'name,dtype,section,mode,change', FAULTS,
    ids=[f'{f[2]}-{f[3]}-{f[1]}-{i}' for i, f in enumerate(FAULTS)])
def test_a_planted_fault_is_found(ours, name, dtype, section, mode, change):
  rows = compare(changed(ours, name, dtype, section, change, mode), ours)
  failed = [(r.case, r.dtype, r.section, r.mode) for r in rows if r.failed]
  assert failed == [(name, dtype, section, mode or '-')]


def test_a_difference_within_tolerance_is_reported_as_close(ours):
  a = changed(ours, BN, 'float32', 'outputs', add('', 2e-6), 'train')
  row, = [r for r in compare(a, ours) if r.status != 'equal'
          and r.section == 'outputs']
  assert row.status == 'close' and not row.failed
  assert 0 < row.load < 1 and row.max_abs == pytest.approx(2e-6, rel=0.2)
  assert row.tolerance == '1e-06 + 1e-05 * max|b|'


@pytest.mark.parametrize('change,text', [
    (lambda e, w: e.pop('params/gamma'), 'gamma'),
    (lambda e, w: e.update({'params/x': w.ref(np.zeros(2))}), 'params/x'),
    (lambda e, w: e.update({'params/gamma': w.ref(np.zeros(5, np.float32))}), '[5]'),
    (lambda e, w: e['params/gamma'].update(dtype='bfloat16'), 'bfloat16'),
], ids=['missing', 'unexpected', 'shape', 'dtype'])
def test_a_different_tree_is_found(ours, change, text):
  rows = compare(changed(ours, BN, 'float32', 'init', change), ours)
  tree, = [r for r in rows if r.section == 'tree' and r.failed]
  assert text in tree.note


def test_different_metadata_is_found(ours):
  def change(entries, writer):
    entries['params/gamma']['collections'] = ['label']
  a = changed(ours, BN, 'float32', 'metadata', change)
  row, = [r for r in compare(a, ours) if r.failed]
  assert row.section == 'metadata' and 'collections' in row.note


def test_an_unexpected_error_fails_and_a_missing_one_too(ours):
  broken = json.loads(json.dumps(ours.cases))
  error = broken[NAMES[2]]['dtypes']['float32'].pop('error')
  broken[BN]['dtypes']['float32'] = {'modes': {}, 'error': error}
  a = store.Results({'cases': broken}, ours._data)
  failed = {r.case: r.note for r in compare(a, ours) if r.failed}
  assert set(failed) == {BN, NAMES[2]}
  assert 'pax_haiku raised ValueError' in failed[BN]
  assert 'pax_haiku did not raise ValueError' in failed[NAMES[2]]


def test_known_excuses_praxis_but_not_pax_haiku(ours):
  case = dataclasses.replace(cases.by_name(BN), known={'error': 'newer field'})
  broken = json.loads(json.dumps(ours.cases))
  broken[BN]['dtypes']['float32'] = {'modes': {}, 'error': {
      'types': ['TypeError'], 'stage': 'build', 'message': 'no such field'}}
  other = store.Results({'cases': broken}, ours._data)
  rows = table.compare_case(case, ours, other)
  known, = [r for r in rows if r.section == 'error']
  assert known.status == 'known' and 'newer field' in known.note
  assert any(r.failed for r in table.compare_case(case, other, ours))


def test_a_case_without_result_and_a_changed_case_fail(ours):
  empty = store.Results({'cases': {}}, b'')
  row, = table.compare_case(cases.by_name(BN), ours, empty)
  assert row.failed and 'no result from praxis' in row.note
  stale = json.loads(json.dumps(ours.cases))
  stale[BN]['fingerprint'] += 1
  row, = table.compare_case(cases.by_name(BN), ours,
                            store.Results({'cases': stale}, ours._data))
  assert row.failed and 'record_golden' in row.note


# --- files ---


def test_results_survive_the_file_and_equal_arrays_are_stored_once(tmp_path):
  writer = store.Writer()
  arrays = {'a': np.arange(6.0).reshape(2, 3), 'b': np.array(7), 'c': np.zeros((0, 2)),
            'd': np.array([True, False])}
  refs = {k: writer.ref(v) for k, v in arrays.items()}
  assert writer.ref(arrays['a'].copy()) == refs['a']
  writer.save(tmp_path / 'x.npz', {'cases': refs})
  read = store.load(tmp_path / 'x.npz')
  for key, value in arrays.items():
    np.testing.assert_array_equal(read.array(read.cases[key]), value)
    assert read.array(read.cases[key]).dtype == value.dtype


def test_splitting_by_module_and_reading_the_folder_gives_the_same(ours, tmp_path):
  for i, name in enumerate(NAMES):
    store.subset(ours, [name], tmp_path / f'{i}.npz')
  assert all(r.status in ('equal', 'error as declared')
             for r in compare(store.load_folder(tmp_path), ours))
  again = tmp_path / 'again.npz'
  store.subset(ours, [NAMES[0]], again)
  assert again.read_bytes() == (tmp_path / '0.npz').read_bytes()


def test_other_npz_files_are_refused(tmp_path):
  np.savez(tmp_path / 'y.npz', w=np.zeros(3))
  with pytest.raises(ValueError, match='not a file of comparison results'):
    store.load(tmp_path / 'y.npz')


# --- reports ---


def test_reports_put_failures_first(ours, tmp_path):
  a = changed(ours, SOFTMAX, 'float32', 'outputs', add('z_loss', 1.0), 'train')
  rows = compare(a, ours)
  versions = {'pax_haiku': {'jax': '1'}, 'praxis': {'jax': '2'}}
  report_html.write(tmp_path / 'r.html', rows, versions)
  page = (tmp_path / 'r.html').read_text()
  order = re.findall(r'<details data-name="([^"]+)"( open)?', page)
  assert order[0] == (SOFTMAX, ' open') and len(order) == 3
  assert 'src=' not in page and 'href=' not in page  # nothing is loaded from outside
  report_json.write(tmp_path / 'r.json', rows, versions)
  document = json.loads((tmp_path / 'r.json').read_text())
  assert document['failed'] == 1
  first = document['rows'][0]
  assert (first['case'], first['status']) == (SOFTMAX, 'FAILED')
  assert first['max_abs'] == pytest.approx(1.0)
  assert list(report_text.lines(rows))[-1].startswith('3 cases: ')


# --- the cases ---


# Layers that Praxis does not have: {module.Class: why}.
OUR_OWN = {
    'haiku_module.HaikuModule': 'hosts modules of Haiku',
    'lean_softmax.LeanFullSoftmax': 'FullSoftmax that never holds all logits',
    'lean_softmax.LeanSharedEmbeddingSoftmax': 'the same, of the shared softmax',
    'shared_trace.SharedTraceStack': 'StackedTransformer that traces equal blocks once',
}


def public_layers():
  """{class: module.Class} of every layer that a module of `pax_haiku.layers` exports.

  What only files behind those modules hold, such as a base class, is not public.
  """
  found = {}
  for module_name in pax_haiku.layers.__all__:
    module = getattr(pax_haiku.layers, module_name)
    if not inspect.ismodule(module):
      continue
    for name, value in vars(module).items():
      if (inspect.isclass(value) and issubclass(value, base_layer.BaseLayer)
          and value.__module__.startswith('pax_haiku.layers.')
          and not name.startswith('_') and f'{module_name}.{name}' not in OUR_OWN):
        found[value] = f'{module_name}.{name}'
  return found


def test_every_layer_is_public_or_the_base_of_one_that_is():
  """Else it would be missing in `public_layers` without a word."""
  known = {base for cls in public_layers() for base in cls.__mro__}
  for info in pkgutil.iter_modules(pax_haiku.layers.__path__, 'pax_haiku.layers.'):
    for name, value in vars(importlib.import_module(info.name)).items():
      if (inspect.isclass(value) and issubclass(value, base_layer.BaseLayer)
          and value.__module__ == info.name and value not in known):
        assert f'{info.name.rpartition(".")[2]}.{name}' in OUR_OWN, value


def cases_by_class():
  """{layer class: its cases} for the cases whose layer pax_haiku has."""
  found = {}
  lookup = side.Side('pax_haiku').lookup
  for case in cases.all_cases():
    found.setdefault(lookup(case.layer), []).append(case)
  return found


def abstract(mine):
  """Whether a class cannot run by itself: each of its cases expects an error."""
  return all(c.raises for c in mine)


def gaps():
  """What the rules for cases ask for and no case does yet, one line each.

  Every layer that `pax_haiku.layers` exports has cases, with each of its flags flipped,
  in both dtypes and both modes.
  """
  found, covered = set(), cases_by_class()
  for cls, name in public_layers().items():
    if cls not in covered:
      found.add(f'{name} has no case')
  for cls, mine in covered.items():
    layer = mine[0].layer
    if abstract(mine):
      continue
    for field in dataclasses.fields(cls):
      if isinstance(field.default, bool) and not any(
          c.config.fields.get(field.name, field.default) is not field.default
          for c in mine):
        found.add(f'{layer}.{field.name} is not flipped')
    working = [c for c in mine if not c.raises]
    if layer.startswith('local.'):
      continue
    for dtype in {*spec.DTYPES} - {d for c in working for d in c.dtypes}:
      found.add(f'{layer} is not compared in {dtype}')
    for mode in {*spec.MODES} - {m for c in working for m in c.modes}:
      found.add(f'{layer} is not compared in {mode}')
  return found


def test_cases_are_complete():
  missing = sorted(gaps())
  assert not missing, (
      f'{missing}: declare cases in tools/praxis_compare/cases/ and run '
      'tools/record_golden.py')


def test_select():
  assert {c.layer for c in cases.select(['linears.Linear'])} == {'linears.Linear'}
  assert {c.module for c in cases.select(['linears.*'])} == {'linears'}
  assert [c.name for c in cases.select([BN])] == [BN]
  with pytest.raises(ValueError, match="no case matches 'nonsense'"):
    cases.select(['nonsense'])


def test_fingerprint_depends_on_configuration_and_inputs():
  case = spec.case('m.C', 'v', dict(a=1), np.zeros(3, np.float32))
  marks = {spec.fingerprint(c) for c in (
      case, spec.case('m.C', 'v', dict(a=2), np.zeros(3, np.float32)),
      spec.case('m.C', 'v', dict(a=1), np.ones(3, np.float32)),
      spec.case('m.C', 'v', dict(a=1), np.zeros(3, np.float32), modes=('eval',)))}
  assert len(marks) == 4
  assert spec.fingerprint(case) == spec.fingerprint(dataclasses.replace(case))


# --- the command ---


def command(*arguments):
  return subprocess.run(
      [sys.executable, str(TOOLS / 'compare_praxis.py'), *map(str, arguments)],
      capture_output=True, text=True, env=process.environment('pax_haiku'))


def test_command_against_recorded_numbers(ours, tmp_path):
  """One good run and one with a fault, in one go each: exit status 0 and 1."""
  (tmp_path / 'good').mkdir()
  (tmp_path / 'bad').mkdir()
  store.subset(ours, NAMES, tmp_path / 'good' / 'x.npz')
  bad = changed(ours, BN, 'float32', 'outputs', add('', 1e-3), 'train')
  store.subset(bad, NAMES, tmp_path / 'bad' / 'x.npz')
  chosen = [f'--case={n}' for n in NAMES]
  run = command(*chosen, '--recorded', tmp_path / 'good')
  assert run.returncode == 0, run.stderr
  assert '3 cases' in run.stdout and 'FAILED' not in run.stdout
  report = tmp_path / 'r.html'
  run = command(*chosen, '--recorded', tmp_path / 'bad', '--report', report)
  assert run.returncode == 1
  assert f'FAILED             {BN}' in run.stdout
  assert 'float32 train outputs' in run.stdout
  assert BN in report.read_text()


@pytest.mark.parametrize('arguments,text', [
    (['--case', 'nonsense'], "no case matches 'nonsense'"),
    ([], 'nothing to compare'),
    (['--all', '--case', 'linears.*'], 'exclude each other'),
    (['--all', '--report', 'x.pdf'], '.html or .json'),
    (['--all', '--praxis_python', '/nowhere/python'], 'make_praxis_env.sh'),
    (['--nosuchflag'], 'nosuchflag'),
    (['stray'], "unexpected argument 'stray'"),
])
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, text):
  run = command(*arguments)
  assert run.returncode == 2, run.stderr
  lines = run.stderr.strip().split('\n')
  assert len(lines) == 1 and lines[0].startswith('compare_praxis.py: ')
  assert text in lines[0]
