"""Loops over a bound layer whose decode caches are the loop's carry.

Generation runs one layer again and again, each time with the caches that the step
before left. Inside a loop of JAX a layer's state cannot be written from outside the
loop's own trace, so the layer is run in an inner Haiku transform: variables are closed
over, caches go in and come out as values, and the last ones are written back.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax

from pax_haiku.core import constants, lifted
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core import written as written_lib

CARRIED = (constants.DECODE_CACHE,)

Caches = dict[str, dict[str, Any]]  # {module: {bucket: {name: array}}}


def _is_there(collection: str, outer: run_lib.Run, allowed: Sequence[str]) -> bool:
  return collection in allowed and outer.is_mutable(collection)


def _pick(state: lifted.Flat, collections: Sequence[str]) -> Caches:
  """The buckets of `collections` in a state."""
  keys = [variables_lib.bucket_key(c) for c in collections]
  picked = {m: {k: b[k] for k in keys if k in b} for m, b in state.items()}
  return {m: b for m, b in picked.items() if b}


class _Inner:
  """A layer as a pure function of its caches: (caches, keys, args) -> (out, state)."""

  def __init__(self, layer, carried: Sequence[str], fresh: Sequence[str] = ()):
    self.layer = layer
    self.run = layer._pax_run
    self.carried = carried
    self.writable = (*carried, *fresh)
    self.params = written_lib.params_of(self.run)
    state = lifted.without_buckets(hk.get_current_state(), run_lib.FRESH_BUCKETS)
    self.caches = _pick(state, carried)
    keys = [variables_lib.bucket_key(c) for c in carried]
    self.rest = lifted.without_buckets(state, keys)
    self.counts = dict(self.run.counters)

  def __call__(self, body, caches: Caches, streams: lifted.Streams, *args):
    """Runs `body(layer, *args)`: (its output, the state that it left)."""
    outer = self.run
    outer.counters.clear()  # JAX may trace the body of a loop more than once
    outer.counters.update(self.counts)
    inner = run_lib.Run(
      initializing=False,
      rngs=streams.pax,
      is_mutable=lambda c: _is_there(c, outer, self.writable),
      counters=outer.counters,
      prefix=outer.prefix,
    )
    inner.outside = outer.outside

    def call(*args):
      inner.start(outer.root_name)
      twin = self.layer._pax_unbound_copy()
      twin._pax_bind(inner, self.layer.name, self.layer.module_name)
      return body(twin, *args)

    state = {m: {**b, **caches.get(m, {})} for m, b in self.rest.items()}
    active = contextlib.nullcontext() if inner.native else run_lib.activate(inner)
    with active:
      transformed = hk.transform_with_state(call)
      return transformed.apply(self.params, state, streams.haiku, *args)

  def next_caches(self, before: Caches, state: lifted.Flat) -> Caches:
    """The caches that an iteration left, checked against what it was given."""
    after = _pick(state, self.carried)
    wrong = _differences(before, after)
    if wrong:
      raise ValueError(
        f'{self.layer._pax_describe()}: a step of a decoding loop must leave each '
        'decode cache with the shape and dtype that it found, and may not create '
        'one:\n  '
        + '\n  '.join(wrong)
        + '\nCreate the caches before the loop (fprop_fn, init_states), of their full '
        'length.'
      )
    return after


def _differences(before: Caches, after: Caches) -> list[str]:
  def flat(caches):
    leaves, _ = jax.tree_util.tree_flatten_with_path(caches)
    return {jax.tree_util.keystr(path): jax.typeof(x) for path, x in leaves}

  old, new = flat(before), flat(after)
  lines = [f'{k}: created in the loop' for k in new if k not in old]
  lines += [f'{k}: removed in the loop' for k in old if k not in new]
  lines += [
    f'{k}: {old[k].str_short()} before, {new[k].str_short()} after a step'
    for k in old
    if k in new and (old[k].shape, old[k].dtype) != (new[k].shape, new[k].dtype)
  ]
  return lines


def _write(run: run_lib.Run, caches: Caches) -> None:
  """Sets buckets of the outer state, whole."""
  for module, bundle in caches.items():
    with run.scope(module):
      for key, bucket in bundle.items():
        hk.set_state(key, bucket)
        run.present.add((module, key))
        run.stale.get(module, set()).discard(key)


def _root_keys(run: run_lib.Run, names: Sequence[str]) -> lifted.Streams:
  pax = None
  if not run.native:
    pax = {name: run.rngs[name] for name in names if name in run.rngs}
  return lifted.Streams(pax, hk.maybe_next_rng_key())


def while_loop(
  layer,
  condition: Callable[[Any], Any],
  body: Callable[[Any, Any], Any],
  carry,
  *,
  split_rngs: Sequence[str] = (constants.RANDOM,),
  carry_collections: Sequence[str] = CARRIED,
):
  """`jax.lax.while_loop` over a method of a bound layer.

  Args:
    layer: a bound layer; the body may use it and all layers below it.
    condition: `carry -> bool`, whether to go on.
    body: `(layer, carry) -> carry`. The layer given is a twin of `layer`, alive inside
      the loop; `layer` itself must not be used there.
    carry: first carry, a pytree of arrays.
    split_rngs: streams from which the body may draw.
    carry_collections: collections that the body may write. All others are constants;
      summaries and auxiliary losses of the body are dropped.

  Returns:
    The last carry. The carried collections are left as the last iteration left them.
    While variables are being created the body runs once, outside a loop.

  Raises:
    ValueError: the body changes shape or dtype of a cache, or creates one.

  Keys: iteration `i` draws from `jax.random.fold_in(root, i)`, `i` from 0 in each loop.
  """
  run = layer._pax_run
  if run.initializing:
    return body(layer, carry)
  inner = _Inner(layer, carry_collections)
  roots = _root_keys(run, split_rngs)

  def go_on(values):
    return condition(values[0])

  def step(values):
    carry, caches, i = values
    keys = jax.tree.map(lambda key: jax.random.fold_in(key, i), roots)
    carry, state = inner(body, caches, keys, carry)
    return carry, inner.next_caches(caches, state), i if i is None else i + 1

  counter = 0 if jax.tree.leaves(roots) else None
  carry, caches, _ = jax.lax.while_loop(go_on, step, (carry, inner.caches, counter))
  _write(run, caches)
  return carry


def scan(
  layer,
  body: Callable[[Any, Any], Any],
  carry,
  length: int,
  *,
  split_rngs: Sequence[str] = (constants.RANDOM,),
  carry_collections: Sequence[str] = (
    constants.DECODE_CACHE,
    constants.PREFIX_DECODE_CACHE,
  ),
):
  """`while_loop` with a fixed number of iterations, which can be differentiated.

  Args:
    layer, body, carry, split_rngs, carry_collections: as in `while_loop`.
    length: number of iterations.

  Returns:
    The last carry. Summaries and auxiliary losses of the iterations are left in the
    state, stacked on a new axis 0; one that was there before is replaced.

  Keys: iteration `i` draws from `jax.random.split(root, length)[i]`; draws are counted
  as if the body had been traced twice, see `lifted.scan`.
  """
  run = layer._pax_run
  if run.initializing:
    return body(layer, carry)
  inner = _Inner(layer, carry_collections, run_lib.FRESH_BUCKETS)
  roots = _root_keys(run, split_rngs)
  keys = jax.tree.map(lambda key: jax.random.split(key, length), roots)

  def step(values, keys):
    carry, caches = values
    carry, state = inner(body, caches, keys, carry)
    fresh = _pick(state, run_lib.FRESH_BUCKETS)
    return (carry, inner.next_caches(caches, state)), fresh

  values = (carry, inner.caches)
  if run.rngs:  # the first of the two traces
    once = lifted.shape_structs(keys, drop_leading=True)
    jax.eval_shape(step, lifted.shape_structs(values), once)
    inner.counts = dict(run.counters)
  (carry, caches), fresh = jax.lax.scan(step, values, keys, length=length)
  before = hk.get_current_state()
  for module, bundle in fresh.items():
    for key, bucket in bundle.items():
      kept = {} if run.is_stale(module, key) else before.get(module, {}).get(key, {})
      bundle[key] = {**kept, **bucket}
  _write(run, caches)
  _write(run, fresh)
  return carry
