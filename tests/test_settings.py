"""A Pax layer in every setting: the same numbers as hand-written Haiku, one test each.

`Ffn` has a child, trainable and non-trainable variables, a random draw and a summary;
`HkFfn` is what one would write in Haiku, with the same names. Both are run with the
same keys, and parameters, outputs and state must agree bit for bit. In addition the
state keeps its tree from init on, so a jitted step compiles once.
"""

import threading
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from tests.tracing import jit_and_count

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
LayerTpl = pax_fiddle.Config[BaseLayer]
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
KEY = jax.random.PRNGKey(0)
D = 3
X = jnp.arange(2.0 * D).reshape(2, D) / 4


class Linear(BaseLayer):
  """x w."""

  def setup(self):
    self.create_variable('w', WeightHParams([D, D], WeightInit.Gaussian(0.5)))

  def __call__(self, x):
    return x @ self.theta.w


class Ffn(BaseLayer):
  """tanh(x w + b) + noise; counts its calls."""

  linear_tpl: LayerTpl = pax_fiddle.template_field(Linear)
  noise: bool = True

  def setup(self):
    self.create_variable('b', WeightHParams([D], WeightInit.Constant(0.25)))
    self.create_variable(
      'calls', WeightHParams([], WeightInit.Constant(0.0)), trainable=False)
    self.create_child('linear', self.linear_tpl)

  def __call__(self, x):
    self.update_var('calls', self.get_var('calls') + 1)
    x = jnp.tanh(self.linear(x) + self.theta.b)
    self.add_summary('mean', jnp.mean(x))
    if self.noise:
      x = x + jax.random.normal(self.next_prng_key(), x.shape, x.dtype)
    return x


class HkLinear(hk.Module):
  """The same in Haiku."""

  def __call__(self, x):
    def init(shape, dtype):
      return 0.5 * jax.random.normal(hk.next_rng_key(), shape, dtype)

    return x @ hk.get_parameter('w', [D, D], init=init)


class HkFfn(hk.Module):
  """The same in Haiku."""

  def __init__(self, noise=True, name='ffn'):
    super().__init__(name=name)
    self.noise = noise

  def __call__(self, x):
    b = hk.get_parameter('b', [D], init=lambda s, d: jnp.full(s, 0.25, d))
    calls = hk.get_state('calls', [], init=jnp.zeros)
    hk.set_state('calls', calls + 1)
    x = jnp.tanh(HkLinear(name='linear')(x) + b)
    if self.noise:
      x = x + jax.random.normal(hk.next_rng_key(), x.shape, x.dtype)
    return x


def pax(x):
  return Ffn(name='ffn')(x)


def hand(x):
  return HkFfn()(x)


def without_buckets(state):
  """State without summaries; modules that had nothing else go too."""
  kept = {m: {k: v for k, v in b.items() if k != 'summaries'} for m, b in state.items()}
  return {m: b for m, b in kept.items() if b}


def equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def check(pax_fn, hand_fn, *args, steps=2, params=None):
  """Both functions under hk.transform_with_state: same init, same steps.

  Returns:
    The Pax function's parameters and final state.
  """
  ours, theirs = (hk.transform_with_state(f) for f in (pax_fn, hand_fn))
  our_params, our_state = ours.init(KEY, *args)
  params, state = theirs.init(KEY, *args)
  equal(our_params, params)
  equal(without_buckets(our_state), state)
  treedef = jax.tree.structure(our_state)
  for step in range(steps):
    key = jax.random.PRNGKey(step)
    our_out, our_state = ours.apply(our_params, our_state, key, *args)
    out, state = theirs.apply(params, state, key, *args)
    equal(our_out, out)
    equal(without_buckets(our_state), state)
    assert jax.tree.structure(our_state) == treedef
  return our_params, our_state


# -- hk.transform_with_state -------------------------------------------------------


def test_transform_with_state_by_constructor():
  params, state = check(pax, hand, X)
  assert set(params) == {'ffn', 'ffn/linear'}
  assert set(params['ffn']) == {'b'} and set(params['ffn/linear']) == {'w'}
  assert set(state['ffn']) == {'calls', 'summaries'} and state['ffn']['calls'] == 2


def test_transform_with_state_by_instantiate():
  cfg = Config(Ffn, name='ffn')
  check(lambda x: base_layer.instantiate(cfg)(x), hand, X)
  check(lambda x: cfg.Instantiate()(x), hand, X)


def test_two_calls_and_two_layers():
  def both(make):
    def f(x):
      a, b = make(), make()
      return b(a(a(x)))
    return f

  _, state = check(both(lambda: Ffn(name='ffn')), both(HkFfn), X)
  assert state['ffn']['calls'] == 4 and state['ffn_1']['calls'] == 2


def test_a_jitted_step_compiles_once():
  net = hk.transform_with_state(pax)
  params, state = net.init(KEY, X)
  step, traces = jit_and_count(net.apply)
  for i in range(3):
    _, state = step(params, state, jax.random.PRNGKey(i), X)
  assert len(traces) == 1
  assert state['ffn']['calls'] == 3


# -- layer.init / apply / bind outside a transform ---------------------------------


def test_layer_init_apply_bind_outside():
  layer = Ffn(name='ffn', noise=False)
  variables = layer.init(KEY, X)
  assert jax.tree.map(jnp.shape, variables) == {
    'params': {'b': (D,), 'linear': {'w': (D, D)}}, 'non_trainable': {'calls': ()}}
  theirs = hk.transform_with_state(lambda x: HkFfn(noise=False)(x))
  params = {'ffn': {'b': variables['params']['b']},
            'ffn/linear': variables['params']['linear']}
  expected, _ = theirs.apply(params, theirs.init(KEY, X)[1], None, X)
  out, updated = layer.apply(variables, X, mutable=['non_trainable', 'summaries'])
  equal(out, expected)
  equal(layer.apply(variables, X), expected)
  assert updated['non_trainable'] == {'calls': 1.0}
  np.testing.assert_allclose(updated['summaries']['mean_scalar'], jnp.mean(expected))
  bound = layer.bind(variables, mutable=['non_trainable'])
  equal(bound(X), expected)
  equal(bound.linear.theta.w, variables['params']['linear']['w'])
  assert bound.get_var('calls') == 1


def test_layer_apply_inside_a_transform():
  """A layer built outside is a pure function of its variables anywhere."""
  layer = Ffn(name='ffn', noise=False)
  variables = layer.init(KEY, X)
  net = hk.transform(lambda x: hk.Linear(D, name='own')(layer.apply(variables, x)))
  params = net.init(KEY, X)
  assert set(params) == {'own'}
  equal(net.apply(params, None, X),
        layer.apply(variables, X) @ params['own']['w'] + params['own']['b'])


# -- hk.Modules and layers inside each other ---------------------------------------


def test_hk_module_uses_a_pax_layer():
  class Outer(hk.Module):
    """Makes its part in the constructor, as Haiku code does."""

    def __init__(self, part, name='outer'):
      super().__init__(name=name)
      self.part = part()

    def __call__(self, x):
      return self.part(hk.Linear(D, name='own')(x))

  params, state = check(lambda x: Outer(lambda: Ffn(name='ffn'))(x),
                        lambda x: Outer(HkFfn)(x), X)
  assert set(params) == {'outer/own', 'outer/~/ffn', 'outer/~/ffn/linear'}
  assert set(state) == {'outer/~/ffn'}


def test_hk_module_uses_a_pax_layer_in_its_call():
  class Outer(hk.Module):
    def __init__(self, part, name='outer'):
      super().__init__(name=name)
      self.part = part

    def __call__(self, x):
      return self.part()(self.part()(x))

  params, _ = check(lambda x: Outer(lambda: Ffn(name='ffn'))(x),
                    lambda x: Outer(HkFfn)(x), X)
  assert set(params) == {f'outer/{n}' for n in (
    'ffn', 'ffn/linear', 'ffn_1', 'ffn_1/linear')}


class Host(BaseLayer):
  """Haiku modules made in setup and in the call, beside a Pax child."""

  def setup(self):
    self.create_child('ffn', Config(Ffn))
    self.early = hk.Linear(D, name='early')
    self.stack = [hk.Linear(D, name='deep'), hk.Linear(D)]

  def __call__(self, x):
    x = self.early(self.ffn(x))
    for module in self.stack:
      x = module(x)
    x = hk.Linear(D, name='late')(x)
    return hk.LayerNorm(-1, True, True)(x)


class HkHost(hk.Module):
  """The same in Haiku."""

  def __call__(self, x):
    x = hk.Linear(D, name='early')(HkFfn()(x))
    x = hk.Linear(D, name='linear')(hk.Linear(D, name='deep')(x))
    x = hk.Linear(D, name='late')(x)
    return hk.LayerNorm(-1, True, True)(x)


def test_pax_layer_uses_hk_modules_in_setup_and_in_call():
  params, _ = check(lambda x: Host(name='host')(x), lambda x: HkHost(name='host')(x), X)
  assert set(params) == {'host/' + n for n in (
    'ffn', 'ffn/linear', 'early', 'deep', 'linear', 'late', 'layer_norm')}


def test_pax_layer_with_hk_modules_outside_a_transform():
  layer = Host(name='host')
  keys = {'params': KEY, 'random': jax.random.PRNGKey(1)}
  variables = layer.init(keys, X)
  assert set(variables['params']) == {
    'ffn', 'early', 'deep', 'linear', 'late', 'layer_norm'}
  assert variables['params']['early']['w'].shape == (D, D)
  out = layer.apply(variables, X, rngs={'random': KEY})
  assert out.shape == X.shape
  np.testing.assert_allclose(out.mean(-1), 0, atol=1e-6)


def test_names_do_not_depend_on_what_triggers_setup():
  class Parent(BaseLayer):
    def setup(self):
      self.create_child('host', Config(Host))

    def by_call(self, x):
      return self.host(x)

    def by_theta(self, x):
      return self.host.ffn.linear.theta.w

    def by_attribute(self, x):
      return self.host.early(x)

  def names(method):
    net = hk.transform_with_state(lambda x: method(Parent(name='p'), x))
    return set(net.init(KEY, X)[0])

  whole = names(Parent.by_call)
  assert {'p/host/early', 'p/host/ffn/linear', 'p/host/late'} <= whole
  assert names(Parent.by_theta) == {'p/host/ffn', 'p/host/ffn/linear'}
  assert names(Parent.by_attribute) == {'p/host/early'}


def test_name_scopes():
  def scoped(f):
    def g(x):
      with hk.name_scope('outer'):
        return f(x)
    return g

  params, _ = check(scoped(pax), scoped(hand), X)
  assert set(params) == {'outer/ffn', 'outer/ffn/linear'}


def test_layers_built_in_a_call():
  """Named one after the other, as Haiku modules built in a call."""
  class Building(BaseLayer):
    def __call__(self, x):
      return Linear()(Linear()(x))

  class HkBuilding(hk.Module):
    def __call__(self, x):
      return HkLinear(name='linear')(HkLinear(name='linear')(x))

  params, _ = check(lambda x: Building(name='b')(x), lambda x: HkBuilding('b')(x), X)
  assert set(params) == {'b/linear', 'b/linear_1'}
  variables = Building(name='b').init(KEY, X)
  assert set(variables['params']) == {'linear', 'linear_1'}
  assert Building(name='b').apply(variables, X).shape == X.shape


def test_params_dict():
  def f(x):
    layer = Ffn(name='ffn')
    layer(x)
    return layer.params_dict(), layer.linear.params_dict(), layer.state_dict()

  net = hk.transform_with_state(f)
  params, state = net.init(KEY, X)
  (whole, part, kept), _ = net.apply(params, state, KEY, X)
  assert set(whole) == {'ffn/b', 'ffn/linear/w'} and set(part) == {'ffn/linear/w'}
  assert 'ffn/calls' in kept


def test_hosted_batch_norm_keeps_its_state_in_both_faces():
  class Normed(BaseLayer):
    def setup(self):
      self.norm = hk.BatchNorm(True, True, 0.9, name='norm')

    def __call__(self, x):
      return self.norm(x, is_training=not self.do_eval)

  def by_hand(x):
    with hk.name_scope('normed'):
      return hk.BatchNorm(True, True, 0.9, name='norm')(x, is_training=True)

  _, state = check(lambda x: Normed(name='normed')(x), by_hand, X)
  layer = Normed(name='normed')
  variables = layer.init(KEY, X)
  for _ in range(2):
    _, updated = layer.apply(variables, X, mutable=['non_trainable'])
    variables = {**variables, **updated}
  equal(variables['non_trainable']['norm']['~']['mean_ema'],
        state['normed/norm/~/mean_ema'])


def test_names_do_not_collide():
  class Clash(BaseLayer):
    where: Any = None

    def setup(self):
      self.create_child('linear', Config(Linear))
      if self.where == 'setup':
        self.other = hk.Linear(D)

    def __call__(self, x):
      x = self.linear(x)
      return self.other(x) if self.where == 'setup' else hk.Linear(D)(x)

  for where in ('setup', 'call'):
    net = hk.transform(lambda x, where=where: Clash(where=where, name='clash')(x))
    with pytest.raises(base_layer.NameInUseError, match="'clash/linear'.*another name"):
      net.init(KEY, X)


def test_two_hosts_of_one_class():
  def both(make):
    return lambda x: make()(make()(x))

  check(both(lambda: Host(name='host')), both(lambda: HkHost(name='host')), X, steps=1)


# -- Haiku's other transforms ------------------------------------------------------


def test_transform():
  ours, theirs = (hk.transform(f) for f in (
    lambda x: Linear(name='linear')(x), lambda x: HkLinear(name='linear')(x)))
  params = ours.init(KEY, X)
  equal(params, theirs.init(KEY, X))
  equal(ours.apply(params, None, X), theirs.apply(params, None, X))


def test_transform_refuses_state():
  with pytest.raises(Exception, match='transform_with_state'):
    hk.transform(pax).init(KEY, X)


def test_without_apply_rng():
  quiet = hk.without_apply_rng(hk.transform_with_state(
    lambda x: Ffn(noise=False, name='ffn')(x)))
  theirs = hk.transform_with_state(lambda x: HkFfn(noise=False)(x))
  params, state = quiet.init(KEY, X)
  equal(quiet.apply(params, state, X)[0],
        theirs.apply(params, without_buckets(state), None, X)[0])
  noisy = hk.without_apply_rng(hk.transform_with_state(pax))
  params, state = noisy.init(KEY, X)
  with pytest.raises(base_layer.InvalidRngError, match="Ffn 'ffn' needs a random key"):
    noisy.apply(params, state, X)


def test_multi_transform():
  def make(cls, **kwargs):
    def f():
      encode, decode = cls(name='encode', **kwargs), cls(name='decode', **kwargs)
      return (lambda x: decode(encode(x))), (encode, decode)
    return f

  ours, theirs = (hk.multi_transform_with_state(make(c)) for c in (Ffn, HkFfn))
  params, state = ours.init(KEY, X)
  equal((params, without_buckets(state)), theirs.init(KEY, X))
  treedef = jax.tree.structure(state)
  for ours_fn, theirs_fn in zip(ours.apply, theirs.apply, strict=True):
    out, new_state = ours_fn(params, state, KEY, X)
    expected = theirs_fn(params, without_buckets(state), KEY, X)
    equal((out, without_buckets(new_state)), expected)
    assert jax.tree.structure(new_state) == treedef, 'though one part alone ran'
  plain = hk.multi_transform(make(Linear))
  params = plain.init(KEY, X)
  equal(plain.apply[0](params, None, X), X @ params['encode']['w'])


def test_lift():
  inner = hk.transform(lambda x: Linear(name='linear')(x))
  hand_inner = hk.transform(lambda x: HkLinear(name='linear')(x))

  def outer(transformed):
    def f(x):
      params = hk.lift(transformed.init, name='lifted')(hk.next_rng_key(), x)
      return transformed.apply(params, None, x)
    return f

  params, _ = check(outer(inner), outer(hand_inner), X)
  assert set(params) == {'lifted/linear'}


def test_lift_with_state():
  def outer(f):
    inner = hk.transform_with_state(f)

    def g(x):
      init, updater = hk.lift_with_state(inner.init, name='lifted')
      params, state = init(hk.next_rng_key(), x)
      out, state = inner.apply(params, state, hk.next_rng_key(), x)
      updater.update(state)
      return out
    return g

  check(outer(pax), outer(hand), X)


def test_lift_inside_a_layer():
  """A pure function with parameters of its own, hosted by a layer."""
  inner = hk.transform(lambda x: HkLinear(name='linear')(x))

  class Hosting(BaseLayer):
    def __call__(self, x):
      params = hk.lift(inner.init, name='lifted')(hk.next_rng_key(), x)
      return inner.apply(params, None, x)

  net = hk.transform(lambda x: Hosting(name='host')(x))
  params = net.init(KEY, X)
  assert set(params) == {'host/lifted/linear'}
  equal(net.apply(params, KEY, X), X @ params['host/lifted/linear']['w'])


@pytest.mark.parametrize('split_rng', [True, False])
def test_vmap(split_rng):
  def mapped(f):
    def g(x):
      return hk.vmap(f, split_rng=split_rng and not hk.running_init())(x)
    return g

  check(mapped(lambda x: Quiet(name='ffn')(x)), mapped(hand), X)
  with base_layer.JaxContext.new_context(
      hparams=base_layer.JaxContext.HParams(summary_verbosity=0)):
    check(mapped(pax), mapped(hand), X)


def test_vmap_refuses_state_that_depends_on_the_example():
  """As for any Haiku module: hk.vmap keeps one state. Summaries are state."""
  with pytest.raises(ValueError, match="'ffn'.*'summaries'.*'mean_scalar'"):
    hk.transform_with_state(lambda x: hk.vmap(pax, split_rng=False)(x)).init(KEY, X)


def test_vmap_inside_a_layer():
  class Mapped(BaseLayer):
    def setup(self):
      self.create_child('linear', Config(Linear))

    def __call__(self, x):
      return hk.vmap(self.linear, split_rng=False)(x)

  net = hk.transform(lambda x: Mapped(name='m')(x))
  params = net.init(KEY, X)
  np.testing.assert_allclose(net.apply(params, None, X), X @ params['m/linear']['w'],
                             rtol=1e-6)


def test_scan():
  def scanned(make):
    def f(x):
      layer = make()
      return hk.scan(lambda carry, _: (layer(carry), layer(carry).sum()), x, None, 3)
    return f

  _, state = check(scanned(lambda: Ffn(name='ffn')), scanned(HkFfn), X, steps=1)
  assert state['ffn']['calls'] == 6


def test_loops():
  def looped(make):
    def f(x):
      layer = make()
      if hk.running_init():
        return layer(x)
      x = hk.fori_loop(0, 3, lambda i, c: layer(c), x)
      return hk.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, layer(c[1])),
                           (0, x))[1]
    return f

  _, state = check(looped(lambda: Ffn(name='ffn')), looped(HkFfn), X, steps=1)
  assert state['ffn']['calls'] == 5


@pytest.mark.parametrize('kind', ['cond', 'switch'])
def test_cond(kind):
  def branching(make):
    def f(x, second):
      a, b = make(name='a'), make(name='b')
      if hk.running_init():
        return a(b(x))
      if kind == 'cond':
        return hk.cond(second, b, a, x)
      return hk.switch(second.astype(int), [a, b], x)
    return f

  second = jnp.array(kind == 'cond')
  _, state = check(branching(Ffn), branching(HkFfn), X, second, steps=1)
  assert (state['a']['calls'], state['b']['calls']) == (
    (0, 1) if kind == 'cond' else (1, 0))


def test_remat():
  def remat(make):
    def f(x):
      layer = make()
      return hk.remat(layer)(x)
    return f

  check(remat(lambda: Ffn(name='ffn')), remat(HkFfn), X, steps=1)

  def grads(f):
    net = hk.transform_with_state(f)
    params, state = net.init(KEY, X)
    return jax.grad(lambda p: net.apply(p, state, KEY, X)[0].sum())(params)

  equal(grads(remat(lambda: Ffn(name='ffn'))), grads(hand))


def test_layer_stack():
  def stacked(make):
    return lambda x: hk.layer_stack(3)(lambda x: make()(x))(x)

  params, _ = check(stacked(lambda: Linear(name='linear')),
                    stacked(lambda: HkLinear(name='linear')), X, steps=1)
  assert jax.tree.leaves(params)[0].shape == (3, D, D)


def test_layer_stack_of_a_layer_with_state():
  def stacked(f):
    return lambda x: hk.layer_stack(3)(f)(x)

  _, state = check(stacked(pax), stacked(hand), X, steps=1)
  assert next(iter(state.values()))['calls'].shape == (3,)


# -- Haiku's interceptors ----------------------------------------------------------


def test_custom_getter():
  seen = []

  def half(next_getter, value, context):
    seen.append((context.full_name, type(context.module).__name__))
    return next_getter(0.5 * value)

  def with_getter(f):
    def g(x):
      with hk.custom_getter(half):
        return f(x)
    return g

  check(with_getter(pax), with_getter(hand), X)
  ours = sorted(n for n, cls in seen if not cls.startswith('Hk'))
  theirs = sorted(n for n, cls in seen if cls.startswith('Hk'))
  assert ours and set(ours) == set(theirs) == {'ffn/b', 'ffn/linear/w'}
  apply_only = [n for n, cls in seen if not cls.startswith('Hk')]
  assert len(theirs) <= len(apply_only), 'each read passes the getter'


def test_custom_getter_of_state():
  def plus(next_getter, value, context):
    return next_getter(value + 10)

  def with_getter(f):
    def g(x):
      with hk.custom_getter(plus, params=False, state=True):
        return f(x)
    return g

  ours = hk.transform_with_state(with_getter(lambda x: Quiet(name='ffn')(x)))
  theirs = hk.transform_with_state(with_getter(hand))
  params, state = theirs.init(KEY, X)
  equal(ours.apply(params, state, KEY, X), theirs.apply(params, state, KEY, X))


class Quiet(Ffn):
  """Without summaries."""

  def add_summary(self, *args, **kwargs):
    pass


def test_custom_creator():
  def constant(next_creator, shape, dtype, init, context):
    assert context.full_name.startswith('ffn')
    if context.name == 'w':
      return next_creator(shape, dtype, lambda s, d: jnp.full(s, 0.125, d))
    return next_creator(shape, dtype, init)

  def with_creator(f):
    def g(x):
      with hk.custom_creator(constant):
        return f(x)
    return g

  params, _ = check(with_creator(pax), with_creator(hand), X)
  equal(params['ffn/linear']['w'], jnp.full((D, D), 0.125))


def test_custom_creator_of_state():
  def sevens(next_creator, shape, dtype, init, context):
    return next_creator(shape, dtype, lambda s, d: jnp.full(s, 7, d))

  def with_creator(f):
    def g(x):
      with hk.custom_creator(sevens, params=False, state=True):
        return f(x)
    return g

  equal(hk.transform_with_state(with_creator(lambda x: Quiet(name='ffn')(x))).init(
    KEY, X), hk.transform_with_state(with_creator(hand)).init(KEY, X))


def test_custom_setter():
  def doubled(next_setter, value, context):
    return next_setter(2 * value)

  def with_setter(f):
    def g(x):
      with hk.custom_setter(doubled):
        return f(x)
    return g

  check(with_setter(lambda x: Quiet(name='ffn')(x)), with_setter(hand), X)


def test_intercept_methods():
  calls = []

  def intercept(next_f, args, kwargs, context):
    out = next_f(*args, **kwargs)
    calls.append((context.module.module_name, context.method_name))
    return 2 * out if context.method_name == '__call__' else out

  def with_interceptor(f):
    def g(x):
      with hk.intercept_methods(intercept):
        return f(x)
    return g

  check(with_interceptor(pax), with_interceptor(hand), X)
  ours = hk.transform_with_state(with_interceptor(pax))
  params, state = ours.init(KEY, X)
  calls.clear()
  ours.apply(params, state, KEY, X)
  called = [c for c in calls if c[1] != '__init__']
  assert called == [('ffn/linear', '__call__'), ('ffn', '__call__')]


def test_mixed_precision():
  policy = jmp.get_policy('params=float32,compute=bfloat16,output=float32')
  seen = []

  class PaxPart(Linear):
    def __call__(self, x):
      seen.append((x.dtype, self.theta.w.dtype))
      return super().__call__(x)

  class HkPart(HkLinear):
    pass

  hk.mixed_precision.set_policy(PaxPart, policy)
  hk.mixed_precision.set_policy(HkPart, policy)
  try:
    params, _ = check(lambda x: PaxPart(name='linear')(x),
                      lambda x: HkPart(name='linear')(x), X)
    assert hk.mixed_precision.get_policy(PaxPart) == policy
  finally:
    hk.mixed_precision.clear_policy(PaxPart)
    hk.mixed_precision.clear_policy(HkPart)
  assert params['linear']['w'].dtype == jnp.float32
  assert {s[0] for s in seen} == {jnp.dtype(jnp.bfloat16)}


def test_mixed_precision_has_the_last_word():
  """Over `fprop_dtype`, which is what `theta` is cast to otherwise."""
  policy = jmp.get_policy('params=float32,compute=bfloat16,output=float32')

  class Part(Linear):
    def __call__(self, x):
      seen.append(self.theta.w.dtype)
      return x

  seen = []
  for fprop in (None, jnp.float16):
    net = hk.transform(lambda x, f=fprop: Part(name='p', fprop_dtype=f)(x))
    params = net.init(KEY, X)
    seen.clear()
    hk.mixed_precision.set_policy(Part, policy)
    net.apply(params, None, X)
    hk.mixed_precision.clear_policy(Part)
    net.apply(params, None, X)
    assert seen == [jnp.bfloat16, fprop or jnp.float32]


def test_a_getter_that_casts_has_the_last_word():
  def to_half(next_getter, value, context):
    return next_getter(value.astype(jnp.float16))

  def f(x):
    layer = Linear(name='linear')
    with hk.custom_getter(to_half):
      return layer.theta.w, layer(x.astype(jnp.float16))

  net = hk.transform(f)
  w, out = net.apply(net.init(KEY, X), None, X)
  assert w.dtype == out.dtype == jnp.float16


def test_theta_casts_checkpoints_of_another_dtype():
  """A stored value of another dtype than declared is no getter's choice."""
  net = hk.transform(lambda x: Linear(name='linear')(x))
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), net.init(KEY, X))
  assert net.apply(params, None, X).dtype == jnp.float32


# -- Haiku's inspection tools ------------------------------------------------------


def test_tabulate():
  def lines(f):
    table = hk.experimental.tabulate(hk.transform_with_state(f))(X)
    return table.replace('HkFfn', 'Ffn').replace('HkLinear', 'Linear')

  ours = lines(lambda x: Quiet(name='ffn')(x))
  assert 'ffn/linear' in ours and 'ffn/linear' in lines(hand)
  rows = [{cell.strip() for cell in line.split('|')} for line in ours.splitlines()]
  assert any({'w', '3x3'} <= row or 'w:' in ' '.join(row) for row in rows), ours
  infos = {}
  for name, f in (('ours', pax), ('theirs', hand)):
    infos[name] = [
      (i.module_details.module.module_name, i.module_details.method_name,
       sorted(i.module_details.params), i.args_spec, i.output_spec)
      for i in hk.experimental.eval_summary(hk.transform_with_state(f))(X)
      if i.module_details.method_name != '__init__']
  assert str(infos['ours']) == str(infos['theirs'])


def test_eval_shape():
  def shaped(make):
    def f(x):
      layer = make()
      if hk.running_init():
        return layer(x)
      shape = hk.eval_shape(layer, x)
      return layer(x) + jnp.zeros(shape.shape, shape.dtype)
    return f

  _, state = check(shaped(lambda: Ffn(name='ffn')), shaped(HkFfn), X)
  assert state['ffn']['calls'] == 2, 'eval_shape leaves no trace'


def test_to_dot():
  pytest.importorskip('tree', reason='hk.to_dot needs dm-tree')

  def dot(f):
    net = hk.transform_with_state(f)
    params, state = net.init(KEY, X)
    return hk.to_dot(net.apply)(params, state, KEY, X)

  ours = dot(pax)
  assert 'digraph' in ours and 'ffn' in ours and 'linear' in ours
  assert ours.count('dot_general') == dot(hand).count('dot_general')


# -- JAX's transforms --------------------------------------------------------------

NET, HAND = hk.transform_with_state(pax), hk.transform_with_state(hand)
LAYER = Ffn(name='ffn', noise=False)


@pytest.fixture(scope='module')
def made():
  params, state = NET.init(KEY, X)
  return params, state


@pytest.fixture(scope='module')
def variables():
  return LAYER.init(KEY, X)


def hand_loss(params, state, x=X):
  return jnp.sum(HAND.apply(params, state, KEY, x)[0] ** 2)


def test_jit(made, variables):
  params, state = made
  equal(jax.jit(NET.init)(KEY, X), made)
  out, _ = jax.jit(NET.apply)(params, state, KEY, X)
  expected, _ = jax.jit(HAND.apply)(params, without_buckets(state), KEY, X)
  equal(out, expected)
  np.testing.assert_allclose(
    jax.jit(LAYER.apply)(variables, X), LAYER.apply(variables, X), rtol=1e-6)


def test_grad(made):
  params, state = made
  ours = jax.grad(lambda p, x: jnp.sum(NET.apply(p, state, KEY, x)[0] ** 2), (0, 1))(
    params, X)
  equal(ours, jax.grad(lambda p, x: hand_loss(p, without_buckets(state), x), (0, 1))(
    params, X))


def test_value_and_grad(made):
  params, state = made

  def loss(p):
    out, new_state = NET.apply(p, state, KEY, X)
    return jnp.sum(out**2), new_state

  (value, new_state), grads = jax.value_and_grad(loss, has_aux=True)(params)
  equal((value, grads), jax.value_and_grad(hand_loss)(params, without_buckets(state)))
  assert new_state['ffn']['calls'] == 1
  assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_jax_vmap(made, variables):
  params, state = made
  keys = jax.random.split(KEY, 3)
  ours = jax.vmap(NET.apply, (None, None, 0, None))(params, state, keys, X)[0]
  theirs = jax.vmap(HAND.apply, (None, None, 0, None))(
    params, without_buckets(state), keys, X)[0]
  equal(ours, theirs)
  stacked = jax.vmap(NET.init, (0, None))(keys, X)[0]
  equal(stacked, jax.vmap(HAND.init, (0, None))(keys, X)[0])
  np.testing.assert_allclose(jax.vmap(LAYER.apply, (None, 0))(variables, X),
                             LAYER.apply(variables, X), rtol=1e-6)


def test_jax_eval_shape(made, variables):
  params, state = made
  found = jax.eval_shape(NET.init, KEY, X)
  assert jax.tree.map(lambda s: (s.shape, s.dtype), found) == jax.tree.map(
    lambda v: (v.shape, v.dtype), made)
  out, new_state = jax.eval_shape(NET.apply, params, state, KEY, X)
  assert out.shape == X.shape
  assert jax.tree.structure(new_state) == jax.tree.structure(state)
  assert jax.eval_shape(LAYER.apply, variables, X).shape == X.shape
  assert jax.tree.structure(jax.eval_shape(LAYER.init, KEY, X)) == (
    jax.tree.structure(variables))


def test_checkpoint(made):
  params, state = made

  def loss(p):
    return jnp.sum(jax.checkpoint(NET.apply)(p, state, KEY, X)[0] ** 2)

  equal(jax.grad(loss)(params), jax.grad(hand_loss)(params, without_buckets(state)))


def test_donated_buffers(made):
  params, state = jax.tree.map(jnp.array, made)
  expected, expected_state = HAND.apply(params, without_buckets(state), KEY, X)

  def step(params, state, x):
    out, state = NET.apply(params, state, KEY, x)
    return jax.tree.map(lambda p: 0.5 * p, params), state, out

  step, traces = jit_and_count(step, donate_argnums=(0, 1))
  new_params, new_state, out = step(params, state, X)
  np.testing.assert_allclose(out, expected, rtol=1e-6)
  equal(without_buckets(new_state), expected_state)
  assert all(v.is_deleted() for v in jax.tree.leaves(params))
  step(new_params, new_state, X)
  assert len(traces) == 1


def test_checking_leaks(variables):
  """No tracer outlives its trace, in any kind of run."""
  with jax.checking_leaks():
    params, state = jax.jit(NET.init)(KEY, X)
    out, _ = jax.jit(NET.apply)(params, state, KEY, X)
    jax.jit(jax.grad(lambda p: NET.apply(p, state, KEY, X)[0].sum()))(params)
    jax.jit(LAYER.init)(KEY, X)
    jax.jit(lambda v, x: LAYER.apply(
      v, x, mutable=True, capture_intermediates=True))(variables, X)
    jax.jit(lambda v, x: LAYER.bind(v)(x))(variables, X)
    LAYER.abstract_init_with_metadata(X)
  np.testing.assert_allclose(
    out, HAND.apply(params, without_buckets(state), KEY, X)[0], rtol=1e-6)


def test_a_layer_kept_from_a_trace_holds_no_tracers():
  kept = []

  def f(x):
    kept.append(Ffn(name='ffn'))
    return kept[-1](x)

  net = hk.transform_with_state(f)
  params, state = jax.jit(net.init)(KEY, X)
  jax.jit(net.apply)(params, state, KEY, X)
  for layer in [*kept, *(k.linear for k in kept)]:
    leaves = jax.tree.leaves(list(layer.__dict__.values()))
    assert not any(isinstance(v, jax.core.Tracer | jax.Array) for v in leaves)


def test_two_threads_tracing_at_once():
  """Each meets the other in the middle of its traces; neither notices."""
  barrier = threading.Barrier(2, timeout=60)
  results, failures = {}, []

  class Meeting(Ffn):
    def setup(self):
      super().setup()
      barrier.wait()

    def __call__(self, x):
      barrier.wait()
      return super().__call__(x), self.do_eval

  def work(number):
    try:
      hparams = base_layer.JaxContext.HParams(do_eval=bool(number))
      with base_layer.JaxContext.new_context(hparams=hparams):
        layer = Meeting(name=f'net{number}', noise=False)
        x = X + number
        variables = layer.init(jax.random.PRNGKey(number), x)
        out = layer.apply(variables, x)
        net = hk.transform_with_state(
          lambda x: Meeting(name=f'net{number}', noise=False)(x))
        params, state = net.init(jax.random.PRNGKey(number), x)
        results[number] = variables, out, set(params), net.apply(
          params, state, None, x)[0]
    except Exception as e:  # shown by the assertion below
      failures.append(e)
      barrier.abort()

  threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failures, failures
  for number in range(2):
    alone = Ffn(name='alone', noise=False)
    variables, (out, do_eval), names, (haiku_out, _) = results[number]
    equal(variables, alone.init(jax.random.PRNGKey(number), X))
    equal(out, alone.apply(variables, X + number))
    assert do_eval == bool(number)
    assert names == {f'net{number}', f'net{number}/linear'}
    assert haiku_out.shape == X.shape
