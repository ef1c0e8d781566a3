"""Ports of models from packages that use Haiku, where these are installed.

They pin none of what they need, so no extra of setup.cfg installs them; the scripts say
how to. The proof is that of test_ports.py.
"""

import importlib
import pathlib
import sys

import pytest

PORTS = pathlib.Path(__file__).resolve().parents[3] / 'examples' / 'ports'
if str(PORTS) not in sys.path:
  sys.path.insert(0, str(PORTS))

import port_proof  # noqa: E402


@pytest.mark.parametrize(
  'name, package, entries',
  [
    ('graph_gps', 'haiku_geometric.nn', 30),
    ('evoformer', 'alphafold.model.modules', 85),
  ],
)
def test_outputs_and_gradients(name, package, entries):
  pytest.importorskip(
    package, reason=f'{name}.py says how to install {package}', exc_type=ImportError
  )
  proof = port_proof.prove(importlib.import_module(name).port(True))
  forward = [rule for rule in proof.mapping.rules if rule.way != 'back']
  assert proof.parameters == len(forward) == entries
  assert proof.matched == 1.0 and not proof.mapping.ambiguous
  # One variable moves all logits of a softmax alike: the output cannot prove it.
  assert proof.proved >= (entries - 1) / entries
  # port_proof.TOLERANCE, and why, is in the module.
  assert proof.outputs <= port_proof.TOLERANCE
  assert proof.gradients <= port_proof.TOLERANCE
