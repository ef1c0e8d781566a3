"""Repeat against a plain loop, an unrolled list of layers, and numbers of Praxis.

Random keys inside Repeat are tested in tests/core/test_random_keys.py.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import activations, linears, normalizations, repeats
from tests.layers import reference
from tests.tracing import jit_and_count

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
LayerTpl = pax_fiddle.Config[BaseLayer]
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
Repeat = repeats.Repeat
KEYS = {'params': jax.random.PRNGKey(0), 'random': jax.random.PRNGKey(1)}
RANDOM = {'random': jax.random.PRNGKey(5)}
WRITTEN = ['non_trainable', 'summaries', 'aux_loss']
X = jnp.array([0.3, -0.7])
FIVE_DIGITS = 5e-5  # of the numbers recorded from Praxis


class Body(BaseLayer):
  """tanh(x w + b + y) + z; writes to every collection."""

  inner: LayerTpl | None = None

  def setup(self):
    self.create_variable('w', WeightHParams(
      [2, 2], WeightInit.Gaussian(0.5), fan_in_axes=[0], fan_out_axes=[-1]))
    self.create_variable('b', WeightHParams([2], WeightInit.Gaussian(1.0)))
    self.create_variable(
      'n', WeightHParams([], WeightInit.Constant(0.0)), trainable=False)
    if self.inner is not None:
      self.create_child('inner', self.inner)

  def __call__(self, x, y=0.0, *, z=0.0, noise=False):
    self.update_var('n', self.get_var('n') + jnp.sum(x))
    self.add_summary('s', jnp.sum(x))
    self.add_aux_loss('a', jnp.mean(x), 0.5)
    self.add_aux_loss('a', x[0], x[0])
    if noise:
      x = x + jax.random.uniform(self.next_prng_key(), x.shape)
    if self.inner is not None:
      x = self.inner(x)
    return jnp.tanh(x @ self.theta.w + self.theta.b + y) + z

  def double(self, x):
    return 2 * x

  def two(self, x, total):
    return x @ self.theta.w, total + jnp.sum(x)

  def init_states(self):
    self.update_decode_state('c', self.theta.b)
    self.update_decode_state('t', jnp.zeros((), jnp.int32))

  def extend_step(self, x):
    c = self.get_decode_state('c') + x
    self.update_decode_state('c', c)
    self.update_decode_state('t', self.get_decode_state('t') + 1)
    self.add_summary('step', jnp.sum(x))
    return c @ self.theta.w

  def prefill(self, x):
    self.init_states()
    return self.extend_step(x)

  def transform_decode_state(self, transform_fn):
    c = transform_fn(self.get_decode_state('c'), -1, 0)
    self.update_decode_state('c', c)

  def lazy_broadcast_prefix(self, num_suffix_samples, suffix_length):
    self.put_variable('prefix_decoder_cache', 'p', self.get_decode_state('c'))
    self.update_decode_state('c', jnp.full(2, num_suffix_samples * suffix_length))

  def right_align_decode_state_with_prefix(self, max_prefix_size, right_align_fn):
    self.update_decode_state(
      'c', right_align_fn(self.get_decode_state('c'), max_prefix_size))


def repeat(x_times=3, **fields):
  fields.setdefault('sub_tpl', Config(Body))
  return Repeat(x_times=x_times, name='repeat', **fields)


@pytest.fixture(scope='module')
def variables():
  return repeat().init(KEYS, X)


def equal(found, expected, rtol=1e-6):
  """rtol: the order of float32 sums differs between a compiled and an eager loop."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=rtol, atol=1e-7), found, expected)


def shapes(tree):
  return jax.tree.map(jnp.shape, tree)


def loop(params, x, ys=None, zs=None):
  """The carries of a plain loop over the slices of `params['sub']`."""
  carries = []
  for i, (w, b) in enumerate(zip(params['w'], params['b'], strict=True)):
    x = jnp.tanh(x @ w + b + (0 if ys is None else ys[i]))
    x = x + (0 if zs is None else zs[i])
    carries.append(x)
  return carries


# -- Layout of the variables -------------------------------------------------------


class Sample(BaseLayer):
  """w [4, 4], a LayerNorm and a counter."""

  def setup(self):
    self.create_variable('w', WeightHParams([4, 4]))
    self.create_child('ln', Config(normalizations.LayerNorm, dim=4))
    self.create_variable(
      'cnt', WeightHParams([], WeightInit.Constant(0.0)), trainable=False)

  def __call__(self, x):
    return self.ln(x) @ self.theta.w


@pytest.mark.parametrize('fields, prefix', [
  ({'x_times': 6}, (6,)), ({'x_times': 1}, (1,)),
  ({'x_times': 6, 'nd_prefix_shape': (3, 2)}, (3, 2)),
  ({'x_times': 6, 'nd_prefix_shape': [6]}, (6,)),
], ids=str)
def test_layout(fields, prefix):
  layer = repeat(sub_tpl=Config(Sample), **fields)
  found = jax.eval_shape(layer.init, KEYS, jnp.ones((2, 4)))
  assert jax.tree.map(lambda s: s.shape, found) == {
    'params': {'sub': {'w': (*prefix, 4, 4), 'ln': {
      'scale': (*prefix, 4), 'bias': (*prefix, 4)}}},
    'non_trainable': {'sub': {'cnt': prefix}}}


def test_iterations_start_at_different_values(variables):
  w = variables['params']['sub']['w']
  assert len(np.unique(w)) == w.size


def test_initializer_sees_the_unstacked_shape():
  """Xavier's limit for [4, 4] is sqrt(6 / 8), whatever the number of repeats."""
  layer = repeat(64, sub_tpl=Config(linears.Linear, input_dims=4, output_dims=4))
  w = layer.init(KEYS, jnp.ones((1, 4)))['params']['sub']['w']
  limit = 1.000001 * np.sqrt(6 / 8)
  assert 0.95 * limit < np.abs(w).max() <= limit * (1 + 1e-6)


def test_nd_prefix_is_in_row_major_order(variables):
  flat = repeat(6).init(KEYS, X)
  nd = repeat(6, nd_prefix_shape=(3, 2)).init(KEYS, X)
  equal(jax.tree.map(lambda v: v.reshape(6, *v.shape[2:]), nd), flat)
  out, updated = repeat(6).apply(flat, X, mutable=WRITTEN)
  nd_out, nd_updated = repeat(6, nd_prefix_shape=(3, 2)).apply(nd, X, mutable=WRITTEN)
  equal(nd_out, out)
  equal(nd_updated['non_trainable']['sub']['n'].reshape(6),
        updated['non_trainable']['sub']['n'])
  equal({c: nd_updated[c] for c in WRITTEN[1:]}, {c: updated[c] for c in WRITTEN[1:]})


def test_nested():
  inner = Config(Repeat, x_times=3, sub_tpl=Config(Body))
  layer = repeat(2, sub_tpl=inner)
  variables = layer.init(KEYS, X)
  assert variables['params']['sub']['sub']['w'].shape == (2, 3, 2, 2)
  out, updated = layer.apply(variables, X, mutable=WRITTEN)
  flat = jax.tree.map(lambda v: v.reshape(6, *v.shape[2:]),
                      variables['params']['sub']['sub'])
  equal(out, loop(flat, X)[-1])
  assert shapes(updated['summaries']) == {'sub': {'sub': {'s_scalar': (2, 3)}}}
  assert shapes(updated['non_trainable']) == {'sub': {'sub': {'n': (2, 3)}}}
  assert jnp.shape(updated['aux_loss']['sub']['sub']['a'].value) == ()


def test_metadata():
  def meta(layer, *path):
    tree = layer.abstract_init_with_metadata(X)['params']['sub']
    for name in path:
      tree = tree[name]
    w = tree['w']
    return (list(w.shape), list(w.repeat_prefix), w.repeat_prefix_split_dims_mapping,
            w.repeat_optimizer_dims_mapping, w.fan_in_axes, w.fan_out_axes,
            list(w.full_shape))

  sharding = Config(Repeat.WeightSharding, sub=['a'])
  assert meta(repeat(6)) == (
    [2, 2], [6], (-1,), (-1,), [1], [-1], [6, 2, 2])
  assert meta(repeat(6, weight_split_dims_mapping=sharding,
                     optimizer_dims_mapping=['b'])) == (
    [2, 2], [6], ('a',), ('b',), [1], [-1], [6, 2, 2])
  assert meta(repeat(6, nd_prefix_shape=(3, 2))) == (
    [2, 2], [3, 2], (-1, -1), (-1, -1), [2], [-1], [3, 2, 2, 2])
  nested = repeat(2, weight_split_dims_mapping=sharding, sub_tpl=Config(
    Repeat, x_times=3, sub_tpl=Config(Body), optimizer_dims_mapping=['o']))
  assert meta(nested, 'sub') == (
    [2, 2], [2, 3], ('a', -1), (-1, 'o'), [2], [-1], [2, 3, 2, 2])


def test_model_config():
  found = repeat().abstract_init_with_mdl_config(X)
  assert set(found) == {'_hparams', 'sub'}
  assert found['_hparams'].x_times == 3 and found['_hparams'].sub_tpl is None
  assert pax_fiddle.get_callable(found['sub']['_hparams']) is Body


def test_shared_layers_inside():
  """A shared id is rooted at the repeated sublayer, not at the model."""
  class Twice(BaseLayer):
    def setup(self):
      for name in ('one', 'two'):
        self.create_child(name, Config(
          linears.Bias, dims=2, shared_weight_layer_id='both'))

    def __call__(self, x):
      return self.two(self.one(x))

  with base_layer.JaxContext.new_context():
    found = jax.eval_shape(repeat(sub_tpl=Config(Twice)).init, KEYS, X)
  assert jax.tree.map(lambda s: s.shape, found) == {
    'params': {'sub': {'both': {'b': (3, 2)}}}}


# -- Forward -----------------------------------------------------------------------


@pytest.mark.parametrize('fields, numbers', [
  ({'x_times': 3}, (40, -0.2814679, 0.3744462, 9.21923)),
  ({'x_times': 6, 'nd_prefix_shape': (3, 2)}, (40, 0.544542, -0.3912984, 13.22058)),
], ids=['Repeat FF tanh x3', 'Repeat nd'])
def test_reference_values(fields, numbers):
  sub = Config(linears.FeedForward, input_dims=4, output_dims=4,
               activation_tpl=Config(activations.Tanh))
  reference.check(
    reference.run(Config(Repeat, sub_tpl=sub, **fields), reference.X), *numbers)


def test_numbers_of_praxis(variables):
  """Initial values, output, state, losses, noise."""
  def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=FIVE_DIGITS)

  close(variables['params']['sub']['w'][1],
        [[-0.14679, -1.0886], [-0.097031, -0.49357]])
  close(variables['params']['sub']['b'][2], [-0.37343, -0.31226])
  out, updated = repeat().apply(variables, X, mutable=WRITTEN)
  close(out, [-0.74205, 0.14241])
  close(updated['non_trainable']['sub']['n'], [-0.4, 0.25977, 0.76412])
  close(updated['summaries']['sub']['s_scalar'], [-0.4, 0.25977, 0.76412])
  loss = updated['aux_loss']['sub']['a']
  close([loss.value, loss.weight], [1.5019, 2.69])
  out, updated = repeat().apply(variables, X, mutable=WRITTEN, rngs=RANDOM, noise=True)
  close(out, [-0.751, 0.23071])
  close(updated['summaries']['sub']['s_scalar'], [-0.4, 0.90257, -0.0013168])


def test_equals_a_loop(variables):
  params = variables['params']['sub']
  equal(repeat().apply(variables, X), loop(params, X)[-1])
  equal(repeat().apply(variables, X, 2 * X, z=1.5),
        loop(params, X, [2 * X] * 3, [1.5] * 3)[-1])


def test_per_layer_kwargs(variables):
  params, a, b = variables['params']['sub'], jnp.arange(3.0), 0.1 * jnp.arange(3.0)
  equal(repeat().apply(variables, X, per_layer_kwargs={'z': a},
                       reversed_per_layer_kwargs={'y': b}),
        loop(params, X, b[::-1], a)[-1])
  clash = repeat().apply(variables, X, per_layer_kwargs={'z': a},
                         reversed_per_layer_kwargs={'z': b})
  equal(clash, loop(params, X, None, b[::-1])[-1])


def test_methods(variables):
  equal(repeat().apply(variables, X, method_name='double'), 8 * X)
  carry = X
  for w, b in zip(*(variables['params']['sub'][n] for n in 'wb'), strict=True):
    carry = 2 * jnp.tanh(carry @ w + b)
  equal(repeat().apply(variables, X, method=lambda layer, x: (
    layer.call_with_custom_method(
      x, method_factory=lambda sub: lambda x: sub.double(sub(x))))), carry)


def test_sublayer_is_a_child_of_its_own_name():
  layer = repeat(sublayer_name='block')
  variables = layer.init(KEYS, X)
  assert set(variables['params']) == {'block'}
  assert layer.apply(variables, method=lambda r: (
    r.block is r.sublayer, r.sublayer.name)) == (True, 'block')


def test_positional_args_as_carry(variables):
  layer = repeat(positional_args_as_scan_carry=True)
  x, total = X, 0.0
  for w in variables['params']['sub']['w']:
    x, total = x @ w, total + x.sum()
  found = layer.apply(variables, X, jnp.float32(0), method_name='two')
  equal(found, (x, total))
  alone = layer.apply(variables, X)
  equal(alone, (loop(variables['params']['sub'], X)[-1],))


def test_intermediate_outputs(variables):
  carries = jnp.stack(loop(variables['params']['sub'], X))
  equal(repeat(return_intermediate_outputs=True).apply(variables, X), carries)
  out, updated = repeat(collect_intermediate_outputs=True).apply(
    variables, X, mutable=['intermediates'])
  equal(out, carries[-1])
  equal(updated['intermediates'], {'repeat_intermediates': (carries,)})
  both = repeat(collect_intermediate_outputs=True, return_intermediate_outputs=True)
  out, updated = both.apply(variables, X, mutable=['intermediates'])
  equal(out, carries)
  assert updated == {}, 'returned, hence not collected'
  _, updated = repeat().apply(variables, X, capture_intermediates=True)
  equal(updated['intermediates'], {
    '__call__': (carries[-1],), 'sub': {'__call__': (carries,)}})


class Unrolled(BaseLayer):
  """The same as a list of layers."""

  def setup(self):
    self.create_children('sub', [Config(Body)] * 3)

  def __call__(self, x):
    for layer in self.sub:
      x = layer(x)
    return x


def test_equals_an_unrolled_list_of_layers(variables):
  unrolled = Unrolled(name='unrolled')
  names = [f'sub_{i}' for i in range(3)]
  apart = {c: {n: jax.tree.map(lambda v, i=i: v[i], variables[c]['sub'])
               for i, n in enumerate(names)} for c in variables}

  def run(layer, variables):
    def loss(params, x):
      out, updated = layer.apply({**variables, 'params': params}, x, mutable=WRITTEN)
      return jnp.sum(out**2), updated

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables['params'], X)

  (value, updated), (grads, dx) = run(repeat(), variables)
  (expected, apart_updated), (apart_grads, apart_dx) = run(unrolled, apart)

  def stack(tree):
    return {'sub': jax.tree.map(lambda *v: jnp.stack(v), *(tree[n] for n in names))}

  # 1e-5: three tanh layers multiply the rounding of each.
  equal((value, dx, grads), (expected, apart_dx, stack(apart_grads)), rtol=1e-5)
  for collection in ('non_trainable', 'summaries'):
    equal(updated[collection], stack(apart_updated[collection]))
  losses = [apart_updated['aux_loss'][n]['a'] for n in names]
  total = updated['aux_loss']['sub']['a']
  equal((total.value, total.weight), tuple(
    sum(getattr(loss, f) for loss in losses) for f in ('value', 'weight')))


@pytest.mark.parametrize('policy', [
  'save_nothing', 'save_everything', 'save_dot_only', 'save_iteration_input'])
def test_checkpoint_policy_changes_no_number(variables, policy):
  def grads(layer):
    return jax.grad(lambda p: jnp.sum(layer.apply({**variables, 'params': p}, X)))(
      variables['params'])

  layer = repeat(checkpoint_policy=repeats.AutodiffCheckpointType(policy))
  equal(grads(layer), grads(repeat()), rtol=1e-5)
  text = str(jax.make_jaxpr(layer.apply)(variables, X))
  assert 'remat' in text or 'checkpoint' in text


def test_body_is_traced_a_fixed_number_of_times():
  calls = []

  class Spy(Body):
    def __call__(self, x):
      calls.append(1)
      return super().__call__(x)

  layer = repeat(50, sub_tpl=Config(Spy))
  variables = layer.init(KEYS, X)
  calls.clear()
  jax.make_jaxpr(layer.apply)(variables, X)
  assert len(calls) <= 2
  text = str(jax.make_jaxpr(layer.apply)(variables, X))
  assert text.count('tanh') == 1 and text.count('scan') >= 1


# -- What the iterations write -----------------------------------------------------


def test_non_trainables_go_on(variables):
  layer = repeat()
  _, first = layer.apply(variables, X, mutable=['non_trainable'])
  _, second = layer.apply({**variables, **first}, X, mutable=['non_trainable'])
  equal(second['non_trainable']['sub']['n'], 2 * first['non_trainable']['sub']['n'])
  assert set(layer.apply(variables, X, mutable=[])[1]) == set()


def test_unpacked_summaries(variables):
  _, packed = repeat().apply(variables, X, mutable=['summaries'])
  _, unpacked = repeat(unpack_summaries=True).apply(variables, X, mutable=['summaries'])
  found = unpacked['summaries']['sub']['s_scalar']
  assert isinstance(found, list) and shapes(found) == [(1,)] * 3
  equal(jnp.concatenate(found), packed['summaries']['sub']['s_scalar'])


def test_unpacked_summaries_of_nested_repeats():
  """The inner list is the outer one: seen in Praxis."""
  inner = Config(Repeat, x_times=3, sub_tpl=Config(Body), unpack_summaries=True)
  layer = repeat(2, sub_tpl=inner, unpack_summaries=True)
  _, updated = layer.apply(layer.init(KEYS, X), X, mutable=['summaries'])
  found = updated['summaries']['sub']['sub']['s_scalar']
  assert shapes(found) == [[(1, 1)] * 2] * 3


def test_aux_losses_are_summed_to_scalars():
  class Lossy(BaseLayer):
    def __call__(self, x):
      self.add_aux_loss('one', 1.0, 0.5)
      self.add_aux_loss('many', jnp.ones((2, 3)))
      return x

  _, updated = repeat(5, sub_tpl=Config(Lossy)).apply({}, X, mutable=['aux_loss'])
  found = updated['aux_loss']['sub']
  assert (found['one'].value, found['one'].weight) == (5.0, 2.5)
  assert (found['many'].value, found['many'].weight) == (30.0, 30.0)


def test_called_twice(variables):
  """The last summaries win; losses add up, where Praxis fails."""
  layer, params = repeat(), variables['params']['sub']
  out, updated = layer.apply(
    variables, X, method=lambda r, x: r(r(x)), mutable=WRITTEN)
  middle = loop(params, X)[-1]
  equal(out, loop(params, middle)[-1])
  _, first = layer.apply(variables, X, mutable=WRITTEN)
  _, second = layer.apply(variables, middle, mutable=WRITTEN)
  equal(updated['summaries'], second['summaries'])
  equal(updated['non_trainable']['sub']['n'],
        first['non_trainable']['sub']['n'] + second['non_trainable']['sub']['n'])
  equal(updated['aux_loss']['sub']['a'].value,
        first['aux_loss']['sub']['a'].value + second['aux_loss']['sub']['a'].value)


def test_noise_differs_between_iterations():
  class Noise(BaseLayer):
    def __call__(self, x):
      return jax.random.uniform(self.next_prng_key(), x.shape)

  layer = repeat(4, sub_tpl=Config(Noise), return_intermediate_outputs=True)
  found = layer.apply({}, X, rngs=RANDOM)
  assert len(np.unique(found)) == 8
  net = hk.transform(lambda x: repeat(
    4, sub_tpl=Config(Noise), return_intermediate_outputs=True)(x))
  assert len(np.unique(net.apply({}, jax.random.PRNGKey(0), X))) == 8
  with pytest.raises(base_layer.InvalidRngError, match="'random'"):
    layer.apply({}, X)
  with pytest.raises(base_layer.InvalidRngError):
    layer.apply({}, X, rngs={'dropout': jax.random.PRNGKey(0)})


# -- Decoding ----------------------------------------------------------------------


def decode(layer, variables, mutable=('decoder_cache',)):
  """Two steps: outputs, caches after each, and what else was written."""
  _, cache = layer.apply(variables, mutable=list(mutable), method='init_states')
  found = [cache]
  for i in range(2):
    given = {**variables, 'decoder_cache': cache['decoder_cache']}
    out, cache = layer.apply(given, X + i, mutable=list(mutable), method='extend_step')
    found += [out, cache]
  return found


# Recorded from Praxis.
STEPS = [[-0.23997, -0.48505], [-0.71286, -0.84673]]
CACHE = [[1.6688, 0.27299], [2.1629, 0.30037], [-0.979, -4.7457]]


def test_scanned_decoding(variables):
  start, out1, _, out2, cache = decode(
    repeat(), variables, ['decoder_cache', 'summaries'])
  assert shapes(start) == {'decoder_cache': {'sub': {'c': (3, 2), 't': (3,)}}}
  equal(start['decoder_cache']['sub']['c'], variables['params']['sub']['b'])
  np.testing.assert_allclose([out1, out2], STEPS, rtol=FIVE_DIGITS)
  found = cache['decoder_cache']['sub']
  np.testing.assert_allclose(found['c'], CACHE, rtol=FIVE_DIGITS)
  np.testing.assert_array_equal(found['t'], [2, 2, 2])
  np.testing.assert_allclose(
    cache['summaries']['sub']['step_scalar'], [1.6, 0.71502, -2.8494], rtol=FIVE_DIGITS)


def test_unrolled_decoding(variables):
  start, out1, _, out2, cache = decode(
    repeat(unroll_in_decode=True), variables, [*WRITTEN, 'decoder_cache'])
  assert shapes(start['decoder_cache']) == {
    'sub': {f'layer{i}': {'c': (2,), 't': ()} for i in range(3)}}
  np.testing.assert_allclose([out1, out2], STEPS, rtol=FIVE_DIGITS)
  for i in range(3):
    here = cache['decoder_cache']['sub'][f'layer{i}']
    np.testing.assert_allclose(here['c'], CACHE[i], rtol=FIVE_DIGITS)
    assert here['t'] == 2
  assert 'summaries' not in cache, 'not recorded'
  equal(cache['non_trainable'], variables['non_trainable'])


def test_unrolled_decoding_with_nd_prefix():
  flat, nd = repeat(4), repeat(4, nd_prefix_shape=(2, 2), unroll_in_decode=True)
  _, out1, _, out2, cache = decode(nd, nd.init(KEYS, X))
  _, flat1, _, flat2, flat_cache = decode(flat, flat.init(KEYS, X))
  equal((out1, out2), (flat1, flat2))
  for i in range(4):
    equal(cache['decoder_cache']['sub'][f'layer{i}'], jax.tree.map(
      lambda v, i=i: v[i], flat_cache['decoder_cache']['sub']))


@pytest.mark.parametrize('unroll', [False, True])
def test_prefill_by_call_and_go_on(variables, unroll):
  layer = repeat(unroll_in_decode=unroll)

  def prefill(r, x):
    return r(x, method_name='prefill')

  out, cache = layer.apply(variables, X, mutable=['decoder_cache'], method=prefill)
  np.testing.assert_allclose(out, STEPS[0], rtol=FIVE_DIGITS)
  names = {f'layer{i}' for i in range(3)} if unroll else {'c', 't'}
  assert set(cache['decoder_cache']['sub']) == names
  out, cache = layer.apply({**variables, **cache}, X + 1, mutable=['decoder_cache'],
                           method='extend_step')
  np.testing.assert_allclose(out, STEPS[1], rtol=FIVE_DIGITS)
  out, again = layer.apply({**variables, **cache}, X, mutable=['decoder_cache'],
                           method=prefill)
  np.testing.assert_allclose(out, STEPS[0], rtol=FIVE_DIGITS)
  assert shapes(again) == shapes(cache), 'caches given before a prefill do not matter'


@pytest.mark.parametrize('unroll', [False, True])
def test_other_decoding_methods(variables, unroll):
  layer, caches = repeat(unroll_in_decode=unroll), ['decoder_cache',
                                                    'prefix_decoder_cache']

  def get(cache, name='decoder_cache', key='c'):
    sub = cache[name]['sub']
    return jnp.stack([sub[f'layer{i}'][key] for i in range(3)]) if unroll else sub[key]

  def run(cache, method):
    return layer.apply({**variables, **cache}, mutable=caches, method=method)[1]

  start = run({}, 'init_states')
  b = variables['params']['sub']['b']
  equal(get(start), b)
  tenfold = run(start, lambda r: r.transform_decode_state(lambda x, b, t: 10 * x))
  equal(get(tenfold), 10 * b)
  aligned = run(start, lambda r: r.right_align_decode_state_with_prefix(
    4, lambda x, size: x + size))
  equal(get(aligned), b + 4)
  wide = run(start, lambda r: r.lazy_broadcast_prefix(2, 3))
  equal(get(wide), jnp.full((3, 2), 6))
  equal(get(wide, 'prefix_decoder_cache', 'p'), b)


def test_decoding_needs_variables():
  for use in (lambda r: r.init_states(), lambda r: r.extend_step(X),
              lambda r: r.transform_decode_state(None),
              lambda r: r.lazy_broadcast_prefix(1, 1)):
    with pytest.raises(AssertionError, match="Repeat 'repeat'.*initialized"):
      repeat().init(KEYS, method=use)


# -- Quantization ------------------------------------------------------------------


def test_quantize_weight(variables):
  equal(repeat().apply(variables, method='quantize_weight'), variables)
  specs = repeat().apply(variables, method='quantized_partition_specs')
  spec = jax.sharding.PartitionSpec
  assert {n: s.meta for n, s in specs['params']['sub'].items()} == {
    'w': spec(None, None, None), 'b': spec(None, None)}
  assert specs['non_trainable']['sub']['n'].meta == spec(None)


# -- Errors ------------------------------------------------------------------------


@pytest.mark.parametrize('fields, text', [
  ({'sub_tpl': None}, 'sub_tpl is required'),
  ({'x_times': 0}, 'x_times must be > 0, found 0'),
  ({'weight_split_dims_mapping': Config(Repeat.WeightSharding, sub=['a', 'b'])},
   r"weight_split_dims_mapping.sub must be None or a list of one entry"),
  ({'optimizer_dims_mapping': 'a'}, 'optimizer_dims_mapping must be None'),
  ({'nd_prefix_shape': (2, 2)}, r'nd_prefix_shape \(2, 2\) must be x_times \(3\)'),
  ({'nd_prefix_shape': ()}, 'nd_prefix_shape'),
  ({'x_times': 4, 'nd_prefix_shape': (2, 2), 'optimizer_dims_mapping': ['a']},
   'must be None.*several dims'),
], ids=lambda v: None if isinstance(v, str) else next(iter(v)))
def test_wrong_fields(fields, text):
  with pytest.raises(AssertionError, match=f"Repeat 'repeat'.*{text}"):
    repeat(**{'x_times': 3, **fields}).init(KEYS, X)


def test_sublayer_cannot_be_named_as_a_field():
  with pytest.raises(AttributeError, match="'x_times'"):
    repeat(sublayer_name='x_times').init(KEYS, X)


def test_sublayer_must_keep_the_structure():
  with pytest.raises(ValueError, match="(?s)Repeat 'repeat'.*structure"):
    repeat().init(KEYS, X, method=lambda r, x: r.call_with_custom_method(
      x, method_factory=lambda sub: lambda x: (x, x)))


def test_sublayer_must_keep_dtype_and_shape(variables):
  with pytest.raises(TypeError, match='carry'):
    repeat().apply(variables, X.astype(jnp.bfloat16))
  with pytest.raises(TypeError, match='carry'):
    repeat().apply(variables, X, method=lambda r, x: r.call_with_custom_method(
      x, method_factory=lambda sub: lambda x: jnp.concatenate([x, x])))


def test_errors_inside_name_the_full_path():
  class Wrong(BaseLayer):
    def setup(self):
      self.create_child('bias', Config(linears.Bias, dims=2))

    def __call__(self, x):
      return self.bias(x) + self.bias.theta.nope

  inner = Config(Repeat, x_times=2, sub_tpl=Config(Wrong), sublayer_name='in')
  layer = Repeat(x_times=2, sub_tpl=inner, name='repeat')
  with pytest.raises(ValueError, match="Bias 'repeat/sub/in/bias'.*'nope'"):
    layer.init(KEYS, X)
  with pytest.raises(ValueError, match="Bias 'repeat/sub/in/bias'.*'nope'"):
    hk.transform(lambda x: Repeat(x_times=2, sub_tpl=inner, name='repeat')(x)).init(
      KEYS['params'], X)


def test_bfloat16():
  layer = repeat(fprop_dtype=jnp.bfloat16)
  variables = layer.init(KEYS, X.astype(jnp.bfloat16))
  assert variables['params']['sub']['w'].dtype == jnp.float32
  out = layer.apply(variables, X.astype(jnp.bfloat16))
  assert out.dtype == jnp.bfloat16
  # bfloat16 has 8 bits of mantissa.
  equal(out.astype(jnp.float32), loop(variables['params']['sub'], X)[-1], rtol=0.03)


# -- Inside Haiku ------------------------------------------------------------------


class Model(BaseLayer):
  """A Repeat between other things."""

  noise: Any = False

  def setup(self):
    self.create_child('stack', Config(Repeat, x_times=3, sub_tpl=Config(Body)))
    self.create_child('bias', Config(linears.Bias, dims=2))

  def __call__(self, x):
    return self.bias(self.stack(x, noise=self.noise))


def test_under_transform_with_state():
  net = hk.transform_with_state(lambda x: Model(name='model', noise=True)(x))
  params, state = jax.jit(net.init)(KEYS['params'], X)
  assert shapes(params) == {
    'model/stack/sub': {'w': (3, 2, 2), 'b': (3, 2)}, 'model/bias': {'b': (2,)}}
  assert set(state) == {'model/stack/sub'}
  assert set(state['model/stack/sub']) == {'n', 'summaries', 'aux_loss'}
  assert len(np.unique(params['model/stack/sub']['w'])) == 12
  (step, traces), treedef = jit_and_count(net.apply), jax.tree.structure(state)
  outs = []
  for seed in (0, 0, 1):
    out, state = step(params, state, jax.random.PRNGKey(seed), X)
    assert jax.tree.structure(state) == treedef
    outs.append(out)
  assert len(traces) == 1
  equal(outs[0], outs[1])
  assert (outs[0] != outs[2]).all()
  # Of the third step alone, and of all three.
  assert state['model/stack/sub']['aux_loss']['a'].weight < 4
  equal(state['model/stack/sub']['n'][0], 3 * X.sum())


def test_both_faces_agree():
  from pax_haiku.core import variables as trees

  layer = Model(name='model')
  variables = layer.init(KEYS, X)
  params, state = trees.to_haiku(variables, root='model')
  out, state = hk.transform_with_state(lambda x: Model(name='model')(x)).apply(
    params, state, None, X)
  expected, updated = layer.apply(variables, X, mutable=WRITTEN)
  equal(out, expected)
  equal({c: t for c, t in trees.to_pax(params, state, root='model').items()
         if c in WRITTEN}, updated)


def test_gradients_under_transform_with_state():
  net = hk.transform_with_state(lambda x: Model(name='model')(x))
  params, state = net.init(KEYS['params'], X)

  def by_hand(params):
    return jnp.sum(loop(params['model/stack/sub'], X)[-1] + params['model/bias']['b'])

  found = jax.grad(lambda p: jnp.sum(net.apply(p, state, None, X)[0]))(params)
  equal(found, jax.grad(by_hand)(params), rtol=1e-5)


def test_haiku_modules_inside():
  """Random numbers of a plain Haiku module differ between the iterations too."""
  class Hosting(BaseLayer):
    def setup(self):
      self.linear = hk.Linear(2, name='linear')

    def __call__(self, x):
      x = self.linear(x)
      count = hk.get_state('count', [], init=jnp.zeros)
      hk.set_state('count', count + 1)
      return x + jax.random.uniform(hk.next_rng_key(), x.shape)

  net = hk.transform_with_state(lambda x: repeat(
    sub_tpl=Config(Hosting), return_intermediate_outputs=True)(x))
  params, state = net.init(KEYS['params'], X)
  assert shapes(params) == {'repeat/sub/linear': {'w': (3, 2, 2), 'b': (3, 2)}}
  params = jax.tree.map(jnp.zeros_like, params)
  out, state = net.apply(params, state, KEYS['random'], X)
  assert len(np.unique(out)) == 6
  np.testing.assert_array_equal(state['repeat/sub']['count'], [1, 1, 1])


def test_haiku_interceptors_reach_inside(variables):
  calls = []

  def halve(next_getter, value, context):
    return next_getter(0.5 * value)

  def watch(next_f, args, kwargs, context):
    if context.method_name == '__call__':
      calls.append(type(context.module).__name__)
    return next_f(*args, **kwargs)

  def net(x):
    with hk.custom_getter(halve), hk.intercept_methods(watch):
      return repeat()(x)

  params = {'repeat/sub': variables['params']['sub']}
  state = {'repeat/sub': variables['non_trainable']['sub']}
  out, _ = hk.transform_with_state(net).apply(params, state, None, X)
  half = jax.tree.map(lambda p: 0.5 * p, params['repeat/sub'])
  equal(out, loop(half, X)[-1])
  assert 'Repeat' in calls and 'Body' in calls


def test_jax_transforms(variables):
  layer = repeat()
  out = layer.apply(variables, X)
  with jax.checking_leaks():
    equal(jax.jit(layer.apply)(variables, X), out)
    jax.jit(layer.init)(KEYS, X)
    layer.abstract_init_with_metadata(X)
  batch = jnp.stack([X, 2 * X])
  equal(jax.vmap(layer.apply, (None, 0))(variables, batch)[0], out)
  assert jax.eval_shape(layer.apply, variables, X).shape == (2,)


def test_bind(variables):
  bound = repeat().bind(variables, rngs=RANDOM, mutable=['non_trainable'])
  equal(bound(X), repeat().apply(variables, X))
  first, second = bound(X, noise=True), bound(X, noise=True)
  assert (first != second).all(), 'counters go on'
  equal(bound.variables['non_trainable']['sub']['n'][0], 3 * X.sum())
