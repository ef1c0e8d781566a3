"""What the Pax guide says about layers, sentence by sentence, as code that runs.

Each layer is used in both faces: `layer.init/apply` as in Pax, and inside
`hk.transform_with_state`.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle, pytypes

BaseLayer = base_layer.BaseLayer
JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
WeightHParamsCollection = base_layer.WeightHParamsCollection
KEY = jax.random.PRNGKey(0)
X = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


class Linear(BaseLayer):
  """A variable made by create_variable in setup, used as self.theta.w."""

  input_dims: int = 0
  output_dims: int = 0

  def setup(self) -> None:
    self.create_variable(
      'w', WeightHParams(shape=[self.input_dims, self.output_dims]))

  def __call__(self, inputs: JTensor) -> JTensor:
    return jnp.matmul(inputs, self.theta.w)


class OldLinear(BaseLayer):
  """The same in the older convention."""

  class HParams(BaseLayer.HParams):
    """Fields of the layer.

    Attributes:
      input_dims: size of the inputs.
      output_dims: size of the outputs.
    """

    input_dims: int = 0
    output_dims: int = 0

  def setup(self) -> None:
    p = self.hparams
    self.create_variable('w', WeightHParams(shape=[p.input_dims, p.output_dims]))

  def __call__(self, inputs: JTensor) -> JTensor:
    return jnp.matmul(inputs, self.theta.w)


def both_faces(cfg):
  """Output by `layer.apply` and under `hk.transform_with_state`, same weights."""
  layer = base_layer.instantiate(cfg)
  variables = layer.init(KEY, X)
  net = hk.transform_with_state(lambda x: base_layer.instantiate(cfg)(x))
  params, state = net.init(KEY, X)
  assert {m for m in params} == {
    '/'.join((cfg.name, *path)) for path in module_paths(variables['params'])}
  given = {m: variables['params'] for m in params}
  for module in given:
    for part in module.split('/')[1:]:
      given[module] = given[module][part]
  return layer.apply(variables, X), net.apply(given, state, None, X)[0], variables


def module_paths(tree, path=()):
  """Paths of the layers that own a variable."""
  if any(not isinstance(v, dict) for v in tree.values()):
    yield path
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from module_paths(value, (*path, name))


# -- Variables -----------------------------------------------------------------------


def test_linear_by_create_variable_and_theta():
  cfg = pax_fiddle.Config(Linear, name='linear', input_dims=3, output_dims=2)
  ours, haikus, variables = both_faces(cfg)
  w = variables['params']['w']
  assert w.shape == (3, 2) and w.dtype == jnp.float32
  np.testing.assert_array_equal(ours, jnp.matmul(X, w))
  np.testing.assert_array_equal(haikus, ours)


def test_the_same_through_the_older_hparams():
  p = OldLinear.HParams(name='linear', input_dims=3, output_dims=2)
  assert (p.input_dims, p.output_dims, p.name) == (3, 2, 'linear')
  ours, haikus, variables = both_faces(p)
  np.testing.assert_array_equal(haikus, ours)
  new = pax_fiddle.Config(Linear, name='linear', input_dims=3, output_dims=2)
  np.testing.assert_array_equal(ours, both_faces(new)[0])
  np.testing.assert_array_equal(
    variables['params']['w'], both_faces(new)[2]['params']['w'])


class Normalize(BaseLayer):
  """Keeps a mean of its inputs in a variable that gradients do not change."""

  dim: int = 0
  decay: float = 0.75

  def setup(self) -> None:
    self.create_variable('scale', WeightHParams([self.dim], WeightInit.Constant(1.0)))
    mean = WeightHParams(
      shape=[self.dim], init=WeightInit.Constant(0.0),
      collections=[WeightHParamsCollection.REQUIRES_MEAN_SYNC])
    self.create_variable('moving_mean', mean, trainable=False)

  def __call__(self, inputs: JTensor) -> JTensor:
    old = self.get_var('moving_mean')
    new = self.decay * old + (1 - self.decay) * jnp.mean(inputs, 0)
    self.update_var('moving_mean', new)
    return (inputs - self.get_var('moving_mean')) * self.theta.scale

  def wrong(self, inputs: JTensor) -> None:
    self.update_var('scale', inputs[0])


def test_moving_mean_is_read_by_get_var_and_written_by_update_var():
  layer = Normalize(name='norm', dim=3)
  variables = layer.init(KEY, X)
  assert set(variables['params']) == {'scale'}
  assert set(variables['non_trainable']) == {'moving_mean'}
  np.testing.assert_array_equal(variables['non_trainable']['moving_mean'], jnp.zeros(3))
  mean = jnp.mean(X, 0) / 4
  out, updated = layer.apply(variables, X, mutable=['non_trainable'])
  np.testing.assert_allclose(out, X - mean)
  np.testing.assert_allclose(updated['non_trainable']['moving_mean'], mean)
  _, updated = layer.apply({**variables, **updated}, X, mutable=['non_trainable'])
  np.testing.assert_allclose(updated['non_trainable']['moving_mean'], 1.75 * mean)


def test_moving_mean_asks_for_the_mean_over_replicas():
  metadata = Normalize(name='norm', dim=3).abstract_init_with_metadata(X)
  declared = metadata['non_trainable']['moving_mean']
  assert base_layer.var_requires_mean_sync(declared)
  assert base_layer.var_not_trainable(declared)
  assert not base_layer.var_requires_sum_sync(declared)
  assert not base_layer.var_not_trainable(metadata['params']['scale'])


def test_writing_a_trainable_is_refused():
  layer = Normalize(name='norm', dim=3)
  variables = layer.init(KEY, X)
  with pytest.raises(ValueError, match="'norm': 'scale' is trainable"):
    layer.apply(variables, X, method='wrong', mutable=True)


def test_moving_mean_is_haiku_state():
  net = hk.transform_with_state(lambda x: Normalize(name='norm', dim=3)(x))
  params, state = net.init(KEY, X)
  assert set(params['norm']) == {'scale'} and set(state['norm']) == {'moving_mean'}
  _, state = net.apply(params, state, None, X)
  np.testing.assert_allclose(state['norm']['moving_mean'], jnp.mean(X, 0) / 4)


# -- Children --------------------------------------------------------------------------


class OldHost(BaseLayer):
  """A child from a template of the HParams, by clone, set and create_child."""

  class HParams(BaseLayer.HParams):
    """Fields of the layer.

    Attributes:
      linear_tpl: the child.
      output_dims: its size.
    """

    linear_tpl: BaseLayer.HParams = base_layer.sub_config_field(OldLinear.HParams)
    output_dims: int = 2

  def setup(self) -> None:
    p = self.hparams
    linear_p = p.linear_tpl.clone()
    linear_p.set(input_dims=3, output_dims=p.output_dims)
    self.create_child('linear', linear_p)

  def __call__(self, inputs: JTensor) -> JTensor:
    return self.linear(inputs)


class Host(BaseLayer):
  """The same with fields."""

  linear_tpl: pax_fiddle.Config[BaseLayer] = pax_fiddle.template_field(Linear)
  output_dims: int = 2

  def setup(self) -> None:
    linear_p = self.linear_tpl.clone()
    linear_p.set(input_dims=3, output_dims=self.output_dims)
    self.create_child('linear', linear_p)

  def __call__(self, inputs: JTensor) -> JTensor:
    return self.linear(inputs)


@pytest.mark.parametrize('cfg', [
  OldHost.HParams(name='host'), pax_fiddle.Config(Host, name='host'),
  OldHost.HParams(name='host', linear_tpl=pax_fiddle.Config(Linear)),
], ids=['HParams', 'fields', 'mixed'])
def test_child_by_clone_set_create_child(cfg):
  untouched = cfg.clone()
  ours, haikus, variables = both_faces(cfg)
  w = variables['params']['linear']['w']
  assert w.shape == (3, 2)
  np.testing.assert_array_equal(ours, X @ w)
  np.testing.assert_array_equal(haikus, ours)
  assert cfg == untouched, 'setup worked on a clone'


class Stack(BaseLayer):
  """Children in a list."""

  def setup(self) -> None:
    dims = [3, 5, 4]
    self.create_children('foo', [
      pax_fiddle.Config(Linear, input_dims=i, output_dims=o)
      for i, o in zip(dims, dims[1:], strict=False)])

  def __call__(self, inputs: JTensor) -> JTensor:
    return self.foo[1](self.foo[0](inputs))


def test_create_children_are_indexed():
  ours, haikus, variables = both_faces(pax_fiddle.Config(Stack, name='stack'))
  params = variables['params']
  assert params['foo_0']['w'].shape == (3, 5) and params['foo_1']['w'].shape == (5, 4)
  np.testing.assert_array_equal(ours, X @ params['foo_0']['w'] @ params['foo_1']['w'])
  np.testing.assert_array_equal(haikus, ours)


# -- Summaries ------------------------------------------------------------------------


class Watched(BaseLayer):
  """Reports the mean of its inputs."""

  def __call__(self, inputs: JTensor) -> JTensor:
    self.add_summary('inputs_mean', jnp.mean(inputs))
    return inputs


def test_summary_arrives_in_a_tensorboard_file(tmp_path):
  from tensorboardX.proto import event_pb2

  from pax_haiku.training import summaries, tensorboard

  net = hk.transform_with_state(lambda x: Watched(name='watched')(x))
  params, state = net.init(KEY, X)
  apply = jax.jit(net.apply)
  with tensorboard.Writer(tmp_path) as writer:
    for step in (1, 2):
      _, state = apply(params, state, None, step * X)
      summaries.write_state(writer, state, step)
  (path,) = tmp_path.glob('events.*')
  raw, found = path.read_bytes(), []
  while raw:  # records of: length, its checksum, data, its checksum
    size = int.from_bytes(raw[:8], 'little')
    event = event_pb2.Event.FromString(raw[12:12 + size])
    found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    raw = raw[16 + size:]
  assert found == [(1, 'watched/inputs_mean', 3.5), (2, 'watched/inputs_mean', 7.0)]


# -- Collections ----------------------------------------------------------------------


class Everything(BaseLayer):
  """Writes to several collections."""

  def setup(self) -> None:
    self.create_child('norm', pax_fiddle.Config(Normalize, dim=3))
    self.create_child('watched', pax_fiddle.Config(Watched))

  def __call__(self, inputs: JTensor) -> JTensor:
    out = self.watched(self.norm(inputs))
    self.add_aux_loss('square', jnp.mean(out**2))
    return out


def printed(variables):
  """What `print(jax.tree.map(jnp.shape, variables))` shows."""
  return str(jax.tree.map(jnp.shape, variables))


def test_printing_the_collections_of_init():
  variables = Everything(name='all').init(KEY, X)
  assert printed(variables) == (
    "{'non_trainable': {'norm': {'moving_mean': (3,)}}, "
    "'params': {'norm': {'scale': (3,)}}}")


def test_printing_the_collections_of_apply():
  layer = Everything(name='all')
  variables = layer.init(KEY, X)
  out = layer.apply(variables, X)
  assert out.shape == X.shape, 'without mutable there is the output alone'
  out, updated = layer.apply(variables, X, mutable=True)
  assert printed(updated) == (
    "{'aux_loss': {'square': AuxLossStruct(value=(), weight=())}, "
    "'non_trainable': {'norm': {'moving_mean': (3,)}}, "
    "'params': {'norm': {'scale': (3,)}}, "
    "'summaries': {'watched': {'inputs_mean_scalar': ()}}}")


def test_printing_what_a_layer_sees_of_its_own_variables(capsys):
  class Seeing(Everything):
    def __call__(self, inputs: JTensor) -> JTensor:
      out = super().__call__(inputs)
      for collection, tree in sorted(self.variables.items()):
        print(collection, sorted(tree))
      return out

  layer = Seeing(name='all')
  variables = layer.init(KEY, X)
  capsys.readouterr()
  layer.apply(variables, X)
  assert capsys.readouterr().out.splitlines() == [
    "non_trainable ['norm']", "params ['norm']"]
  layer.apply(variables, X, mutable=True)
  assert capsys.readouterr().out.splitlines() == [
    "aux_loss ['square']", "non_trainable ['norm']", "params ['norm']",
    "summaries ['watched']"]
