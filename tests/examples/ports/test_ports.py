"""Ports of Haiku models: outputs and gradients of each equal its original's.

The scripts in examples/ports find the mapping of parameters by `interop.match`. That
takes a while, so some are read here from maps/, as `--small --mapping` wrote them.
"""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys

import pytest

from pax_haiku import interop, layers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PORTS = ROOT / 'examples' / 'ports'
if str(PORTS) not in sys.path:
  sys.path.insert(0, str(PORTS))

import port_proof  # noqa: E402


def small(name, **changes):
  return dataclasses.replace(importlib.import_module(name).port(True), **changes)


def test_a_script_finds_the_mapping_and_proves_it(tmp_path):
  found = subprocess.run(
    [sys.executable, PORTS / 'mlp.py', '--small', '--json', '--mapping',
     tmp_path / 'map.txt'],
    capture_output=True, text=True, check=True, cwd=tmp_path)
  proof = json.loads(found.stdout)
  assert proof['ok'] and proof['proved'] == 1.0 and proof['parameters'] == 4
  assert proof['round_trip']
  assert proof['mapping'] == '4 of 4 entries mapped: 4 proved'
  mapping = interop.Mapping.load(tmp_path / 'map.txt')
  assert {r.name for r in mapping.rules} == {
    f'params:layers_{i}/{v}' for i in (0, 1) for v in ('bias/b', 'linear/w')}


def test_averages_kept_as_haiku_keeps_them_are_found():
  proof = port_proof.prove(small('vector_quantizer'))
  assert proof.ok and proof.proved == 1.0
  assert (proof.parameters, proof.matched) == (5, 1.0)


@pytest.mark.parametrize(
  'name, modes, entries',
  [
    ('lstm', ('eval',), 2),
    ('transformer', ('eval',), 38),
    ('mobilenet', ('train',), 27),
    ('resnet50', ('eval',), 87),
  ],
)
def test_outputs_and_gradients(name, modes, entries):
  mapping = interop.Mapping.load(HERE / 'maps' / f'{name}.txt')
  proof = port_proof.prove(small(name, modes=modes), mapping)
  forward = [rule for rule in mapping.rules if rule.way != 'back']
  assert proof.parameters == len(forward) == entries, 'nothing is left out'
  assert proof.round_trip
  # port_proof.TOLERANCE, and why, is in the module.
  assert proof.outputs <= port_proof.TOLERANCE
  assert proof.gradients <= port_proof.TOLERANCE


def test_a_wrong_port_is_told():
  port = small('mlp')
  mapping = interop.Mapping.from_text('\n'.join(
    f'params:layers_{i}/{ours} = params:mlp/~/linear_{i}/{theirs}'
    for i in (0, 1) for ours, theirs in (('bias/b', 'b'), ('linear/w', 'w'))))
  assert port_proof.prove(port, mapping).ok
  port.port.layers[0].activation_tpl.cls = layers.GELU
  proof = port_proof.prove(port, mapping)
  assert not proof.ok and min(proof.outputs, proof.gradients) > 1e-2


def test_lines_of_code():
  table = importlib.import_module('table')
  text = '''
  def f(x):
    """Says
    what."""

    # A comment.
    return (x +
            1)
  '''
  assert table.code_lines(text) == 3


def test_a_row_takes_the_place_of_its_like():
  table = importlib.import_module('table')
  rows = {True: {'mlp': '| [mlp](mlp.py) | 4 |\n'}, False: {}}
  page = table.page(rows)
  assert table.rows_of(page) == rows
  rows[False]['lstm'] = '| [lstm](lstm.py) | 2 |\n'
  assert table.rows_of(table.page(rows)) == rows
  written = table.rows_of((PORTS / 'README.md').read_text())
  for kind in written.values():
    assert kind.keys() == {*table.NAMES}
    assert {line.count('|') for line in kind.values()} == {len(table.COLUMNS) + 1}
    assert all('| exact |' in line for line in kind.values())
