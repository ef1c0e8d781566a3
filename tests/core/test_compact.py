"""Layers and variables made inline in compact methods.

Names, numbers and what is refused were read off the real Praxis 1.4 (flax 0.8, the
same seed). The two JAX versions' erf_inv and matmul differ in the last bits, hence the
relative tolerance of 1e-5.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.base_layer import BaseLayer, WeightHParams, compact

KEY = jax.random.PRNGKey(0)
X = jnp.ones([1, 2])


class Inline(BaseLayer):
  n: int = 2

  @compact
  def __call__(self, x):
    self.create_variable('w', WeightHParams(shape=[x.shape[-1], self.n]))
    return x @ self.theta.w


class Usual(BaseLayer):
  n: int = 2

  def setup(self):
    self.create_variable('w', WeightHParams(shape=[2, self.n]))

  def __call__(self, x):
    return x @ self.theta.w


class Chain(BaseLayer):

  @compact
  def __call__(self, x):
    x = Usual(name='s')(Inline()(Inline()(x)))
    return self.helper(x)

  def helper(self, x):
    return Inline()(x)


class Twice(BaseLayer):
  inner: BaseLayer = None

  def __call__(self, x):
    self.inner(x)
    return self.inner(x)


NAMES = ('Inline_1', 'Inline_0', 's', 'Inline_2')  # in the order of their calls


def first(variables):
  """{path: first element} of a tree of weights."""
  flat = jax.tree_util.tree_flatten_with_path(variables['params'])[0]
  return {'/'.join(k.key for k in path): float(v.ravel()[0]) for path, v in flat}


def close(values):
  return pytest.approx(values, rel=1e-5)


def test_names_and_numbers_are_those_of_praxis():
  layer = Chain()
  variables = layer.init(KEY, X)
  lin = {'Inline_0/w': -0.8112926, 'Inline_1/w': 0.3204905, 'Inline_2/w': -0.0487778}
  assert first(variables) == close({**lin, 's/w': 0.6807635})
  out = layer.apply(variables, X)
  w = variables['params']
  expected = X
  for name in NAMES:
    expected = expected @ w[name]['w']
  np.testing.assert_array_equal(out, expected)


def test_base_fields_flow_down():
  layer = Chain(
    dtype=jnp.bfloat16,
    fprop_dtype=jnp.float32,
    params_init=base_layer.WeightInit.Constant(2.0),
  )
  variables = layer.init(KEY, X)
  assert set(first(variables).values()) == {2.0}
  assert all(w.dtype == jnp.bfloat16 for w in jax.tree.leaves(variables))
  assert layer.apply(variables, X).dtype == jnp.float32
  own = compact(lambda self, x: Usual(dtype=jnp.float16)(x))
  layer = type('Own', (BaseLayer,), {'__call__': own})(dtype=jnp.bfloat16)
  assert jax.tree.leaves(layer.init(KEY, X))[0].dtype == jnp.float16


def test_a_second_call_finds_the_variables_of_the_first():
  class Both(BaseLayer):

    def setup(self):
      self.create_variable('w', WeightHParams(shape=[2]))

    @compact
    def __call__(self, x):
      self.create_variable('v', WeightHParams(shape=[2]))
      self.create_variable('m', WeightHParams(shape=[2]), trainable=False)
      return Usual(name='a')(x) * self.theta.w * self.theta.v + self.get_var('m')

  for inner in (Inline(), Chain(), Both()):
    layer = Twice(inner=inner)
    variables = layer.init(KEY, X)
    once = {c: tree['inner'] for c, tree in variables.items()}
    np.testing.assert_array_equal(layer.apply(variables, X), inner.apply(once, X))
  assert first(Twice(inner=Both()).init(KEY, X)).keys() == {
    'inner/a/w', 'inner/v', 'inner/w'}  # fmt: skip


def test_what_stays_refused():
  def with_call(call):
    return type('Bad', (BaseLayer,), {'__call__': compact(call)})

  def same_name(self, x):
    return Usual(name='a')(Usual(name='a')(x))

  def taken_by_a_child(self, x):
    return self.create_child('Usual_0', pax_fiddle.Config(Usual))(Usual()(x))

  def taken_by_a_variable(self, x):
    self.create_variable('a', WeightHParams(shape=[2]))
    return Usual(name='a')(x)

  def same_variable(self, x):
    self.create_variable('a', WeightHParams(shape=[2]))
    self.create_variable('a', WeightHParams(shape=[2]))

  for call in (same_name, taken_by_a_child, taken_by_a_variable, same_variable):
    with pytest.raises(base_layer.NameInUseError, match=r"Bad 'bad'.*(Usual_0|'a')"):
      with_call(call)().init(KEY, X)

  def child(self, x):
    return self.create_child('c', pax_fiddle.Config(Usual))(x)

  with pytest.raises(ValueError, match='Child `c` already exists'):
    Twice(inner=with_call(child)()).init(KEY, X)


def test_configs_built_inline_are_children():
  class Built(BaseLayer):
    tpl: pax_fiddle.Config = pax_fiddle.template_field(Usual)

    @compact
    def __call__(self, x):
      x = self.tpl.Instantiate()(x)
      return pax_fiddle.build(pax_fiddle.Config(Usual, name='q'))(x)

  variables = Built(dtype=jnp.bfloat16).init(KEY, X)
  assert first(variables).keys() == {'Usual_0/w', 'q/w'}
  assert variables['params']['q']['w'].dtype == jnp.bfloat16


def test_create_child_builds_instance_fields_of_the_child():
  class Child(BaseLayer):
    f: BaseLayer = pax_fiddle.instance_field(Usual)

    def setup(self):
      self.g = Usual()
      self.h = [Usual(name='u'), Usual()]

    def __call__(self, x):
      return self.f(self.g(self.h[0](x) + self.h[1](x)))

  class Parent(BaseLayer):

    @compact
    def __call__(self, x):
      return self.create_child('c', pax_fiddle.Config(Child))(x)

  variables = Parent(dtype=jnp.bfloat16).init(KEY, X)
  assert first(variables) == pytest.approx(
    {'c/f/w': 0.0191650, 'c/g/w': 0.0, 'c/h_1/w': 0.765625, 'c/u/w': 0.4023437},
    rel=1e-2)  # fmt: skip


def test_layers_in_plain_methods_keep_haikus_names():
  class Plain(BaseLayer):

    def __call__(self, x):
      return Usual()(x)

  class Around(BaseLayer):

    @compact
    def __call__(self, x):
      return self.create_child('plain', pax_fiddle.Config(Plain))(x)

  assert first(Around().init(KEY, X)).keys() == {'plain/usual/w'}


def test_under_haikus_own_transform():
  cfg = pax_fiddle.Config(Twice, inner=pax_fiddle.Config(Chain), name='t')
  f = hk.transform_with_state(lambda x: cfg.Instantiate()(x))
  params, state = f.init(KEY, X)
  assert params.keys() == {f't/inner/{name}' for name in NAMES}
  out, _ = jax.jit(f.apply)(params, state, None, X)
  expected = X
  for name in NAMES:
    expected = expected @ params[f't/inner/{name}']['w']
  np.testing.assert_allclose(out, expected, rtol=1e-6)  # jit may fuse differently


def test_an_error_in_a_compact_method_leaves_nothing_behind():
  class Fails(BaseLayer):

    @compact
    def __call__(self, x):
      raise KeyError('mine')

  with pytest.raises(KeyError, match='mine'):
    Fails().init(KEY, X)
  assert Usual().init(KEY, X)['params'].keys() == {'w'}
  params, _ = hk.transform_with_state(lambda: Usual(dtype=jnp.float16)(X)).init(KEY)
  assert params.keys() == {'usual'}


def test_flaxs_marks_are_understood():
  """Flax marks a method by an attribute: `nn.compact`, `nn.nowrap`."""

  def call(self, x):
    assert self.scope() == 'marked'
    self.create_variable('w', WeightHParams(shape=[2]))
    return Usual()(x) * self.theta.w

  def scope(self):
    return hk.current_name()

  call.compact = True
  scope.nowrap = True
  cls = type('Marked', (BaseLayer,), {'__call__': call, 'scope': scope})
  assert first(cls().init(KEY, X)).keys() == {'Usual_0/w', 'w'}
