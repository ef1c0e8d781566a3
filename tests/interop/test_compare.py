"""Comparison of models: planted faults are pointed at by the module's name."""

import html.parser
import json

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, interop, layers, pax_fiddle
from pax_haiku.interop import capture, compare_rows, compare_text, match_model
from pax_haiku.layers import shared_trace
from tests.interop import port_models as models
from tests.interop.port_models import Config, normal

X = normal(1, 6, 3)
IMAGES = normal(4, 2, 6, 6, 3)
MIXED = models.MIXED


def mixed(mapping=MIXED, gradients=False, target_variables=None, **fields):
  port = Config(models.Mixed, name='net', **fields)
  return interop.compare(
    models.hk_mixed,
    port,
    mapping,
    X,
    gradients=gradients,
    target_variables=target_variables,
  )


@pytest.fixture(scope='module')
def equal():
  return mixed(gradients=True)


def test_equal_models_are_equal(equal):
  assert equal.ok and equal.first is None and equal.worst < 1e-5
  assert 'equal: 27 pairs of arrays within 0.0001' in str(equal)
  pairs = [(r.target, r.source) for r in equal.rows if r.part == 'forward']
  assert pairs == [
    ('a/bias', 'mlp/~/linear_0'),
    ('b/activation', 'mlp/~/linear_1'),
    ('b', 'mlp'),
    ('ln', 'layer_norm'),
    ('bn', 'batch_norm'),
  ]


def test_gradients_go_from_output_to_input(equal):
  rows = [r.target for r in equal.rows if r.part == 'gradients']
  assert rows[:2] == ['d params:ff_2/bias/b', 'd params:ff_2/linear/w']
  assert rows.index('d bn') < rows.index('d params:bn/gamma') < rows.index('d ln')
  assert rows[-1] == 'd params:a/linear/w'


def test_finds_a_transposed_kernel():
  source = match_model.as_model(models.hk_mixed, args=(X,))
  entries = match_model.randomized(source.entries, 0)
  made = MIXED.forward(entries)
  made['params:b/linear/w'] = made['params:b/linear/w'].T
  given = match_model.as_model(Config(models.Mixed, name='net'), args=(X,))
  found = mixed(target_variables=given.with_entries(made))
  rows = {r.part: r for r in found.rows if r.first}
  assert rows['variables'].target == found.first.target == 'params:b/linear/w'
  assert (rows['forward'].target, rows['forward'].source) == (
    'b/activation',
    'mlp/~/linear_1',
  )
  assert rows['forward'].entries == ['params:b/linear/w', 'params:b/bias/b']


def test_finds_another_epsilon():
  found = mixed(epsilon=1e-3)
  assert (found.first.target, found.first.source) == ('ln', 'layer_norm')
  assert 'first in forward: ln <- layer_norm, which uses params:ln/scale' in str(found)


def test_finds_a_missing_bias():
  """The mapping is that of the faulty port, as a user would have it."""
  port = Config(models.Mixed, has_bias=False, name='net')
  mapping = interop.match(models.hk_mixed, port, X)
  assert mapping.unused == ['params:mlp/~/linear_1/b'] and not mapping.ambiguous
  found = mixed(mapping, has_bias=False)
  assert (found.first.target, found.first.source) == ('b/activation', 'mlp/~/linear_1')
  assert found.first.entries == ['params:b/linear/w']
  assert found.remarks == ['no rule uses params:mlp/~/linear_1/b of the source']


def test_finds_another_decay():
  found = mixed(decay=0.8)
  assert found.first.part == 'state'
  assert found.first.target == 'non_trainable:bn/moving_mean'
  assert not any(r.past for r in found.rows if r.part in ('forward', 'outputs'))


def test_finds_another_padding():
  port = Config(models.Conv, tf_padding=False, name='net')
  original = lambda x: models.hk_conv(x, True)  # noqa: E731
  mapping = interop.match(original, port, IMAGES, prove=False)
  assert not mapping.ambiguous
  found = interop.compare(original, port, mapping, IMAGES, gradients=False)
  assert (found.first.target, found.first.source) == ('depth', 'depthwise_conv2_d')
  assert found.first.note == 'the shapes differ' and found.first.max_rel == np.inf
  assert 'float32[2,1,1,4] / float32[2,3,3,4]' in str(found)


class Stopped(base_layer.BaseLayer):
  """Two layers; no gradient passes between them."""

  def setup(self):
    self.create_child('one', models.ffn(3, 4))
    self.create_child('two', models.ffn(4, 2))

  def __call__(self, x):
    return self.two(jax.lax.stop_gradient(self.one(x)))


def two_linears(x):
  return hk.Linear(2, name='two')(hk.Linear(4, name='one')(x))


TWO = interop.Mapping.from_text(
  '\n'.join(
    f'params:{n}/{child} = params:{n}/{child[-1]}'
    for n in ('one', 'two')
    for child in ('linear/w', 'bias/b')
  )
)


def test_finds_a_gradient_that_stops():
  found = interop.compare(two_linears, Config(Stopped, name='net'), TWO, X)
  assert found.first.part == 'gradients'
  assert (found.first.target, found.first.source) == ('d one', 'd one')
  assert not any(r.past for r in found.rows if r.part != 'gradients')


def test_activations_within_layers_are_no_fault():
  """A layer with its activation is no counterpart of one without."""

  def original(x):
    return hk.Linear(2, name='two')(jax.nn.relu(hk.Linear(4, name='one')(x)))

  def port(x):
    class Dense(hk.Module):
      def __call__(self, x):
        w = hk.get_parameter('w', [3, 4], init=jnp.ones)
        return jax.nn.relu(x @ w + hk.get_parameter('b', [4], init=jnp.ones))

    return hk.Linear(2, name='two')(Dense(name='one')(x))

  mapping = interop.Mapping.from_text(
    '\n'.join(f'params:{n}/{v} = params:{n}/{v}' for n in ('one', 'two') for v in 'wb')
  )
  found = interop.compare(original, port, mapping, X, gradients=False)
  assert found.ok
  row = found.rows[0]
  assert row.max_rel > 0.1 and row.note == 'what follows agrees: not the same point'


def test_json_and_html(equal):
  data = json.loads(json.dumps(equal.to_json()))
  assert data['ok'] and data['first'] is None and len(data['rows']) == 27
  found = interop.compare(two_linears, Config(Stopped, name='net'), TWO, X)
  page = found.to_html('One <and> the other')
  assert 'One &lt;and&gt; the other' in page and page.count('class="past first"') == 1
  assert 'http' not in page and '<script' not in page and page.count('<svg') > 8

  class Checker(html.parser.HTMLParser):
    open_tags: list = []

    def handle_starttag(self, tag, attrs):
      if tag != 'meta':
        self.open_tags.append(tag)

    def handle_endtag(self, tag):
      assert self.open_tags.pop() == tag

  checker = Checker()
  checker.feed(page)
  assert not checker.open_tags


def test_inside_of_loops_is_left_out():
  """Arrays of a scan's body do not exist outside it."""
  model = match_model.as_model(models.hk_mixed, args=(X,))
  run = capture.capture(model, model.entries, (X,), {}, gradients=False)
  assert 'linear' not in {p.kind.lower() for p in run.points[4:]}
  layer = match_model.as_model(
    Config(layers.Repeat, sub_tpl=models.ffn(3, 3), x_times=2, name='loop'), args=(X,)
  )
  run = capture.capture(layer, layer.entries, (X,), {})
  assert [p.label for p in run.points] == ['loop.call_with_custom_method', 'loop']
  assert run.points[1].entries == {'params:sub/linear/w', 'params:sub/bias/b'}


def test_measures_differences():
  a = np.float32([1, 2, 4])
  assert compare_rows.measure(a, a)[:2] == (0.0, 0.0)
  far, scaled, bins = compare_rows.measure(np.float32([1, 2, 4.5]), a)
  assert (far, scaled) == (0.5, 0.125) and bins == [2, 0, 0, 0, 0, 0, 0, 0, 1, 0]
  assert compare_rows.measure(a, a, 100)[1] == 0.0
  assert compare_rows.measure(a + 1, a, 100)[1] == pytest.approx(0.01)
  nan = np.float32([1, np.nan, 4])
  assert compare_rows.measure(nan, nan)[0] == 0.0
  assert compare_rows.measure(nan, a)[0] == np.inf
  assert compare_rows.measure(a, nan)[0] == np.inf
  assert compare_rows.measure(a, a[:2])[1] == np.inf
  assert compare_text.blocks([0, 8, 0, 1]) == ' ▇ ▁'


def test_stacks_that_trace_blocks_once_show_all_blocks():
  config = pax_fiddle.Config(
    shared_trace.SharedTraceStack,
    name='stack',
    num_layers=2,
    model_dims=4,
    hidden_dims=5,
    num_heads=2,
  )
  args = np.ones((1, 3, 4), np.float32), np.zeros((1, 3), np.float32)
  model = match_model.as_model(config, args=args)
  points, _, _ = capture.points_of(model, args, {})
  modules = {point.module for point in points}
  assert {'x_layers_0/ff_layer', 'x_layers_1/ff_layer'} <= modules
