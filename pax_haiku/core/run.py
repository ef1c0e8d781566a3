"""One execution of `init` or `apply`: what every layer of a bound tree shares.

A `Run` says whether variables are being created, which collections may be written
and where random keys come from. It lives as long as one trace and holds no arrays
but the root keys of the streams.

There are two kinds. A *Pax run* is started by `layer.init/apply/bind`: it owns the
named streams and derives each key from the layer's path as Praxis does. A *Haiku
run* belongs to a layer built by the user inside `hk.transform_with_state`: keys come
from Haiku's own sequence and every collection may be written.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fiddle.history
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku.core import constants, errors, rng

# Collections that Haiku keeps as one reserved dictionary per module.
BUCKETS = (
  constants.SUMMARIES,
  constants.AUX_LOSS,
  constants.DECODE_CACHE,
  constants.PREFIX_DECODE_CACHE,
  constants.INTERMEDIATES,
)
# Of these, the ones that a Haiku run starts afresh at each apply.
FRESH_BUCKETS = (constants.SUMMARIES, constants.AUX_LOSS)

_local = threading.local()


def inside_transform() -> bool:
  """True inside a function transformed by `hk.transform*`."""
  try:
    hk.running_init()
  except ValueError:
    return False
  return True


class Run:
  """State shared by all layers of one bound tree during one trace.

  Attributes:
    initializing: True while variables are being created.
    rngs: {stream name: root key}, or None in a Haiku run.
    counters: {(path, stream): draws so far}; used by Pax runs only.
    is_mutable: collection name -> may it be written.
    root_name: module name of the root layer; its shared layers live below it.
    prefix: path of the root layer as the streams see it.
    written: parameters that this run wrote or created, see written.py; None in a
      Haiku run and in the body of a loop.
    metadata: when a dict, create_variable records {(collection, path, name):
      WeightHParams} in it.
    shared: {(context id, shared_weight_layer_id): (layer, its config, context)}.
    adopted: {id(unbound layer): (unbound layer, bound layer)}.
    given_draws: when not None, `(stream, path) -> key` in place of all other sources.
  """

  __slots__ = (
    'initializing',
    'rngs',
    'counters',
    'is_mutable',
    'root_name',
    'prefix',
    'written',
    'metadata',
    'shared',
    'adopted',
    'given_draws',
    'present',
    'opened',
    'stale',
    'lifted',
    'names',
    'entering',
    'set_up',
    'module_attributes',
    'outside',
  )

  def __init__(
    self,
    *,
    initializing: bool,
    rngs: Mapping[str, Any] | None = None,
    is_mutable: Callable[[str], bool] = lambda collection: True,
    counters: dict | None = None,
    prefix: tuple[str, ...] = (),
    written=None,
    metadata: dict | None = None,
  ):
    self.initializing = initializing
    self.rngs = rngs
    self.counters = {} if counters is None else counters
    self.is_mutable = is_mutable
    self.root_name = None
    self.prefix = prefix
    self.written = written
    self.metadata = metadata
    self.shared = {}
    self.adopted = {}
    self.given_draws = None
    self.present = set()  # (module, entry) of the state that this run began with
    self.opened = set()  # (module, bucket) that layers of this run wrote
    self.stale = {}  # module -> its buckets that an earlier apply left
    self.lifted = set()  # module names of children that a loop has run
    self.outside = ''  # for messages: where this run takes place, as 'net/stack/'
    self.names = {}  # module name -> layer, while initializing
    self.set_up = {}  # path -> layer, while initializing
    self.module_attributes = ()  # what hk.Module put on the root
    self.entering = False  # a name scope of ours is being built

  @property
  def native(self) -> bool:
    """True for a Haiku run: randomness and mutability are Haiku's."""
    return self.rngs is None

  def start(self, root_name: str):
    """Notes the root's module name and what the given state holds."""
    self.root_name = root_name
    if self.initializing:
      return
    for module, bundle in hk.get_current_state().items():
      self.present.update((module, name) for name in bundle)
      if self.native and (module == root_name or module.startswith(root_name + '/')):
        stale = {name for name in FRESH_BUCKETS if name in bundle}
        if stale:
          self.stale[module] = stale
        if constants.AUX_LOSS in stale:
          _zero_aux_losses(module, bundle[constants.AUX_LOSS])

  def scope(self, module: str):
    """A name scope of exactly this module name, which the name guard lets pass."""
    before, self.entering = self.entering, True
    try:
      return hk.name_scope(hk.force_name(module))
    finally:
      self.entering = before

  def is_stale(self, module: str, bucket: str) -> bool:
    """Whether a bucket holds nothing but what an earlier apply left."""
    return bucket in self.stale.get(module, ())

  def path_of(self, module_name: str) -> tuple[str, ...]:
    """Path of a module as the streams see it: the root's own name is left out."""
    if module_name == self.root_name:
      return self.prefix
    return self.prefix + tuple(module_name[len(self.root_name) + 1 :].split('/'))

  def draw(self, stream: str, path: tuple[str, ...]):
    """The next key of `stream` in the scope `path` (see core/rng.py)."""
    asked, root = stream, self.rngs.get(stream)
    if root is None:
      stream, root = constants.PARAMS, self.rngs.get(constants.PARAMS)
    if root is None:
      raise errors.InvalidRngError(
        f'Layer {"/".join(path) or "(root)"!r} draws from the random stream '
        f'{asked!r}, but the streams given are {sorted(self.rngs)}. Pass '
        "rngs={'random': key} to apply, or {'params': key, 'random': key} to "
        'init.'
      )
    count = self.counters.get((path, stream), 0) + 1
    self.counters[(path, stream)] = count
    return rng.fold_in_path(root, path, count)


def _zero_aux_losses(module: str, bucket):
  """Whoever sums the losses in the state must not count those of an earlier apply.

  They become zeros, not nothing, so that the state keeps its tree: a layer may add its
  losses in training only. Zeros of numpy, which add nothing to the jaxpr.
  """
  zeros = jax.tree.map(lambda x: np.zeros(jnp.shape(x), jnp.result_type(x)), bucket)
  with hk.name_scope(hk.force_name(module)):
    hk.set_state(constants.AUX_LOSS, zeros)


def active() -> Run | None:
  """The Pax run around the current code of this thread, or None."""
  stack = getattr(_local, 'runs', None)
  return stack[-1] if stack else None


@contextlib.contextmanager
def activate(run: Run) -> Iterator[Run]:
  """Makes `run` the one that layers built inside join."""
  if not hasattr(_local, 'runs'):
    _local.runs = []
  _local.runs.append(run)
  try:
    yield run
  finally:
    _local.runs.pop()
    run.rngs, run.written = {}, None  # layers may outlive the trace, arrays must not


def guarded() -> list[Run]:
  """Runs of this thread whose module names are being watched, innermost last."""
  if not hasattr(_local, 'guarded'):
    _local.guarded = []
  return _local.guarded


def in_setup() -> bool:
  """True while some layer's `setup` runs in this thread."""
  return getattr(_local, 'setups', 0) > 0


class setup_scope:  # noqa: N801 (used like a function, as contextlib's are)
  """Marks the code inside as a setup; configs keep no history there."""

  __slots__ = ('_before', '_tracking')

  def __enter__(self):
    self._before = getattr(_local, 'setups', 0)
    _local.setups = self._before + 1
    if not self._before:
      self._tracking = fiddle.history.tracking_enabled()
      fiddle.history.set_tracking(False)

  def __exit__(self, *exc_info):
    _local.setups = self._before
    if not self._before:
      fiddle.history.set_tracking(self._tracking)


@contextlib.contextmanager
def outside_setup() -> Iterator[None]:
  """Layers built inside bind at once even if a setup runs further out."""
  before = getattr(_local, 'setups', 0)
  _local.setups = 0
  try:
    yield
  finally:
    _local.setups = before
