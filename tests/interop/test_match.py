"""Matching without names: layouts, fusions, stacks, averages, doubts."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import interop, layers
from pax_haiku.interop import match_graph, match_model, match_roles, match_values
from tests.interop import port_models as models
from tests.interop.port_models import Config, normal

X = normal(1, 6, 3)


def rules(mapping):
  return {r.name: str(r.expr) for r in mapping.rules if r.way != 'back'}


def same_function(mapping, source, target, *args, do_eval=None, back=False):
  """Whether converted variables give the other model's outputs, to float32 rounding
  of a few layers."""
  a, b = (match_model.as_model(m, args=args, do_eval=do_eval) for m in (source, target))
  first, second = (b, a) if back else (a, b)
  key = jax.random.PRNGKey(0)
  theirs = first.call(first.tree, key, args, {})[0]
  tree = mapping.convert(first.tree, back=back, like=second.tree)
  ours = second.call(tree, key, args, {})[0]
  np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.fixture(scope='module')
def mixed():
  return interop.match(models.hk_mixed, Config(models.Mixed, name='net'), X)


def test_every_kind_of_layer_is_proved(mixed):
  assert mixed.proved == 1.0
  assert not mixed.ambiguous and not mixed.unused
  found = rules(mixed)
  stack = 'params:__layer_stack_no_per_layer/linear'
  assert found['params:a/linear/w'] == 'params:mlp/~/linear_0/w'
  assert found['params:b/bias/b'] == 'params:mlp/~/linear_1/b'
  # Haiku multiplies by `scale`, Pax by `1 + scale`.
  assert found['params:ln/scale'] == 'add(params:layer_norm/scale, -1)'
  assert found['params:ff_1/linear/w'] == f'index({stack}/w, 1, 3)'
  average = 'state:batch_norm/~/mean_ema/average'
  assert found['non_trainable:bn/moving_mean'] == f'reshape({average}, [1,4], [4])'


def test_converts_there_and_back(mixed):
  port = Config(models.Mixed, name='net')
  same_function(mixed, models.hk_mixed, port, X)
  same_function(mixed, models.hk_mixed, port, X, back=True)


def test_training_goes_on_alike_after_conversion(mixed):
  """Averages of Pax become old averages of Haiku, so the next update is the same."""
  port = match_model.as_model(Config(models.Mixed, name='net'), args=(X,))
  original = match_model.as_model(models.hk_mixed, args=(X,))
  values = match_model.randomized(port.entries, 3)
  state = mixed.backward(values)
  key = jax.random.PRNGKey(0)
  ours = port.run(values, key, (X,), {})[1]
  theirs = original.run(state, key, (X,), {})[1]
  for name, short in (('mean', 'mean'), ('variance', 'var')):
    there = theirs[f'state:batch_norm/~/{short}_ema/average']
    np.testing.assert_allclose(
      ours[f'non_trainable:bn/moving_{name}'], there[0], rtol=1e-5
    )


def test_stacks_a_list_of_layers():
  listed = Config(models.Mixed, name='net')
  stacked = Config(models.Mixed, stacked=True, name='net')
  mapping = interop.match(listed, stacked, X)
  assert mapping.proved == 1.0
  expected = ', '.join(f'params:ff_{i}/linear/w' for i in range(3))
  assert rules(mapping)['params:ff/sub/linear/w'] == f'stack({expected})'
  same_function(mapping, listed, stacked, X, back=True)


ATTENTION = normal(2, 2, 5, models.DIM)


@pytest.mark.parametrize(
  'port, fused, post',
  [
    (Config(models.PaxAttention, name='net'), 'atten/combined_qkv/', 'atten/post/w'),
    (Config(models.Fused, by_head=True, name='net'), 'qkv_', 'post_w'),
  ],
  ids=['of Pax', 'by head'],
)
def test_fuses_projections(port, fused, post):
  mapping = interop.match(models.hk_attention, port, ATTENTION)
  assert not mapping.ambiguous
  notes = {r.name: r.note for r in mapping.rules}
  assert notes[f'params:{fused}w'] == notes[f'params:{post}'] == 'proved'
  # A key's bias moves all logits of a row alike, and softmax takes no notice.
  assert notes[f'params:{fused}b'] == (
    'by values, the output does not depend on params:multi_head_attention/key/b'
  )
  same_function(mapping, models.hk_attention, port, ATTENTION)
  same_function(mapping, models.hk_attention, port, ATTENTION, back=True)


def test_splits_a_fused_projection():
  port = Config(models.Fused, by_head=True, name='net')
  mapping = interop.match(port, models.hk_attention, ATTENTION)
  assert mapping.proved == 1.0 and len(mapping.rules) == 8
  same_function(mapping, port, models.hk_attention, ATTENTION)
  same_function(mapping, port, models.hk_attention, ATTENTION, back=True)


@pytest.mark.parametrize('separate', [False, True])
def test_orders_gates_and_splits_operands(separate):
  x, port = normal(3, 3, 2, 4), Config(models.Lstm, separate=separate, name='net')
  mapping = interop.match(models.hk_lstm, port, x)
  assert mapping.proved == 1.0
  same_function(mapping, models.hk_lstm, port, x)


def test_finds_layouts_of_convolutions_and_averages_in_eval():
  x, port = normal(4, 2, 6, 6, 3), Config(models.Conv, name='net')
  variables = hk.transform_with_state(lambda x: models.hk_conv(x, True)).init(
    jax.random.PRNGKey(0), x
  )
  mapping = interop.match(
    lambda x: models.hk_conv(x, False),
    port,
    x,
    source_variables=variables,
    do_eval=True,
  )
  assert mapping.proved == 1.0 and len(rules(mapping)) == 15
  assert rules(mapping)['params:first'] == 'transpose(params:conv2_d/w, [3,2,0,1])'


def test_tells_a_square_kernel_from_its_transpose():
  def transposed(x):
    w = hk.get_parameter('kernel', [3, 3], init=hk.initializers.RandomNormal())
    return jnp.tanh(jnp.einsum('bi,oi->bo', x, w))

  mapping = interop.match(
    lambda x: jnp.tanh(hk.Linear(3, with_bias=False)(x)), transposed, X
  )
  assert rules(mapping) == {'params:~/kernel': 'transpose(params:linear/w, [1,0])'}
  assert mapping.proved == 1.0


def test_lists_what_nothing_tells_apart():
  """Variables that the program never reads, and whose names say nothing either."""

  def original(x):
    for name in ('first', 'second'):
      hk.get_parameter(name, [5], init=jnp.ones)
    return hk.Linear(2)(x)

  def port(x):
    for name in ('left', 'right'):
      hk.get_parameter(name, [5], init=jnp.ones)
    return hk.Linear(2)(x)

  mapping = interop.match(original, port, X)
  assert [str(a) for a in mapping.ambiguous] == [
    f'? params:~/{name} = params:~/first | params:~/second'
    for name in ('left', 'right')
  ]
  assert mapping.unused == ['params:~/first', 'params:~/second']
  with pytest.raises(interop.MappingError, match='2 entries are not decided'):
    mapping.convert({'params': {}})


def test_matches_unread_variables_by_shape_or_name():
  def original(x):
    hk.get_parameter('table', [5, 2], init=jnp.ones)
    hk.get_parameter('scale_a', [3], init=jnp.ones)
    hk.get_parameter('scale_b', [3], init=jnp.ones)
    return hk.Linear(2)(x)

  def port(x):
    hk.get_parameter('other', [5, 2], init=jnp.ones)
    hk.get_parameter('a_scale', [1, 3], init=jnp.ones)
    hk.get_parameter('b_scale', [1, 3], init=jnp.ones)
    return hk.Linear(2)(x)

  mapping = interop.match(original, port, X)
  notes = {r.name: r.note for r in mapping.rules}
  assert notes['params:~/other'] == 'by shape'
  assert notes['params:linear/w'] == 'proved'


def test_notes_what_could_be_swapped():
  def original(x):
    y = hk.Linear(2, with_bias=False, name='p')(x)
    return y + hk.Linear(2, with_bias=False, name='q')(x)

  def port(x):
    y = hk.Linear(2, with_bias=False, name='u')(x)
    return y + hk.Linear(2, with_bias=False, name='v')(x)

  mapping = interop.match(original, port, X)
  assert [r.note for r in mapping.rules] == [
    'proved; could as well be params:q/w',
    'proved; could as well be params:p/w',
  ]


def test_proves_nothing_of_another_function():
  port = Config(models.Mixed, epsilon=1e-1, name='net')
  mapping = interop.match(models.hk_mixed, port, X)
  notes = {r.name: r.note for r in mapping.rules}
  assert notes['params:a/linear/w'] == 'by values'
  assert not any(note.startswith('proved') for note in notes.values())
  # Behind the fault numbers say nothing, but roles do.
  assert notes['params:ln/scale'].startswith('by role')
  assert 'nothing is proved' in mapping.remarks[0]


def test_an_original_matches_itself_with_three_entries_for_an_average():
  """Haiku's averages on both sides: each of three entries maps to its like."""
  mapping = interop.match(models.hk_mixed, models.hk_mixed, X)
  assert all(r.name == str(r.expr) for r in mapping.rules)
  assert len(mapping.rules) == 16 and not mapping.ambiguous


def test_refuses_what_is_not_deterministic():
  def noisy(x):
    return x + jax.random.normal(hk.next_rng_key(), x.shape) * hk.Linear(3)(x)

  with pytest.raises(ValueError, match='the target model is not deterministic'):
    interop.match(lambda x: hk.Linear(3)(x), noisy, X)


def test_refuses_outputs_of_different_sizes():
  with pytest.raises(ValueError, match=r'the outputs cannot be compared.*\(6, 2\)'):
    interop.match(lambda x: hk.Linear(3)(x), lambda x: hk.Linear(2)(x), X)


def test_refuses_what_is_no_model():
  with pytest.raises(TypeError, match='the source model: expected a Haiku transform'):
    interop.match(3, hk.Linear, X)


# -- The parts -------------------------------------------------------------------------


def test_graph_is_flat_and_has_no_dead_code():
  @jax.jit
  def inner(x):
    jnp.sin(x)  # not used
    return jax.nn.relu(x)

  model = match_model.as_model(lambda x: inner(hk.remat(hk.Linear(2))(x)), args=(X,))
  graph = match_graph.trace(model, (X,), {})
  assert [n.op for n in graph.nodes] == [
    'dot_general',
    'broadcast_in_dim',
    'add',
    'max',
  ]


def test_long_scans_stay_one_node(monkeypatch):
  monkeypatch.setattr(match_graph, '_MAX_UNROLLED', 10)
  x = normal(3, 3, 2, 4)
  graph = match_graph.trace(match_model.as_model(models.hk_lstm, args=(x,)), (x,), {})
  assert [n.op for n in graph.nodes].count('scan') == 1
  mapping = interop.match(models.hk_lstm, models.hk_lstm, x)
  assert mapping.proved == 1.0


def test_colours_tell_neighbours_apart():
  def chain(x):
    for i in range(3):
      x = jnp.tanh(hk.Linear(3, with_bias=False, name=f'l{i}')(x))
    return x

  graph = match_graph.trace(match_model.as_model(chain, args=(X,)), (X,), {})
  (colors,) = match_roles.colours([graph])
  first, second, last = colors.values()
  assert match_roles.agreement(first, first) == len(first)
  assert match_roles.agreement(first, second) < match_roles.agreement(second, second)
  assert len({first, second, last}) == 3


def test_fingerprints_ignore_layout_and_nothing_else():
  x = np.asarray(normal(5, 4, 6))
  index = match_values.Index({0: x}, [0])
  assert index.find(x.T.reshape(2, 12)) == [0]
  assert index.find(x * 1.01) == []
  assert index.find(x + 0.01) == []
  assert match_values.fingerprint(np.ones(5)) is None
  assert match_values.fingerprint(np.arange(5)) is None


def test_layers_are_hosted_on_both_sides():
  """A Pax layer inside Haiku code matches the same layer by itself."""
  layer = Config(layers.LayerNorm, dim=3, name='ln')
  mapping = interop.match(layer, lambda x: layer.Instantiate()(x), X)
  assert rules(mapping) == {
    'params:ln/scale': 'params:scale',
    'params:ln/bias': 'params:bias',
  }


@pytest.mark.parametrize('field', ['dtype', 'fprop_dtype'])
def test_matches_in_bfloat16(field):
  """Weights in bfloat16 on both sides, or on the Haiku side only."""
  port = Config(
    layers.MLPBlock, name='mlp', num_layers=2, hidden_dims=4, activate_final=False
  )
  port.set(**{field: jnp.bfloat16})
  port.ff_tpl.set(input_dims=3, output_dims=4)
  mapping = interop.match(
    lambda x: hk.nets.MLP([4, 4])(x), port, jnp.asarray(X, jnp.bfloat16)
  )
  assert mapping.proved == 1.0
  assert rules(mapping) == {
    f'params:mlp_layers_{i}/{ours}': f'params:mlp/~/linear_{i}/{theirs}'
    for i in range(2)
    for ours, theirs in (('linear/w', 'w'), ('bias/b', 'b'))
  }


def test_stacks_in_stacks_are_lists():
  """Each layer of a stack of stacks is an entry of its own on the other side."""

  def layer(x):
    return jnp.tanh(hk.Linear(3)(x))

  def stacked(x):
    stack = hk.experimental.layer_stack
    return stack(2)(lambda x: hk.LayerNorm(-1, True, True)(stack(2)(layer)(x)))(x)

  def listed(x):
    for _ in range(2):
      x = hk.LayerNorm(-1, True, True)(layer(layer(x)))
    return x

  x = normal(3, 4, 3)
  there, back = interop.match(listed, stacked, x), interop.match(stacked, listed, x)
  for mapping in (there, back):
    assert mapping.proved == 1.0 and not mapping.unused
  rules = {r.name.rpartition('/')[2]: str(r.expr) for r in there.rules}
  assert rules['w'] == (
    'stack(stack(params:linear/w, params:linear_1/w), '
    'stack(params:linear_2/w, params:linear_3/w))'
  )
  entries = match_model.as_model(listed, args=(x,)).entries
  again = back.forward(there.forward(entries))
  for name, value in entries.items():
    np.testing.assert_array_equal(again[name], value)


def weighted(*shape):
  return hk.get_parameter('w', shape, init=hk.initializers.RandomNormal())


def products(x, y):
  """All products of two vectors, weighted, one factor after the other."""
  return jnp.einsum('be,bef->bf', y, jnp.einsum('bc,cef->bef', x, weighted(3, 3, 2)))


def flat_products(x, y):
  """The same by one matrix, of the products in the other order."""
  return jnp.einsum('be,bc->bec', y, x).reshape(-1, 9) @ weighted(9, 2)


def test_what_no_value_shows_is_tried():
  """A product of three is associated otherwise: no intermediate value is the same."""
  x, y = normal(1, 4, 3), normal(2, 4, 3)
  mapping = interop.match(products, flat_products, x, y)
  assert rules(mapping) == {
    'params:~/w': 'reshape(transpose(params:~/w, [1,0,2]), [3,3,2], [9,2])'
  }
  assert mapping.proved == 1.0 and not mapping.ambiguous and not mapping.unused


def test_trials_that_fit_twice_decide_nothing():
  """Of a vector with itself, the products are the same in both orders."""
  x = normal(1, 4, 3)
  both = (lambda x, fn=fn: fn(x, x) for fn in (products, flat_products))
  mapping = interop.match(*both, x)
  assert [a.name for a in mapping.ambiguous] == ['params:~/w'] and not mapping.rules
