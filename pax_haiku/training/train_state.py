"""All that a training run carries from one step to the next."""

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

# Buckets of Haiku's state that start afresh at each apply.
RECOMPUTED = frozenset({'summaries', 'aux_loss', 'intermediates'})

_CACHES = frozenset({'decoder_cache', 'prefix_decoder_cache'})


class TrainState(NamedTuple):
  """State of a run after `step` updates; a pytree of arrays.

  Attributes:
    step: int32 [], number of updates done.
    params: `{module: {name: array}}`, what the optimizer changes.
    state: Haiku's state in the same form: moving statistics, and the summaries of the
      last step in their reserved buckets.
    opt_state: State of the optax transformation.
    rng: uint32 [2], the run's key. It never changes: each step folds its number in.
  """

  step: jax.Array
  params: hk.MutableParams
  state: hk.MutableState
  opt_state: Any
  rng: jax.Array


def init(
  forward: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  seed: int,
  batch: Any,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    forward: The model; its `init(rng, batch)` is called.
    optimizer: Its `init(params)` is called.
    seed: Determines the initial weights and all randomness of the run.
    batch: One batch, of which shapes and dtypes matter.
  """
  init_key, rng = jax.random.split(jax.random.PRNGKey(seed))
  params, state = forward.init(init_key, batch)
  state = recomputed_as_zeros(without_caches(state))
  return TrainState(jnp.int32(0), params, state, optimizer.init(params), rng)


def recomputed_as_zeros(state: hk.State) -> hk.State:
  """Returns Haiku's state with zeros for summaries and what else a step recomputes.

  The values of `init` are nobody's: without them `init` need not run the model.
  """
  return {
    module: {
      name: jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.result_type(x)), value)
      if name in RECOMPUTED
      else value
      for name, value in entries.items()
    }
    for module, entries in state.items()
  }


def without_caches(state: hk.State) -> hk.State:
  """Returns Haiku's state without what decoding would go on from.

  Language models leave decode caches in the state. Between two updates they are of no
  use, and keys and values of a whole batch are large: a step that is given none and
  returns none computes none.
  """
  kept = {
    module: {name: value for name, value in entries.items() if name not in _CACHES}
    for module, entries in state.items()
  }
  return {module: entries for module, entries in kept.items() if entries}
