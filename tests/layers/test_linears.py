"""Linear, Bias, FeedForward, MLPBlock against Haiku, formulas, recorded numbers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import activations, linears
from tests.layers import harness, reference

Config = pax_fiddle.Config
X = reference.X
MESH = dict(ici_mesh_shape=[1, 1], mesh_axis_names=['data', 'mdl'])
SIZES = dict(input_dims=4, output_dims=3)


def sharding(cfg, wt=None, **activation):
  """`cfg` with a mesh and a sharding."""
  cfg.set(**MESH)
  cfg.weight_split_dims_mapping.wt = wt
  cfg.activation_split_dims_mapping.set(**activation)
  return cfg


def declared(cfg, x=X):
  """The trainable variables that a config declares."""
  return cfg.set(name='layer').Instantiate().abstract_init_with_metadata(x)['params']


def mapping_of(variable):
  return list(variable.tensor_split_dims_mapping)


def test_project_last_dim():
  w = harness.noise(4, 3)
  out = linears.project_last_dim(X, w)
  np.testing.assert_allclose(out, X @ w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'inputs, weight, message',
  [
    ((4,), (4, 3), r'rank >= 2.*inputs \(4,\)'),
    ((2, 4), (4, 3, 1), r'weight \[y, z\].*\(4, 3, 1\)'),
    ((2, 4), (3, 4), r'last axis.*\(2, 4\) and weight \(3, 4\)'),
  ],
)
def test_project_last_dim_refuses(inputs, weight, message):
  with pytest.raises(AssertionError, match=message):
    linears.project_last_dim(np.zeros(inputs), np.zeros(weight))


@pytest.mark.parametrize('bias', [False, True])
def test_equals_haikus_linear(bias):
  params = {'w': harness.noise(4, 3), **({'b': harness.noise(3)} if bias else {})}
  expected, (grads, grad_x) = harness.haiku_result(
    lambda: hk.Linear(3, with_bias=bias), params, X
  )
  if bias:
    layer = harness.build(
      linears.FeedForward, activation_tpl=Config(activations.Identity), **SIZES
    )
    ours = {'linear': {'w': params['w']}, 'bias': {'b': params['b']}}
  else:
    layer, ours = harness.build(linears.Linear, **SIZES), params
  np.testing.assert_allclose(
    harness.apply(layer, {'params': ours}, X)[0], expected, rtol=1e-6, atol=1e-6
  )
  our_grads, our_grad_x = harness.gradients(layer, {'params': ours}, X)
  np.testing.assert_allclose(our_grad_x, grad_x, rtol=1e-6, atol=1e-6)
  our_grads = (
    {k: v for g in our_grads.values() for k, v in g.items()} if bias else (our_grads)
  )
  for name, grad in grads.items():
    np.testing.assert_allclose(our_grads[name], grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('shape', [(4,), (5, 4), (2, 1, 3, 4)])
def test_linear_takes_any_rank(shape):
  x = harness.noise(*shape)
  layer = harness.build(linears.Linear, **SIZES)
  variables = harness.init(layer, x)
  out = harness.apply(layer, variables, x)[0]
  assert out.shape == (*shape[:-1], 3)
  np.testing.assert_allclose(out, x @ variables['params']['w'], rtol=1e-5, atol=1e-6)


def test_feed_forward_formula():
  layer = harness.build(linears.FeedForward, **SIZES)
  variables = harness.randomize(harness.init(layer, X))
  w, b = variables['params']['linear']['w'], variables['params']['bias']['b']
  expected = np.maximum(X.astype(np.float64) @ w + b, 0)
  out = harness.apply(layer, variables, X)[0]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_recorded_numbers():
  cfg = Config(linears.FeedForward, **SIZES, activation_tpl=Config(activations.GELU))
  reference.check(reference.run(cfg, X), 30, 0.02299966, 0.6829161, 7.504877)
  ff = Config(linears.FeedForward, **SIZES)
  cfg = Config(
    linears.MLPBlock, num_layers=2, hidden_dims=6, activate_final=False, ff_tpl=ff
  )
  reference.check(reference.run(cfg, X), 30, 0.3235161, 0.4570402, 12.55556)


def test_recorded_initial_values():
  # The key of a variable depends on its path, as in Praxis.
  params = harness.init(harness.build(linears.FeedForward, **SIZES), X)['params']
  np.testing.assert_allclose(
    np.ravel(params['linear']['w'])[:4],
    [-0.68855256, 0.40947679, -0.86242187, -0.04733375],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(params['bias']['b'], 0)


def test_initializers():
  constant = base_layer.WeightInit.Constant(0.5)
  params = harness.init(
    harness.build(linears.FeedForward, weight_init=constant, bias_init=-2.0, **SIZES), X
  )['params']
  np.testing.assert_array_equal(params['linear']['w'], 0.5)
  np.testing.assert_array_equal(params['bias']['b'], -2)
  # params_init reaches the linear inside; the bias has its own initializer.
  params = harness.init(
    harness.build(linears.FeedForward, params_init=constant, **SIZES), X
  )['params']
  np.testing.assert_array_equal(params['linear']['w'], 0.5)
  np.testing.assert_array_equal(params['bias']['b'], 0)


def test_without_bias():
  layer = harness.build(linears.FeedForward, has_bias=False, **SIZES)
  variables = harness.init(layer, X)
  assert harness.shapes(variables) == {'params': {'linear': {'w': (4, 3)}}}
  expected = np.maximum(X @ variables['params']['linear']['w'], 0)
  out = harness.apply(layer, variables, X)[0]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'cls, fields',
  [(linears.Linear, SIZES), (linears.Bias, {'dims': 4}), (linears.FeedForward, SIZES)],
)
def test_dtypes(cls, fields):
  layer = harness.build(cls, fprop_dtype=jnp.bfloat16, **fields)
  variables = harness.init(layer, X)
  assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  # Weights are cast, inputs are not.
  assert harness.apply(layer, variables, X)[0].dtype == jnp.float32
  x = jnp.asarray(X, jnp.bfloat16)
  assert harness.apply(layer, variables, x)[0].dtype == jnp.bfloat16


def test_checkpoint_name_sits_before_the_bias():
  layer = harness.build(linears.FeedForward, checkpoint_str='ffn1', **SIZES)
  variables = harness.init(layer, X)
  jaxpr = str(jax.make_jaxpr(lambda v: layer.apply(v, X))(variables))
  name = jaxpr.index('name=ffn1')
  assert jaxpr.index('dot_general') < name < jaxpr.index(' add ')
  plain = harness.build(linears.FeedForward, **SIZES)
  np.testing.assert_array_equal(
    harness.apply(layer, variables, X)[0], harness.apply(plain, variables, X)[0]
  )


def test_sharding_of_the_variables():
  cfg = sharding(
    Config(linears.FeedForward, **SIZES), ['data', 'mdl'], out=['data', None, 'mdl']
  )
  # The template's own sharding is overwritten.
  cfg.linear_tpl.weight_split_dims_mapping.wt = ['mdl', 'data']
  params = declared(cfg)
  assert mapping_of(params['linear']['w']) == ['data', 'mdl']
  assert mapping_of(params['bias']['b']) == ['mdl']


def test_bias_without_output_sharding_is_replicated():
  params = declared(sharding(Config(linears.FeedForward, **SIZES), ['data', 'mdl']))
  assert mapping_of(params['bias']['b']) == [-1]


def test_bias_keeps_its_own_sharding_without_a_mesh():
  cfg = Config(linears.FeedForward, **SIZES)
  cfg.activation_split_dims_mapping.out = ['data', None, 'mdl']
  assert declared(cfg)['bias']['b'].tensor_split_dims_mapping is None


@pytest.mark.parametrize(
  'rank, activation, expected',
  [
    (3, dict(out=['data', None, 'mdl']), ('data', None, 'mdl')),
    (2, dict(out=['data', None, 'mdl']), ('data', 'mdl')),
    (2, dict(out=['data', 'mdl']), ('data', 'mdl')),
    (2, dict(out=['data', None, None], extend_step_out=[None, 'mdl']), (None, 'mdl')),
    (2, dict(extend_step_out=('mdl', None)), ('mdl', None)),
    (3, dict(extend_step_out=['data', 'mdl']), None),
    (2, dict(out=['data', None, 'mdl'], extend_step_out=['mdl']), ('data', 'mdl')),
  ],
)
def test_sharding_of_the_outputs(rank, activation, expected):
  cfg = sharding(Config(linears.Linear, **SIZES), **activation)
  layer = cfg.set(name='layer').Instantiate()
  x = X[0] if rank == 2 else X
  variables = harness.init(layer, x)
  mesh = jax.make_mesh((1, 1), ('data', 'mdl'), axis_types=(AxisType.Auto,) * 2)
  with jax.set_mesh(mesh):
    jaxpr = jax.make_jaxpr(lambda v: layer.apply(v, x))(variables)
  specs = [
    tuple(eqn.params['sharding'].spec)
    for eqn in jaxpr.eqns
    if eqn.primitive.name == 'sharding_constraint'
  ]
  assert specs == ([] if expected is None else [expected])


def test_mlp_block_dims_and_activations():
  ff = Config(
    linears.FeedForward, **SIZES, activation_tpl=Config(activations.Tanh), bias_init=1.0
  )
  cfg = dict(num_layers=3, hidden_dims=6, ff_tpl=ff)
  layer = harness.build(linears.MLPBlock, **cfg)
  variables = harness.randomize(harness.init(layer, X))
  assert harness.shapes(variables['params']) == {
    'mlp_layers_0': {'linear': {'w': (4, 6)}, 'bias': {'b': (6,)}},
    'mlp_layers_1': {'linear': {'w': (6, 6)}, 'bias': {'b': (6,)}},
    'mlp_layers_2': {'linear': {'w': (6, 3)}, 'bias': {'b': (3,)}},
  }
  h = X.astype(np.float64)
  for i in range(3):
    p = variables['params'][f'mlp_layers_{i}']
    last, h = h @ p['linear']['w'] + p['bias']['b'], None
    h = np.tanh(last)
  out = harness.apply(layer, variables, X)[0]
  np.testing.assert_allclose(out, h, rtol=1e-5, atol=1e-6)
  open_ended = harness.build(linears.MLPBlock, activate_final=False, **cfg)
  out = harness.apply(open_ended, variables, X)[0]
  np.testing.assert_allclose(out, last, rtol=1e-5, atol=1e-6)
  assert ff.activation_tpl == Config(activations.Tanh)  # the template is untouched


def test_mlp_block_of_one_layer():
  layer = harness.build(
    linears.MLPBlock, num_layers=1, ff_tpl=Config(linears.FeedForward, **SIZES)
  )
  params = harness.init(layer, X)['params']
  assert harness.shapes(params) == {
    'mlp_layers_0': {'linear': {'w': (4, 3)}, 'bias': {'b': (3,)}}
  }


def test_mlp_block_hands_its_sharding_down():
  cfg = Config(
    linears.MLPBlock, hidden_dims=6, ff_tpl=Config(linears.FeedForward, **SIZES)
  )
  params = declared(sharding(cfg, ['data', 'mdl'], out=['data', None, 'mdl']))
  for layer in params.values():
    assert mapping_of(layer['linear']['w']) == ['data', 'mdl']
    assert mapping_of(layer['bias']['b']) == ['mdl']
  # Its sharding has no entry for decoding steps, which have rank 2.
  assert declared(cfg, X[0]).keys() == params.keys()


def test_gradients_of_a_chain():
  cfg = Config(
    linears.MLPBlock,
    num_layers=2,
    hidden_dims=6,
    activate_final=False,
    ff_tpl=Config(
      linears.FeedForward, **SIZES, activation_tpl=Config(activations.Tanh)
    ),
  )
  layer = cfg.set(name='layer').Instantiate()
  variables = harness.randomize(harness.init(layer, X))
  grads, grad_x = harness.gradients(layer, variables, X)
  first, second = (variables['params'][f'mlp_layers_{i}'] for i in (0, 1))
  cotangent = harness.noise(2, 5, 3, seed=99)
  h = np.tanh(X @ first['linear']['w'] + first['bias']['b'])
  back = cotangent @ second['linear']['w'].T * (1 - h**2)
  for grad, expected in [
    (grads['mlp_layers_1']['linear']['w'], np.einsum('btd,bth->dh', h, cotangent)),
    (grads['mlp_layers_1']['bias']['b'], cotangent.sum((0, 1))),
    (grads['mlp_layers_0']['linear']['w'], np.einsum('btd,bth->dh', X, back)),
    (grads['mlp_layers_0']['bias']['b'], back.sum((0, 1))),
    (grad_x, back @ first['linear']['w'].T),
  ]:
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'cls, fields, error, message',
  [
    (linears.MLPBlock, dict(num_layers=0), ValueError, 'num_layers must be at least 1'),
    (linears.Bias, dict(dims=4, bias_init=None), AssertionError, 'layer/b.*found None'),
    (linears.Bias, dict(dims=3), ValueError, 'broadcasting'),
    (
      linears.FeedForward,
      dict(input_dims=5, output_dims=3),
      ValueError,
      r'Linear at linear: expected inputs \[..., 5\].*got shape \(2, 5, 4\)',
    ),
    (linears.Linear, {}, AssertionError, r'layer/w: every dim must be > 0'),
  ],
)
def test_refused(cls, fields, error, message):
  with pytest.raises(error, match=message):
    harness.init(harness.build(cls, **fields), X)


def test_in_a_haiku_model():
  cfg = Config(linears.FeedForward, name='ffn', **SIZES)
  net = hk.transform_with_state(lambda x: jnp.sum(cfg.Instantiate()(x)))
  params, state = net.init(jax.random.PRNGKey(0), X)
  assert harness.shapes(params) == {
    'ffn/linear': {'w': (4, 3)},
    'ffn/bias': {'b': (3,)},
  }
  assert not jax.tree.leaves(state)
  out, _ = net.apply(params, state, None, X)
  expected = np.maximum(X @ params['ffn/linear']['w'], 0).sum()
  np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_jaxpr_is_that_of_haikus_linear():
  layer = harness.build(linears.Linear, **SIZES)
  variables = harness.init(layer, X)
  haiku = hk.transform(lambda x: hk.Linear(3, with_bias=False)(x))
  params = {'linear': variables['params']}

  def primitives(f, p):
    return [str(e.primitive) for e in jax.make_jaxpr(f)(p).eqns]

  assert primitives(lambda v: layer.apply(v, X), variables) == primitives(
    lambda p: haiku.apply(p, None, X), params
  )
