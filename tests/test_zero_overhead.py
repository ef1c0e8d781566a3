"""Zero overhead: a Pax layer traces to the program of hand-written Haiku code.

The text of the two jaxprs is compared. It numbers its variables in order, so equal
texts mean the same operations on the same values in the same order; parameters and
state are arguments and results of it, in the order of their names. The hand-written
modules use the same numerical functions (`jnp.einsum`, `compute_moments`, ...) as the
layers do: what is measured is the layer system around them.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import activations, embedding_softmax, linears, normalizations
from pax_haiku.layers.norm_base import compute_moments

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
KEY = jax.random.PRNGKey(0)
DTYPES = [jnp.float32, jnp.bfloat16]
IDS = ['float32', 'bfloat16']


def parameter(name, shape, dtype, init=jnp.zeros):
  """A float32 parameter, cast to the dtype of the computation."""
  return hk.get_parameter(name, shape, jnp.float32, init).astype(dtype)


def programs(f, *args):
  """Text of the jaxprs of apply and of a training step, and shapes of the state."""
  net = hk.transform_with_state(f)
  # The default verbosity drops the summaries of the layers that are compared here.
  with base_layer.JaxContext.new_context():
    params, state = jax.eval_shape(net.init, KEY, *args)

    def loss(params, state, key, *args):
      out, state = net.apply(params, state, key, *args)
      return sum(jnp.sum(x.astype(jnp.float32)) for x in jax.tree.leaves(out)), state

    apply = jax.make_jaxpr(net.apply)(params, state, KEY, *args)
    step = jax.make_jaxpr(jax.value_and_grad(loss, has_aux=True))(
      params, state, KEY, *args)
  return str(apply), str(step), (params, state)


def check(pax, hand, *args):
  """Both functions have the same programs, parameters and state."""
  ours, theirs = programs(pax, *args), programs(hand, *args)
  assert ours[2] == theirs[2]
  assert ours[0] == theirs[0]
  assert ours[1] == theirs[1]
  return ours[0]


# -- Linear ------------------------------------------------------------------------


class HkLinear(hk.Module):
  """x w."""

  def __init__(self, input_dims, output_dims, dtype, name):
    super().__init__(name=name)
    self.shape, self.dtype = [input_dims, output_dims], dtype

  def __call__(self, x):
    return jnp.einsum('...y,yz->...z', x, parameter('w', self.shape, self.dtype))


@pytest.mark.parametrize('dtype', DTYPES, ids=IDS)
def test_linear(dtype):
  x = jnp.ones((2, 3), dtype)
  text = check(
    lambda x: linears.Linear(
      input_dims=3, output_dims=4, fprop_dtype=dtype, name='linear')(x),
    lambda x: HkLinear(3, 4, dtype, 'linear')(x), x)
  assert text.count('dot_general') == 1
  assert text.count('convert_element_type') == (dtype != jnp.float32)


def test_linear_against_haikus_own():
  """Apart from the call of jnp.einsum that wraps the product."""
  def primitives(f):
    net = hk.transform(f)
    x = jnp.ones((2, 3))
    params = jax.eval_shape(net.init, KEY, x)

    def flat(jaxpr):
      for eqn in jaxpr.eqns:
        inner = eqn.params.get('jaxpr')
        if inner is None:
          yield eqn.primitive.name, tuple(v.aval for v in eqn.outvars)
        else:
          yield from flat(inner.jaxpr)

    return list(flat(jax.make_jaxpr(net.apply)(params, None, x).jaxpr))

  found = primitives(lambda x: linears.Linear(
    input_dims=3, output_dims=4, name='linear')(x))
  assert found == primitives(lambda x: hk.Linear(4, with_bias=False)(x))
  assert [name for name, _ in found] == ['dot_general']


def test_init_of_linear():
  def hand(x):
    def xavier(shape, dtype):
      limit = 1.000001 * (6 / sum(shape)) ** 0.5
      return limit * jax.random.uniform(
        hk.next_rng_key(), shape, dtype, minval=-1.0, maxval=1.0)

    w = hk.get_parameter('w', [3, 4], jnp.float32, xavier)
    return jnp.einsum('...y,yz->...z', x, w)

  def module(x):
    with hk.name_scope('linear'):
      return hand(x)

  x = jnp.ones((2, 3))
  ours, theirs = (
    str(jax.make_jaxpr(hk.transform(f).init)(KEY, x))
    for f in (lambda x: linears.Linear(input_dims=3, output_dims=4, name='linear')(x),
              module))
  assert ours == theirs


@pytest.mark.parametrize('dtype', DTYPES, ids=IDS)
def test_layer_apply_is_free_too(dtype):
  layer = linears.Linear(input_dims=3, output_dims=4, fprop_dtype=dtype, name='linear')
  x = jnp.ones((2, 3), dtype)
  variables = layer.init(KEY, x)

  def by_hand(variables, x):
    w = variables['params']['w'].astype(dtype)
    return jnp.einsum('...y,yz->...z', x, w)

  assert str(jax.make_jaxpr(layer.apply)(variables, x)) == str(
    jax.make_jaxpr(by_hand)(variables, x))


# -- An MLP with BatchNorm ---------------------------------------------------------


class Mlp(BaseLayer):
  """FeedForward, BatchNorm, Linear."""

  def setup(self):
    self.create_child('ffn', Config(linears.FeedForward, input_dims=3, output_dims=4))
    self.create_child('bn', Config(normalizations.BatchNorm, dim=4, decay=0.9))
    self.create_child('out', Config(linears.Linear, input_dims=4, output_dims=2))

  def __call__(self, x):
    return self.out(self.bn(self.ffn(x)))


class HkFeedForward(hk.Module):
  """relu(x w + b), with the names of FeedForward."""

  def __init__(self, input_dims, output_dims, dtype, name, activation=jax.nn.relu):
    super().__init__(name=name)
    self.dims, self.dtype = (input_dims, output_dims), dtype
    self.activation = activation

  def __call__(self, x):
    x = HkLinear(*self.dims, self.dtype, name='linear')(x)
    with hk.name_scope('bias'):
      b = parameter('b', [self.dims[1]], self.dtype)
    return self.activation(x + b)


class HkBatchNorm(hk.Module):
  """Batch normalization in training."""

  def __init__(self, dim, decay, dtype, name):
    super().__init__(name=name)
    self.dim, self.decay, self.dtype = dim, decay, dtype

  def __call__(self, x):
    x, mask = x.astype(self.dtype), jnp.zeros(x.shape[:-1]).astype(self.dtype)
    mask = jnp.expand_dims(mask, -1)
    mean, variance = compute_moments(x, mask, reduce_over_dims=range(x.ndim - 1))
    for name, moment in (('moving_mean', mean), ('moving_variance', variance)):
      init = jnp.zeros if name == 'moving_mean' else jnp.ones
      old = hk.get_state(name, [self.dim], jnp.float32, init)
      hk.set_state(name, old * self.decay + moment * (1.0 - self.decay))
    beta = parameter('beta', [self.dim], self.dtype)
    gain = parameter('gamma', [self.dim], self.dtype) + 1.0
    x = (x - mean) * (gain / jnp.sqrt(variance + 0.001)) + beta
    return x * (1.0 - mask)


class HkMlp(hk.Module):
  """The same in Haiku."""

  def __init__(self, dtype):
    super().__init__(name='mlp')
    self.dtype = dtype

  def __call__(self, x):
    x = HkFeedForward(3, 4, self.dtype, name='ffn')(x)
    x = HkBatchNorm(4, 0.9, self.dtype, name='bn')(x)
    return HkLinear(4, 2, self.dtype, name='out')(x)


@pytest.mark.parametrize('dtype', DTYPES, ids=IDS)
def test_mlp_with_batch_norm(dtype):
  x = jnp.ones((2, 3), dtype)
  text = check(lambda x: Mlp(fprop_dtype=dtype, name='mlp')(x),
               lambda x: HkMlp(dtype)(x), x)
  assert text.count('dot_general') == 2 and text.count('sqrt') == 1


# -- An embedding and a softmax ----------------------------------------------------


class Lm(BaseLayer):
  """Predicts an id from another."""

  def setup(self):
    dims = dict(num_classes=5, input_dims=3)
    self.create_child('emb', Config(embedding_softmax.Embedding, **dims))
    self.create_child('softmax', Config(embedding_softmax.FullSoftmax, **dims))

  def __call__(self, ids, labels, weights):
    out = self.softmax(self.emb(ids), weights, class_ids=labels)
    return out.avg_xent, out.accuracy, out.logits, out.log_probs


class HkLm(hk.Module):
  """The same in Haiku."""

  def __init__(self, dtype):
    super().__init__(name='lm')
    self.dtype = dtype

  def __call__(self, ids, labels, weights):
    with hk.name_scope('emb'):
      x = jnp.asarray(parameter('emb_var', [5, 3], self.dtype))[(ids,)]
    with hk.name_scope('softmax'):
      logits = HkFeedForward(3, 5, self.dtype, 'logits_ffn', lambda x: x)(x)
    logits = logits.astype(jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    targets = jax.nn.one_hot(jnp.squeeze(labels, -1), 5, dtype=jnp.float32)
    targets = jax.lax.stop_gradient(targets)
    xent = -jnp.sum(log_probs * targets, axis=-1, dtype=jnp.float32)
    guess = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))
    total = jnp.sum(xent[..., jnp.newaxis] * weights, dtype=jnp.float32)
    total_weight = jnp.sum(weights, dtype=jnp.float32)
    logits, log_probs = logits.astype(x.dtype), log_probs.astype(x.dtype)
    guess.astype(jnp.int32)
    loss = (total / (total_weight + 1e-6)).astype(jnp.float32)
    hits = (guess == jnp.squeeze(labels, -1)).astype(jnp.float32)
    hits = jnp.sum(hits[..., jnp.newaxis] * weights, dtype=jnp.float32)
    return loss, hits / total_weight, logits, log_probs


@pytest.mark.parametrize('dtype', DTYPES, ids=IDS)
def test_embedding_and_softmax(dtype):
  text = check(lambda *args: Lm(fprop_dtype=dtype, name='lm')(*args),
               lambda *args: HkLm(dtype)(*args),
               jnp.zeros(2, int), jnp.ones((2, 1), int), jnp.ones((2, 1)))
  assert text.count('dot_general') == 1


# -- What costs nothing when it is not used ----------------------------------------


def test_unused_children_and_dropped_summaries_leave_no_trace():
  class Wide(BaseLayer):
    def setup(self):
      self.create_variable('unused', base_layer.WeightHParams([7]))
      self.create_child('never', Config(linears.Linear, input_dims=3, output_dims=3))
      self.create_child('act', Config(activations.Identity))
      self.create_child('linear', Config(linears.Linear, input_dims=3, output_dims=4))

    def __call__(self, x):
      self.add_summary('dropped', jnp.float32(1.0), verbosity=9)
      return self.linear(self.act(x))

  def equations(f):
    net = hk.transform_with_state(f)
    x = jnp.ones((2, 3))
    with base_layer.JaxContext.new_context():
      params, state = jax.eval_shape(net.init, KEY, x)
      return [str(e.primitive) for e in jax.make_jaxpr(net.apply)(
        params, state, None, x).eqns]

  assert equations(lambda x: Wide(name='wide')(x)) == equations(
    lambda x: HkLinear(3, 4, jnp.float32, 'linear')(x))
