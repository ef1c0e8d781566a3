"""Loss, gradient and optimizer step of a model inside `hk.transform_with_state`.

A model function takes one batch and returns weighted scalars as Pax models do:
`{name: (value, weight)}`, each value a mean and its weight what it is a mean over, such
as the number of examples or tokens. Auxiliary losses are added by the model, as in Pax.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from pax_haiku.training import accumulation
from pax_haiku.training.train_state import TrainState, without_caches

Batch = Any
WeightedScalars = Mapping[str, tuple[jax.Array, jax.Array]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
EvalStep = Callable[[TrainState, Batch], WeightedScalars]


def pax_context(do_eval: bool) -> contextlib.AbstractContextManager:
  """Returns a context in which Pax layers train, or with `do_eval` evaluate."""
  from pax_haiku import base_layer

  context = base_layer.JaxContext
  return context.new_context(hparams=context.HParams(do_eval=do_eval))


def make_train_step(
  forward: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  loss_name: str = 'loss',
  accumulate: int = 1,
) -> TrainStep:
  """Returns a compiled function that does one update.

  `train_step(train_state, batch) -> (train_state, metrics)`, where metrics holds the
  values of the model's weighted scalars and `grad_norm`, the global norm of the
  gradient. The memory of the given train state is reused for the new one: the old one
  cannot be read any more. Randomness is `fold_in(rng, step)`, so that a run that was
  resumed at some step draws what an uninterrupted one draws.

  Args:
    forward: Model; `apply(params, state, rng, batch)` gives weighted scalars.
    optimizer: The optax transformation that turns gradients into updates.
    loss_name: Which weighted scalar is minimised.
    accumulate: Into how many parts a batch is cut, one computed after the other: the
      same update with less memory, if the model treats examples alike. Parts count by
      the weight of their loss; moving statistics see each part, summaries are the last
      part's.
  """

  def gradients(params, state, key, batch):
    def loss_fn(params):
      with pax_context(do_eval=False):
        metrics, new_state = forward.apply(params, state, key, batch)
      if loss_name not in metrics:
        raise ValueError(
          f'The model returns no {loss_name!r} to minimise, only {sorted(metrics)}; '
          'name the right one as loss_name.'
        )
      return metrics[loss_name][0], (dict(metrics), without_caches(new_state))

    grads, (metrics, new_state) = jax.grad(loss_fn, has_aux=True)(params)
    return grads, metrics, new_state

  def train_step(train_state, batch):
    step, params, state, opt_state, rng = train_state
    key = jax.random.fold_in(rng, step)
    if accumulate == 1:
      grads, metrics, new_state = gradients(params, state, key, batch)
    else:
      grads, metrics, new_state = accumulation.in_parts(
        lambda *args: gradients(params, *args), state, key, batch, accumulate, loss_name
      )
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    values = {name: value for name, (value, _) in metrics.items()}
    values['grad_norm'] = optax.global_norm(grads)
    return TrainState(step + 1, params, new_state, opt_state, rng), values

  return jax.jit(train_step, donate_argnums=0)


def make_eval_step(forward: hk.TransformedWithState) -> EvalStep:
  """Returns a compiled `eval_step(train_state, batch) -> weighted scalars`.

  Pax layers run with `do_eval`; the state they would write is dropped.
  """

  def eval_step(train_state, batch):
    rng = jax.random.fold_in(train_state.rng, train_state.step)
    with pax_context(do_eval=True):
      metrics, _ = forward.apply(train_state.params, train_state.state, rng, batch)
    return dict(metrics)

  return jax.jit(eval_step)


def evaluate(
  eval_step: EvalStep, train_state: TrainState, batches: Iterable[Batch]
) -> dict[str, float]:
  """Returns the weighted mean of each weighted scalar over all batches.

  A scalar whose weights are all zero is NaN.
  """
  sums: dict[str, list] = {}
  for batch in batches:
    for name, (value, weight) in eval_step(train_state, batch).items():
      total = sums.setdefault(name, [0.0, 0.0])
      # A padded batch may hold no example at all: its mean is then no number.
      total[0] += float(jnp.where(weight > 0, value * weight, 0.0))
      total[1] += float(weight)
  return {
    name: total / weight if weight else float('nan')
    for name, (total, weight) in sums.items()
  }
