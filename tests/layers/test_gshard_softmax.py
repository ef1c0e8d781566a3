"""GShardSharedEmbeddingSoftmax against optax: its own smoothing, scaling and means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers.embedding_softmax import GShardSharedEmbeddingSoftmax
from tests.layers import harness, reference
from tests.layers.reference import CLASS_IDS, CLASS_WEIGHTS, X

FIELDS = dict(input_dims=4, num_classes=7)
IDS = CLASS_IDS[..., 0]
TABLE = harness.noise(7, 4, seed=1)
VARIABLES = {'params': {'embedding': {'w': TABLE}}}
LOGITS = X / 2 @ TABLE.T
ONE_HOT = np.eye(7, dtype=np.float32)[IDS]
PROBABILITIES = np.asarray(jax.nn.softmax(3 * harness.noise(2, 5, 7, seed=3)))
WEIGHTS = CLASS_WEIGHTS[..., 0]


def gshard(*args, method=None, kwargs=None, do_eval=False, **fields):
  layer = harness.build(GShardSharedEmbeddingSoftmax, **FIELDS, **fields)
  return harness.apply(
    layer, VARIABLES, *args, method=method, do_eval=do_eval, **(kwargs or {})
  )


@pytest.mark.parametrize('all_examples', [True, False])
@pytest.mark.parametrize('targets', ['ids', 'probabilities'])
def test_loss(all_examples, targets):
  given = (CLASS_IDS,) if targets == 'ids' else (CLASS_IDS, PROBABILITIES)
  out, _ = gshard(
    X,
    CLASS_WEIGHTS,
    *given,
    use_tgt_labels_size_as_loss_denominator=all_examples,
  )
  xent = optax.softmax_cross_entropy(
    LOGITS, ONE_HOT if targets == 'ids' else PROBABILITIES
  )
  denominator = 10.0 if all_examples else np.sum(WEIGHTS)
  expected = dict(
    logits=LOGITS,
    log_probs=jax.nn.log_softmax(LOGITS),
    per_example_argmax=np.argmax(LOGITS, -1),
    per_example_xent=xent,
    total_xent=np.sum(xent * WEIGHTS),
    total_weight=np.sum(WEIGHTS),
    avg_xent_weight=denominator,
    avg_xent=np.sum(xent * WEIGHTS) / denominator,
  )
  assert sorted(out) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(out[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize('targets', [None, PROBABILITIES])
def test_label_smoothing_in_training(targets):
  args = X, CLASS_WEIGHTS, CLASS_IDS, targets
  out, written = gshard(*args, label_smoothing_prob=0.2)
  raw = ONE_HOT if targets is None else targets
  off = 0.2 / 7
  smoothed = (0.8 + off) * raw + off * (1 - raw)
  if targets is None:
    np.testing.assert_allclose(smoothed, optax.smooth_labels(raw, 0.2), rtol=1e-6)
  xent = optax.softmax_cross_entropy(LOGITS, smoothed)
  np.testing.assert_allclose(out.per_example_xent, xent, rtol=1e-5)
  plain, _ = gshard(*args)
  np.testing.assert_allclose(
    written['summaries']['avg_xent_prior_to_label_smoothing_scalar'],
    plain.avg_xent,
    rtol=1e-6,
  )
  evaluated, written = gshard(*args, label_smoothing_prob=0.2, do_eval=True)
  np.testing.assert_array_equal(evaluated.per_example_xent, plain.per_example_xent)
  assert list(written['summaries']) == ['aux_z_loss_scalar']


@pytest.mark.parametrize('weight', [0.0, 0.1])
@pytest.mark.parametrize('all_examples', [True, False])
def test_z_loss_is_always_reported(weight, all_examples):
  _, written = gshard(
    X,
    CLASS_WEIGHTS,
    CLASS_IDS,
    z_loss_weight=weight,
    use_tgt_labels_size_as_loss_denominator=all_examples,
  )
  z = np.square(jax.scipy.special.logsumexp(LOGITS, -1)) * WEIGHTS
  expected = weight * np.sum(z) / (10 if all_examples else np.sum(WEIGHTS))
  aux = written['aux_loss']['aux_z_loss']
  np.testing.assert_allclose(aux.value, expected, rtol=1e-5)
  np.testing.assert_array_equal(aux.weight, 1.0)
  np.testing.assert_array_equal(written['summaries']['aux_z_loss_scalar'], aux.value)


@pytest.mark.parametrize(
  'fields, logits',
  [
    ({}, LOGITS),
    (dict(soft_cap_logits=None, logits_abs_max=None), LOGITS),
    (dict(soft_cap_logits=2.0), 2 * np.tanh(LOGITS / 2)),
    (dict(logits_abs_max=0.5), np.clip(LOGITS, -0.5, 0.5)),
    (
      dict(soft_cap_logits=2.0, logits_abs_max=0.5),
      np.clip(2 * np.tanh(LOGITS / 2), -0.5, 0.5),
    ),
  ],
)
def test_logits(fields, logits):
  out, _ = gshard(X, method='get_logits', **fields)
  np.testing.assert_allclose(out, logits, rtol=1e-5, atol=1e-6)


def test_lookup():
  np.testing.assert_array_equal(gshard(IDS, method='emb_lookup')[0], TABLE[IDS])
  step = dict(method='extend_step', kwargs=dict(time_step=1))
  np.testing.assert_array_equal(gshard(IDS[:, :1], **step)[0], TABLE[IDS[:, :1]])
  out, _ = gshard(np.array([-1, 6, 7]), method='emb_lookup')
  np.testing.assert_array_equal(out, [np.zeros(4), TABLE[6], np.zeros(4)])


def test_gradient_equals_that_of_optax():
  layer = harness.build(GShardSharedEmbeddingSoftmax, **FIELDS)
  grads, grad_x = harness.gradients(
    layer, VARIABLES, X, CLASS_WEIGHTS, CLASS_IDS, loss=lambda out: out.avg_xent
  )

  def scalar(table, x):
    xent = optax.softmax_cross_entropy_with_integer_labels(x / 2 @ table.T, IDS)
    return jnp.sum(xent * WEIGHTS) / 10

  expected, expected_x = jax.grad(scalar, argnums=(0, 1))(TABLE, X)
  np.testing.assert_allclose(grads['embedding']['w'], expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(grad_x, expected_x, rtol=1e-4, atol=1e-6)


def test_variable():
  layer = harness.build(
    GShardSharedEmbeddingSoftmax,
    **FIELDS,
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
    weight_split_dims_mapping=pax_fiddle.Config(
      GShardSharedEmbeddingSoftmax.WeightSharding, wt=['mdl', 'data']
    ),
  )
  args = X, CLASS_WEIGHTS, CLASS_IDS
  assert harness.shapes(harness.init(layer, *args)) == harness.shapes(VARIABLES)
  weight = layer.abstract_init_with_metadata(*args)['params']['embedding']['w']
  assert (weight.init.method, weight.init.scale) == ('gaussian', 1.0)
  assert list(weight.tensor_split_dims_mapping) == ['mdl', 'data']


@pytest.mark.parametrize('given', [jnp.float32, jnp.bfloat16])
def test_dtypes_under_bfloat16(given):
  out, _ = gshard(
    X.astype(given), CLASS_WEIGHTS, CLASS_IDS, fprop_dtype=jnp.bfloat16
  )
  for name, value in out.items():
    if name in ('logits', 'log_probs', 'total_xent'):
      assert value.dtype == given
    elif name == 'per_example_argmax':
      assert value.dtype == jnp.int32
    else:
      assert value.dtype == jnp.float32


def test_targets_that_do_not_fit():
  with pytest.raises(ValueError, match='give class_ids or class_probabilities'):
    gshard(X, CLASS_WEIGHTS)


@pytest.mark.parametrize(
  'key, expected',
  [
    ('per_example_xent', (10, 1.561728, 1.746277, 20.09982)),
    ('avg_xent', (1, 1.621644, 1.621644, 1.621644)),
  ],
)
def test_recorded_numbers(key, expected):
  config = pax_fiddle.Config(
    GShardSharedEmbeddingSoftmax, **FIELDS, label_smoothing_prob=0.1
  )
  out = reference.run(config, X, CLASS_WEIGHTS, CLASS_IDS)
  reference.check(out[key], *expected)
