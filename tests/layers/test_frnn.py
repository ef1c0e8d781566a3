"""Recurrent layers: loops over steps, Haiku's own LSTM, keys and state over time."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pax_haiku
from pax_haiku import base_layer, layers, pax_fiddle, py_utils
from pax_haiku.layers import frnn, rnn_cell
from tests.layers import harness, reference
from tests.tracing import jit_and_count

Config = pax_fiddle.Config
NestedMap = py_utils.NestedMap
B, T, D, H = 2, 4, 3, 2
X = harness.noise(B, T, D)
PADDING = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.float32)[..., np.newaxis]
INPUTS = NestedMap(act=X, padding=PADDING)
# Equal up to the order of sums of some ten products in float32.
CLOSE = dict(rtol=1e-5, atol=1e-6)


def lstm(**fields):
  return Config(
    rnn_cell.LstmCellSimple, num_input_nodes=D, num_output_nodes=H, **fields)


def build(cls=frnn.FRnn, cell=None, **fields):
  """(an unbound layer, variables for it)."""
  layer = harness.build(cls, cell_tpl=cell or lstm(), **fields)
  shapes = jax.eval_shape(lambda: harness.init(layer, INPUTS))
  return layer, harness.randomize(shapes)


@pytest.fixture(scope='module')
def built():
  return build()


def test_reset_mask():
  ids = np.array([[1, 1, 2, 2, 0], [3, 4, 4, 5, 5]])
  mask = np.array([[0, 1, 0, 1, 0], [0, 0, 1, 0, 1]])
  np.testing.assert_array_equal(frnn.reset_mask(ids), mask)
  paddings = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
  mask[0, 4] = 1
  found = frnn.reset_mask(ids[..., None], paddings[..., None], jnp.bfloat16)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found[..., 0], mask)


def test_equals_haiku_lstm(built):
  """Pax's gates are candidate, input, forget, output; Haiku's begin with the input."""
  layer, variables = built
  core = hk.transform(
    lambda x: hk.dynamic_unroll(hk.LSTM(H), x, hk.LSTM(H).initial_state(B)))
  w, b = (np.split(np.asarray(variables['params']['cell'][k]), 4, axis=-1)
          for k in ('wm', 'b'))
  b[2] = b[2] - 1  # which Haiku adds
  swap = lambda x: np.concatenate([x[1], x[0], x[2], x[3]], -1)  # noqa: E731
  expected, _ = jax.jit(core.apply)(
    {'lstm/linear': {'w': swap(w), 'b': swap(b)}}, None, X.swapaxes(0, 1))
  inputs = NestedMap(act=X, padding=0 * PADDING)
  out, state = jax.jit(layer.apply)(variables, inputs)
  np.testing.assert_allclose(out, expected.swapaxes(0, 1), **CLOSE)
  np.testing.assert_array_equal(out[:, -1], state.m)


def test_steps_padding_and_direction(built):
  layer, variables = built
  out, state = layer.apply(variables, INPUTS)
  np.testing.assert_array_equal(out[0, 2:], out[0, [1, 1]], 'padded: nothing new')

  def by_steps(layer):
    state, outs = layer.init_states(B), []
    for t in range(T):
      one = NestedMap(act=X[:, t], padding=PADDING[:, t])
      state, act = layer.extend_step(one, state)
      assert 'reset_mask' not in one
      outs.append(act)
    return jnp.stack(outs, 1), state

  run = jax.jit(lambda v: layer.apply(v, method=by_steps))
  for found, expected in zip(run(variables), (out, state), strict=True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found, expected)
  backwards = layer.clone(reverse=True)
  flipped = NestedMap({k: v[:, ::-1] for k, v in INPUTS.items()})
  found, last = backwards.apply(variables, flipped)
  np.testing.assert_array_equal(found[:, ::-1], out)
  np.testing.assert_array_equal(last.c, state.c)
  assert set(INPUTS) == {'act', 'padding'} and INPUTS.act is X


def test_gradients(built):
  """Through time, against differences: rtol of their truncation error."""
  layer, variables = built
  loss = jax.jit(lambda w: jnp.sum(jnp.sin(
    layer.apply({'params': {'cell': {**variables['params']['cell'], 'wm': w}}},
                INPUTS)[0])))
  w = variables['params']['cell']['wm']
  direction = harness.noise(*w.shape, seed=5)
  slope = float(jnp.vdot(jax.grad(loss)(w), direction))
  ahead, behind = loss(w + 1e-2 * direction), loss(w - 1e-2 * direction)
  np.testing.assert_allclose(slope, (ahead - behind) / 2e-2, rtol=1e-2)


class Cell(rnn_cell.BaseRnnCell):
  """Counts its steps, draws, reports a summary and a loss, hosts a Haiku module."""

  def setup(self):
    self.create_variable(
      'steps', base_layer.WeightHParams([], base_layer.WeightInit.Constant(0.0)),
      trainable=False)
    self.create_child('host', Config(
      layers.HaikuModule, module_tpl=Config(hk.ExponentialMovingAverage, 0.5)))

  def init_states(self, batch_size):
    return NestedMap(m=jnp.zeros([batch_size, D]))

  def get_output(self, state):
    return state.m

  def __call__(self, state, inputs):
    self.update_var('steps', self.get_var('steps') + 1)
    noise = jax.random.uniform(self.next_prng_key(), [])
    self.add_summary('noise', noise)
    self.add_aux_loss('noise', noise)
    self.host(noise)
    return NestedMap(m=state.m + inputs.act[0] * self.get_var('steps'))


def test_state_keys_and_losses():
  layer = harness.build(frnn.FRnn, cell_tpl=Config(Cell))
  variables = jax.jit(lambda: harness.init(layer, INPUTS))()
  assert variables['non_trainable']['cell']['steps'] == 0
  (out, _), updated = jax.jit(lambda v: harness.apply(layer, v, INPUTS))(variables)
  steps = np.arange(1, T + 1)[:, np.newaxis]
  np.testing.assert_allclose(out, np.cumsum(X * steps, axis=1), **CLOSE)
  assert updated['non_trainable']['cell']['steps'] == T
  noise = updated['summaries']['cell']['noise_scalar']
  assert noise.shape == (T,) and len(np.unique(noise)) == T
  loss = updated['aux_loss']['cell']['noise']
  np.testing.assert_allclose(loss.value, noise.sum(), rtol=1e-6)
  assert loss.weight == T
  ema = updated['non_trainable']['cell']['host']['exponential_moving_average']
  assert ema['counter'] == T
  np.testing.assert_allclose(
    ema['hidden'], np.sum(noise * 0.5 ** (T - np.arange(T))), rtol=1e-5)


def test_in_a_haiku_transform():
  net = pax_haiku.transform(Config(frnn.FRnn, name='net', cell_tpl=Config(Cell)))
  params, state = jax.jit(net.init)(harness.KEYS['params'], INPUTS)
  assert state['net/cell']['steps'] == 0
  assert state['net/cell']['summaries']['noise_scalar'].shape == (T,)
  apply, traces = jit_and_count(net.apply)
  for call in (1, 2):
    _, state = apply(params, state, harness.KEYS['random'], INPUTS)
    assert state['net/cell']['steps'] == call * T
    loss = state['net/cell']['aux_loss']['noise']
    np.testing.assert_allclose(
      loss.value, state['net/cell']['summaries']['noise_scalar'].sum(), rtol=1e-6)
  assert len(traces) == 1


def test_stacks_have_the_depths_that_they_say():
  fields = dict(num_layers=2, num_input_nodes=D, num_output_nodes=4)
  template = Config(frnn.LstmFrnn, cell_tpl=Config(rnn_cell.LstmCellSimple))
  meta = harness.build(frnn.StackFrnn, frnn_tpl=template, **fields)
  meta = meta.abstract_init_with_metadata(INPUTS)['params']
  assert [meta[f'frnn_{i}']['cell']['wm'].shape for i in (0, 1)] == [[7, 16], [8, 16]]
  layer = harness.build(frnn.StackBiFrnn, frnn_tpl=template, **fields)
  meta = layer.abstract_init_with_metadata(INPUTS)['params']
  for way in ('fwd', 'bwd'):
    shapes = [meta[f'{way}_frnn_{i}']['cell']['wm'].shape for i in (0, 1)]
    assert shapes == [[5, 8], [6, 8]]
  assert template.cell_tpl.num_input_nodes == 0, 'the template is left alone'


def test_recorded_numbers_of_both_directions():
  config = Config(
    frnn.StackBiFrnn, num_layers=2, num_input_nodes=4, num_output_nodes=6,
    frnn_tpl=Config(frnn.LstmFrnn, cell_tpl=Config(rnn_cell.LstmCellSimple)))
  inputs = NestedMap(act=reference.X, padding=reference.PADDINGS[..., np.newaxis])
  out, states = jax.jit(lambda: reference.run(config, inputs))()
  reference.check(out, 60, 0.09955529, 0.0860151, 6.107859)
  np.testing.assert_array_equal(states[1].bwd.m, out[:, 0, 3:])


@pytest.mark.parametrize(
  'inputs, fields, error, message',
  [
    (NestedMap(act=X), {}, AssertionError, r"\['padding'\] not found in \['act'\]"),
    (NestedMap(INPUTS, more=X[:, :2]), {}, ValueError, r'more has shape \(2, 2, 3\)'),
    (INPUTS, dict(unroll=0), AssertionError, 'unroll must be positive, found 0'),
    (INPUTS, dict(cell_tpl=Config(layers.ReLU)), AssertionError, 'found ReLU'),
  ],
)
def test_errors(inputs, fields, error, message):
  layer = harness.build(frnn.FRnn, **{'cell_tpl': lstm(), **fields})
  with pytest.raises(error, match=f'FRnn at the root.*{message}'):
    harness.init(layer, inputs)


def test_errors_of_stacks():
  for fields in (dict(), dict(num_layers=0, frnn_tpl=Config(frnn.FRnn))):
    with pytest.raises(AssertionError, match='StackFrnn .*frnn_tpl and num_layers > 0'):
      harness.init(harness.build(frnn.StackFrnn, **fields), INPUTS)
