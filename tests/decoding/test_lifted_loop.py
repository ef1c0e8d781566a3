"""Loops over a layer with decode caches against the same steps unrolled in Python."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import BaseLayer, WeightHParams, base_layer, instantiate, pax_fiddle
from pax_haiku.core import errors, lifted_loop, rng


class Cell(BaseLayer):
  """h <- tanh(h w + noise), kept as a decode cache; counts its steps in a summary."""

  def setup(self):
    self.create_variable('w', WeightHParams(shape=[3, 3]))

  def __call__(self, x):
    self.update_decode_state('h', x)
    return x

  def step(self, noisy=False):
    h = jnp.tanh(self.get_decode_state('h') @ self.theta.w)
    if noisy:
      h = h + jax.random.normal(self.next_prng_key(), h.shape)
    self.add_summary('h_mean', jnp.mean(h))
    self.add_aux_loss('h_sum', jnp.sum(h))
    self.update_decode_state('h', h)
    return h


class Loops(BaseLayer):
  """Steps a cell, in several ways."""

  cell_tpl: pax_fiddle.Config = pax_fiddle.template_field(Cell)

  def setup(self):
    self.create_child('cell', self.cell_tpl)

  def __call__(self, x):
    return self.cell(x)

  def unrolled(self, x, steps, noisy=False):
    self.cell(x)
    return x + sum(self.cell.step(noisy) for _ in range(steps))

  def looped(self, x, steps, noisy=False, **kwargs):
    self.cell(x)

    def body(mdl, carry):
      i, total = carry
      return i + 1, total + mdl.cell.step(noisy)

    def go_on(carry):
      return carry[0] < steps

    carry = (jnp.int32(0), x)
    return lifted_loop.while_loop(self, go_on, body, carry, **kwargs)[1]

  def scanned(self, x, steps, noisy=False):
    self.cell(x)
    return lifted_loop.scan(self, lambda m, c: c + m.cell.step(noisy), x, steps)

  def keys(self, steps):
    self.cell.next_prng_key()

    def body(mdl, carry):
      i, keys = carry
      return i + 1, keys.at[i].set(mdl.cell.next_prng_key())

    carry = (jnp.int32(0), jnp.zeros([steps, 2], jnp.uint32))
    _, first = lifted_loop.while_loop(self, lambda c: c[0] < steps, body, carry)
    _, again = lifted_loop.while_loop(self, lambda c: c[0] < steps, body, carry)
    return first, again, self.cell.next_prng_key()

  def grows(self, x):
    self.cell(x)

    def body(mdl, i):
      h = mdl.cell.get_decode_state('h')
      mdl.cell.update_decode_state('h', jnp.concatenate([h, h]))
      return i + 1

    return lifted_loop.while_loop(self, lambda i: i < 2, body, jnp.int32(0))

  def creates(self, x):
    def body(mdl, i):
      mdl.cell(x)
      return i + 1

    return lifted_loop.while_loop(self, lambda i: i < 2, body, jnp.int32(0))


X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
KEY = jax.random.PRNGKey(4)
CACHE = ['decoder_cache', 'summaries', 'aux_loss']


@pytest.fixture(scope='module')
def layer():
  return instantiate(pax_fiddle.Config(Loops, name='loops'))


@pytest.fixture(scope='module')
def variables(layer):
  return layer.init(jax.random.PRNGKey(0), X)


def _apply(layer, variables, method, *args, **kwargs):
  return layer.apply(
    variables, X, *args, method=method, mutable=CACHE, rngs={'random': KEY}, **kwargs
  )


@pytest.mark.parametrize('steps', [0, 1, 4])
def test_while_loop_does_what_the_steps_do(layer, variables, steps):
  want, updated = _apply(layer, variables, 'unrolled', steps)
  got, looped = _apply(layer, variables, 'looped', steps)
  np.testing.assert_allclose(got, want, rtol=1e-6)  # XLA may fuse the sum
  h, want = (u['decoder_cache']['cell']['h'] for u in (looped, updated))
  np.testing.assert_allclose(h, want, rtol=1e-6)


def test_summaries_and_losses_do_not_leave_a_while_loop(layer, variables):
  _, updated = _apply(layer, variables, 'looped', 2)
  assert 'summaries' not in updated and 'aux_loss' not in updated


def test_scan_stacks_summaries_and_losses(layer, variables):
  out, updated = _apply(layer, variables, 'scanned', 3)
  want, _ = _apply(layer, variables, 'unrolled', 3)
  np.testing.assert_allclose(out, want, rtol=1e-6)
  h, means, sums = X, [], []
  for _ in range(3):
    h = np.tanh(h @ np.asarray(variables['params']['cell']['w']))
    means.append(h.mean())
    sums.append(h.sum())
  summary = updated['summaries']['cell']['h_mean_scalar']
  np.testing.assert_allclose(summary, means, rtol=1e-5, atol=1e-6)
  loss = updated['aux_loss']['cell']['h_sum']
  np.testing.assert_allclose(loss.value, sums, rtol=1e-5, atol=1e-6)
  assert loss.weight.shape == (3,)


def test_scan_can_be_differentiated(layer, variables):
  def loss(variables, method):
    out, _ = _apply(layer, variables, method, 3, noisy=False)
    return jnp.sum(out**2)

  got = jax.grad(loss)(variables, 'scanned')['params']['cell']['w']
  want = jax.grad(loss)(variables, 'unrolled')['params']['cell']['w']
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_forward_gradients_pass_a_while_loop(layer, variables):
  def out(variables, method):
    return _apply(layer, variables, method, 3)[0]

  tangent = jax.tree.map(jnp.ones_like, variables)
  _, got = jax.jvp(lambda v: out(v, 'looped'), (variables,), (tangent,))
  _, want = jax.jvp(lambda v: out(v, 'unrolled'), (variables,), (tangent,))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_keys_of_an_iteration(layer, variables):
  """fold_in(root, i), then path and count, which goes on from before the loop."""
  first, again, after = layer.apply(variables, 3, method='keys', rngs={'random': KEY})
  for i in range(3):
    root = jax.random.fold_in(KEY, i)
    np.testing.assert_array_equal(first[i], rng.fold_in_path(root, ('cell',), 2))
    np.testing.assert_array_equal(again[i], rng.fold_in_path(root, ('cell',), 3))
  np.testing.assert_array_equal(after, rng.fold_in_path(KEY, ('cell',), 4))


def test_streams_that_are_not_split_are_not_there(layer, variables):
  with pytest.raises(errors.InvalidRngError, match="'random'"):
    _apply(layer, variables, 'looped', 2, noisy=True, split_rngs=())


def test_immutable_caches_stay(layer, variables):
  _, caches = _apply(layer, variables, 'looped', 1)

  def body(layer):
    return lifted_loop.while_loop(
      layer, lambda i: i < 3, lambda m, i: (m.cell.step(), i + 1)[1], jnp.int32(0)
    )

  given = {**variables, 'decoder_cache': caches['decoder_cache']}
  assert layer.apply(given, method=body) == 3


@pytest.mark.parametrize(
  'method,what',
  [('grows', r'float32\[2,3\] before, float32\[4,3\] after'), ('creates', 'created')],
)
def test_caches_may_not_change_their_shape(layer, variables, method, what):
  with pytest.raises(ValueError, match=f"(?s)Loops 'loops'.*{what}.*before the loop"):
    _apply(layer, variables, method)


def test_inside_a_haiku_transform():
  def function(x, steps):
    layer = instantiate(pax_fiddle.Config(Loops, name='loops'))
    noise = hk.Linear(3)(x)
    return layer.looped(x + noise, steps, noisy=True)

  f = hk.transform_with_state(function)
  params, state = f.init(KEY, X, 3)
  assert set(params) == {'loops/cell', 'linear'}
  step = jax.jit(f.apply, static_argnums=4)
  first, state = step(params, state, KEY, X, 3)
  again, later = step(params, state, KEY, X, 3)
  other, _ = step(params, state, jax.random.PRNGKey(5), X, 3)
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.1
  assert jax.tree.structure(state) == jax.tree.structure(later)
  assert state['loops/cell']['decoder_cache']['h'].shape == (2, 3)


class Shared(BaseLayer):
  """A Loops below the root whose cell is a shared layer, which lives at the root."""

  def setup(self):
    cell = pax_fiddle.Config(Cell, shared_weight_layer_id='the_cell')
    self.create_child('loops', pax_fiddle.Config(Loops, cell_tpl=cell))

  def __call__(self, x):
    return self.loops(x)

  def looped(self, x):
    return self.loops.looped(x, 3)

  def unrolled(self, x):
    return self.loops.unrolled(x, 3)


def test_layers_shared_from_outside():
  layer = instantiate(pax_fiddle.Config(Shared, name='shared'))
  with base_layer.JaxContext.new_context():
    variables = layer.init(jax.random.PRNGKey(0), X)
    got, updated = layer.apply(variables, X, method='looped', mutable=CACHE)
    want, unrolled = layer.apply(variables, X, method='unrolled', mutable=CACHE)
  assert set(variables['params']) == {'the_cell'}
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert jax.tree.structure(updated['decoder_cache']) == jax.tree.structure(
    unrolled['decoder_cache']
  )


def test_jit_traces_the_body_once(layer, variables):
  traces = []

  def method(layer, x):
    def body(mdl, carry):
      traces.append(1)
      i, total = carry
      return i + 1, total + mdl.cell.step()

    layer.cell(x)
    return lifted_loop.while_loop(layer, lambda c: c[0] < 3, body, (jnp.int32(0), x))

  run = jax.jit(lambda v, x: layer.apply(v, x, method=method, mutable=CACHE))
  run(variables, X)
  run(variables, X + 1)
  assert len(traces) == 1
