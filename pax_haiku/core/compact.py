"""Methods that create variables and children inline: what Flax calls `nn.compact`.

In a compact method `create_variable` and `create_child(ren)` are allowed, as in
`setup`, and a layer that is simply constructed there is a child of the method's layer:
it takes over the base fields that it left at their defaults, and without a name it is
called after its class, `Linear_0`, `Linear_1`, ... Each call of the method starts anew
and finds the variables of the call before.

Flax's own marks are understood too, so a layer may say `@nn.compact` where Flax is
installed.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import haiku as hk

_local = threading.local()


def compact(method):
  """Marks a method that may create variables and children inline."""
  method._pax_compact = True
  return method


def nowrap(method):
  """Marks a method that neither triggers `setup` nor enters the module's scope."""
  method._pax_nowrap = True
  return hk.transparent(method)


def is_compact(method: Callable) -> bool:
  """Whether a function is marked by `compact`, ours or Flax's."""
  return getattr(method, '_pax_compact', False) or (
    getattr(method, 'compact', False) is True
  )


def is_nowrap(method: Callable) -> bool:
  """Whether a function is marked by `nowrap`, ours or Flax's."""
  return getattr(method, '_pax_nowrap', False) or (
    getattr(method, 'nowrap', False) is True
  )


class Names:
  """What a layer's compact methods have made in the present call.

  Attributes:
    of_setup: names of the variables that setup declared.
    variables: names of those declared in this call.
    children: names of the layers constructed in this call.
    counts: {class name: layers of it without a name, in this call}.
  """

  __slots__ = ('of_setup', 'variables', 'children', 'counts')

  def __init__(self, of_setup: frozenset[str]):
    self.of_setup = of_setup
    self.start()

  def start(self):
    self.variables: set[str] = set()
    self.children: list[str] = []
    self.counts: dict[str, int] = {}

  def auto(self, class_name: str) -> str:
    """The name of the next nameless layer of a class."""
    count = self.counts.get(class_name, 0)
    self.counts[class_name] = count + 1
    return f'{class_name}_{count}'


@contextlib.contextmanager
def running(layer) -> Iterator[None]:
  """Marks the code inside as a compact method of `layer`."""
  if not hasattr(_local, 'stack'):
    _local.stack = []
  values = layer.__dict__
  if not layer._pax_compact_depth:
    if '_pax_compact_names' not in values:
      declared = frozenset(values['_pax_weights']) | frozenset(
        values['_pax_non_trainables']
      )
      values['_pax_compact_names'] = Names(declared)
    values['_pax_compact_names'].start()
  values['_pax_compact_depth'] = layer._pax_compact_depth + 1
  _local.stack.append(layer)
  try:
    yield
  finally:
    _local.stack.pop()
    values['_pax_compact_depth'] -= 1
    if not values['_pax_compact_depth']:
      layer._pax_forget_inline_children()


def owner():
  """The layer in whose compact method a layer is being constructed, or None.

  None as well in what the method calls: other layers, and Haiku's modules.
  """
  stack = getattr(_local, 'stack', None)
  if not stack:
    return None
  layer = stack[-1]
  here = hk.current_name()
  if here == layer.module_name:
    return layer
  prefix = layer.module_name + '/'
  # Haiku has another method of the same layer run in the scope 'layer/~method'.
  if here.startswith(prefix) and all(
    part.startswith('~') for part in here[len(prefix) :].split('/')
  ):
    return layer
  return None
