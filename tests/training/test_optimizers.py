"""pax_haiku.training.optimizers: rates, clipping, decay and averages of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import linears, normalizations
from pax_haiku.training import optimizers
from pax_haiku.training.train_state import TrainState


def test_rate_rises_in_a_line_and_falls_as_half_a_cosine():
  rate = optimizers.warm_up_cosine(2.0, 4, 12, final=0.1)
  steps = np.arange(15)
  r = np.clip((steps - 4) / 8, 0, 1)
  fall = 2.0 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * r)))
  expected = np.where(steps < 4, 2.0 * (steps + 1) / 4, fall)
  np.testing.assert_allclose([float(rate(s)) for s in steps], expected, rtol=1e-6)


@pytest.mark.parametrize('warm_up, steps', [(0, 5), (10, 5), (1, 2), (5, 1), (3, 4)])
def test_rate_of_short_runs_is_finite_and_positive(warm_up, steps):
  rate = optimizers.warm_up_cosine(1.0, warm_up, steps)
  values = [float(rate(step)) for step in range(steps + 2)]
  assert all(0 < value <= 1 for value in values) and max(values) == 1


def test_adamw_is_the_formula():
  w = {'m': {'a': np.array([1.0, -2.0]), 'b': np.array([3.0])}}
  grads = {'m': {'a': np.array([3.0, 0.0]), 'b': np.array([4.0])}}  # of norm 5
  mask = {'m': {'a': True, 'b': False}}
  optimizer = optimizers.adamw(0.1, 0.5, 0.9, 0.95, 1e-8, 1.0, decay_mask=mask)
  params = jax.tree.map(jnp.float32, w)
  state = optimizer.init(params)
  mean = square = jax.tree.map(np.zeros_like, w)
  for t in (1, 2):
    updates, state = optimizer.update(jax.tree.map(jnp.float32, grads), state, params)
    params = optax.apply_updates(params, updates)
    g = jax.tree.map(lambda g: g / 5, grads)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, g)
    square = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g * g, square, g)
    w = jax.tree.map(
      lambda w, m, v, decays, t=t: w
      - 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
      - 0.1 * 0.5 * w * decays,
      w, mean, square, mask,
    )  # fmt: skip
    # float32 against float64
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), params, w)


def test_average_is_paxs():
  optimizer = optimizers.adamw(1.0, 0.0, clip_norm=0.0, ema_decay=0.15)
  params = {'m': {'w': jnp.float32(1.0)}}
  state = optimizer.init(params)
  average = w = 1.0
  for n in range(4):
    decay = min(0.15, (1 + n) / (10 + n))
    average -= (1 - decay) * (average - w)
    updates, state = optimizer.update({'m': {'w': jnp.float32(1.0)}}, state, params)
    params = optax.apply_updates(params, updates)
    w = float(params['m']['w'])
  whole = TrainState(jnp.int32(4), params, {}, state, jax.random.PRNGKey(0))
  found = optimizers.averaged(whole)
  np.testing.assert_allclose(found.params['m']['w'], average, rtol=1e-6)
  assert float(found.params['m']['w']) != w
  plain = optimizers.adamw(1.0)
  without = whole._replace(opt_state=plain.init(params))
  assert optimizers.averaged(without) is without


def test_average_wants_weights_and_a_sensible_decay():
  with pytest.raises(ValueError, match=r'in \[0, 1\), not 1.0'):
    optimizers.average_weights(1.0)
  transformation = optimizers.average_weights(0.5)
  with pytest.raises(ValueError, match='needs the weights'):
    transformation.update({}, transformation.init({}))


class Net(base_layer.BaseLayer):
  """A feed-forward layer, a norm, and a weight that is marked by hand."""

  def setup(self):
    self.create_child(
      'ffn', pax_fiddle.Config(linears.FeedForward, input_dims=2, output_dims=2)
    )
    self.create_child('ln', pax_fiddle.Config(normalizations.LayerNorm, dim=2))
    skip = [base_layer.WeightHParamsCollection.SKIP_LP_REGULARIZATION]
    self.create_variable('v', base_layer.WeightHParams([2], collections=skip))

  def __call__(self, x):
    return self.ln(self.ffn(x)) * self.theta.v


def test_what_layers_mark_does_not_decay():
  mask = optimizers.decay_mask(pax_fiddle.Config(Net, name='net'), jnp.ones([1, 2]))
  assert mask == {
    'net': {'v': False},
    'net/ffn/bias': {'b': True},
    'net/ffn/linear': {'w': True},
    'net/ln': {'scale': False, 'bias': False},
  }
