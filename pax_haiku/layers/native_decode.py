"""Decoding of a task that lives in somebody's own `hk.transform_with_state`.

Decoding makes caches, which the state of that transform must not keep: its tree would
be another one after `apply`. So the task is decoded by `layer.apply`, in a transform of
its own, with the variables that it has; the outer state stays as it is, and summaries
that are written while decoding are dropped.
"""

from collections.abc import Callable
from typing import Any

import haiku as hk

from pax_haiku import base_layer

_VARIABLES = (base_layer.PARAMS, base_layer.NON_TRAINABLE)


def is_native(task: base_layer.BaseLayer) -> bool:
  """Whether a bound task belongs to a user's own transform, not to `layer.apply`."""
  return task._pax_run.native


def decode(
  task: base_layer.BaseLayer,
  create: Callable[[], Any],
  function: Callable[..., Any],
  *args: Any,
) -> Any:
  """`function(twin of task, *args)`, where the twin may write decode caches.

  Args:
    task: a bound task for which `is_native`.
    create: runs the model once; called in `init`, where there are no variables yet.
    function: decodes.
    *args: given to it.
  """
  if task.is_initializing():
    create()
  held = task.variables
  key = hk.maybe_next_rng_key()
  # In `init` the names of the task's own modules are taken.
  twin = task._pax_unbound_copy(name=f'{task.name}_decoding')
  result, _ = twin.apply(
    {collection: held[collection] for collection in _VARIABLES if collection in held},
    *args,
    method=function,
    rngs={} if key is None else {base_layer.RANDOM: key},
    mutable=[base_layer.DECODE_CACHE, base_layer.PREFIX_DECODE_CACHE],
  )
  return result
