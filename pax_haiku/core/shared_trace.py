"""Layers alike, called one after the other and traced once.

Tracing a stack of equal layers does the same work for each. Here the first of them is
made a pure function of its variables, and `jax.jit` runs that for all: JAX keeps what
it finds for a function and arguments of given shapes, be it the trace, its derivative
or the lowered code. XLA puts the functions in place again where they are called, so
what is compiled is the unrolled loop.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fiddle as fdl
import haiku as hk
import jax

from pax_haiku.core import lifted
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core.metaclass import LayerMeta

Draw = tuple[str, tuple[str, ...]]  # stream, path below the layer that is traced

_sharing = contextvars.ContextVar('sharing', default=True)  # of this thread


@contextlib.contextmanager
def each_by_itself() -> Iterator[None]:
  """Traces every layer inside by itself, for interceptors that want to see them all."""
  before = _sharing.set(False)
  try:
    yield
  finally:
    _sharing.reset(before)


class _KeyMissingError(Exception):
  """A layer drew a random key that its function was not given."""


class _ForeignModuleError(Exception):
  """A layer calls a module that is none: what that draws or keeps is not known."""


class SharedTrace:
  """Calls layers of a bound layer, tracing those that are alike once.

  `SharedTrace(owner, body)(layer, *args)` is `body(layer, *args)`: the same values,
  variables, random keys and writes. A layer is called by itself as ever

    * inside of `each_by_itself()`;
    * while variables are created, or parameters are written;
    * outside of JAX's tracing, where there is nothing to save;
    * a second time within one trace, as what it wrote adds up;
    * if its function fails, whatever the reason: random keys drawn by loops or Haiku
      modules inside it, weights shared with layers elsewhere, or an error, which then
      comes as if nothing had been shared.

  What runs while tracing (interceptors, custom getters, print) runs for the first of
  equal layers only, under that layer's name.

  Args:
    owner: The bound layer.
    body: `(layer, *args) -> out`, of pytrees of arrays.
    checkpoint: Arguments of `jax.checkpoint`, to compute `body` again for gradients.
  """

  def __init__(self, owner, body: Callable[..., Any], checkpoint: dict | None = None):
    self._owner = owner
    self._body = body
    self._checkpoint = checkpoint
    self._groups: list[_Group] = []

  def __call__(self, layer, *args):
    if self._may_share(layer, args):
      group = self._group_of(layer)
      if not group.failed:
        try:
          return group(layer, *args)
        except Exception:
          group.failed = True  # the call below says what is wrong, if anything is
    return self._alone(layer, *args)

  def _alone(self, layer, *args):
    def run(*args):
      return self._body(layer, *args)

    if self._checkpoint is not None:
      run = hk.remat(run, **self._checkpoint)
    return run(*args)

  def _may_share(self, layer, args) -> bool:
    run = self._owner._pax_run
    return (
      _sharing.get()
      and not run.initializing
      and not (run.written and run.written.params)
      and layer.module_name not in run.lifted
      and any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))
    )

  def _group_of(self, layer) -> '_Group':
    for group in self._groups:
      if _alike(group.first, layer):
        return group
    self._groups.append(_Group(self._owner, layer, self._body, self._checkpoint))
    return self._groups[-1]


class _Group:
  """Layers that are alike, run by the function of the first of them."""

  def __init__(self, owner, first, body: Callable[..., Any], checkpoint: dict | None):
    self.first = first
    self.failed = False
    self._owner = owner
    self._body = body
    self._lifted = lifted.Lifted(owner, first)
    self._draws: list[Draw] = []
    pure = self._pure
    if checkpoint is not None:
      pure = jax.checkpoint(pure, **checkpoint)
    self._function = jax.jit(pure)

  def __call__(self, layer, *args):
    child = lifted.Lifted(self._owner, layer)
    params, state = (_renamed(t, layer.name, self.first.name) for t in child.read())
    state = lifted.without_buckets(state, run_lib.FRESH_BUCKETS)

    def call():
      keys = [_key(layer, *draw) for draw in self._draws]
      return self._function(params, state, keys, *args)

    try:
      out, changed = call()
    except _KeyMissingError:
      self._find_draws(params, state, *args)
      out, changed = call()
    _write(child, _renamed(changed, self.first.name, layer.name))
    return out

  def _pure(self, params, state, keys: Sequence[jax.Array], *args):
    left = list(keys)

    def draw(stream, path):
      if not left:
        raise _KeyMissingError
      return left.pop(0)

    return self._run(draw, params, state, *args)

  def _find_draws(self, params, state, *args) -> None:
    """Notes which keys the layer draws, in which order."""
    cut = len(self._owner._pax_run.path_of(self.first.module_name))
    draws: list[Draw] = []

    def run(*args):
      def draw(stream, path):
        draws.append((stream, path[cut:]))
        return jax.random.PRNGKey(0)  # its value plays no role

      return self._run(draw, *args)

    jax.eval_shape(run, params, state, *args)
    self._draws = draws

  def _run(self, draw, params, state, *args):
    nothing = lifted.Streams(None if self._owner._pax_run.native else {}, None)
    with hk.intercept_methods(_only_layers):
      return self._lifted.apply(
        params, state, nothing, self._body, *args, draws=draw
      )


def _alike(a, b) -> bool:
  """Whether two layers differ in nothing but their names."""
  return type(a) is type(b) and all(
    _equal(getattr(a, name), getattr(b, name))
    for name in type(a)._pax_field_names
    if name not in ('name', 'parent')
  )


def _equal(a, b) -> bool:
  """`a == b`; of configs, in a hundredth of the time that Fiddle takes."""
  if a is b:
    return True
  if type(a) is not type(b):
    return False
  if isinstance(a, fdl.Buildable):
    same = fdl.get_callable(a) is fdl.get_callable(b)
    return same and _equal(a.__arguments__, b.__arguments__)
  if isinstance(a, dict):
    return a.keys() == b.keys() and all(_equal(x, b[k]) for k, x in a.items())
  if isinstance(a, list | tuple):
    return len(a) == len(b) and all(map(_equal, a, b))
  try:
    return bool(a == b)
  except (TypeError, ValueError):  # arrays
    return False


def _only_layers(next_function, args, kwargs, context):
  """An interceptor that stops at modules that are no layers."""
  if not isinstance(type(context.module), LayerMeta):
    raise _ForeignModuleError
  return next_function(*args, **kwargs)


def _key(layer, stream: str, below: tuple[str, ...]) -> jax.Array:
  """The next key of what lies at the path `below` a layer."""
  run = layer._pax_run
  if run.given_draws is not None:
    return run.given_draws(stream, layer.path + below)
  if not run.native:
    return run.draw(stream, layer.path + below)
  return hk.next_rng_key()


def _renamed(flat: lifted.Flat, old: str, new: str) -> lifted.Flat:
  """A tree of a child's modules under another name of the child."""
  return {new + module[len(old) :]: bundle for module, bundle in flat.items()}


def _write(child: lifted.Lifted, changed: lifted.Flat) -> None:
  """Writes what a layer's function changed as if the layer had done so itself."""
  run = child.owner._pax_run
  state = child.clear_stale()
  for module, bundle in changed.items():
    state.setdefault(module, {}).update(bundle)
  child.write(state)
  for module, bundle in state.items():
    outer = child.outer_name(module)
    run.opened.update((outer, k) for k in bundle if variables_lib.is_bucket(k))
  child.mark()
