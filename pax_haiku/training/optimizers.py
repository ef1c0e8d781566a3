"""The optimizer of language models, of optax's parts and with Pax's rules.

Clipping by the global norm, AdamW with a decay mask, and an average of the weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pax_haiku.training.train_state import TrainState


def warm_up_cosine(
  peak: float, warm_up: int, steps: int, final: float = 0.1
) -> optax.Schedule:
  """Returns a learning rate that rises in a line, then falls as half a cosine.

  Loshchilov and Hutter 2017, "SGDR", equation 5, after a warm-up.

  Args:
    peak: Where the rise ends.
    warm_up: Updates of the rise; update 0 already has a part of the peak.
    steps: Updates in all; afterwards the rate stays.
    final: Where the fall ends, as a part of the peak.
  """
  warm_up = max(min(warm_up, steps - 1), 0)
  fall = optax.cosine_decay_schedule(peak, max(steps - warm_up, 1), final)
  if not warm_up:
    return fall
  rise = optax.linear_schedule(peak / warm_up, peak, max(warm_up - 1, 1))
  return optax.join_schedules([rise, fall], [warm_up])


def adamw(
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float = 0.1,
  b1: float = 0.9,
  b2: float = 0.95,
  eps: float = 1e-8,
  clip_norm: float = 1.0,
  ema_decay: float = 0.0,
  decay_mask: Any = None,
) -> optax.GradientTransformation:
  """Returns AdamW after clipping, with an average of the weights if asked for.

  Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".

  Args:
    learning_rate: A number, or a function from the update's number.
    weight_decay: Times the learning rate and the weight, taken from the weight.
    b1: Decay of the mean of gradients.
    b2: Decay of the mean of their squares.
    eps: Added to the root of the latter.
    clip_norm: The most that the norm of all gradients together may be; 0: no limit.
    ema_decay: Of the average, see `average_weights`; 0: none is kept.
    decay_mask: Tree of booleans as that of the weights: which ones decay. None: all.
  """
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  parts.append(
    optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask)
  )
  if ema_decay:
    parts.append(average_weights(ema_decay))
  return optax.chain(*parts)


class AverageState(NamedTuple):
  """State of `average_weights`.

  Attributes:
    count: Updates so far, int32.
    average: Tree as that of the weights.
  """

  count: jax.Array
  average: Any


def average_weights(decay: float) -> optax.GradientTransformation:
  """Returns a transformation that leaves updates alone and averages the weights.

  As in Pax: update n moves the average by `1 - min(decay, (1 + n) / (10 + n))` of the
  way to the weights as they are before that update.

  Raises:
    ValueError: `decay` is not in [0, 1).
  """
  if not 0 <= decay < 1:
    raise ValueError(f'The decay of an average must be in [0, 1), not {decay}.')

  def init(params):
    return AverageState(jnp.int32(0), jax.tree.map(jnp.copy, params))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError('average_weights needs the weights: update(..., params).')
    now = jnp.minimum(decay, (1.0 + state.count) / (10.0 + state.count))
    average = jax.tree.map(
      lambda a, w: (a - (1.0 - now) * (a - w)).astype(a.dtype), state.average, params
    )
    return updates, AverageState(state.count + 1, average)

  return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> TrainState:
  """Returns `state` with the averaged weights in place of the weights.

  Unchanged when the optimizer keeps no average.
  """
  parts = jax.tree.leaves(
    state.opt_state, is_leaf=lambda x: isinstance(x, AverageState)
  )
  found = [x for x in parts if isinstance(x, AverageState)]
  return state._replace(params=found[0].average) if found else state


def decay_mask(model: Any, *args, **kwargs) -> dict[str, dict[str, bool]]:
  """Returns which parameters decay: all but those of SKIP_LP_REGULARIZATION.

  Layers mark what should not decay, such as the scales and biases of norms.

  Args:
    model: Config of a layer; its `name` is the module's.
    *args: What the layer is called with: arrays, or shapes and dtypes.
    **kwargs: Likewise.

  Returns:
    `{module: {name: bool}}`, as Haiku keeps the parameters.
  """
  from pax_haiku import base_layer, interop

  declared = model.Instantiate().abstract_init_with_metadata(*args, **kwargs)
  params, _ = interop.to_haiku(
    {base_layer.PARAMS: declared[base_layer.PARAMS]}, root=model.name
  )
  return {
    module: {
      name: not base_layer.var_skip_lp_regularization(hparams)
      for name, hparams in entries.items()
    }
    for module, entries in params.items()
  }
