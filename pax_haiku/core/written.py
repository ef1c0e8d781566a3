"""Variables that come about during an `init` or `apply` of Pax: written or created.

Haiku's parameters cannot be changed while a function runs. Where `params` is mutable,
`put_variable` and the creation of missing parameters are kept here, in front of
Haiku's, until the run ends and they join what it returns.
"""

from collections.abc import Mapping
from typing import Any

import haiku as hk

from pax_haiku.core import boxes
from pax_haiku.core import variables as variables_lib
from pax_haiku.core.weights import WeightHParams


class Written:
  """What one run wrote and created.

  Attributes:
    params: {module: {name: value}}, values that stand in front of Haiku's.
    created: {(collection, module, name): declaration} of the variables that an `apply`
      did not find and made.
  """

  __slots__ = ('params', 'created')

  def __init__(self):
    self.params: dict[str, dict[str, Any]] = {}
    self.created: dict[tuple[str, str, str], WeightHParams] = {}

  def find(self, module: str, name: str) -> Any:
    """The value of a parameter, or None if Haiku has it."""
    return self.params.get(module, {}).get(name)

  def put(self, module: str, name: str, value: Any) -> None:
    """Sets a parameter."""
    self.params.setdefault(module, {})[name] = value

  def over(self, params: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Haiku's parameters with those of this run in their places."""
    if not self.params:
      return params
    out = {module: dict(bundle) for module, bundle in params.items()}
    for module, bundle in self.params.items():
      out.setdefault(module, {}).update(bundle)
    return out

  def box_created(self, tree: dict[str, Any], root: str) -> dict[str, Any]:
    """Makes created variables in Pax's collections `BoxedParam`s; returns `tree`."""
    for (collection, module, name), hparams in self.created.items():
      node = tree.get(collection, {})
      for part in variables_lib.module_path(module, root):
        node = node.get(part, {})
      if name in node:
        node[name] = boxes.BoxedParam(node[name], hparams)
    return tree


def params_of(run) -> Mapping[str, Mapping[str, Any]]:
  """Haiku's parameters inside a transform, as they stand for the layers of `run`."""
  params = hk.get_params()
  return params if run.written is None else run.written.over(params)
