"""add_summary and add_aux_loss of layers: what is kept, where, and in which shape.

Expected values are Pax's rules, or were seen in the real Praxis. Global summaries and
key suffixes are tested in test_summaries.py.
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from tests.tracing import jit_and_count

BaseLayer = base_layer.BaseLayer
Config = pax_fiddle.Config
JaxContext = base_layer.JaxContext
SummaryType = base_layer.SummaryType
KEY = jax.random.PRNGKey(0)
X = jnp.array([1.0, 2.0])
IMAGE = jnp.ones((2, 3, 1))


class Reporter(BaseLayer):
  """Runs `report(self, x)`."""

  report: Any = None

  def __call__(self, x):
    if self.report:
      self.report(self, x)
    return x


class Parent(BaseLayer):
  """Calls a Reporter `times` times."""

  report: Any = None
  times: int = 1

  def setup(self):
    self.create_child('child', Config(Reporter, report=self.report))

  def __call__(self, x):
    for _ in range(self.times):
      x = self.child(x)
    return x


def written(report, collection='summaries', cls=Reporter, **fields):
  """What a layer wrote to a collection."""
  layer = cls(report=report, name='layer', **fields)
  return layer.apply({}, X, mutable=[collection])[1].get(collection, {})


def verbosity(limit):
  return JaxContext.new_context(hparams=JaxContext.HParams(summary_verbosity=limit))


# -- Summaries ---------------------------------------------------------------------


def test_each_type_has_its_key():
  values = {t: X for t in SummaryType}
  values[SummaryType.IMAGE] = IMAGE
  values[SummaryType.AUDIO] = jnp.ones((4, 1))

  def report(layer, x):
    for kind, value in values.items():
      layer.add_summary('a', value, kind)

  shapes = {k: v.shape for k, v in written(report).items()}
  assert shapes == {
    'a_scalar': (2,), 'a_image': (1, 2, 3, 1), 'a_aggregate_scalar': (2,),
    'a_aggregate_image': (2,), 'a_text': (2,), 'a_audio': (1, 4, 1), 'a_video': (2,),
    'a_histogram': (2,)}


def test_batched_images_and_audio_stay():
  found = written(lambda s, x: (
    s.add_summary('i', IMAGE[None], SummaryType.IMAGE),
    s.add_summary('a', jnp.ones((5, 4, 1)), SummaryType.AUDIO)))
  assert found['i_image'].shape == (1, 2, 3, 1) and found['a_audio'].shape == (5, 4, 1)


@pytest.mark.parametrize('mutable', [['summaries'], False])
def test_wrong_ranks(mutable):
  for kind, text in ((SummaryType.IMAGE, r'IMAGE.*rank 4.*\(2,\)'),
                     (SummaryType.AUDIO, r'AUDIO.*rank 3.*\(1, 1, 1, 2\)')):
    value = X if kind is SummaryType.IMAGE else X[None, None, None]
    layer = Reporter(report=lambda s, x, v=value, k=kind: s.add_summary('a', v, k))
    with pytest.raises(AssertionError, match=text):
      layer.apply({}, X, mutable=mutable)


def test_the_last_of_one_name_and_type_wins():
  found = written(lambda s, x: (s.add_summary('a', 1.0), s.add_summary('a', x),
                                s.add_summary('a', 3.0, SummaryType.HISTOGRAM)))
  assert set(found) == {'a_scalar', 'a_histogram'}
  np.testing.assert_array_equal(found['a_scalar'], X)


def test_a_layer_called_twice_keeps_its_last_summary():
  calls = []

  def report(layer, x):
    calls.append(1)
    layer.add_summary('calls', float(len(calls)))

  found = written(report, cls=Parent, times=2)
  assert found == {'child': {'calls_scalar': 2.0}}


def test_summaries_lie_at_the_path_of_their_layer():
  assert written(lambda s, x: s.add_summary('a', 1.0), cls=Parent) == {
    'child': {'a_scalar': 1.0}}
  assert written(lambda s, x: s.add_summary('a/b c', 1.0)) == {'a/b c_scalar': 1.0}


@pytest.mark.parametrize('limit, kept', [(None, 6), (3, 4), (0, 1), (5, 6)])
def test_verbosity(limit, kept):
  """Without a context nothing is dropped; the default of a context is 3."""
  def report(layer, x):
    for v in range(6):
      layer.add_summary(f'v{v}', 1.0, verbosity=v)

  if limit is None:
    found = written(report)
  else:
    with verbosity(limit):
      found = written(report)
  assert sorted(found) == [f'v{v}_scalar' for v in range(kept)]


def test_default_verbosities():
  with verbosity(1):
    assert written(lambda s, x: s.add_summary('a', 1.0)) == {}
  with verbosity(2):
    assert set(written(lambda s, x: s.add_summary('a', 1.0))) == {'a_scalar'}
  assert JaxContext.HParams().summary_verbosity == 3


def test_a_callable_is_evaluated_only_if_kept():
  def report(layer, x):
    layer.add_summary('a', lambda: (calls.append(1), 2 * x)[1])

  calls = []
  np.testing.assert_array_equal(written(report)['a_scalar'], 2 * X)
  assert len(calls) == 1
  Reporter(report=report).apply({}, X)
  Reporter(report=report).init(KEY, X)
  with verbosity(1):
    written(report)
  assert len(calls) == 1


def test_summaries_are_not_cast():
  found = written(lambda s, x: (s.add_summary('h', x.astype(jnp.bfloat16)),
                                s.add_summary('i', jnp.ones(2, jnp.int32))))
  assert (found['h_scalar'].dtype, found['i_scalar'].dtype) == (jnp.bfloat16, jnp.int32)


def test_summaries_under_jit_and_grad():
  layer = Reporter(report=lambda s, x: s.add_summary('sum', jnp.sum(x)))

  @jax.jit
  def step(x):
    def loss(x):
      out, updated = layer.apply({}, x, mutable=['summaries'])
      return jnp.sum(out**2), updated['summaries']

    return jax.grad(loss, has_aux=True)(x)

  grads, found = step(X)
  np.testing.assert_array_equal(grads, 2 * X)
  assert found == {'sum_scalar': 3.0}


# -- Auxiliary losses --------------------------------------------------------------


def test_aux_loss():
  found = written(lambda s, x: (s.add_aux_loss('a', x),
                                s.add_aux_loss('b', jnp.float32(3.0), 0.5)), 'aux_loss')
  assert isinstance(found['a'], base_layer.AuxLossStruct)
  np.testing.assert_array_equal(found['a'].value, X)
  np.testing.assert_array_equal(found['a'].weight, jnp.ones(2))
  assert (found['b'].value, found['b'].weight) == (3.0, 0.5)


def test_aux_losses_of_one_name_add_up():
  def report(layer, x):
    layer.add_aux_loss('a', 2.0)
    layer.add_aux_loss('a', 3.0, 0.5)

  found = written(report, 'aux_loss')
  assert (found['a'].value, found['a'].weight) == (5.0, 1.5)
  found = written(lambda s, x: s.add_aux_loss('a', jnp.sum(x)), 'aux_loss', cls=Parent,
                  times=3)
  assert (found['child']['a'].value, found['child']['a'].weight) == (9.0, 3.0)


def test_aux_loss_that_is_not_mutable():
  layer = Reporter(report=lambda s, x: s.add_aux_loss('a', 1.0))
  assert layer.apply({}, X, mutable=['summaries'])[1] == {}
  assert layer.init(KEY, X) == {}


def test_collecting_aux_losses_at_the_end():
  """What language models do: sum all leaves found in `self.variables`."""
  class Model(Parent):
    def __call__(self, x):
      super().__call__(x)
      losses = jax.tree.leaves(
        self.variables.get('aux_loss', {}),
        is_leaf=lambda v: isinstance(v, base_layer.AuxLossStruct))
      return sum(loss.value for loss in losses)

  def report(layer, x):
    layer.add_aux_loss('a', jnp.sum(x))

  model = Model(report=report, times=2, name='model')
  assert model.apply({}, X, mutable=['aux_loss'])[0] == 6.0
  assert model.apply({}, X) == 0
  net = hk.transform_with_state(
    lambda x: Model(report=report, times=2, name='model')(x))
  params, state = net.init(None, X)
  for _ in range(2):
    out, state = net.apply(params, state, None, X)
    assert out == 6.0, 'of this step alone'


# -- Buckets in Haiku's state ------------------------------------------------------


def test_buckets_under_a_transform():
  def report(layer, x):
    layer.add_summary('a', jnp.sum(x))
    layer.add_summary('b', x, SummaryType.HISTOGRAM)
    layer.add_aux_loss('l', jnp.sum(x), 0.5)

  net = hk.transform_with_state(
    lambda x: Parent(report=report, times=2, name='top')(x))
  params, first = net.init(KEY, X)
  assert params == {}
  assert set(first) == {'top/child'}
  assert {k: set(v) for k, v in first['top/child'].items()} == {
    'summaries': {'a_scalar', 'b_histogram'}, 'aux_loss': {'l'}}
  apply, traces = jit_and_count(net.apply)
  state = first
  for _ in range(3):
    _, state = apply(params, state, None, X)
    assert jax.tree.structure(state) == jax.tree.structure(first)
    loss = state['top/child']['aux_loss']['l']
    assert (loss.value, loss.weight) == (6.0, 1.0), 'starts afresh at each apply'
  assert len(traces) == 1


def test_summaries_do_not_collide_with_variables():
  class Clash(BaseLayer):
    def setup(self):
      for name in ('a_scalar', 'l'):
        self.create_variable(
          name, base_layer.WeightHParams([], base_layer.WeightInit.Constant(7.0)),
          trainable=False)

    def __call__(self, x):
      self.add_summary('a', jnp.sum(x))
      self.add_aux_loss('l', jnp.sum(x))
      return self.get_var('a_scalar') + self.get_var('l')

  net = hk.transform_with_state(lambda x: Clash()(x))
  params, state = net.init(KEY, X)
  out, state = net.apply(params, state, None, X)
  assert out == 14.0 and state['clash']['summaries']['a_scalar'] == 3.0


def test_what_is_dropped_leaves_no_bucket():
  net = hk.transform_with_state(
    lambda x: Reporter(report=lambda s, x: s.add_summary('a', 1.0), name='r')(x))
  with verbosity(0):
    assert net.init(KEY, X)[1] == {}
    assert net.apply({}, {}, None, X)[1] == {}


def test_a_summary_of_an_earlier_apply_does_not_linger():
  """A summary written in training only is gone from the state of an eval apply."""
  def report(layer, x):
    layer.add_summary('always', jnp.sum(x))
    if not layer.do_eval:
      layer.add_summary('training', jnp.sum(x))

  net = hk.transform_with_state(lambda x: Reporter(report=report, name='r')(x))
  params, state = net.init(KEY, X)
  assert set(state['r']['summaries']) == {'always_scalar', 'training_scalar'}
  with JaxContext.new_context(hparams=JaxContext.HParams(do_eval=True)):
    _, state = net.apply(params, state, None, X)
  assert set(state['r']['summaries']) == {'always_scalar'}
  _, state = net.apply(params, state, None, X)
  assert set(state['r']['summaries']) == {'always_scalar', 'training_scalar'}


def test_losses_of_a_layer_that_is_not_called_do_not_linger():
  class Sometimes(Parent):
    def __call__(self, x):
      if not self.do_eval:
        super().__call__(x)
      losses = jax.tree.leaves(
        self.variables.get('aux_loss', {}),
        is_leaf=lambda v: isinstance(v, base_layer.AuxLossStruct))
      return sum(loss.value for loss in losses)

  net = hk.transform_with_state(lambda x: Sometimes(
    report=lambda s, x: s.add_aux_loss('l', jnp.sum(x)), name='top')(x))
  params, state = net.init(KEY, X)
  with JaxContext.new_context(hparams=JaxContext.HParams(do_eval=True)):
    out, after = net.apply(params, state, None, X)
  assert out == 0
  leaves = jax.tree.leaves({m: b.get('aux_loss', {}) for m, b in after.items()})
  assert sum(leaves) == 0, 'nothing for those who sum up the state'


def test_parent_may_write_to_a_child_before_calling_it():
  class Early(Parent):
    def __call__(self, x):
      self.child.add_summary('before', 1.0)
      self.child.add_aux_loss('l', 2.0)
      return super().__call__(x)

  def report(layer, x):
    layer.add_summary('inside', jnp.sum(x))
    layer.add_aux_loss('l', 1.0)

  net = hk.transform_with_state(lambda x: Early(report=report, name='top')(x))
  params, state = net.init(KEY, X)
  apply, traces = jit_and_count(net.apply)
  for _ in range(3):
    bundle = state['top/child']
    assert set(bundle['summaries']) == {'before_scalar', 'inside_scalar'}
    assert (bundle['aux_loss']['l'].value, bundle['aux_loss']['l'].weight) == (3.0, 2.0)
    _, state = apply(params, state, None, X)
  assert len(traces) == 1


class Clock(base_layer.BaseLayer):
  """Writes a decode state in every call, as a language model its time step."""

  def setup(self):
    self.create_child('cached', pax_fiddle.Config(CachesIfMutable))

  def __call__(self, x):
    self.update_decode_state('time_step', 0)
    return self.cached(x)


class CachesIfMutable(base_layer.BaseLayer):
  """Keeps its input where caches may be written, as attention does."""

  def __call__(self, x):
    if self.is_mutable_collection(base_layer.DECODE_CACHE):
      self.update_decode_state('key_state', x)
    return x


def test_a_cache_of_one_layer_does_not_make_another_cache():
  model = hk.transform_with_state(
    lambda x: base_layer.instantiate(pax_fiddle.Config(Clock, name='net'))(x)
  )
  x = jnp.ones([2])
  params, first = model.init(jax.random.PRNGKey(0), x)
  _, second = model.apply(params, first, None, x)
  assert jax.tree.structure(second) == jax.tree.structure(first)
  given = {**first, 'net/cached': {'decoder_cache': {'key_state': jnp.zeros([2])}}}
  _, filled = model.apply(params, given, None, x)
  assert filled['net/cached']['decoder_cache']['key_state'].sum() == 2
