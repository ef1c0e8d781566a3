"""pax_haiku.training.accumulation: a batch in parts gives the update of the whole."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku.training import learner, train_state


def forward(batch):
  w = hk.get_parameter('w', [3], init=jnp.ones)
  count = hk.get_state('count', [], init=jnp.zeros)
  hk.set_state('count', count + 1)
  error = jnp.square(batch['x'] @ w - batch['y']) * batch['weights']
  weight = batch['weights'].sum()
  # As Pax's losses: a part without weight has no mean.
  return {
    'loss': (error.sum() / weight, weight),
    'largest': (jnp.max(error), jnp.float32(1.0)),
  }


def run(accumulate, weights):
  rng = np.random.default_rng(0)
  batch = {
    'x': rng.normal(size=(8, 3)).astype(np.float32),
    'y': rng.normal(size=8).astype(np.float32),
    'weights': np.asarray(weights, np.float32),
  }
  transformed = hk.transform_with_state(forward)
  optimizer = optax.sgd(0.1)
  state = train_state.init(transformed, optimizer, 0, batch)
  step = learner.make_train_step(transformed, optimizer, accumulate=accumulate)
  return step(state, batch)


@pytest.mark.parametrize(
  'weights', [[1] * 8, [1, 1, 0, 1, 0, 0, 1, 0], [0] * 6 + [1] * 2]
)
def test_parts_make_the_same_update(weights):
  whole, whole_metrics = run(1, weights)
  state, metrics = run(4, weights)
  # The order of sums differs, in float32.
  np.testing.assert_allclose(state.params['~']['w'], whole.params['~']['w'], rtol=1e-6)
  for name in ('loss', 'grad_norm'):
    np.testing.assert_allclose(metrics[name], whole_metrics[name], rtol=1e-6)
  assert int(state.state['~']['count']) == 4 + int(whole.state['~']['count']) - 1


def test_other_scalars_are_means_over_the_parts():
  _, metrics = run(2, [1] * 8)
  _, whole = run(1, [1] * 8)
  assert metrics['largest'] <= whole['largest']


def test_parts_must_divide_the_batch():
  with pytest.raises(ValueError, match='8 examples cannot be cut into 3 equal parts'):
    run(3, [1] * 8)


def test_only_one_part_is_in_memory():
  def wide(batch):
    w = hk.get_parameter('w', [4, 512], init=jnp.ones)
    y = jnp.tanh(jnp.tanh(batch @ w) * 2.0)
    return {'loss': (jnp.mean(y), jnp.float32(len(batch)))}

  transformed = hk.transform_with_state(wide)
  batch, optimizer = jnp.ones([1024, 4]), optax.sgd(0.1)
  state = train_state.init(transformed, optimizer, 0, batch)

  def temporaries(accumulate):
    step = learner.make_train_step(transformed, optimizer, accumulate=accumulate)
    compiled = step.lower(state, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(16) < temporaries(1) / 4
  assert jax.tree.leaves(state.params)
