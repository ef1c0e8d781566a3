"""NestedMap in Flax's serialization, against a small stand-in for Flax's registry.

Flax is not needed by the tests; the stand-in has Flax's rules: registered types go
through their functions, dicts, lists and tuples through their members, other values
stay as they are. tools/run_praxis_tests.py runs Praxis's own test with the real one.
"""

import sys
import types

import pytest

from pax_haiku import NestedMap
from pax_haiku.core import flax_serialization


@pytest.fixture
def flax(monkeypatch):
  module = types.ModuleType('flax.serialization')
  registry = {}

  def to_state_dict(x):
    if type(x) in registry:
      return registry[type(x)][0](x)
    if isinstance(x, list | tuple):
      return {str(i): to_state_dict(v) for i, v in enumerate(x)}
    return {k: to_state_dict(v) for k, v in x.items()} if isinstance(x, dict) else x

  def from_state_dict(target, state, name='.'):
    if type(target) in registry:
      return registry[type(target)][1](target, state)
    if isinstance(target, list | tuple):
      values = (from_state_dict(v, state[str(i)]) for i, v in enumerate(target))
      return type(target)(values)
    return state

  def register(cls, to_state, from_state, override=False):
    assert override
    registry[cls] = to_state, from_state

  vars(module).update(
      to_state_dict=to_state_dict, from_state_dict=from_state_dict,
      register_serialization_state=register, current_path=lambda: 'here')  # fmt: skip
  monkeypatch.setitem(sys.modules, 'flax.serialization', module)
  return module


def test_maps_there_and_back(flax):
  assert flax_serialization.register()
  value = NestedMap(x=[1, 'a'], y=(4, NestedMap(q=5)), z=NestedMap(a='6'))
  state = flax.to_state_dict(value)
  expected = {'x': {'0': 1, '1': 'a'}, 'y': {'0': 4, '1': {'q': 5}}, 'z': {'a': '6'}}
  assert state == expected and type(state) is type(state['z']) is dict
  target = NestedMap(x=[0, ''], y=(0, NestedMap(q=0)), z=NestedMap(a=''))
  back = flax.from_state_dict(target, state)
  assert back == value and type(back) is type(back.z) is NestedMap
  assert target.z.a == ''
  assert flax_serialization.register()  # again


def test_other_keys_are_refused(flax):
  flax_serialization.register()
  with pytest.raises(ValueError, match=r"here lacks the keys \['a'\].*\['b'\] are too"):
    flax.from_state_dict(NestedMap(a=1, c=2), {'b': 1, 'c': 2})


def test_without_flax(monkeypatch):
  monkeypatch.delitem(sys.modules, 'flax.serialization', raising=False)
  assert not flax_serialization.register()
  monkeypatch.setitem(
      sys.modules, 'flax.serialization', types.ModuleType('flax.serialization'))
  assert not flax_serialization.register()  # Flax is being imported
