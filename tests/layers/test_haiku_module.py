"""HaikuModule: a hosted module computes, and draws, what it does alone."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pax_haiku
from pax_haiku import base_layer, interop, layers, pax_fiddle
from pax_haiku.core import rng as rng_lib
from pax_haiku.layers import haiku_module
from tests.layers import harness

HaikuModule = haiku_module.HaikuModule
Config = pax_fiddle.Config
KEY = jax.random.PRNGKey(7)
X = harness.noise(4, 3)


class Noisy(hk.Module):
  """Draws for its weights, in its constructor and in its call, and for noise."""

  def __init__(self, size, name=None):
    super().__init__(name=name)
    self.size = size
    self.scale = hk.get_parameter('scale', [size], init=hk.initializers.RandomNormal())

  def __call__(self, x):
    x = hk.Linear(self.size)(x) * self.scale
    calls = hk.get_state('calls', [], jnp.int32, init=jnp.zeros)
    hk.set_state('calls', calls + 1)
    return x + jax.random.normal(hk.next_rng_key(), x.shape)

  def encode(self, x):
    return hk.Linear(2, name='code')(x)

  @property
  def doubled(self):
    return 2 * self.size


def noisy(size=3):
  return Config(Noisy, size)


def host(tpl=None, name='host', **fields):
  return Config(HaikuModule, name=name, module_tpl=tpl, **fields)


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def under(tree, prefix):
  return {f'{prefix}/{module}': bundle for module, bundle in tree.items()}


def batch_norm(x, is_training):
  return hk.BatchNorm(True, True, 0.9)(x, is_training)


def averaged(x):
  return hk.ExponentialMovingAverage(0.9)(x) + hk.SpectralNorm()(x)


HOSTED = {  # what is hosted -> (fields of the layer, the same alone)
  'module': (dict(module_tpl=noisy()), lambda x: Noisy(3)(x)),
  'factory': (
    dict(module_tpl=Config(lambda n: hk.nets.MLP([n, 2], name='net'), 5)),
    lambda x: hk.nets.MLP([5, 2], name='net')(x),
  ),
  'function': (dict(function=averaged), averaged),
  'batch norm': (
    dict(module_tpl=Config(hk.BatchNorm, True, True, 0.9), train_arg='is_training'),
    lambda x: batch_norm(x, True),
  ),
}


@pytest.fixture(params=HOSTED, scope='module')
def hosted(request):
  """(config of the layer, the same alone, its params, its state)."""
  fields, alone = HOSTED[request.param]
  alone = hk.transform_with_state(alone)
  return Config(HaikuModule, name='host', **fields), alone, *alone.init(KEY, X)


def test_in_a_transform(hosted):
  config, alone, params, state = hosted
  net = pax_haiku.transform(config)
  ours = net.init(KEY, X)
  equal(ours, (under(params, 'host'), under(state, 'host')))
  expected, new_state = alone.apply(params, state, KEY, X)
  out, our_state = net.apply(*ours, KEY, X)
  equal(out, expected)
  equal(our_state, under(new_state, 'host'))


def test_as_a_layer(hosted):
  config, alone, params, state = hosted
  layer = config.Instantiate()
  variables = layer.init(KEY, X)
  equal(variables, interop.to_pax(params, state, root=''))
  equal(layer.init({'params': KEY, 'random': harness.KEYS['random']}, X), variables)
  expected, state = alone.apply(params, state, KEY, X)
  out, updated = layer.apply(variables, X, rngs={'random': KEY}, mutable=True)
  equal(out, expected)
  equal(updated, interop.to_pax(params, state, root=''))
  equal(layer.apply(variables, X, rngs=KEY), expected)
  other = {'random': KEY, 'params': harness.KEYS['params']}
  equal(layer.apply(variables, X, rngs=other), expected)
  other = {'dropout': KEY, 'random': harness.KEYS['params']}
  equal(layer.apply(variables, X, rngs=other), expected)


class Model(base_layer.BaseLayer):
  """A Pax layer around hosted modules, one of them in a list."""

  before: int = 0

  def setup(self):
    self.create_children(
      'extra', [Config(HaikuModule, module_tpl=noisy())] * self.before
    )
    self.create_child('enc', Config(HaikuModule, module_tpl=noisy()))

  def __call__(self, x):
    for layer in (*self.extra, self.enc):
      x = layer(x)
    return x


def test_inside_a_layer():
  alone = hk.transform_with_state(lambda x: Noisy(3)(x))
  params, state = alone.init(rng_lib.fold_in_path(KEY, ('enc',), 1), X)
  for before in (0, 2):
    model = Model(name='model', before=before)
    variables = model.init(KEY, X)
    equal(variables['params']['enc'], interop.to_pax(params, root='')['params'])
    assert set(variables['params']) == {'enc', 'extra_0', 'extra_1'} - (
      {'extra_0', 'extra_1'} if not before else set()
    )
  model = Model(name='model')
  variables = model.init(KEY, X)
  out, updated = model.apply(variables, X, rngs={'random': KEY}, mutable=True)
  expected, state = alone.apply(
    params, state, rng_lib.fold_in_path(KEY, ('enc',), 1), X
  )
  equal(out, expected)
  equal(updated['non_trainable']['enc'], {'noisy': {'calls': jnp.ones([], jnp.int32)}})
  native = hk.transform_with_state(lambda x: Model(name='model')(x))
  params, state = native.init(KEY, X)
  equal(params, under(alone.init(KEY, X)[0], 'model/enc'))
  equal(native.apply(params, state, KEY, X)[0], alone.apply(
    alone.init(KEY, X)[0], alone.init(KEY, X)[1], KEY, X)[0])


def test_calls_share_their_variables_and_go_on_drawing():
  class Twice(base_layer.BaseLayer):
    def setup(self):
      self.create_child('by_module', host(noisy()))
      self.create_child('by_function', host(function=lambda x: Noisy(3)(x)))

    def __call__(self, x):
      return [layer(x) for layer in (self.by_module, self.by_function) for _ in 'ab']

  layer = Twice(name='twice')
  variables = layer.init(KEY, X)
  assert harness.shapes(variables['params']['by_function']) == {
    'noisy': {'scale': (3,), 'linear': {'w': (3, 3), 'b': (3,)}}
  }
  out = layer.apply(variables, X, rngs=KEY)
  for first, second in (out[:2], out[2:]):
    assert not np.allclose(first, second)


def test_methods():
  layer = host(noisy()).Instantiate()
  variables = layer.init(KEY, X, method=lambda layer, x: layer.encode(layer(x)))
  assert set(variables['params']['noisy']) == {'scale', 'linear', '~encode'}
  code = variables['params']['noisy']['~encode']['code']
  for method in (
    lambda layer, x: layer.encode(x),
    lambda layer, x: layer.call_method('encode', x),
    lambda layer, x: layer.module.encode(x),
  ):
    out = layer.apply(variables, X, method=method, rngs=KEY)
    np.testing.assert_allclose(out, X @ code['w'] + code['b'], rtol=1e-6)
  np.testing.assert_allclose(layer.bind(variables).encode(X), out, rtol=1e-6)
  found = layer.apply(
    variables, method=lambda layer: (layer.doubled, layer.size), rngs=KEY
  )
  assert found == (6, 3)
  made = host(Config(lambda n: Noisy(n), 3)).Instantiate()
  np.testing.assert_array_equal(
    made.apply(variables, X, method=lambda layer, x: layer.encode(x), rngs=KEY), out
  )


def test_a_subclass_with_children_of_its_own():
  class Biased(HaikuModule):
    def setup(self):
      self.create_child('bias', Config(layers.Bias, dims=2))

    def __call__(self, x):
      return self.bias(super().__call__(x))

  layer = Config(Biased, name='biased', module_tpl=Config(hk.Linear, 2)).Instantiate()
  variables = layer.init(KEY, X)
  assert harness.shapes(variables['params']) == {
    'linear': {'w': (3, 2), 'b': (2,)}, 'bias': {'b': (2,)}}
  method = lambda layer: (layer.bias.dims, layer.input_size)  # noqa: E731
  found = layer.apply(variables, method=method)
  assert found == (2, None)


def test_method_first_makes_the_same_names():
  net = hk.transform(lambda x: host(noisy()).Instantiate().encode(x))
  assert set(net.init(KEY, X)) == {'host/noisy', 'host/noisy/~encode/code'}
  net = hk.transform(lambda x: host(noisy()).Instantiate().module.encode(x))
  assert set(net.init(KEY, X)) == {'host/noisy', 'host/noisy/~encode/code'}


def test_the_module_in_haiku_code():
  lstm = host(Config(hk.LSTM, 5), name='lstm')

  def ours(x):
    layer = lstm.Instantiate()
    return hk.static_unroll(layer.module, x, layer.initial_state(4))

  def theirs(x):
    core = hk.LSTM(5)
    return hk.static_unroll(core, x, core.initial_state(4))

  x = harness.noise(1, 4, 3)
  ours, theirs = (hk.without_apply_rng(hk.transform(f)) for f in (ours, theirs))
  params = theirs.init(KEY, x)
  equal(ours.init(KEY, x), under(params, 'lstm'))
  equal(ours.apply(under(params, 'lstm'), x), theirs.apply(params, x))


@pytest.mark.parametrize('native', [False, True])
def test_repeat(native):
  config = Config(
    layers.Repeat, name='stack', x_times=3,
    sub_tpl=Config(HaikuModule, module_tpl=noisy()))
  alone = hk.transform_with_state(lambda x: Noisy(3)(x))
  if native:
    net = pax_haiku.transform(config)
    params, state = net.init(KEY, X)
    out, new_state = jax.jit(net.apply)(params, state, KEY, X)
    variables, updated = interop.to_pax(params, state), interop.to_pax({}, new_state)
  else:
    layer = config.Instantiate()
    variables = layer.init(KEY, X)
    out, updated = jax.jit(
      lambda v, x: layer.apply(v, x, rngs={'random': KEY}, mutable=['non_trainable'])
    )(variables, X)
    expected = X
    keys = jax.random.split(KEY, 3)
    for i in range(3):
      mine = jax.tree.map(lambda v, i=i: v[i], variables)
      params, state = interop.to_haiku(
        {c: t['sub'] for c, t in mine.items()}, root='')
      # The second of the two traces of a loop counts, as in Praxis.
      key = rng_lib.fold_in_path(keys[i], ('sub',), 2)
      expected, _ = alone.apply(params, state, key, expected)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
  assert variables['params']['sub']['noisy']['scale'].shape == (3, 3)
  assert len(np.unique(variables['params']['sub']['noisy']['scale'])) == 9
  np.testing.assert_array_equal(
    updated['non_trainable']['sub']['noisy']['calls'], [1, 1, 1])


def test_repeated_method():
  config = Config(layers.Repeat, name='stack', x_times=2,
                  sub_tpl=Config(HaikuModule, module_tpl=Config(Noisy, 2)))
  x = X[:, :2]
  variables = config.Instantiate().init(KEY, x, method_name='encode')
  w = variables['params']['sub']['noisy']['~encode']['code']['w']
  out = config.Instantiate().apply(variables, x, method_name='encode')
  np.testing.assert_allclose(out, x @ w[0] @ w[1], rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_module_alone(hosted):
  config, alone, params, state = hosted

  def ours(variables, x):
    return jnp.sum(jnp.sin(config.Instantiate().apply(variables, x, rngs=KEY)))

  def theirs(params, x):
    return jnp.sum(jnp.sin(alone.apply(params, state, KEY, x)[0]))

  variables = interop.to_pax(params, state, root='')
  found = jax.jit(jax.grad(ours, (0, 1), allow_int=True))(variables, X)
  expected = jax.jit(jax.grad(theirs, (0, 1)))(params, X)
  # The same operations, but compiled together with other code.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    (found[0].get('params', {}), found[1]),
    (interop.to_pax(expected[0], root='').get('params', {}), expected[1]),
  )


def test_same_program_as_alone():
  alone = hk.transform_with_state(lambda x: Noisy(3)(x))
  net = pax_haiku.transform(host(noisy()))
  params, state = alone.init(KEY, X)
  mine = under(params, 'host'), under(state, 'host')
  assert str(jax.make_jaxpr(net.apply)(*mine, KEY, X)) == str(
    jax.make_jaxpr(alone.apply)(params, state, KEY, X))


def test_train_arg():
  layer = host(
    Config(hk.BatchNorm, True, True, 0.9), train_arg='is_training').Instantiate()
  variables = layer.init(KEY, X)
  mean = lambda v: v['non_trainable']['batch_norm']['~']['mean_ema']['average']  # noqa: E731
  _, trained = harness.apply(layer, variables, X)
  np.testing.assert_allclose(mean(trained)[0], X.mean(0), rtol=1e-5)
  _, kept = harness.apply(layer, variables, X, do_eval=True)
  equal(kept['non_trainable'], variables['non_trainable'])
  _, given = harness.apply(layer, variables, X, do_eval=True, is_training=True)
  equal(given, trained)


def test_a_dict_as_state():
  def counting(x):
    cache = hk.get_state('cache', [], init=lambda *_: {'n': jnp.zeros([]), 'x': x})
    hk.set_state('cache', {'n': cache['n'] + 1, 'x': x})
    return cache['x']

  layer = host(function=counting).Instantiate()
  variables = layer.init(KEY, X)
  assert set(variables['non_trainable']['@cache']) == {'n', 'x'}
  for step in (1, 2):
    out, variables = layer.apply(variables, X + step, mutable=['non_trainable'])
    assert variables['non_trainable']['@cache']['n'] == step
  np.testing.assert_array_equal(out, X + 1)


def test_declarations():
  config = Config(
    layers.Repeat, name='stack', x_times=2,
    sub_tpl=Config(HaikuModule, module_tpl=noisy()))
  found = config.Instantiate().abstract_init_with_metadata(X)
  scale = found['params']['sub']['noisy']['scale']
  assert (scale.shape, scale.repeat_prefix, scale.dtype) == ([3], [2], jnp.float32)
  calls = found['non_trainable']['sub']['noisy']['calls']
  assert base_layer.var_not_trainable(calls) and calls.repeat_prefix == [2]


def test_quantize_weight_passes_the_variables_through():
  layer = Model(name='model')
  variables = layer.init(KEY, X)
  equal(layer.apply(variables, method='quantize_weight'), variables)
  specs = layer.apply(variables, method='quantized_partition_specs')
  is_box = lambda x: isinstance(x, base_layer.BoxedPartitionSpec)  # noqa: E731
  assert jax.tree.structure(specs, is_leaf=is_box) == jax.tree.structure(variables)
  assert specs['params']['enc']['noisy']['linear']['w'].meta == (
    jax.sharding.PartitionSpec(None, None))


def test_pax_layers_inside_the_function():
  linear = Config(layers.Linear, name='pax', input_dims=3, output_dims=2)
  layer = host(function=lambda x: linear.Instantiate()(hk.Linear(3)(x))).Instantiate()
  variables = layer.init(KEY, X)
  assert harness.shapes(variables['params']) == {
    'linear': {'w': (3, 3), 'b': (3,)}, 'pax': {'w': (3, 2)}}
  assert layer.apply(variables, X).shape == (4, 2)


@pytest.mark.parametrize(
  'fields, error, message',
  [
    ({}, ValueError, "HaikuModule 'host': give one of .*found none"),
    (dict(module_tpl=noisy(), function=len), ValueError, 'found both'),
    (dict(function=hk.Linear), TypeError, 'function must be a function .*hk.nets.MLP'),
    (dict(module_tpl=hk.Linear), TypeError, 'must be a Config of .*hk.nets.MLP'),
    (dict(module_tpl=Config(layers.Linear)), TypeError, 'Linear, .*use create_child'),
    (dict(module_tpl=Config(dict)), TypeError, 'makes a dict, expected a Haiku module'),
  ],
)
def test_errors_of_the_fields(fields, error, message):
  with pytest.raises(error, match=message):
    Config(HaikuModule, name='host', **fields).Instantiate().init(KEY, X)


def test_errors_of_calls():
  layer = host(noisy()).Instantiate()
  variables = layer.init(KEY, X)
  with pytest.raises(AttributeError, match="hosts a Noisy, which has no method 'none'"):
    layer.apply(variables, method=lambda layer: layer.call_method('none'))
  with pytest.raises(AttributeError, match="no attribute 'none'"):
    layer.apply(variables, method=lambda layer: layer.none, rngs=KEY)
  with pytest.raises(AttributeError, match="no attribute 'none'"):
    _ = layer.none
  with pytest.raises(ValueError, match="'encode' is not available"):
    layer.encode(X)
  with pytest.raises(ValueError, match="'module' is not available"):
    _ = layer.module
  with pytest.raises(ValueError, match='non-None PRNGKey'):
    layer.apply(variables, X)
  lone = host(function=lambda x: x).Instantiate()
  with pytest.raises(AttributeError, match="hosts a function, which has no method 'f'"):
    lone.apply({}, X, method=lambda layer, x: layer.call_method('f', x))
