"""Recurrent cells: a step against the formulas of the papers, in numpy."""

import jax
import numpy as np
import pytest

from pax_haiku import base_layer, py_utils
from pax_haiku.layers import rnn_cell
from tests.layers import harness

NestedMap = py_utils.NestedMap
B, D, H, P = 3, 4, 5, 2
DEPTHS = dict(num_input_nodes=D, num_output_nodes=H)
STATE = NestedMap(m=harness.noise(B, H), c=harness.noise(B, H, seed=1))
INPUTS = NestedMap(
  act=harness.noise(B, D, seed=2), padding=np.array([[0], [1], [0]], np.float32)
)
# Sums of some ten products and a few transcendental functions, in float32.
CLOSE = dict(rtol=1e-5, atol=1e-6)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def step(cls, state=STATE, inputs=INPUTS, do_eval=False, **fields):
  """(random variables of a cell, the next state)."""
  layer = harness.build(cls, **{**DEPTHS, **fields})
  variables = harness.randomize(
    jax.eval_shape(lambda: harness.init(layer, state, inputs)))
  run = jax.jit(lambda v: harness.apply(layer, v, state, inputs, do_eval=do_eval))
  out, _ = run(variables)
  theta = {k: np.asarray(v, np.float64) for k, v in variables['params'].items()}
  return theta, out


def expected_step(theta, state=STATE, bias=0.0, cap=10.0, normalize=None):
  x = np.concatenate([INPUTS.act, state.m], axis=1)
  gates = np.split(x @ theta['wm'], 4, axis=1)
  if normalize is not None:
    gates = [(g - g.mean(1, keepdims=True)) / np.sqrt(
      g.var(1, keepdims=True) + normalize) for g in gates]
    gates = [g * s for g, s in zip(gates, np.split(theta['ln_scale'], 4), strict=True)]
  i, g, f, o = (x + b for x, b in zip(gates, np.split(theta['b'], 4), strict=True))
  c = sigmoid(f + bias) * state.c + sigmoid(g) * np.tanh(i)
  c = np.clip(c, -cap, cap)
  m = sigmoid(o) * np.tanh(c)
  return NestedMap(m=m @ theta['w_proj'] if 'w_proj' in theta else m, c=c)


def check(out, expected, state=STATE):
  for name in ('m', 'c'):
    kept = np.where(INPUTS.padding != 0, state[name], expected[name])
    np.testing.assert_allclose(out[name], kept, **CLOSE)


def test_fields():
  added = harness.added_fields(rnn_cell.LstmCellSimple, 'BaseRnnCell')
  assert added == (
    'inputs_arity=1, num_input_nodes=0, num_output_nodes=0, num_hidden_nodes=0, '
    'reset_cell_state=False, cell_value_cap=10.0, forget_gate_bias=0.0, '
    "output_nonlinearity=True, zo_prob=0.0, bias_init='constant 0.0'"
  )
  added = harness.added_fields(rnn_cell.LayerNormalizedLstmCellSimple, 'LstmCellSimple')
  assert added == 'layer_norm_epsilon=1e-08'
  assert harness.added_fields(rnn_cell.CifgLstmCellSimple, 'LstmCellSimple') == ''


def test_lstm():
  theta, out = step(rnn_cell.LstmCellSimple, forget_gate_bias=1.5, cell_value_cap=0.4)
  assert harness.shapes(theta) == {'wm': (D + H, 4 * H), 'b': (4 * H,)}
  assert (np.abs(out.c) >= 0.4 - 1e-6).any()
  check(out, expected_step(theta, bias=1.5, cap=0.4))


def test_projection():
  state = NestedMap(m=harness.noise(B, P), c=STATE.c)
  theta, out = step(
    rnn_cell.LstmCellSimple, state, num_output_nodes=P, num_hidden_nodes=H
  )
  assert harness.shapes(theta) == {
    'wm': (D + P, 4 * H), 'w_proj': (H, P), 'b': (4 * H,)}
  check(out, expected_step(theta, state), state)


def test_layer_norm():
  theta, out = step(rnn_cell.LayerNormalizedLstmCellSimple, layer_norm_epsilon=0.1)
  assert theta['ln_scale'].shape == (4 * H,)
  check(out, expected_step(theta, normalize=0.1))


def test_coupled_gates():
  theta, out = step(
    rnn_cell.CifgLstmCellSimple, output_nonlinearity=False, cell_value_cap=None
  )
  x = np.concatenate([INPUTS.act, STATE.m], axis=1)
  i, f, o = np.split(x @ theta['wm'] + theta['b'], 3, axis=1)
  c = sigmoid(f) * STATE.c + (1 - sigmoid(f)) * np.tanh(i)
  check(out, NestedMap(m=sigmoid(o) * c, c=c))


def test_zoneout():
  fields = dict(zo_prob=0.3)
  theta, out = step(rnn_cell.LstmCellSimple, do_eval=True, **fields)
  new = expected_step(theta)
  check(out, NestedMap(
    {k: 0.3 * STATE[k] + 0.7 * new[k] for k in ('m', 'c')}))
  many = {k: np.tile(v, (200, 1)) for k, v in STATE.items()}
  inputs = NestedMap({k: np.tile(v, (200, 1)) for k, v in INPUTS.items()})
  _, out = step(rnn_cell.LstmCellSimple, NestedMap(many), inputs, **fields)
  _, new = step(rnn_cell.LstmCellSimple, NestedMap(many), inputs)
  kept = {}
  for name in ('m', 'c'):
    padded = inputs.padding[:, 0] != 0
    kept[name] = (out[name] == many[name])[~padded]
    assert (out[name] == many[name])[padded].all()
    assert np.where(kept[name], True, (out[name] == new[name])[~padded]).all()
    # 2000 draws of probability 0.3: five standard deviations.
    assert abs(kept[name].mean() - 0.3) < 0.052
  assert (kept['m'] != kept['c']).any(), 'drawn one by one'


def test_zoneout_needs_a_key_in_evaluation_too():
  layer = harness.build(rnn_cell.LstmCellSimple, zo_prob=0.3, **DEPTHS)
  variables = harness.init(layer, STATE, INPUTS)
  with pytest.raises(base_layer.InvalidRngError):
    harness.apply(layer, variables, STATE, INPUTS, do_eval=True, rngs=None)


def test_reset():
  inputs = NestedMap(INPUTS, reset_mask=np.array([[0], [0], [1]], np.float32))
  _, out = step(rnn_cell.LstmCellSimple, STATE, inputs, reset_cell_state=True)
  cleared = NestedMap({k: inputs.reset_mask * v for k, v in STATE.items()})
  _, expected = step(rnn_cell.LstmCellSimple, cleared, inputs)
  for name in ('m', 'c'):
    np.testing.assert_array_equal(out[name], expected[name])
  assert (out.c[1] == 0).all(), 'padded: the state after the reset stays'
  assert (STATE.m[0] != 0).all(), "the caller's state is left alone"


def test_projected_inputs_are_the_same_step():
  layer = harness.build(rnn_cell.LstmCellSimple, **DEPTHS)
  variables = harness.randomize(harness.init(layer, STATE, INPUTS))
  expected, _ = harness.apply(layer, variables, STATE, INPUTS)
  sequence = NestedMap(act=[INPUTS.act[None, :, :1], INPUTS.act[None, :, 1:]])
  projected, _ = harness.apply(
    layer, variables, sequence, method=rnn_cell.LstmCellSimple.project_input)
  inputs = NestedMap(proj_inputs=projected[0], padding=INPUTS.padding)
  found, _ = harness.apply(
    layer, variables, STATE, inputs,
    method=rnn_cell.LstmCellSimple.fprop_with_projected_inputs)
  for name in ('m', 'c'):
    np.testing.assert_allclose(found[name], expected[name], **CLOSE)


@pytest.mark.parametrize(
  'cls, fields, error, message',
  [
    ('LstmCellSimple', dict(inputs_arity=2), ValueError, 'expected 2 arrays .*found 1'),
    ('LstmCellSimple', dict(cell_value_cap='a'), ValueError, 'or None, found .a'),
    ('CifgLstmCellSimple', dict(forget_gate_bias=1.0), AssertionError, 'found 1.0'),
    ('BaseRnnCell', None, NotImplementedError, 'does not define __call__'),
  ],
)
def test_errors(cls, fields, error, message):
  fields = {} if fields is None else {**DEPTHS, **fields}
  layer = harness.build(getattr(rnn_cell, cls), **fields)
  with pytest.raises(error, match=f'{cls} at the root.*{message}'):
    harness.init(layer, STATE, INPUTS)


def test_gates_of_a_wrong_width():
  layer = harness.build(rnn_cell.LstmCellSimple, **DEPTHS)
  variables = harness.init(layer, STATE, INPUTS)
  with pytest.raises(ValueError, match=r'4 gates of 5 units, found .*\(3, 21\)'):
    harness.apply(layer, variables, harness.noise(B, 4 * H + 1),
                  method=lambda layer, x: layer._split(x))
  with pytest.raises(AssertionError, match='depth 4 .*found 3'):
    harness.apply(layer, variables, NestedMap(act=harness.noise(1, B, 3)),
                  method=rnn_cell.LstmCellSimple.project_input)
