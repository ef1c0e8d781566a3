"""Mistakes of users: each message names the layer, what was expected, what was found,
and the way out."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

from pax_haiku import base_layer, pax_fiddle

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
LayerTpl = pax_fiddle.Config[BaseLayer]
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
KEY = jax.random.PRNGKey(0)
X = jnp.ones((1, 2))


class Linear(BaseLayer):
  """A product; counts its calls."""

  input_dims: int = 2
  output_dims: int = 2

  def setup(self):
    self.create_variable('w', WeightHParams([self.input_dims, self.output_dims]))
    self.create_variable('calls', WeightHParams([], WeightInit.Constant(0.0)),
                         trainable=False)

  def __call__(self, x):
    return x @ self.theta.w


class Net(BaseLayer):
  """Runs `use(self, x)` beside a child."""

  tpl: LayerTpl = pax_fiddle.template_field(Linear)
  make: object = None
  use: object = None

  def setup(self):
    self.create_child('linear', self.tpl)
    if self.make:
      self.make(self)

  def __call__(self, x):
    x = self.linear(x)
    return self.use(self, x) if self.use else x


def message(error, action, *parts):
  """The text of the error that `action` raises; it must have all `parts`."""
  with pytest.raises(error) as caught:
    action()
  text = str(caught.value)
  missing = [part for part in parts if part not in text]
  assert not missing, f'{missing} not in: {text}'
  return text


def run(**fields):
  return lambda: Net(name='net', **fields).init(KEY, X)


def test_calling_an_unbound_layer():
  layer = Linear(name='linear')
  message(ValueError, lambda: layer(X), "Linear 'linear'", 'unbound',
          'hk.transform_with_state', 'create_child', 'init/apply/bind')


def test_theta_of_a_variable_that_was_never_created():
  message(ValueError, run(use=lambda s, x: s.linear.theta.b),
          "Linear 'net/linear'", "'b'", "['w']")
  message(ValueError, run(use=lambda s, x: s.linear.theta.calls),
          "'calls'", 'not trainable', 'get_var')


def test_get_var_of_a_trainable():
  message(AssertionError, run(use=lambda s, x: s.linear.get_var('w')),
          "'net/linear'", "'w'", "['calls']", 'theta.w')


def test_update_var_with_another_shape():
  layer = Net(name='net', use=lambda s, x: s.linear.update_var('calls', x))
  variables = layer.init(KEY, X)
  message(ValueError, lambda: layer.apply(variables, X, mutable=['non_trainable']),
          "Linear 'net/linear'", "'calls'", '(1, 2)', '()')


def test_update_var_of_a_trainable():
  message(ValueError, run(use=lambda s, x: s.linear.update_var('w', x)),
          "'net/linear'", "'w'", 'trainable', 'gradients')


def test_assigning_outside_setup():
  message(base_layer.SetAttributeFrozenModuleError,
          run(use=lambda s, x: setattr(s.linear, 'cache', x)),
          "Linear 'net/linear'", "'cache'", 'setup', 'create_variable', 'update_var')


def test_creating_outside_setup():
  message(ValueError, run(use=lambda s, x: s.create_variable('v', WeightHParams([]))),
          "Net 'net'", "'v'", 'setup')
  message(base_layer.AssignSubModuleError,
          run(use=lambda s, x: s.create_child('c', s.tpl)), "'net'", "'c'", 'setup')


def test_a_template_field_set_to_a_built_layer():
  message(ValueError, run(tpl=Linear()), "Net 'net'", "'linear'", 'Fiddle Configs',
          'Linear')


def test_an_instance_where_a_template_is_expected_by_annotation():
  class Wrong(BaseLayer):
    tpl: BaseLayer = pax_fiddle.template_field(Linear)  # builds it

    def setup(self):
      self.create_child('linear', self.tpl)

    def __call__(self, x):
      return self.linear(x)

  message(ValueError, lambda: Config(Wrong, name='wrong').Instantiate().init(KEY, X),
          "Wrong 'wrong'", "'linear'", 'pax_fiddle.Config[...]')


def test_an_unknown_config_field():
  cfg = Config(Linear)
  message(AttributeError, lambda: setattr(cfg, 'input_dim', 3), 'Linear', 'input_dim',
          'input_dims')
  message(AttributeError, lambda: cfg.set(output_dim=3), 'output_dims')
  message(TypeError, lambda: Config(Linear, output_dim=3), 'output_dim')


def test_two_children_with_one_name():
  message(ValueError, run(make=lambda s: s.create_child('linear', s.tpl)),
          "Net 'net'", '`linear` already exists')


def test_a_child_with_the_name_of_a_variable():
  def make(layer):
    layer.create_variable('v', WeightHParams([2]))
    layer.create_child('v', layer.tpl)

  message(base_layer.NameInUseError, run(make=make), "Net 'net'", "'v'", 'variable')


def test_a_name_that_shadows_a_field():
  message(AttributeError, run(make=lambda s: s.create_child('tpl', s.tpl)),
          "Net 'net'", "'tpl'", 'field')
  message(AttributeError,
          run(make=lambda s: s.create_variable('dtype', WeightHParams([2]))),
          "Net 'net'", "'dtype'", 'field')
  message(base_layer.SetAttributeFrozenModuleError,
          run(make=lambda s: setattr(s, 'tpl', 3)), "Net 'net'", "'tpl'", 'field')


def test_a_haiku_module_with_the_name_of_a_child():
  message(base_layer.NameInUseError, run(use=lambda s, x: hk.Linear(2)(x)),
          "'net/linear'", 'Linear', 'another name')


def test_missing_random_stream():
  layer = Net(name='net', use=lambda s, x: s.linear.next_prng_key())
  variables = layer.init(KEY, X)
  message(base_layer.InvalidRngError, lambda: layer.apply(variables, X),
          "'linear'", "'random'", "rngs={'random': key}")
  net = hk.transform_with_state(
    lambda x: Net(name='net', use=lambda s, x: s.linear.next_prng_key())(x))
  params, state = net.init(KEY, X)
  message(base_layer.InvalidRngError, lambda: net.apply(params, state, None, X),
          "Linear 'net/linear'", 'rng=None', 'jax.random key')


def test_what_is_no_key():
  message(base_layer.InvalidRngError, lambda: Net(name='n').init(0, X), 'PRNGKey(0)',
          "'params'")


@pytest.fixture(scope='module')
def variables():
  return Net(name='net').init(KEY, X)


def test_misfit_parameters_are_listed_all_at_once(variables):
  class Two(BaseLayer):
    def setup(self):
      self.create_children('part', [Config(Linear, output_dims=n) for n in (2, 3)])

    def __call__(self, x):
      return self.part[1](self.part[0](x))

  layer = Two(name='two')
  given = layer.init(KEY, X)
  given['params']['part_9'] = given['params'].pop('part_0')
  given['params']['part_1']['w'] = jnp.ones((2, 4))
  del given['non_trainable']['part_1']
  text = message(
    base_layer.ScopeParamNotFoundError, lambda: layer.apply(given, X),
    "Linear 'two/part_0'", "'w'", 'init of the same model',
    'missing params/part_0/w (2, 2)', 'extra   params/part_9/w (2, 2)',
    'shape   params/part_1/w: expected (2, 3), found (2, 4)',
    'missing non_trainable/part_1/calls ()')
  assert 'non_trainable/part_0' not in text, 'fits'


def test_wrong_shape_of_a_parameter(variables):
  given = {**variables, 'params': {'linear': {'w': jnp.ones((2, 5))}}}
  message(base_layer.ScopeParamShapeError,
          lambda: Net(name='net').apply(given, X),
          "Linear 'net/linear'", "'w'", '(2, 2)', '(2, 5)')


def test_missing_collection(variables):
  message(base_layer.ScopeCollectionNotFound,
          lambda: Net(name='net').apply({}, X), "'net/linear'", "'params'")


def test_variables_one_level_too_deep(variables):
  message(base_layer.ApplyScopeInvalidVariablesStructureError,
          lambda: Net(name='net').apply({'params': variables}, X),
          "Net 'net'", "{'params': {'params'", 'as init returned them')


def test_misfit_parameters_under_a_transform():
  """Haiku's own errors, with the layer's name for a shape."""
  net = hk.transform_with_state(lambda x: Net(name='net')(x))
  params, state = net.init(KEY, X)
  wrong = {'net/linear': {'w': jnp.ones((2, 5))}}
  message(base_layer.ScopeParamShapeError, lambda: net.apply(wrong, state, None, X),
          "Linear 'net/linear'", "'w'", '(2, 2)', '(2, 5)')
  message(base_layer.PaxError, lambda: net.apply({}, state, None, X),
          "Linear 'net/linear'", "'w'")


def test_hk_transform_without_state():
  net = hk.transform(lambda x: Net(name='net')(x))
  message(ValueError, lambda: net.init(KEY, X), 'hk.transform_with_state')


def test_writing_an_immutable_collection(variables):
  layer = Net(name='net', use=lambda s, x: s.put_variable('mine', 'v', x))
  message(base_layer.ModifyScopeVariableError, lambda: layer.apply(variables, X),
          "Net 'net'", "'v'", "'mine'", 'mutable=[...]')


def test_init_of_a_layer_inside_a_transform():
  message(ValueError, lambda: hk.transform(
    lambda x: Net(name='net').init(KEY, x)).init(KEY, X),
    "Net 'net'.init", 'inside a transform', 'Call it directly')


def test_a_method_that_does_not_exist(variables):
  message(AttributeError, lambda: Net(name='net').apply(variables, X, method='enc'),
          "Net 'net'", "'enc'")


def test_a_config_passed_to_a_class():
  message(TypeError, lambda: Linear(Config(Linear)), 'Linear(...)', 'PaxConfig',
          'layer_p.Instantiate()')


def test_sharing_without_a_context():
  shared = Config(Linear, shared_weight_layer_id='emb')
  message(AssertionError, run(tpl=shared), 'JaxContext.new_context')


def test_errors_can_be_caught_by_one_class():
  for name in ('InvalidRngError', 'NameInUseError', 'ScopeParamNotFoundError',
               'ScopeCollectionNotFound', 'ScopeParamShapeError',
               'AssignSubModuleError', 'SetAttributeFrozenModuleError',
               'ModifyScopeVariableError',
               'ApplyScopeInvalidVariablesStructureError'):
    assert issubclass(getattr(base_layer, name), base_layer.PaxError)
