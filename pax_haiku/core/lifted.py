"""A child layer as a pure function of its variables, and a scan over such a function.

Haiku's own `hk.scan` keeps one set of parameters. To run one layer many times with
its own slice of stacked variables each time, the child is run in an inner Haiku
transform: its variables are read from the outer one (or created and registered there),
given to a pure function, and what the function changed is written back.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku.core import boxes, constants
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core.weights import WeightHParams

Flat = dict[str, dict[str, Any]]  # {module: {name: value}}


def stacked_metadata(
  hparams: WeightHParams,
  prefix: Sequence[int],
  split_dims_mapping=None,
  optimizer_dims_mapping=None,
) -> WeightHParams:
  """The declaration of a variable stacked along new leading axes of sizes `prefix`."""
  n = len(prefix)

  def extend(mapping, old):
    return (*(mapping or (-1,) * n), *(old or ()))

  def shift(axes):
    return axes if axes is None else [a + n if a >= 0 else a for a in axes]

  return dataclasses.replace(
    hparams,
    repeat_prefix=[*prefix, *(hparams.repeat_prefix or ())],
    repeat_prefix_split_dims_mapping=extend(
      split_dims_mapping, hparams.repeat_prefix_split_dims_mapping
    ),
    repeat_optimizer_dims_mapping=extend(
      optimizer_dims_mapping, hparams.repeat_optimizer_dims_mapping
    ),
    fan_in_axes=shift(hparams.fan_in_axes),
    fan_out_axes=shift(hparams.fan_out_axes),
  )


def map_variables(function: Callable[[Any], Any], state: Flat) -> Flat:
  """Applies `function` to plain variables; buckets stay as they are."""
  return {
    m: {
      k: v if variables_lib.is_bucket(k) else jax.tree.map(function, v)
      for k, v in bundle.items()
    }
    for m, bundle in state.items()
  }


def _changed(before: Flat, after: Flat) -> Flat:
  """Entries of `after` that are not the very objects of `before`."""
  out: Flat = {}
  for module, bundle in after.items():
    old = before.get(module, {})
    new = {k: v for k, v in bundle.items() if old.get(k) is not v}
    if new:
      out[module] = new
  return out


@dataclasses.dataclass
class Streams:
  """The random keys of an inner run: Pax's named root keys and Haiku's key.

  Attributes:
    pax: {stream: root key}; None in a Haiku run.
    haiku: key for plain Haiku modules, and for all layers in a Haiku run.
  """

  pax: dict[str, jax.Array] | None
  haiku: jax.Array | None

  @classmethod
  def split(
    cls, run: run_lib.Run, num: int, split_params: bool
  ) -> tuple['Streams', 'Streams']:
    """(keys to scan over, keys that all iterations share) of a loop of `num`."""
    key = hk.maybe_next_rng_key()
    scanned = cls(None, None if key is None else jax.random.split(key, num))
    shared = cls(None, None)
    if not run.native:
      scanned.pax, shared.pax = {}, {}
      for name, root in run.rngs.items():
        if name == constants.RANDOM or (name == constants.PARAMS and split_params):
          scanned.pax[name] = jax.random.split(root, num)
        elif name == constants.PARAMS:
          shared.pax[name] = root
    return scanned, shared

  def merged(self, other: 'Streams') -> 'Streams':
    pax = None if self.pax is None else {**self.pax, **other.pax}
    return Streams(pax, self.haiku if other.haiku is None else other.haiku)


jax.tree_util.register_dataclass(Streams, ['pax', 'haiku'], [])


class Lifted:
  """The pure functions of one child of a bound layer.

  In the inner transform the child has its own name as module name, so the flat trees
  used here are {'sub': {...}, 'sub/linear': {...}}.
  """

  def __init__(self, owner, child):
    self.owner = owner
    self.child = child
    # Usually the owner's name; a shared child lives right below the root.
    self._parent = child.module_name.rpartition('/')[0]
    self._outer_prefix = self._parent + '/'

  # -- Running ------------------------------------------------------------------

  def _inner_run(self, streams: Streams, initializing: bool, metadata=None):
    outer = self.owner._pax_run
    run = run_lib.Run(
      initializing=initializing,
      rngs=streams.pax,
      is_mutable=outer.is_mutable,
      counters=outer.counters,
      metadata=metadata,
      prefix=outer.path_of(self.child.module_name),
    )
    run.set_up = outer.set_up
    run.outside = outer.outside + self.child.module_name.removesuffix(self.child.name)
    return run

  def _transformed(self, run: run_lib.Run, body, box: list | None = None):
    name = self.child.name

    def call(*args):
      twin = self.child._pax_unbound_copy()
      twin._pax_bind(run, name, name)
      out = body(twin, *args)
      if box is not None:
        box.append(out)
      return out

    return hk.transform_with_state(call)

  @staticmethod
  def _active(run: run_lib.Run):
    return contextlib.nullcontext() if run.native else run_lib.activate(run)

  def init(self, streams: Streams, body, *args, metadata=None):
    """Creates the child's variables: (output, params, state)."""
    run = self._inner_run(streams, True, metadata)
    box: list = []
    with self._active(run):
      transformed = self._transformed(run, body, box)
      params, state = transformed.init(streams.haiku, *args)
    return box[0], params, state

  def apply(
    self, params: Flat, state: Flat, streams: Streams, body, *args, draws=None
  ):
    """Runs `body(child, *args)` with the given variables: (output, changed state).

    With `draws`, layers draw their keys from that function, see `Run.given_draws`.
    """
    run = self._inner_run(streams, initializing=False)
    run.given_draws = draws
    with self._active(run):
      out, new_state = self._transformed(run, body).apply(
        params, state, streams.haiku, *args
      )
    return out, _changed(state, new_state)

  # -- Variables ------------------------------------------------------------------

  def _inner(self, flat) -> Flat:
    inside = self.child.module_name
    cut = len(self._outer_prefix)
    return {
      m[cut:]: dict(b)
      for m, b in flat.items()
      if m == inside or m.startswith(inside + '/')
    }

  def outer_name(self, module: str) -> str:
    """The name of an inner module in the outer transform."""
    return self._outer_prefix + module

  def read(self) -> tuple[Flat, Flat]:
    """The child's parameters and state, as the outer transform holds them now."""
    return self._inner(hk.get_params()), self._inner(hk.get_current_state())

  def _parent_scope(self):
    return self.owner._pax_run.scope(self._parent)

  def exists(self) -> bool:
    """Whether this trace created (or ran) the child's variables before."""
    return self.child.module_name in self.owner._pax_run.lifted

  def mark(self):
    self.owner._pax_run.lifted.add(self.child.module_name)

  def register(self, params: Flat, state: Flat):
    """Registers freshly created variables with the outer transform."""
    with self._parent_scope():
      lift, updater = hk.transparent_lift_with_state(
        lambda: (params, state), allow_reuse=True
      )
      lift()
      updater.ignore_update()

  def write(self, state: Flat):
    """Writes changed state entries back to the outer transform."""
    state = {m: b for m, b in state.items() if b}
    if state:
      with self._parent_scope():
        _, updater = hk.transparent_lift_with_state(lambda: ({}, {}))
        updater.update(state)

  def clear_stale(self) -> Flat:
    """Empty summaries for those that an earlier apply left below the child."""
    stale = self.owner._pax_run.stale
    inside = self.child.module_name
    cut = len(self._outer_prefix)
    out: Flat = {}
    for module in [m for m in stale if m == inside or m.startswith(inside + '/')]:
      if constants.SUMMARIES in stale.pop(module):
        out[module[cut:]] = {constants.SUMMARIES: {}}
    return out


def without_buckets(state: Flat, names: Sequence[str]) -> Flat:
  """`state` without the buckets in `names`."""
  return {m: {k: v for k, v in b.items() if k not in names} for m, b in state.items()}


def _sum_aux_losses(bucket):
  def total(loss):
    return boxes.AuxLossStruct(jnp.sum(loss.value), jnp.sum(loss.weight))

  return {name: total(loss) for name, loss in bucket.items()}


def _add_aux_losses(old, new):
  def add(a, b):
    return boxes.AuxLossStruct(a.value + b.value, a.weight + b.weight)

  return {**old, **{k: add(old[k], v) if k in old else v for k, v in new.items()}}


def collect(state: Flat, before: Flat, again: bool, unpack_summaries: int = 0) -> Flat:
  """What a loop leaves in the outer state, from what its iterations wrote.

  Args:
    state: entries written by the iterations, stacked along axis 0.
    before: the outer state as it was.
    again: this loop ran before in the same trace: its auxiliary losses add up.
    unpack_summaries: if not 0, summaries become lists of that many [1, ...] arrays.

  Returns:
    `state` with auxiliary losses summed to scalars and summaries unpacked.
  """
  out: Flat = {}
  for module, bundle in state.items():
    out[module] = dict(bundle)
    if constants.AUX_LOSS in bundle:
      losses = _sum_aux_losses(bundle[constants.AUX_LOSS])
      if again:
        old = before.get(module, {}).get(constants.AUX_LOSS, {})
        losses = _add_aux_losses(old, losses)
      out[module][constants.AUX_LOSS] = losses
    if unpack_summaries and constants.SUMMARIES in bundle:
      out[module][constants.SUMMARIES] = jax.tree.map(
        lambda x: [x[i : i + 1] for i in range(unpack_summaries)],
        bundle[constants.SUMMARIES],
      )
  return out


def shape_structs(tree, drop_leading: bool = False):
  """A `ShapeDtypeStruct` for each leaf, of one iteration with `drop_leading`."""

  def one(x):
    shape = jnp.shape(x)
    return jax.ShapeDtypeStruct(
      shape[1:] if drop_leading else shape, jnp.result_type(x)
    )

  return jax.tree.map(one, tree)


@dataclasses.dataclass(frozen=True)
class Stacking:
  """How a scanned child's variables are laid out.

  Attributes:
    length: number of iterations.
    prefix: leading dims of stored variables; their product is `length`.
    split_dims_mapping, optimizer_dims_mapping: sharding of these dims.
    unpack_summaries: store summaries as lists.
  """

  length: int
  prefix: tuple[int, ...]
  split_dims_mapping: tuple | None = None
  optimizer_dims_mapping: tuple | None = None
  unpack_summaries: bool = False

  def flatten(self, tree):
    """[*prefix, ...] -> [length, ...]."""
    if len(self.prefix) == 1:
      return tree
    n = len(self.prefix)
    return jax.tree.map(lambda x: x.reshape(self.length, *x.shape[n:]), tree)

  def unflatten(self, tree):
    """[length, ...] -> [*prefix, ...]."""
    if len(self.prefix) == 1:
      return tree
    return jax.tree.map(lambda x: x.reshape(*self.prefix, *x.shape[1:]), tree)


def scan(
  owner,
  child,
  body,
  carry,
  xs,
  stacking: Stacking,
  *,
  checkpoint=None,
  write=None,
  ignore=(),
):
  """`jax.lax.scan` over iterations of a child, each with its slice of the variables.

  Args:
    owner: the bound layer whose child is repeated.
    child: the child, created by `owner` but never called itself.
    body: `(child, carry, x) -> (carry, y)`.
    carry: first carry.
    xs: pytree with leading axis `stacking.length`, or None.
    stacking: layout of the variables.
    checkpoint: wraps the body (rematerialisation); None: no rematerialisation.
    write: called with the changed state in place of `Lifted.write`.
    ignore: buckets of the state that the iterations do not see.

  Returns:
    (last carry, stacked ys).

  Keys: iteration i draws from `jax.random.split(root, length)[i]`. Under Pax's named
  streams the body's draws are counted as if the body had been traced twice, which is
  what Flax's scan does and what decides the keys there.
  """
  run = owner._pax_run
  lifted = Lifted(owner, child)
  creating = run.initializing and not lifted.exists()
  scanned, shared = Streams.split(run, stacking.length, split_params=run.initializing)
  metadata: dict | None = None if run.metadata is None else {}

  def init_body(carry, iteration):
    streams, x = iteration
    (carry, y), params, state = lifted.init(
      shared.merged(streams), body, carry, x, metadata=metadata
    )
    return carry, (params, state, y)

  def apply_body(carry, iteration):
    params, state, streams, x = iteration
    (carry, y), changed = lifted.apply(
      params, state, shared.merged(streams), body, carry, x
    )
    return carry, (changed, y)

  before: Flat = {}
  if creating:
    step = body_once = init_body
    iterations = (scanned, xs)
  else:
    params, before = lifted.read()
    state = without_buckets(before, (*run_lib.FRESH_BUCKETS, *ignore))
    iterations = (
      stacking.flatten(params),
      map_variables(stacking.flatten, state),
      scanned,
      xs,
    )
    body_once = apply_body  # jax.checkpoint would remember the first trace
    step = apply_body if checkpoint is None else checkpoint(apply_body)

  if run.rngs:  # the first of the two traces, see above
    once = shape_structs(iterations, drop_leading=True)
    jax.eval_shape(body_once, shape_structs(carry), once)
  counts = dict(run.counters)

  def real_step(carry, iteration):
    run.counters.clear()  # lax.scan may trace its body more than once
    run.counters.update(counts)
    return step(carry, iteration)

  carry, out = jax.lax.scan(real_step, carry, iterations, length=stacking.length)
  if creating:
    params, state, ys = out
    for (collection, path, name), hparams in (metadata or {}).items():
      run.metadata[(collection, path, name)] = stacked_metadata(
        hparams,
        stacking.prefix,
        stacking.split_dims_mapping,
        stacking.optimizer_dims_mapping,
      )
  else:
    state, ys = out
  state = collect(
    state, before, lifted.exists(), stacking.length if stacking.unpack_summaries else 0
  )
  state = map_variables(stacking.unflatten, state)
  if creating:
    lifted.register(stacking.unflatten(params), state)
  else:
    stale = lifted.clear_stale()
    for module, bundle in state.items():
      stale.setdefault(module, {}).update(bundle)
    (write or lifted.write)(stale)
  lifted.mark()
  return carry, ys
