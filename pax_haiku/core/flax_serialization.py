"""NestedMap for Flax's serialization, where Flax is in use; nothing here imports it.

`flax.serialization.to_state_dict` and its inverse know the types that are registered
with them. `register` is called when pax_haiku is imported, for a Flax that was imported
before, and by `pax_haiku.drop_in` with each module of Praxis that is imported. Whoever
imports Flax later calls it.
"""

import sys

from pax_haiku.core.nested_map import NestedMap


def register() -> bool:
  """Registers NestedMap if Flax's serialization is imported; returns whether it is."""
  serialization = sys.modules.get('flax.serialization')
  if not hasattr(serialization, 'register_serialization_state'):
    return False  # not imported, or only half so far

  def to_state(value: NestedMap) -> dict:
    return {key: serialization.to_state_dict(v) for key, v in value.items()}

  def from_state(target: NestedMap, state: dict) -> NestedMap:
    if set(target) != set(state):
      raise ValueError(
          f'The state for a NestedMap at {serialization.current_path() or "the root"} '
          f'lacks the keys {sorted(set(target) - set(state))}, and '
          f'{sorted(set(state) - set(target))} are too many.'
      )
    result = target.copy()
    for key, value in target.items():
      dict.__setitem__(
          result, key, serialization.from_state_dict(value, state[key], name=key)
      )
    return result

  serialization.register_serialization_state(
      NestedMap, to_state, from_state, override=True
  )
  return True


register()
