"""A scan over time: all steps share the cell's parameters and pass its state on.

`core.lifted.scan`, which `Repeat` uses, gives each iteration variables of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pax_haiku import base_layer
from pax_haiku.core import lifted
from pax_haiku.core import variables as variables_lib

_STACKED = (base_layer.SUMMARIES, base_layer.AUX_LOSS)


def scan_over_time(
  owner: base_layer.BaseLayer,
  cell: base_layer.BaseLayer,
  body: Callable,
  carry,
  xs,
  *,
  unroll: int = 1,
):
  """`jax.lax.scan` of `body(cell, carry, x) -> (carry, y)` over axis 1 of `xs`.

  Non-trainable variables that a step writes are there in the next one; summaries are
  stacked over time, auxiliary losses summed. Step t draws its random keys from
  `jax.random.split(root, steps)[t]` of the stream `random`, with the counts that Flax's
  scan leaves: as if the body had been traced twice.

  Args:
    owner: the bound layer whose child is scanned.
    cell: that child.
    body: one step.
    carry: the first carry.
    xs: pytree of arrays [batch, time, ...].
    unroll: steps per iteration of the compiled loop.

  Returns:
    (last carry, ys stacked on axis 1).
  """
  run = owner._pax_run
  if run.initializing:
    _create_variables(run, cell, body, carry, jax.tree.map(lambda x: x[:, 0], xs))
  child = lifted.Lifted(owner, cell)
  xs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), xs)
  steps = jax.tree.leaves(xs)[0].shape[0]
  scanned, shared = lifted.Streams.split(run, steps, split_params=False)
  params, before = child.read()

  def step(carry, iteration):
    inner, kept = carry
    streams, x = iteration
    (inner, y), changed = child.apply(
      params, kept, shared.merged(streams), body, inner, x
    )
    if not run.initializing:  # then variables keep their initial values
      kept = {m: _updated(b, changed.get(m, {})) for m, b in kept.items()}
    return (inner, kept), (y, _only(changed, lambda k: k in _STACKED))

  first = carry, _only(before, lambda k: not variables_lib.is_bucket(k))
  iterations = scanned, xs
  if run.rngs:  # the first of the two traces
    once = lifted.shape_structs(iterations, drop_leading=True)
    jax.eval_shape(step, lifted.shape_structs(first), once)
  counts = dict(run.counters)

  def real_step(carry, iteration):
    run.counters.clear()  # lax.scan may trace its body more than once
    run.counters.update(counts)
    return step(carry, iteration)

  (carry, kept), (ys, written) = jax.lax.scan(
    real_step, first, iterations, unroll=unroll
  )
  state = child.clear_stale()
  for changes in (kept, lifted.collect(written, before, child.exists())):
    for module, bundle in changes.items():
      state.setdefault(module, {}).update(bundle)
  child.write(state)
  child.mark()
  return carry, jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), ys)


def _create_variables(run, cell, body, carry, x):
  """Runs a step outside the loop, for the variables that it creates."""
  is_mutable = run.is_mutable
  run.is_mutable = lambda collection: collection not in _STACKED and is_mutable(
    collection
  )
  try:
    body(cell, carry, x)
  finally:
    run.is_mutable = is_mutable


def _only(state: lifted.Flat, keep: Callable[[str], bool]) -> lifted.Flat:
  out = {m: {k: v for k, v in b.items() if keep(k)} for m, b in state.items()}
  return {m: b for m, b in out.items() if b}


def _updated(bundle, changes):
  return {k: changes.get(k, v) for k, v in bundle.items()}
