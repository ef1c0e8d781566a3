"""`layer.bind(variables)`: a layer to work with interactively, outside a transform.

Such a layer keeps the variables and the stream counters. Each method call or access
to a child runs one small Haiku transform over the whole tree and navigates to the
layer that is meant.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk

from pax_haiku.core import constants
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core import written as written_lib
from pax_haiku.core.compact import nowrap
from pax_haiku.core.frozen import FrozenDict
from pax_haiku.core.metaclass import LayerMeta

# Helpers of BaseLayer that need a bound layer.
_FORWARDED = (
  'get_var',
  'update_var',
  'get_variable',
  'put_variable',
  'has_variable',
  'is_mutable_collection',
  'next_prng_key',
  'add_summary',
  'add_aux_loss',
  'get_decode_state',
  'update_decode_state',
  'get_quantized_weight',
  'get_sparse_weight',
  'sow',
  'quantize_weight',
  'quantized_partition_specs',
)


class Scope:
  """Variables, streams and counters of one interactive tree."""

  def __init__(self, layer, variables, rngs, is_mutable):
    from pax_haiku.core import functional

    self.layer = layer
    self.name = functional.root_name(layer)
    self.params, self.state = variables_lib.to_haiku(variables, root=self.name)
    self.rngs = rngs
    self.is_mutable = is_mutable
    self.counters: dict = {}

  def run(self, steps, function: Callable[..., Any], args=(), kwargs=None):
    """Calls `function(layer at steps, *args, **kwargs)` inside a transform."""

    written = written_lib.Written()

    def call(*args, **kwargs):
      run = run_lib.Run(
        initializing=False,
        rngs=self.rngs,
        is_mutable=self.is_mutable,
        counters=self.counters,
        written=written,
      )
      with run_lib.activate(run):
        node = self.layer._pax_unbound_copy()
        node._pax_bind(run, self.name)
        for step in steps:
          node = getattr(node, step) if isinstance(step, str) else node[step[0]]
        return function(node, *args, **kwargs)

    streams = (constants.NON_PAX_RNG_KEY, constants.RANDOM, constants.PARAMS)
    key = next((self.rngs[s] for s in streams if s in self.rngs), None)
    output, self.state = hk.transform_with_state(call).apply(
      self.params, self.state, key, *args, **(kwargs or {})
    )
    self.params = written.over(self.params)
    return output


class Node:
  """One layer of an interactive tree: where it is, and how to reach it."""

  def __init__(self, scope: Scope, steps: tuple):
    self.scope = scope
    self.steps = steps

  def call(self, method, args, kwargs):
    return self.scope.run(
      self.steps, lambda layer, *a, **k: method(layer, *a, **k), args, kwargs
    )

  def attribute(self, name: str):
    """An attribute made in setup; layers come back as interactive layers."""
    found = []

    def look(layer):
      layer._pax_require_setup(name)
      found.append(getattr(layer, name))

    self.scope.run(self.steps, look)
    return self._wrap(found[0], (*self.steps, name))

  def _wrap(self, value, steps):
    if isinstance(type(value), LayerMeta):
      return _handle(value, Node(self.scope, steps))
    if isinstance(value, list | tuple) and any(
      isinstance(type(v), LayerMeta) for v in value
    ):
      return tuple(self._wrap(v, (*steps, (i,))) for i, v in enumerate(value))
    if isinstance(value, Mapping) and any(
      isinstance(type(v), LayerMeta) for v in value.values()
    ):
      return FrozenDict({k: self._wrap(v, (*steps, (k,))) for k, v in value.items()})
    return value

  def unbind(self):
    variables = self.scope.run(self.steps, lambda layer: layer.variables)
    unbound = []
    self.scope.run(self.steps, lambda layer: unbound.append(layer._pax_unbound_copy()))
    return unbound[0], variables


class _InteractiveTheta:
  """`bound.theta.w`."""

  def __init__(self, node: Node):
    self._node = node

  def __getattr__(self, name: str):
    node = self._node
    return node.scope.run(node.steps, lambda layer: layer.theta[name])

  __getitem__ = __getattr__


@functools.cache
def _handle_class(cls: LayerMeta) -> type:
  """A subclass of `cls` whose helper methods go through the interactive scope."""

  def forward(name):
    @nowrap
    def method(self, *args, **kwargs):
      return self._pax_interactive.call(
        lambda layer, *a, **k: getattr(layer, name)(*a, **k), args, kwargs
      )

    return method

  def prop(name):
    return property(
      lambda self: self._pax_interactive.call(
        lambda layer: getattr(layer, name), (), {}
      )
    )

  namespace: dict[str, Any] = {name: forward(name) for name in _FORWARDED}
  namespace |= {name: prop(name) for name in ('variables', 'path')}
  namespace['theta'] = property(lambda self: _InteractiveTheta(self._pax_interactive))
  namespace['__module__'] = cls.__module__
  namespace['__qualname__'] = cls.__qualname__
  return LayerMeta(cls.__name__, (cls,), namespace)


def _handle(layer, node: Node):
  handle = object.__new__(_handle_class(type(layer)))
  own = layer.__dict__
  for name in layer._pax_field_names & own.keys():
    handle.__dict__[name] = node._wrap(own[name], (*node.steps, name))
  handle.__dict__['_pax_interactive'] = node
  return handle


def bind(layer, variables, rngs, is_mutable):
  """See `BaseLayer.bind`."""
  scope = Scope(layer, variables, rngs, is_mutable)
  bound: list = []
  scope.run((), bound.append)  # whose fields hold their layers under their new names
  return _handle(bound[0], Node(scope, ()))
