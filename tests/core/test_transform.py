"""`pax_haiku.transform`: from a config, a layer or a function to pure functions."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pax_haiku
from pax_haiku import base_layer, layers, pax_fiddle

KEY = jax.random.PRNGKey(0)
X = jnp.arange(6.0).reshape(3, 2)


def linear(**fields):
  return pax_fiddle.Config(layers.Linear, input_dims=2, output_dims=4, **fields)


class Mode(base_layer.BaseLayer):
  """Tells the mode it runs in, and the verbosity."""

  def __call__(self):
    top = base_layer.JaxContext.top()
    return self.do_eval, top and top.summary_verbosity

  def other(self, x):
    return x + 1


@pytest.mark.parametrize('make', [lambda c: c, lambda c: c.Instantiate()])
def test_of_a_layer(make):
  net = pax_haiku.transform(make(linear(name='net')))
  assert isinstance(net, hk.TransformedWithState)
  params, state = net.init(KEY, X)
  assert set(params) == {'net'}
  by_hand = hk.transform_with_state(lambda x: linear(name='net').Instantiate()(x))
  same, _ = by_hand.init(KEY, X)
  np.testing.assert_array_equal(params['net']['w'], same['net']['w'])
  out, state = jax.jit(net.apply)(params, state, None, X)
  np.testing.assert_allclose(out, X @ params['net']['w'], rtol=1e-6)


def test_of_a_layer_without_a_name():
  assert set(pax_haiku.transform(linear()).init(KEY, X)[0]) == {'linear'}


def test_of_a_function():
  net = pax_haiku.transform(
    lambda x: hk.Linear(1)(linear(name='net').Instantiate()(x))
  )
  assert set(net.init(KEY, X)[0]) == {'net', 'linear'}


def test_method():
  config = pax_fiddle.Config(Mode)
  for method in ('other', Mode.other, lambda layer, x: x + 1):
    net = pax_haiku.transform(config, method=method)
    np.testing.assert_array_equal(net.apply({}, {}, None, X)[0], X + 1)
  with pytest.raises(AttributeError, match="no method 'none'"):
    pax_haiku.transform(config, method='none').init(KEY, X)


def test_do_eval():
  def found(**options):
    net = pax_haiku.transform(pax_fiddle.Config(Mode), **options)
    return net.apply({}, {}, None)[0]

  assert found() == (False, None)
  assert found(do_eval=True) == (True, 3)
  hparams = base_layer.JaxContext.HParams(do_eval=True, summary_verbosity=5)
  with base_layer.JaxContext.new_context(hparams=hparams):
    assert found() == found(do_eval=True) == (True, 5)
    assert found(do_eval=False) == (False, 5)
  assert hparams.do_eval and not base_layer.JaxContext.has_context()


def test_errors():
  for wrong in (Mode, 3, pax_fiddle.Config(dict)):
    with pytest.raises(TypeError, match='pax_haiku.transform got .*Give a config'):
      pax_haiku.transform(wrong)
  with pytest.raises(TypeError, match="method='other' is for a layer"):
    pax_haiku.transform(lambda x: x, method='other')

  def inside():
    pax_haiku.transform(pax_fiddle.Config(Mode).Instantiate())

  with pytest.raises(ValueError, match='the layer is bound'):
    hk.transform(inside).init(KEY)
