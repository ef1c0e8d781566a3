"""FullSoftmax against optax, in chunks and whole, its losses and what it refuses."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import linears, losses
from pax_haiku.layers.embedding_softmax import FullSoftmax
from tests.layers import harness, reference
from tests.layers.reference import CLASS_IDS, CLASS_WEIGHTS, X

FIELDS = dict(input_dims=4, num_classes=7)
W, B = harness.noise(4, 7, seed=1), harness.noise(7, seed=2)
VARIABLES = {'params': {'logits_ffn': {'linear': {'w': W}, 'bias': {'b': B}}}}
LOGITS = X @ W + B
PROBABILITIES = np.asarray(jax.nn.softmax(3 * harness.noise(2, 5, 7, seed=3)))
ONE_HOT = np.eye(7, dtype=np.float32)[CLASS_IDS[..., 0]]


def softmax(*args, do_eval=False, variables=VARIABLES, **fields):
  """`(result, what was written)` of a layer with weights W, B."""
  layer = harness.build(FullSoftmax, **{**FIELDS, **fields})
  return harness.apply(layer, variables, *args, do_eval=do_eval)


@pytest.mark.parametrize('do_eval', [False, True])
def test_loss_and_accuracy(do_eval):
  out, written = softmax(X, CLASS_WEIGHTS, CLASS_IDS, do_eval=do_eval)
  assert not written
  xent = optax.softmax_cross_entropy_with_integer_labels(LOGITS, CLASS_IDS[..., 0])
  weights = CLASS_WEIGHTS[..., 0]
  hits = np.argmax(LOGITS, -1) == CLASS_IDS[..., 0]
  expected = dict(
    logits=LOGITS,
    log_probs=jax.nn.log_softmax(LOGITS),
    per_example_argmax=np.argmax(LOGITS, -1),
    per_example_xent=xent,
    total_xent=np.sum(xent * weights),
    total_weight=np.sum(weights),
    avg_xent=np.sum(xent * weights) / (np.sum(weights) + 1e-6),
    accuracy=np.sum(hits * weights) / np.sum(weights),
  )
  assert sorted(out) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(out[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_gradient_equals_that_of_optax():
  layer = harness.build(FullSoftmax, **FIELDS)
  grads, grad_x = harness.gradients(
    layer,
    VARIABLES,
    X,
    CLASS_WEIGHTS,
    CLASS_IDS,
    loss=lambda out: out.total_xent,
  )

  def scalar(w, b, x):
    xent = optax.softmax_cross_entropy_with_integer_labels(
      x @ w + b, CLASS_IDS[..., 0]
    )
    return jnp.sum(xent * CLASS_WEIGHTS[..., 0])

  expected = jax.grad(scalar, argnums=(0, 1, 2))(W, B, X)
  ours = grads['logits_ffn']['linear']['w'], grads['logits_ffn']['bias']['b'], grad_x
  for value, wanted in zip(ours, expected, strict=True):
    np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


def test_probabilities_win_and_ids_still_give_the_accuracy():
  out, _ = softmax(
    X, CLASS_WEIGHTS, None, PROBABILITIES, label_smoothing_prob=0.3
  )
  xent = optax.softmax_cross_entropy(LOGITS, PROBABILITIES)
  np.testing.assert_allclose(out.per_example_xent, xent, rtol=1e-5)
  assert 'accuracy' not in out
  both, _ = softmax(X, CLASS_WEIGHTS, CLASS_IDS, PROBABILITIES)
  np.testing.assert_allclose(both.per_example_xent, xent, rtol=1e-5)
  np.testing.assert_allclose(
    both.accuracy, softmax(X, CLASS_WEIGHTS, CLASS_IDS)[0].accuracy
  )


@pytest.mark.parametrize(
  'do_eval, in_eval, smoothed',
  [(False, True, True), (False, False, True), (True, True, True), (True, False, False)],
)
def test_label_smoothing_shares_among_the_other_classes(do_eval, in_eval, smoothed):
  out, _ = softmax(
    X,
    CLASS_WEIGHTS,
    CLASS_IDS,
    do_eval=do_eval,
    label_smoothing_prob=0.3,
    label_smoothing_apply_for_eval=in_eval,
  )
  targets = 0.7 * ONE_HOT + 0.3 / 6 * (1 - ONE_HOT) if smoothed else ONE_HOT
  np.testing.assert_allclose(
    out.per_example_xent, optax.softmax_cross_entropy(LOGITS, targets), rtol=1e-5
  )


@pytest.mark.parametrize(
  'fields, logits',
  [
    (dict(soft_cap_logits=2.0), 2 * np.tanh(LOGITS / 2)),
    (dict(soft_cap_logits=None), LOGITS),
    (dict(scale_before_logits=True), X / 2 @ W + B),
  ],
)
def test_logits(fields, logits):
  layer = harness.build(FullSoftmax, **FIELDS, **fields)
  out, _ = harness.apply(layer, VARIABLES, X, method='get_logits')
  np.testing.assert_allclose(out, logits, rtol=1e-5, atol=1e-5)
  whole, _ = harness.apply(layer, VARIABLES, X, CLASS_WEIGHTS, CLASS_IDS)
  np.testing.assert_allclose(whole.logits, logits, rtol=1e-5, atol=1e-5)


def test_inputs_are_left_alone():
  x = X.copy()
  softmax(x, CLASS_WEIGHTS, CLASS_IDS, scale_before_logits=True)
  np.testing.assert_array_equal(x, X)


def test_logits_can_be_the_inputs():
  layer = harness.build(
    FullSoftmax, input_dims=7, num_classes=7, feed_forward_tpl=None
  )
  assert not harness.init(layer, LOGITS, CLASS_WEIGHTS, CLASS_IDS)
  out, _ = harness.apply(layer, {}, LOGITS, CLASS_WEIGHTS, CLASS_IDS)
  expected, _ = softmax(X, CLASS_WEIGHTS, CLASS_IDS)
  np.testing.assert_allclose(out.total_xent, expected.total_xent, rtol=1e-6)


def test_logits_to_logp():
  layer = harness.build(FullSoftmax, **FIELDS)
  out, _ = harness.apply(layer, VARIABLES, LOGITS, method='logits_to_logp')
  np.testing.assert_allclose(out, jax.nn.log_softmax(LOGITS))


def test_z_loss_is_an_auxiliary_loss():
  out, written = softmax(X, CLASS_WEIGHTS, CLASS_IDS, z_loss_weight=0.1)
  z = np.square(jax.scipy.special.logsumexp(LOGITS, -1)) * CLASS_WEIGHTS[..., 0]
  expected = 0.1 * np.sum(z) / np.sum(CLASS_WEIGHTS)
  np.testing.assert_allclose(out.z_loss, expected, rtol=1e-5)
  np.testing.assert_array_equal(
    written['summaries']['aux_z_loss_scalar'], out.z_loss
  )
  aux = written['aux_loss']['aux_z_loss']
  assert isinstance(aux, base_layer.AuxLossStruct)
  np.testing.assert_array_equal(aux.value, out.z_loss)
  np.testing.assert_array_equal(aux.weight, 1.0)
  np.testing.assert_allclose(
    out.total_xent, softmax(X, CLASS_WEIGHTS, CLASS_IDS)[0].total_xent
  )


def test_gradient_of_the_z_loss():
  layer = harness.build(
    FullSoftmax, input_dims=7, num_classes=7, feed_forward_tpl=None, z_loss_weight=0.1
  )
  _, grad = harness.gradients(
    layer, {}, LOGITS, CLASS_WEIGHTS, CLASS_IDS, loss=lambda out: out.z_loss
  )
  log_z = jax.scipy.special.logsumexp(LOGITS, -1, keepdims=True)
  weights = 0.1 * CLASS_WEIGHTS / np.sum(CLASS_WEIGHTS)
  expected = 2 * log_z * jax.nn.softmax(LOGITS) * weights
  np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-7)


def test_z_loss_of_huge_logits_is_finite():
  out, _ = softmax(1000 * X, CLASS_WEIGHTS, CLASS_IDS, z_loss_weight=0.1)
  assert np.isfinite(out.z_loss)


@pytest.mark.parametrize('chunk_size', [1, 2, 5])
@pytest.mark.parametrize('fields', [{}, dict(soft_cap_logits=2.0)])
def test_chunks_give_the_same_numbers(chunk_size, fields):
  whole = harness.build(FullSoftmax, **FIELDS, **fields, label_smoothing_prob=0.1)
  chunks = whole.clone(chunk_size=chunk_size)
  args = X, CLASS_WEIGHTS, CLASS_IDS
  assert harness.shapes(harness.init(chunks, *args)) == harness.shapes(VARIABLES)
  expected, _ = harness.apply(whole, VARIABLES, *args)
  out, written = harness.apply(chunks, VARIABLES, *args)
  assert not written
  assert out.logits is None and out.log_probs is None
  assert sorted(out) == sorted(expected)
  for name in set(out) - {'logits', 'log_probs'}:
    np.testing.assert_allclose(out[name], expected[name], rtol=1e-5, err_msg=name)
  loss = dict(loss=lambda out: out.avg_xent)
  jax.tree.map(
    # Sums over time run chunk by chunk.
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    harness.gradients(chunks, VARIABLES, *args, **loss),
    harness.gradients(whole, VARIABLES, *args, **loss),
  )


@pytest.mark.parametrize(
  'fields, args',
  [
    (dict(chunk_size=6), (X, CLASS_WEIGHTS, CLASS_IDS)),
    (dict(chunk_size=0), (X, CLASS_WEIGHTS, CLASS_IDS)),
    (dict(chunk_size=2), (X[0], CLASS_WEIGHTS[0], CLASS_IDS[0])),
    (dict(chunk_size=2), (X, CLASS_WEIGHTS, None, PROBABILITIES)),
    (dict(chunk_size=2, z_loss_weight=0.1), (X, CLASS_WEIGHTS, CLASS_IDS)),
  ],
)
def test_when_there_are_no_chunks(fields, args):
  assert softmax(*args, **fields)[0].logits is not None


def test_chunks_in_a_haiku_transform():
  def forward(x, weights, ids, chunk_size):
    config = pax_fiddle.Config(
      FullSoftmax, name='softmax', chunk_size=chunk_size, **FIELDS
    )
    return config.Instantiate()(x, weights, ids).avg_xent

  def net(chunk_size):
    return hk.without_apply_rng(
      hk.transform_with_state(functools.partial(forward, chunk_size=chunk_size))
    )

  args = X, CLASS_WEIGHTS, CLASS_IDS
  params, state = net(2).init(harness.KEYS['params'], *args)
  assert harness.shapes(params) == {
    'softmax/logits_ffn/linear': {'w': (4, 7)},
    'softmax/logits_ffn/bias': {'b': (7,)},
  }

  def value_and_grad(chunk_size):
    apply = net(chunk_size).apply
    return jax.jit(jax.value_and_grad(lambda p: apply(p, state, *args)[0]))(params)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    value_and_grad(2),
    value_and_grad(None),
  )
  jaxpr = jax.make_jaxpr(lambda p: net(2).apply(p, state, *args)[0])(params)
  names = [equation.primitive.name for equation in jaxpr.eqns]
  assert 'scan' in names
  # The logits of all steps at once are nowhere.
  assert '[2,5,7]' not in str(jaxpr)


def test_bi_tempered_loss():
  tpl = pax_fiddle.Config(losses.BiTemperedLoss, t1=0.8, t2=1.3)
  fields = dict(bi_tempered_loss_tpl=tpl, label_smoothing_prob=0.1)
  layer = harness.build(FullSoftmax, **FIELDS, **fields)
  args = X, CLASS_WEIGHTS, CLASS_IDS
  variables = harness.init(layer, *args)
  counts = variables['non_trainable']
  assert harness.shapes(counts) == {'bi_tempered_loss': {'count': ()}}
  variables = {**VARIABLES, 'non_trainable': counts}
  out, _ = harness.apply(layer, variables, *args, do_eval=True)
  targets = 0.9 * ONE_HOT + 0.1 / 6 * (1 - ONE_HOT)
  expected = harness.run(
    losses.BiTemperedLoss, LOGITS, targets, t1=0.8, t2=1.3, do_eval=True
  )
  np.testing.assert_allclose(out.per_example_xent, expected, rtol=1e-4, atol=1e-5)
  chunks, written = harness.apply(layer.clone(chunk_size=2), variables, *args)
  # In training the loss counts its calls; chunks would count too often.
  assert chunks.logits is not None
  assert written['non_trainable']['bi_tempered_loss']['count'] == 1
  chunks, _ = harness.apply(
    layer.clone(chunk_size=2), variables, *args, do_eval=True
  )
  assert chunks.logits is None
  np.testing.assert_allclose(chunks.per_example_xent, out.per_example_xent, rtol=1e-5)


def test_initial_variables():
  tpl = pax_fiddle.Config(linears.FeedForward, has_bias=False)
  args = X, CLASS_WEIGHTS, CLASS_IDS
  layer = harness.build(FullSoftmax, **FIELDS, feed_forward_tpl=tpl)
  assert harness.shapes(harness.init(layer, *args)) == {
    'params': {'logits_ffn': {'linear': {'w': (4, 7)}}}
  }
  layer = harness.build(FullSoftmax, **FIELDS, bias_init=-0.5)
  variables = harness.init(layer, *args)
  assert harness.shapes(variables) == harness.shapes(VARIABLES)
  bias = variables['params']['logits_ffn']['bias']['b']
  np.testing.assert_array_equal(bias, np.full(7, -0.5))


def test_sharding():
  weights = base_layer.BaseLayer.WeightSharding
  outputs = base_layer.BaseLayer.ActivationSharding
  layer = harness.build(
    FullSoftmax,
    **FIELDS,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
    weight_split_dims_mapping=pax_fiddle.Config(weights, wt=['data', 'mdl']),
    activation_split_dims_mapping=pax_fiddle.Config(outputs, out=['data', None, 'mdl']),
  )
  metadata = layer.abstract_init_with_metadata(X, CLASS_WEIGHTS, CLASS_IDS)
  ffn = metadata['params']['logits_ffn']
  assert list(ffn['linear']['w'].tensor_split_dims_mapping) == ['data', 'mdl']
  assert list(ffn['bias']['b'].tensor_split_dims_mapping) == ['mdl']


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
def test_dtypes_under_bfloat16(given):
  out, _ = softmax(
    X.astype(given), CLASS_WEIGHTS, CLASS_IDS, fprop_dtype=jnp.bfloat16
  )
  for name, value in out.items():
    if name in ('logits', 'log_probs'):
      assert value.dtype == given
    elif name == 'per_example_argmax':
      assert value.dtype == jnp.int32
    else:
      assert value.dtype == jnp.float32


def test_any_rank():
  expected, _ = softmax(X, CLASS_WEIGHTS, CLASS_IDS)
  for shape in ((10,), (5, 1, 2)):
    args = [a.reshape(*shape, -1) for a in (X, CLASS_WEIGHTS, CLASS_IDS)]
    out, _ = softmax(*args)
    assert out.per_example_xent.shape == shape
    np.testing.assert_allclose(out.total_xent, expected.total_xent, rtol=1e-6)


def test_targets_that_do_not_fit():
  with pytest.raises(ValueError, match='give class_ids or class_probabilities'):
    softmax(X, CLASS_WEIGHTS)
  with pytest.raises(ValueError, match=r'expected class_ids .* found shape'):
    softmax(X, CLASS_WEIGHTS, CLASS_IDS[..., 0])


@pytest.mark.parametrize(
  'fields, key, expected',
  [
    (dict(soft_cap_logits=2.0), 'logits', (70, -0.1423722, -0.227744, 22.98883)),
    (
      dict(label_smoothing_prob=0.1),
      'per_example_xent',
      (10, 2.104614, 1.780969, 20.18034),
    ),
    (dict(label_smoothing_prob=0.1), 'avg_xent', (1, 2.032426, 2.032426, 2.032426)),
    (dict(z_loss_weight=0.1), 'z_loss', (1, 0.4728553, 0.4728553, 0.4728553)),
  ],
)
def test_recorded_numbers(fields, key, expected):
  config = pax_fiddle.Config(FullSoftmax, **FIELDS, **fields)
  out = reference.run(config, X, CLASS_WEIGHTS, CLASS_IDS)
  reference.check(out[key], *expected)
