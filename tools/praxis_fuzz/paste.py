"""A finding as a regression test: the tree, and Praxis's numbers as literals.

The test needs no Praxis: `differences(TREE, EXPECTED)` runs pax_haiku alone.
"""

import textwrap
from typing import Any

import numpy as np
from praxis_compare import store

from praxis_fuzz import build, compare

TEMPLATE = '''"""{title}

Found by tools/fuzz_praxis.py; the expected numbers are those of Praxis {version}.
"""

from praxis_fuzz import paste

TREE = {tree}
EXPECTED = {expected}


def test_{name}():
  assert paste.differences(TREE, EXPECTED) == []
'''


def _literal(results: store.Results, ref: dict[str, Any]) -> Any:
  if 'repr' in ref:
    return ref
  return {'dtype': ref['dtype'], 'shape': ref['shape'],
          'values': results.array(ref).reshape(-1).tolist()}


def _from_literal(writer: store.Writer, value: Any) -> Any:
  if 'repr' in value:
    return value
  stored = 'float32' if value['dtype'] == 'bfloat16' else value['dtype']
  array = np.array(value['values'], stored).reshape(value['shape'])
  return {**writer.ref(array), 'dtype': value['dtype']}


def expected(tree: dict[str, Any], judge: store.Results) -> dict[str, Any]:
  """All that the judge computed for `tree`, as plain data."""
  case = build.case(tree)
  result = judge.cases[case.name]['dtypes'][case.dtypes[0]]
  out: dict[str, Any] = {}
  if 'error' in result:
    out['error'] = {**result['error'], 'message': ''}
  if 'init' in result:
    out['init'] = {k: _literal(judge, r) for k, r in result['init'].items()}
  out['modes'] = {
      mode: {section: {k: _literal(judge, r) for k, r in entries.items()}
             for section, entries in sections.items() if entries}
      for mode, sections in result['modes'].items()}
  return out


def results(tree: dict[str, Any], wanted: dict[str, Any]) -> store.Results:
  """The judge's results, from `expected`."""
  case, writer = build.case(tree), store.Writer()
  sections = ('outputs', 'grads', 'state', 'summaries', 'aux_loss', 'extra')
  done: dict[str, Any] = {'modes': {
      mode: {s: {k: _from_literal(writer, v) for k, v in found.get(s, {}).items()}
             for s in sections} for mode, found in wanted['modes'].items()}}
  if wanted.get('error'):
    done['error'] = wanted['error']
  if 'init' in wanted:
    done['init'] = {k: _from_literal(writer, v) for k, v in wanted['init'].items()}
  return store.from_writer(
      writer, {'cases': {case.name: {'dtypes': {case.dtypes[0]: done}}}})


def differences(tree: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
  """What pax_haiku computes otherwise than `wanted`, one line each."""
  ours = build.run(build.Side('pax_haiku'), tree)
  verdict = compare.judge(tree, ours, results(tree, wanted))
  return [f'{r.mode} {r.section}: {r.note}' for r in verdict.failed]


def literal(value: Any, indent: int = 0) -> str:
  """Python source of plain data: on one line if it fits, else an entry per line."""
  if len(repr(value)) + indent < 72 or not isinstance(value, dict | list) or not value:
    return repr(value)
  pad = ' ' * (indent + 2)
  if isinstance(value, dict):
    lines = [f'{pad}{k!r}: {literal(v, indent + 2)},' for k, v in value.items()]
  elif isinstance(value[0], int | float):
    return '[\n' + textwrap.fill(
        ', '.join(map(repr, value)) + ',', 86, initial_indent=pad,
        subsequent_indent=pad) + '\n' + ' ' * indent + ']'
  else:
    lines = [f'{pad}{literal(v, indent + 2)},' for v in value]
  ends = '{}' if isinstance(value, dict) else '[]'
  return '\n'.join([ends[0], *lines, ' ' * indent + ends[1]])


def test_source(tree: dict[str, Any], judge: store.Results, name: str, title: str,
                version: str = '1.4.0') -> str:
  """A file for tests/regressions/, ready to paste."""
  return TEMPLATE.format(title=title, name=name, version=version, tree=literal(tree),
                         expected=literal(expected(tree, judge)))
