"""Marks in a program for what modules return, also inside of loops.

`jax.ad_checkpoint.checkpoint_name` is the identity with a name, which stays in the
jaxpr of a scan's body or of a rematerialized function as it does elsewhere.
"""

import dataclasses
import itertools
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from pax_haiku import base_layer
from pax_haiku.interop import capture

_runs = itertools.count()


@dataclasses.dataclass
class Frame:
  """A function that is traced by itself: the program, a scan's body, ...

  Attributes:
    state: of JAX, while it traces this.
    prefixes: what the module names in it may lack at their start: a stack of layers
      runs in a transform of its own. The most likely one is the first.
    lifted: prefix of the module that was called last, if it lifted a transform.
    settled: whether a Pax layer said what its module names lack.
  """

  state: Any
  prefixes: list[str]
  lifted: str | None = None
  settled: bool = False


@dataclasses.dataclass(frozen=True)
class Mark:
  """An array that a method returned, as the program is traced.

  Attributes:
    frame: where.
    name: the module's name there.
    method: None for `__call__`.
    part: number of the array among those that the method returned; None: the only one.
    kind: the module's class.
    shape: of the array.
    call: number of the call that returned it.
    root: whether the outermost layer returned it.
  """

  frame: Frame
  name: str
  method: str | None
  part: int | None
  kind: str
  shape: tuple[int, ...]
  call: int
  root: bool


class Marker:
  """For `hk.intercept_methods`: marks what methods return.

  Attributes:
    marks: in the order of tracing. A body may be traced several times.
  """

  def __init__(self, form: str, modules: set[str]):
    """`form` of the model, and all `modules` that have variables, or parts that do."""
    self.form, self.modules = form, modules
    self.marks: list[Mark] = []
    self.root: str | None = None
    self._tag = f'pax_haiku_{next(_runs)}_'
    self._frames: list[Frame] = []
    self._last = Frame(None, [''])  # around everything
    self._calls = itertools.count()
    self._marked: dict[int, Any] = {}  # what was marked, by id

  def __call__(self, method, args, kwargs, context):
    module, name = context.module, context.method_name
    if not capture.is_watched(name):
      return method(*args, **kwargs)
    if self.form == 'pax' and self.root is None:
      self.root = module.module_name
    frame = self._frame()
    frame.lifted = None
    if isinstance(module, base_layer.BaseLayer) and not frame.settled:
      frame.settled = True
      frame.prefixes = [p + module._pax_run.outside for p in frame.prefixes]
    out = method(*args, **kwargs)
    self._last = frame
    if name == '__call__' and type(module).__name__ == 'LiftingModule':
      frame.lifted = self.full_name(frame, module.module_name) + '/'
      return out
    leaves, treedef = jax.tree.flatten(out)
    usual = name == '__call__'
    floats = [
      i
      for i, leaf in enumerate(leaves)
      if capture.is_float(leaf) and (usual or id(leaf) not in self._marked)
    ]
    call, made = next(self._calls), {}
    for i in floats:
      if id(leaves[i]) in made:  # the same array again
        leaves[i] = made[id(leaves[i])]
        continue
      mark = Mark(
        frame,
        module.module_name,
        None if usual else name,
        i if len(floats) > 1 else None,
        type(module).__name__,
        leaves[i].shape,
        call,
        module.module_name == self.root and frame is self._frames[0],
      )
      marked = checkpoint_name(leaves[i], f'{self._tag}{len(self.marks)}')
      made[id(leaves[i])] = self._marked[id(marked)] = marked
      leaves[i] = marked
      self.marks.append(mark)
    return jax.tree.unflatten(treedef, leaves)

  def find(self, name: str) -> Mark | None:
    """The mark that a name in the program stands for; None for other names."""
    if not name.startswith(self._tag):
      return None
    return self.marks[int(name.removeprefix(self._tag))]

  def full_name(self, frame: Frame, name: str) -> str:
    """A module's name as the variables have it, with the root's."""
    known = (p for p in frame.prefixes if self._without_root(p + name) in self.modules)
    prefix = next(known, None)
    if prefix is None:
      return min(frame.prefixes, key=len) + name
    frame.prefixes = [prefix]
    return prefix + name

  def settle(self) -> None:
    """To be called when all is traced: modules without variables follow others."""
    for mark in self.marks:
      self.full_name(mark.frame, mark.name)

  def shown(self, mark: Mark) -> str:
    """The module's name; without the root's for Pax layers."""
    return self._without_root(self.full_name(mark.frame, mark.name))

  def _without_root(self, name: str) -> str:
    if self.form == 'pax' and name.startswith(self.root + '/'):
      return name[len(self.root) + 1 :]
    return name

  def _frame(self) -> Frame:
    state = core.get_opaque_trace_state()
    frame = next((f for f in self._frames if f.state == state), None)
    if frame is None:
      likely = [self._last, *reversed(self._frames)]
      prefixes = [p for f in likely for p in (f.lifted, *f.prefixes) if p is not None]
      frame = Frame(state, list(dict.fromkeys(prefixes)))
      self._frames.append(frame)
    self._last = frame
    return frame


def modules_of(entries) -> set[str]:
  """Names of modules with variables, and of those around them."""
  found = set()
  for entry in entries:
    path = entry.partition(':')[2].split('/')[:-1]
    found.update('/'.join(path[: i + 1]) for i in range(len(path)))
  return found
