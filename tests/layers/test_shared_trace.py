"""Stacks that trace equal blocks once: the numbers of the plain stack, bit for bit."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.core import errors
from pax_haiku.core import shared_trace as core
from pax_haiku.layers import haiku_module, linears, shared_trace, transformers
from pax_haiku.layers.shared_trace import SharedTraceStack
from tests.layers import harness

PLAIN = transformers.StackedTransformer
FIELDS = dict(
  num_layers=2, model_dims=4, hidden_dims=5, num_heads=2, mask_self_attention=True
)
X = harness.noise(2, 6, 4)
PAD = np.zeros((2, 6), np.float32)
TRACES = []  # blocks whose Python code ran


class Block(transformers.Transformer):
  """A block that says when it is traced, with something to add up and to keep."""

  def setup(self):
    super().setup()
    calls = base_layer.WeightHParams(
      [], base_layer.WeightInit.Constant(0), jnp.int32
    )
    self.create_variable('calls', calls, trainable=False)

  def __call__(self, *args, **kwargs):
    out = super().__call__(*args, **kwargs)
    if not self.is_initializing():
      TRACES.append(self.name)
    self.update_var('calls', self.get_var('calls') + 1)
    self.add_summary('largest', jnp.max(out[0]))
    self.add_aux_loss('mean', jnp.mean(out[0]))
    return out


def stack(cls, block=Block, **fields):
  config = pax_fiddle.Config(cls, name='layer', **{**FIELDS, **fields})
  config.transformer_layer_params_tpl = pax_fiddle.Config(block)
  return config


def in_pax(config, do_eval):
  layer = config.Instantiate()
  variables = harness.init(layer, X, PAD)

  def loss(params, others):
    y, written = harness.apply(
      layer, {**others, 'params': params}, X, PAD, do_eval=do_eval
    )
    return jnp.sum(y**2), (y, written)

  return loss, variables.pop('params'), variables


def in_haiku(config, do_eval):
  net = hk.transform_with_state(lambda x: base_layer.instantiate(config)(x, PAD))

  def loss(params, state):
    with harness.context(do_eval):
      y, state = net.apply(params, state, jax.random.PRNGKey(1), X)
    return jnp.sum(y**2), (y, state)

  with harness.context():
    return loss, *net.init(jax.random.PRNGKey(0), X)


def everything(way, config, do_eval, grads):
  """Output, all that is written, gradients; and names of the traced blocks."""
  run, params, others = way(config, do_eval)
  TRACES.clear()
  run = jax.value_and_grad(run, has_aux=True) if grads else run
  result = jax.jit(run)(params, others)
  return result, sorted(set(TRACES))


def assert_same(way, shared, plain, traced, do_eval=False, grads=False):
  ours, names = everything(way, shared, do_eval, grads)
  theirs, _ = everything(way, plain, do_eval, grads)
  assert names == [f'x_layers_{i}' for i in traced]
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
  ('way', 'fields', 'grads'),
  [
    (in_pax, {'dropout_prob': 0.3, 'remat': True}, False),
    (in_haiku, {'dropout_prob': 0.3, 'remat': True}, False),
    (in_haiku, {}, True),
  ],
  ids=['pax-dropout', 'haiku-dropout', 'haiku-gradients'],
)
def test_equals_the_plain_stack(way, fields, grads):
  plain = stack(PLAIN, **fields)
  assert_same(way, stack(SharedTraceStack, **fields), plain, [0], grads=grads)


def test_equals_the_plain_stack_in_evaluation():
  fields = {'dropout_prob': 0.3}
  plain = stack(PLAIN, **fields)
  assert_same(in_pax, stack(SharedTraceStack, **fields), plain, [0], do_eval=True)


def test_only_blocks_that_are_alike_share():
  def mixed(cls):
    config = stack(cls, num_layers=4)
    config.transformer_layer_params_tpl = [
      pax_fiddle.Config(Block, norm_policy=policy) for policy in ('pre', 'post')
    ]
    return config

  assert_same(in_pax, mixed(SharedTraceStack), mixed(PLAIN), [0, 2])


def tanh(x):
  return jnp.tanh(hk.Linear(4, name='below')(x))


class HostingBlock(Block):
  """A block with a Haiku module in it, of which nothing is known."""

  def setup(self):
    super().setup()
    self.create_child(
      'hosted', pax_fiddle.Config(haiku_module.HaikuModule, function=tanh)
    )

  def __call__(self, *args, **kwargs):
    out, probs = super().__call__(*args, **kwargs)
    return self.hosted(out), probs


class TiedBlock(Block):
  """A block with a layer that all blocks have in common."""

  def setup(self):
    super().setup()
    self.create_child(
      'tied',
      pax_fiddle.Config(
        linears.FeedForward,
        input_dims=4,
        output_dims=4,
        shared_weight_layer_id='tied',
      ),
    )

  def __call__(self, *args, **kwargs):
    out, probs = super().__call__(*args, **kwargs)
    return self.tied(out), probs


@pytest.mark.parametrize('block', [HostingBlock, TiedBlock])
def test_blocks_that_reach_out_are_traced_each(block):
  assert_same(
    in_haiku, stack(SharedTraceStack, block), stack(PLAIN, block), [0, 1]
  )


def test_a_second_call_adds_up():
  class Twice(base_layer.BaseLayer):
    inner: pax_fiddle.Config | None = pax_fiddle.template_field(None)

    def setup(self):
      self.create_child('stack', self.inner)

    def __call__(self, x, paddings):
      return self.stack(self.stack(x, paddings), paddings)

  assert_same(
    in_pax,
    pax_fiddle.Config(Twice, name='layer', inner=stack(SharedTraceStack)),
    pax_fiddle.Config(Twice, name='layer', inner=stack(PLAIN)),
    [0, 1],  # the second time each by itself
  )


def test_without_jit_nothing_is_shared():
  layer = stack(SharedTraceStack).Instantiate()
  variables = harness.init(layer, X, PAD)
  TRACES.clear()
  ours = harness.apply(layer, variables, X, PAD)
  assert TRACES == ['x_layers_0', 'x_layers_1']
  theirs = harness.apply(stack(PLAIN).Instantiate(), variables, X, PAD)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_interceptors_see_all_blocks_on_demand():
  layer = stack(SharedTraceStack).Instantiate()
  variables = harness.init(layer, X, PAD)
  TRACES.clear()
  with shared_trace.each_by_itself():
    jax.eval_shape(lambda x: harness.apply(layer, variables, x, PAD), X)
  assert TRACES == ['x_layers_0', 'x_layers_1']
  jax.eval_shape(lambda x: harness.apply(layer, variables, x, PAD), X)
  assert TRACES[2:] == ['x_layers_0']


def test_errors_are_those_of_the_plain_stack():
  class Broken(Block):
    def __call__(self, *args, **kwargs):
      raise ValueError(f'{self.path} is broken')

  layer = stack(SharedTraceStack).Instantiate()
  variables = harness.init(layer, X, PAD)
  broken = stack(SharedTraceStack, Broken).Instantiate()
  with pytest.raises(ValueError, match=r"\('x_layers_0',\) is broken"):
    jax.jit(lambda x: harness.apply(broken, variables, x, PAD))(X)
  dropping = stack(SharedTraceStack, dropout_prob=0.5).Instantiate()
  with pytest.raises(errors.InvalidRngError, match='x_layers_0'):
    jax.jit(lambda x: harness.apply(dropping, variables, x, PAD, rngs={}))(X)


def test_decoding_from_caches_equals_the_plain_stack():
  def logits(cls):
    layer = stack(cls).Instantiate()
    variables = harness.init(layer, X, PAD)

    def steps(layer, x):
      out = [layer(x[:, :4], PAD[:, :4])]
      pad = functools.partial(core_pad, length=6)
      layer.transform_decode_state(pad)
      for t in (4, 5):
        out.append(layer.extend_step(x[:, t], time_step=jnp.int32(t))[:, None])
      return jnp.concatenate(out, axis=1)

    TRACES.clear()
    run = jax.jit(
      functools.partial(
        layer.apply, variables, method=steps, mutable=['decoder_cache', 'summaries']
      )
    )
    return run(X), layer.apply(variables, X, PAD)

  def core_pad(x, batch_dim, time_dim, length):
    widths = [(0, 0)] * x.ndim
    if time_dim >= 0:
      widths[time_dim] = (0, length - x.shape[time_dim])
    return jnp.pad(x, widths)

  (ours, caches), _ = logits(SharedTraceStack)
  (theirs, expected), whole = logits(PLAIN)
  np.testing.assert_array_equal(ours, theirs)
  jax.tree.map(np.testing.assert_array_equal, caches, expected)
  np.testing.assert_allclose(ours, whole, atol=2e-6)  # float32, sums in other orders


def test_fields_that_are_arrays_or_differ_are_not_alike():
  assert core._equal([1, {'a': (2, None)}], [1, {'a': (2, None)}])
  assert not core._equal([1, {'a': (2, None)}], [1, {'a': (2, 3)}])
  assert not core._equal(np.zeros(2), np.zeros(2))
  assert not core._equal(1, 1.0)
  plain, other = (stack(PLAIN, num_heads=n) for n in (2, 4))
  assert core._equal(plain, plain.clone())
  assert not core._equal(plain, other)
