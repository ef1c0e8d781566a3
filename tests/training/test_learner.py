"""pax_haiku.training.learner and train_state: one update, and means over batches."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku import base_layer
from pax_haiku.training import learner, train_state


def test_update_of_linear_regression_is_the_textbook_one():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(8, 3)).astype(np.float32)
  y = rng.normal(size=8).astype(np.float32)

  def forward(batch):
    w = hk.get_parameter('w', [3], init=jnp.ones)
    return {'loss': (jnp.mean(jnp.square(batch['x'] @ w - batch['y'])), 8.0)}

  transformed = hk.transform_with_state(forward)
  optimizer = optax.sgd(0.1)
  batch = {'x': x, 'y': y}
  state = train_state.init(transformed, optimizer, 0, batch)
  step = learner.make_train_step(transformed, optimizer)
  w = np.ones(3, np.float64)
  for number in range(3):
    state, metrics = step(state, batch)
    residual = x @ w - y
    grad = 2 / 8 * x.T @ residual
    # float32 against float64 on numbers of size 1
    np.testing.assert_allclose(metrics['loss'], np.mean(residual**2), rtol=1e-5)
    np.testing.assert_allclose(metrics['grad_norm'], np.linalg.norm(grad), rtol=1e-5)
    w -= 0.1 * grad
    np.testing.assert_allclose(state.params['~']['w'], w, rtol=1e-5)
    assert int(state.step) == number + 1


def test_state_is_carried_from_step_to_step(toy):
  state, mean = toy.init(), np.zeros(3)
  for step in range(3):
    batch = toy.batch_at(step)
    state, _ = toy.train_step(state, batch)
    mean = 0.9 * mean + 0.1 * batch['x'].mean(0)
  np.testing.assert_allclose(state.state['~']['mean'], mean, rtol=1e-5)


def test_step_compiles_once(toy):
  state, before = toy.init(), toy.train_step._cache_size()
  for step in range(3):
    state, _ = toy.train_step(state, toy.batch_at(step))
  assert toy.train_step._cache_size() <= max(before, 1)


def test_randomness_is_a_function_of_seed_and_step(toy):
  def loss(seed, step):
    state = toy.init(seed)._replace(step=jnp.int32(step))
    return float(toy.train_step(state, toy.batch_at(0))[1]['loss'])

  assert loss(0, 5) == loss(0, 5)
  assert loss(0, 5) != loss(0, 6)
  other = toy.init(1)._replace(params=toy.init(0).params, step=jnp.int32(5))
  assert float(toy.train_step(other, toy.batch_at(0))[1]['loss']) != loss(0, 5)


def test_old_state_is_donated(toy):
  old = toy.init()
  toy.train_step(old, toy.batch_at(0))
  with pytest.raises(RuntimeError, match='deleted'):
    np.asarray(old.params['linear']['w'])


def test_missing_loss_is_named(toy):
  step = learner.make_train_step(toy.forward, toy.optimizer, loss_name='xent')
  with pytest.raises(ValueError, match=r"no 'xent' to minimise, only \['loss'\]"):
    step(toy.init(), toy.batch_at(0))


def test_evaluation_is_the_weighted_mean():
  def eval_step(state, batch):
    return {'loss': (jnp.float32(batch[0]), jnp.float32(batch[1]))}

  batches = [(1.0, 3.0), (5.0, 1.0), (float('nan'), 0.0)]
  assert learner.evaluate(eval_step, None, batches) == {'loss': 2.0}
  assert np.isnan(learner.evaluate(eval_step, None, batches[2:])['loss'])


def test_pax_layers_see_training_and_evaluation():
  seen = []

  def forward(batch):
    seen.append(base_layer.cur_jax_context().do_eval)
    return {'loss': (hk.get_parameter('w', [], init=jnp.ones) * batch, 1.0)}

  transformed = hk.transform_with_state(forward)
  with learner.pax_context(do_eval=False):
    state = train_state.init(transformed, optax.sgd(0.1), 0, 1.0)
  learner.make_eval_step(transformed)(state, 1.0)
  learner.make_train_step(transformed, optax.sgd(0.1))(state, 1.0)
  assert seen == [False, True, False]
  assert not base_layer.JaxContext.has_context()


def test_evaluation_leaves_the_state_alone(toy):
  state = toy.init()
  before = jax.tree.map(np.asarray, state)
  learner.make_eval_step(toy.forward)(state, toy.batch_at(0))
  jax.tree.map(np.testing.assert_array_equal, before, state)
