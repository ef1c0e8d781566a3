"""The fuzzer itself: what it draws, what it notices, and what it prints.

No Praxis here: the judge is pax_haiku again, or its results with a fault planted.
"""

import copy
import json
import pathlib
import re
import subprocess
import sys
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / 'tools'
if str(TOOLS) not in sys.path:
  sys.path.insert(0, str(TOOLS))

from praxis_compare import process, spec, store  # noqa: E402
from praxis_fuzz import (  # noqa: E402
  build,
  compare,
  oracle,
  paste,
  rules,
  search,
  session,
  shrink,
  trees,
)

SCRIPT = {
  'config': {'layer': 'fuzz.Script', 'fields': {
    'dims': 2,
    'a_tpl': {'layer': 'linears.Bias', 'fields': {'dims': 2}},
    'in_setup': [['variable', 'w', 'vector', True, ['Gaussian', 0.5], None, None],
                 ['variable', 'n', 'scalar', False, ['Constant', 0.5], None, None],
                 ['child', 'a', 0]],
    'in_call': [['theta', 'w'], ['call', 'a'], ['draw', 0.5], ['update_var', 'n'],
                ['aux', 'l', 0.5], ['summary', 'm', 'SCALAR', 2, True]]}},
  'shape': [2, 3, 2], 'input_dtype': 'float32', 'paddings': False}
BAD = {'config': {'layer': 'linears.Bias', 'fields': {'dims': 3}},
       'shape': [2, 3, 2], 'input_dtype': 'float32', 'paddings': False}


def drawn(seed, count=40, depth=2):
  found = []

  @hypothesis.seed(seed)
  @hypothesis.settings(max_examples=count, deadline=None, database=None,
                       phases=[hypothesis.Phase.generate],
                       suppress_health_check=list(hypothesis.HealthCheck))
  @hypothesis.given(trees.trees(depth))
  def draw(tree):
    found.append(tree)

  draw()
  return found


@pytest.fixture(scope='module')
def ours():
  """Results of pax_haiku for SCRIPT."""
  return build.run(build.Side('pax_haiku'), SCRIPT)


def edited(results, change):
  """A copy of `results` after `change(result of the only dtype, writer)`."""
  writer = store.Writer()

  def move(node):
    if isinstance(node, dict) and 'at' in node:
      return {**writer.ref(results.array(node)), 'dtype': node['dtype']}
    return {k: move(v) for k, v in node.items()} if isinstance(node, dict) else node

  cases = move(results.cases)
  result, = cases['fuzz/tree']['dtypes'].values()
  change(result, writer)
  return store.from_writer(writer, {'cases': cases})


# --- what is drawn ---


def test_trees_are_plain_data_that_pax_haiku_can_be_configured_with():
  side = build.Side('pax_haiku')
  for tree in drawn(1, 20):
    assert json.loads(json.dumps(tree)) == tree
    case = build.case(tree)
    assert case.args[0].shape == tuple(tree['shape'])
    side.build(case.config)  # every class and field name exists


def test_the_seed_decides_what_is_drawn():
  assert drawn(2, 10) == drawn(2, 10)
  assert drawn(2, 10) != drawn(3, 10)


def test_what_is_drawn_is_varied():
  found = [tree for seed in range(3) for tree in drawn(seed)]
  parts = set().union(*map(search.parts, found))
  assert {'fuzz.Script', 'repeats.Repeat', 'sequential.Sequential', 'fuzz.Tokens',
          'variable', 'child', 'children', 'assign', 'theta', 'update_var', 'call',
          'draw', 'aux', 'summary'} <= parts
  for field in ('shared_weight_layer_id', 'fprop_dtype', 'params_init', 'weight_init'):
    assert field in json.dumps(found)


def test_to_spec_and_precision():
  config = build.to_spec({'layer': 'a.B', 'fields': {
    'i': {'init': ['Gaussian', 2.0]}, 'd': {'dtype': 'bfloat16'},
    'n': {'name': 'c.D'}, 'l': [1, {'layer': 'e.F'}]}})
  assert config == spec.cfg('a.B', i=spec.init('Gaussian', 2.0), n=spec.Name('c.D'),
                            d=spec.Dtype('bfloat16'), l=[1, spec.cfg('e.F')])
  assert build.precision(SCRIPT) == 'float32'
  assert build.precision({**SCRIPT, 'input_dtype': 'bfloat16'}) == 'bfloat16'


# --- what is noticed ---


def test_a_tree_equals_itself(ours):
  result, = ours.cases['fuzz/tree']['dtypes'].values()
  assert 'error' not in result
  assert set(result['init']) == {'params/w', 'params/a/b', 'non_trainable/n'}
  assert result['modes']['train']['state'] and result['modes']['eval']['summaries']
  verdict = compare.judge(SCRIPT, ours, ours)
  assert (verdict.failed, verdict.excused, verdict.raised) == ([], [], None)


def add(*path, amount):
  def change(result, writer):
    *outer, last = path
    for key in outer:
      result = result[key]
    array = store.from_writer(writer, {'cases': {}}).array(result[last]).copy()
    array.flat[0] += amount
    result[last] = {**writer.ref(array), 'dtype': result[last]['dtype']}
  return change


@pytest.mark.parametrize('section,change', [
  ('init', add('init', 'params/w', amount=1e-6)),
  ('outputs', add('modes', 'eval', 'outputs', '', amount=1e-2)),
  ('grads', add('modes', 'train', 'grads', 'params/w', amount=1e-2)),
  ('state', add('modes', 'train', 'state', 'n', amount=1e-2)),
  ('summaries', add('modes', 'train', 'summaries', 'm_scalar', amount=1e-2)),
  ('aux_loss', add('modes', 'train', 'aux_loss', 'l/value', amount=1e-2)),
])
def test_a_planted_difference_is_noticed(ours, section, change):
  verdict = compare.judge(SCRIPT, ours, edited(ours, change))
  assert verdict.signature == section


def test_errors():
  side = build.Side('pax_haiku')
  bad = build.run(side, BAD)
  verdict = compare.judge(BAD, bad, bad)
  assert not verdict.failed and verdict.raised[0] == verdict.raised[1]
  fine = edited(bad, lambda result, writer: result.pop('error'))
  assert compare.judge(BAD, bad, fine).signature.startswith('only pax_haiku raised')
  assert compare.judge(BAD, fine, bad).signature.startswith('only praxis raised')


def test_bfloat16_initial_values_may_differ_by_two_units(ours):
  # truncated_normal(bfloat16) of one key: 1.5390625 in JAX 0.10, 1.5546875 in 0.4.26.
  def as_bfloat16(amount):
    def change(result, writer):
      result['init']['params/w'] = {
        **writer.ref(np.array([1.0, 1.0 + amount], np.float32)), 'dtype': 'bfloat16'}
    return edited(ours, change)

  exact = as_bfloat16(0.0)
  assert not compare.judge(SCRIPT, as_bfloat16(2.0 ** -6), exact).failed
  assert compare.judge(SCRIPT, as_bfloat16(3 * 2.0 ** -7), exact).signature == 'init'


def test_python_numbers_of_the_judge_are_taken_for_scalars(ours):
  def change(result, writer):
    result['modes']['train']['aux_loss']['l/weight'] = writer.ref(0.5)  # float64
  assert not compare.judge(SCRIPT, ours, edited(ours, change)).failed
  # ... and only the judge's.
  verdict = compare.judge(SCRIPT, edited(ours, change), ours)
  assert verdict.signature == 'aux_loss'


def test_rules_excuse_what_they_name_and_nothing_else():
  def repeat(sub, **fields):
    return {'layer': 'repeats.Repeat', 'fields': {'sub_tpl': sub, 'x_times': 2,
                                                  **fields}}

  def excused(config, note='only praxis raised: AssertionError in init: '):
    row = types.SimpleNamespace(note=note)
    return {r.name for r in rules.RULES if r.applies({'config': config}, row)}

  assert len({r.name for r in rules.RULES}) == len(rules.RULES)
  assert all(r.reason for r in rules.RULES)
  plain, nd = BAD['config'], {'nd_prefix_shape': [1, 2]}
  assert excused(repeat(repeat(plain), **nd)) == {'nested-nd-prefix'}
  assert excused(repeat(repeat(plain, **nd), **nd)) == {'nested-nd-prefix'}
  stack = {'layer': 'transformers.StackedTransformerRepeated', 'fields': {}}
  assert excused(repeat(stack, **nd)) == {'nested-nd-prefix'}
  assert excused(repeat(stack)) == set()
  assert excused(repeat(repeat(plain, **nd))) == set()
  assert excused(repeat(repeat(plain))) == set()
  assert excused(repeat(plain, **nd)) == set()
  assert excused(repeat(repeat(plain), **nd), "'outputs' past") == set()


# --- search ---


def fake(fails):
  def check(tree):
    row = types.SimpleNamespace(section='outputs', note='')
    return compare.Verdict([row] if fails(tree) else [], [])
  return check


def find(fails, **options):
  options = {'seed': 1, 'seconds': 60.0, 'max_trees': 80, **options}
  hunt = search.Search(fake(fails), trees.trees(), **options)
  return hunt, hunt.run()


def test_a_planted_difference_is_found_and_shrunk():
  def fails(tree):
    return {'variable', 'draw'} <= search.parts(tree)

  hunt, (finding, *_) = find(fails)
  config = finding.tree['config']
  assert config['layer'] == 'fuzz.Script'
  assert set(config['fields']) == {'in_setup', 'in_call'}
  assert [op[0] for op in config['fields']['in_setup']] == ['variable']
  assert [op[0] for op in config['fields']['in_call']] == ['draw']
  assert hunt.counts.failed == len(hunt.findings)


def test_shrinking_takes_layers_out_of_what_holds_them():
  inner = {'layer': 'linears.Bias', 'fields': {'dims': 2, 'bias_init': 0.5}}
  tree = {**SCRIPT, 'paddings': True, 'input_dtype': 'bfloat16', 'config': {
    'layer': 'sequential.Sequential', 'fields': {'layers': [
      SCRIPT['config'], {'layer': 'repeats.Repeat', 'fields': {
        'sub_tpl': inner, 'x_times': 2}}]}}}
  small = shrink.shrink(tree, lambda t: 'bias_init' in json.dumps(t), lambda: False)
  assert small == {**SCRIPT, 'config': {
    'layer': 'linears.Bias', 'fields': {'bias_init': 0.5}}}
  conditional = copy.deepcopy(SCRIPT)
  conditional['config']['fields']['in_call'] = [['if_eval', 'draw', 0.5]]
  small = shrink.shrink(conditional, lambda t: 'draw' in json.dumps(t), lambda: False)
  assert small['config']['fields'] == {'in_call': [['draw', 0.5]]}
  assert shrink.shrink(tree, lambda t: True, lambda: True) == tree


def test_search_is_deterministic_and_goes_on_after_a_finding():
  def fails(tree):
    return tree['config']['layer'] in ('repeats.Repeat', 'fuzz.Tokens')

  a, b = find(fails), find(fails)
  assert [f.tree for f in a[1]] == [f.tree for f in b[1]]
  assert {f.tree['config']['layer'] for f in a[1]} == {'repeats.Repeat', 'fuzz.Tokens'}
  assert a[0].counts.text() == b[0].counts.text()
  assert a[0].counts.repeated  # the same failure again is not shrunk again


def test_search_stops_in_time_while_shrinking():
  hunt, found = find(lambda tree: True, shrink_seconds=0.0)
  assert found and hunt.counts.tried >= 1


def test_no_tree_is_checked_when_there_is_no_time():
  hunt, found = find(lambda tree: True, seconds=-1.0)
  assert (found, hunt.counts.tried) == ([], 0)


# --- the test that a finding becomes ---


def test_the_printed_test_passes_and_notices(ours, tmp_path):
  source = paste.test_source(SCRIPT, ours, 'fuzz_x', 'Differed in: outputs.')
  names: dict = {}
  exec(compile(source, 'test_fuzz_x.py', 'exec'), names)
  names['test_fuzz_x']()
  assert names['TREE'] == SCRIPT
  wrong = copy.deepcopy(names['EXPECTED'])
  wrong['modes']['train']['outputs']['']['values'][0] += 1
  line, = paste.differences(SCRIPT, wrong)
  assert line.startswith('train outputs: ')


# --- the processes ---


def test_oracle_process(ours, tmp_path):
  with oracle.Oracle(sys.executable, tmp_path, 'pax_haiku') as other:
    assert 'jax' in other.versions()
    other.ask(SCRIPT)
    assert not compare.judge(SCRIPT, ours, other.answer()).failed
    other.ask({**SCRIPT, 'config': {'nothing': 1}})
    with pytest.raises(RuntimeError, match='the oracle process failed: ValueError'):
      other.answer()
    other.ask(SCRIPT)  # and goes on
    other.answer()
    other._process.kill()
    with pytest.raises(RuntimeError, match='is gone'):
      other.answer()


def test_a_run_with_a_finding_prints_a_test_and_returns_1(
    tmp_path, monkeypatch, capsys):
  real = compare.judge

  def judge(tree, a, b):
    verdict = real(tree, a, b)
    if 'aux' in search.parts(tree):
      verdict.failed.append(types.SimpleNamespace(
        mode='train', section='aux_loss', note='planted'))
    return verdict

  monkeypatch.setattr(compare, 'judge', judge)
  monkeypatch.setattr(trees, 'trees', lambda depth: st.sampled_from([BAD, SCRIPT]))
  monkeypatch.setattr('absl.logging.set_verbosity', lambda level: None)
  status = session.run(
    python=sys.executable, pkg='pax_haiku', folder=str(tmp_path), seed=1, minutes=1,
    depth=1, max_trees=2, save=tmp_path)
  text = capsys.readouterr().out
  assert status == 1
  assert 'train aux_loss: planted' in text and 'def test_fuzz_seed1_1():' in text
  assert re.search(r'1 x both raised \w+ in init', text)
  assert text.strip().endswith('2 trees: 0 equal, 1 skipped (both raised), 1 failed')
  assert 'TREE' in (tmp_path / 'test_fuzz_seed1_1.py').read_text()


# --- the command ---


def command(*arguments):
  return subprocess.run(
    [sys.executable, str(TOOLS / 'fuzz_praxis.py'), *map(str, arguments)],
    capture_output=True, text=True, env=process.environment('pax_haiku'))


def test_command_against_itself():
  run = command('--judge=pax_haiku', '--max_trees=2', '--minutes=1', '--depth=0')
  assert run.returncode == 0, run.stderr
  assert run.stdout.strip().split('\n')[-1].startswith('2 trees: ')


@pytest.mark.parametrize('arguments,text', [
  (['--minutes', 'soon'], 'minutes'),
  (['--minutes', '-1'], 'minutes'),
  (['--seed', '-1'], 'seed'),
  (['--praxis_python', '/nowhere/python'], 'make_praxis_env.sh'),
  (['--judge=pax_haiku', '--save', '/nowhere/at/all'], 'no such directory'),
  (['--nosuchflag'], 'nosuchflag'),
  (['stray'], "unexpected argument 'stray'"),
])
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, text):
  run = command(*arguments)
  assert run.returncode == 2, run.stderr
  lines = run.stderr.strip().split('\n')
  assert len(lines) == 1 and lines[0].startswith('fuzz_praxis.py: ')
  assert text in lines[0]
