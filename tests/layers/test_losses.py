"""BiTemperedLoss: recorded values and gradients, limits, schedule of temperatures."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import losses
from tests.layers import harness, reference

LOGITS = reference.X
LABELS = np.eye(4, dtype=np.float32)[reference.CLASS_IDS[..., 0] % 4]


def build(**fields):
  return harness.build(losses.BiTemperedLoss, **fields)


@functools.partial(jax.jit, static_argnames='label_smoothing')
def evaluate_both(logits, labels, t1, t2, label_smoothing):
  """Losses in evaluation and their gradient; compiled once for all temperatures."""
  layer = build(t1=t1, t2=t2, label_smoothing=label_smoothing)
  variables = {'non_trainable': {'count': jnp.float32(0)}}

  def loss(logits):
    out = harness.apply(layer, variables, logits, labels, do_eval=True)[0]
    return jnp.sum(out), out

  grad, out = jax.grad(loss, has_aux=True)(logits)
  return out, grad


def evaluate(logits=LOGITS, labels=LABELS, t1=1.0, t2=1.0, label_smoothing=0.0):
  return evaluate_both(logits, labels, t1, t2, label_smoothing)[0]


def gradient(logits=LOGITS, labels=LABELS, t1=1.0, t2=1.0, label_smoothing=0.0):
  return evaluate_both(logits, labels, t1, t2, label_smoothing)[1]


# What Praxis 1.4.0 gives: per temperatures the losses of the first sequence, the
# gradient of its first step, the sums of absolute values of all losses and gradients.
RECORDED = [
  (
    dict(t1=0.7, t2=0.6),
    [1.46637559, 0.73724496, 1.19912887, 0.56556439, 1.61986661],
    [-1.13761163, 0.26137841, 0.392371, 0.48386222],
    (10.46507168, 18.59622955),
  ),
  (
    dict(t1=0.5, t2=1.0),
    [0.88546503, 0.60306323, 0.79713845, 0.51898956, 0.93247366],
    [-0.35210502, 0.07691109, 0.11984827, 0.15534566],
    (7.26231337, 7.337677),
  ),
  (
    dict(t1=1.0, t2=1.4),
    [1.63847911, 1.30339932, 1.51840711, 1.21516669, 1.69117677],
    [-0.4286944, 0.11708626, 0.14533742, 0.16627069],
    (14.46694756, 8.58113289),
  ),
  (
    dict(t1=0.8, t2=1.3, label_smoothing=0.1),
    [0.91594529, 0.66569871, 0.8306272, 0.59656692, 0.95661831],
    [-0.31927431, 0.08012448, 0.10857639, 0.13057344],
    (7.7354722, 6.44915628),
  ),
  (
    dict(),
    [1.85615671, 1.25010085, 1.63332677, 1.10203004, 1.9632858],
    [-0.84372795, 0.21976557, 0.28728864, 0.33667374],
    (15.07776737, 15.41311836),
  ),
  (
    dict(t1=0.3, t2=2.5),
    [0.54183698, 0.51446664, 0.53173351, 0.50728881, 0.54571939],
    [-0.0333389, 0.01006125, 0.01124118, 0.01203648],
    (5.26142502, 0.70165396),
  ),
]


@pytest.mark.parametrize('fields, first, slope, sums', RECORDED)
def test_recorded_numbers(fields, first, slope, sums):
  out, grad = evaluate(**fields), gradient(**fields)
  # Differences of powers near 1 lose bits: a few ulp of 1.
  np.testing.assert_allclose(out[0], first, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(grad[0, 0], slope, rtol=1e-5, atol=1e-6)
  totals = np.abs(out).sum(), np.abs(grad).sum()
  np.testing.assert_allclose(totals, sums, rtol=1e-5)


def test_table_of_recorded_numbers():
  out = evaluate(t1=0.8, t2=1.3, label_smoothing=0.1)
  reference.check(out, 10, 0.9159454, 0.6921421, 7.735472)


def test_temperatures_of_1_are_cross_entropy():
  logits = LOGITS.astype(np.float64)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  expected = -np.log((p * LABELS).sum(-1))
  np.testing.assert_allclose(evaluate(), expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(gradient(), p - LABELS, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('t1', [0.5, 1.0, 1.2])
def test_softmax_of_temperature_1(t1):
  soft = np.abs(harness.noise(2, 5, 4)) + 0.1
  labels = (soft / soft.sum(-1, keepdims=True)).astype(np.float64)
  logits = LOGITS.astype(np.float64)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

  def log(u):
    return np.log(u) if t1 == 1 else (u ** (1 - t1) - 1) / (1 - t1)

  terms = labels * (log(labels) - log(p))
  terms -= (labels ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
  out = evaluate(labels=labels.astype(np.float32), t1=t1, t2=1.0)
  np.testing.assert_allclose(out, terms.sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('t2', [1.2, 1.5])
def test_gradient_is_the_slope_where_the_normalizer_has_converged(t2):
  # With logits close together five iterations find the normalizer to float32 precision.
  # One step in each direction along each class, as a batch.
  h, steps = 1e-2, np.eye(4, dtype=np.float32)
  logits = 0.1 * LOGITS[0, 0] + h * np.stack([steps, -steps])
  labels = np.broadcast_to(LABELS[0, 0], logits.shape)
  forth, back = evaluate(logits, labels, t1=0.8, t2=t2)
  grad = gradient(0.1 * LOGITS, LABELS, t1=0.8, t2=t2)[0, 0]
  # The quotient of differences of float32 values near 1 is good to 1e-5 / h.
  np.testing.assert_allclose(grad, (forth - back) / (2 * h), atol=1e-3)


@pytest.mark.parametrize('t1, t2', [(0.5, 0.7), (0.8, 1.3), (1.0, 1.0)])
def test_no_loss_where_the_labels_are_the_prediction(t1, t2):
  logits = np.zeros((2, 5, 4), np.float32)
  labels = np.full((2, 5, 4), 0.25, np.float32)
  # Five bisections leave an error, and the loss is quadratic in it.
  tolerance = 1e-3 if t2 < 1 else 1e-6
  out = evaluate(logits, labels, t1=t1, t2=t2)
  np.testing.assert_allclose(out, 0, atol=tolerance)


def test_loss_is_bounded_for_t1_below_1():
  logits = np.array([[50.0, 0.0, 0.0]], np.float32)
  wrong = np.array([[0.0, 1.0, 0.0]], np.float32)
  assert evaluate(logits, wrong, t1=0.2, t2=4.0).item() < 2
  assert evaluate(logits, wrong).item() > 49


def test_no_gradient_to_the_labels():
  def loss(labels):
    return jnp.sum(evaluate(labels=labels, t1=0.8, t2=1.3))

  np.testing.assert_array_equal(jax.grad(loss)(LABELS), 0)


def test_label_smoothing():
  out = evaluate(t1=0.8, t2=1.3, label_smoothing=0.3)
  smooth = LABELS * (1 - 0.3 * 4 / 3) + 0.3 / 3
  np.testing.assert_allclose(out, evaluate(labels=smooth, t1=0.8, t2=1.3), rtol=1e-6)


@pytest.mark.parametrize(
  'fields, expected',
  [
    (dict(start_step=2, end_step=5), [1, 1, 1, 2 / 3, 1 / 3, 0, 0]),
    (dict(), [1, 0, 0]),
    (dict(end_step=2), [1, 0.5, 0, 0]),
    (dict(start_step=2, end_step=2), [1, 1, 1, 0, 0]),
  ],
)
def test_schedule(fields, expected):
  schedule = build(**fields).temperature_schedule
  out = [schedule(jnp.float32(step)) for step in range(len(expected))]
  np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_training_moves_the_temperatures():
  layer = build(t1=0.8, t2=1.4, end_step=2)
  variables = jax.jit(functools.partial(harness.init, layer))(LOGITS, LABELS)
  assert variables['non_trainable']['count'] == 0
  step = jax.jit(lambda v: harness.apply(layer, v, LOGITS, LABELS))
  for count, (t1, t2) in enumerate([(1, 1), (0.9, 1.2), (0.8, 1.4), (0.8, 1.4)]):
    out, updated = step(variables)
    np.testing.assert_allclose(out, evaluate(t1=t1, t2=t2), rtol=1e-5, atol=1e-6)
    variables = {**variables, **updated}
    assert variables['non_trainable']['count'] == count + 1


def test_gradient_in_training_is_that_of_the_step():
  layer = build(t1=0.8, t2=1.4, end_step=2)
  variables = {'non_trainable': {'count': jnp.float32(1)}}

  @jax.jit
  def run(logits):
    return harness.gradients(layer, variables, logits, LABELS, loss=jnp.sum)[1]

  grad = run(LOGITS)
  np.testing.assert_allclose(grad, gradient(t1=0.9, t2=1.2), rtol=1e-5, atol=1e-6)


def test_evaluation_does_not_count():
  variables = {'non_trainable': {'count': jnp.float32(0)}}

  @jax.jit
  def run(variables):
    return harness.apply(build(), variables, LOGITS, LABELS, do_eval=True)

  updated = run(variables)[1]
  assert updated['non_trainable']['count'] == 0


def test_count_is_float32_and_averaged_over_replicas():
  layer = build(dtype=jnp.bfloat16)
  declared = layer.abstract_init_with_metadata(LOGITS, LABELS)['non_trainable']['count']
  assert declared.dtype == jnp.float32 and tuple(declared.shape) == ()
  assert base_layer.var_requires_mean_sync(declared)


def test_low_precision_is_computed_in_float32():
  logits = jnp.asarray(LOGITS, jnp.bfloat16)
  out = evaluate(logits, LABELS.astype(jnp.bfloat16), t1=0.8, t2=1.3)
  assert out.dtype == jnp.float32
  expected = evaluate(np.asarray(logits, np.float32), t1=0.8, t2=1.3)
  np.testing.assert_array_equal(out, expected)
  assert gradient(logits, t1=0.8, t2=1.3).dtype == jnp.bfloat16
  ids = LABELS.astype(np.int32)
  np.testing.assert_array_equal(evaluate(labels=ids, t1=0.8), evaluate(t1=0.8))


def test_refused():
  with pytest.raises(AssertionError, match='at the root: end_step .* found 1 < 3'):
    harness.init(build(start_step=3, end_step=1), LOGITS, LABELS)
  with pytest.raises(ValueError, match=r'same shape, got \(2, 5, 4\) and \(2, 5, 3\)'):
    evaluate(labels=LABELS[..., :3])


def test_in_a_haiku_model():
  cfg = pax_fiddle.Config(losses.BiTemperedLoss, name='loss', t1=0.8, t2=1.4)
  net = hk.transform_with_state(lambda x, y: cfg.Instantiate()(x, y))
  params, state = jax.jit(net.init)(jax.random.PRNGKey(0), LOGITS, LABELS)
  assert not params
  apply = jax.jit(net.apply)
  for fields in ({}, dict(t1=0.8, t2=1.4)):  # the first step is cross entropy
    out, state = apply(params, state, None, LOGITS, LABELS)
    np.testing.assert_allclose(out, evaluate(**fields), rtol=1e-5, atol=1e-6)
