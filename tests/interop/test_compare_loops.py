"""Comparison inside of loops: a fault in one iteration is pointed at."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, interop, layers
from pax_haiku.interop import capture, capture_loops, match_model
from tests.interop import port_models as models
from tests.interop.port_models import Config, normal

X = normal(1, 6, 4)
DEPTH = 3


def loop(compute, *args, **kwargs):
  return interop.compare(compute, *args, iterations=True, **kwargs)


def stack(x):
  """Blocks of a normalization and a layer, with stacked variables."""

  def block(x):
    return x + jax.nn.gelu(hk.Linear(4)(hk.LayerNorm(-1, True, True)(x)))

  return hk.experimental.layer_stack(DEPTH, name='blocks')(block)(x)


def unstacked(x):
  for _ in range(DEPTH):
    x = x + jax.nn.gelu(hk.Linear(4)(hk.LayerNorm(-1, True, True)(x)))
  return x


def single(name, i):
  """The i-th module or variable of a name in `unstacked`."""
  module, slash, variable = name.partition('/')
  return (f'{module}_{i}' if i else module) + slash + variable


class Block(base_layer.BaseLayer):
  """A normalization, a layer, a skip connection."""

  epsilon: float = 1e-5

  def setup(self):
    norm = Config(layers.LayerNorm, dim=4, epsilon=self.epsilon)
    self.create_child('norm', norm)
    self.create_child('ffn', models.ffn(4, 4, layers.GELU))

  def __call__(self, x):
    return x + self.ffn(self.norm(x))


class Listed(base_layer.BaseLayer):
  """Blocks one by one."""

  def setup(self):
    self.create_children('block', [Config(Block) for _ in range(DEPTH)])

  def __call__(self, x):
    for block in self.block:
      x = block(x)
    return x


REPEAT = Config(layers.Repeat, name='net', sub_tpl=Config(Block), x_times=DEPTH)
LISTED = Config(Listed, name='net')
# For each variable of a block, its name in a port and in the originals.
NAMES = [
  ('norm/scale', 'layer_norm/scale', -1),
  ('norm/bias', 'layer_norm/offset', 0),
  ('ffn/linear/w', 'linear/w', 0),
  ('ffn/bias/b', 'linear/b', 0),
]


def mapping(original, port):
  """Between a stack or list of blocks and another one."""
  lines = []
  for ours, theirs, shift in NAMES:
    parts = [f'params:{single(theirs, i)}' for i in range(DEPTH)]
    if original is stack:
      whole = f'params:blocks/{theirs}'
      parts = [f'index({whole}, {i}, {DEPTH})' for i in range(DEPTH)]
    else:
      whole = f'stack({", ".join(parts)})'
    pairs = [(f'params:block_{i}/{ours}', x) for i, x in enumerate(parts)]
    if port is REPEAT:
      pairs = [(f'params:sub/{ours}', whole)]
    lines += [f'{n} = add({x}, {shift})' if shift else f'{n} = {x}' for n, x in pairs]
  return interop.Mapping.from_text('\n'.join(lines))


@pytest.mark.parametrize('original', [stack, unstacked])
@pytest.mark.parametrize('port', [REPEAT, LISTED])
def test_finds_the_iteration_of_a_transposed_kernel(original, port):
  """Stacked or listed on either side."""
  rules = mapping(original, port)
  source = match_model.as_model(original, args=(X,))
  target = match_model.as_model(port, args=(X,))
  made = rules.forward(match_model.randomized(source.entries, 0))

  def run():
    given = target.with_entries(made)
    return loop(original, port, rules, X, gradients=False, target_variables=given)

  whole = run()
  pairs = [(r.target, r.source) for r in whole.rows if r.part == 'forward']
  assert whole.ok and pairs == [
    (
      (f'sub[{i}]/' if port is REPEAT else f'block_{i}/') + ours,
      f'blocks[{i}]/{theirs}' if original is stack else single(theirs, i),
    )
    for i in range(DEPTH)
    for ours, theirs in (('norm', 'layer_norm'), ('ffn/bias', 'linear'))
  ]
  name = 'params:sub/ffn/linear/w' if port is REPEAT else 'params:block_1/ffn/linear/w'
  kernel = made[name] = made[name].copy()
  at_1 = kernel[1] if port is REPEAT else kernel
  at_1[...] = at_1.T.copy()
  found = run()
  first = {r.part: r for r in found.rows if r.first}
  assert (first['forward'].target, first['forward'].source) == pairs[3]
  part = f'{name}[1]' if port is REPEAT else name
  assert part in first['forward'].entries
  past = [(r.target, r.source) for r in found.rows if r.past and r.part == 'forward']
  assert past == pairs[3:]


def test_without_iterations_a_loop_is_one_row():
  rules = mapping(stack, REPEAT)
  wrong = REPEAT.clone()
  wrong.sub_tpl = Config(Block, epsilon=1e-2)
  found = interop.compare(stack, wrong, rules, X, gradients=False)
  assert not [r for r in found.rows if r.part == 'forward'] and not found.ok
  assert found.remarks[-1].endswith('(--iterations) there is a row for each iteration')
  found = loop(stack, wrong, rules, X, gradients=False)
  assert (found.first.target, found.first.source) == (
    'sub[0]/norm',
    'blocks[0]/layer_norm',
  )
  assert not found.remarks




# -- Loops that share their variables --------------------------------------------------

SEQUENCES = normal(2, 2, 5, 3)


def lstm(x):
  core = hk.LSTM(4)
  return hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0]


class Lstm(base_layer.BaseLayer):
  """The port, with a fault at one step."""

  faulty_step: int | None = None

  def setup(self):
    cell = Config(
      layers.LstmCellSimple,
      num_input_nodes=3,
      num_output_nodes=4,
      cell_value_cap=None,
      forget_gate_bias=1.0,
    )
    self.create_child('rnn', Config(layers.FRnn, cell_tpl=cell))

  def __call__(self, x):
    if self.faulty_step is not None:
      x = x.at[:, self.faulty_step].multiply(2)
    inputs = base_layer.NestedMap(act=x, padding=jnp.zeros([*x.shape[:2], 1]))
    return self.rnn(inputs)[0]


GATES = [
  f'slice(params:lstm/linear/{{}}, {{}}, {i}, {i + 4}, 16)' for i in (4, 0, 8, 12)
]
LSTM = interop.Mapping.from_text(
  '\n'.join(
    f'params:rnn/cell/{ours} = concat('
    + ', '.join(g.format(theirs, axis) for g in GATES)
    + f', {axis}, [4,4,4,4])'
    for ours, theirs, axis in (('wm', 'w', 1), ('b', 'b', 0))
  )
)


def test_steps_of_a_recurrence_go_together():
  found = loop(lstm, Config(Lstm, name='net'), LSTM, SEQUENCES)
  assert found.ok
  pairs = [(r.target, r.source) for r in found.rows if r.part == 'forward'][-10:]
  assert pairs == [
    (f'rnn/cell[{i}][{ours}]', f'lstm[{i}][{theirs}]')
    for i in range(5)
    for ours, theirs in ((0, 2), (1, 0))  # the cell's state, then the output
  ]
  gradients = [r.target for r in found.rows if r.part == 'gradients']
  assert gradients[:2] == ['d rnn/cell[4][1]', 'd rnn/cell[4][0]']


def test_finds_the_step_of_a_fault():
  port = Config(Lstm, name='net', faulty_step=2)
  found = loop(lstm, port, LSTM, SEQUENCES, gradients=False)
  assert (found.first.target, found.first.source) == ('rnn/cell[2][0]', 'lstm[2][2]')


def test_unequal_loops_are_aligned_in_order():
  """A loop in Python against `hk.scan`."""

  def unrolled(x):
    layer = hk.Linear(4, name='step')
    for _ in range(4):
      x = jnp.tanh(layer(x))
    return x

  def scanned(x):
    layer = hk.Linear(4, name='step')
    x = jnp.tanh(layer(x))
    body = lambda x, _: (jnp.tanh(layer(x)), None)  # noqa: E731
    return hk.scan(body, x, None, length=3)[0]

  same = interop.Mapping.from_text(
    'params:step/w = params:step/w\nparams:step/b = params:step/b'
  )
  found = loop(unrolled, scanned, same, X, gradients=False)
  assert found.ok
  assert [(r.target, r.source) for r in found.rows if r.part == 'forward'] == [
    ('step', 'step'),
    ('step[0]', 'step#2'),
    ('step[1]', 'step#3'),
    ('step[2]', 'step#4'),
  ]


# -- What is captured ------------------------------------------------------------------


def nested(x):
  """Stacks in stacks, rematerialized modules, a loop after a stack of that name."""

  def outer(x):
    x = hk.experimental.layer_stack(2)(lambda x: jax.nn.relu(hk.Linear(4)(x)))(x)
    return hk.remat(lambda x: hk.nets.MLP([4])(x))(x)

  x = hk.experimental.layer_stack(2, name='stack')(outer)(x)
  mlp = hk.nets.MLP([4])
  x = hk.vmap(lambda x: hk.Linear(4, name='mapped')(x), split_rng=False)(mlp(x))
  return hk.scan(lambda x, _: (mlp(x), None), x, None, length=2)[0]


@pytest.fixture(scope='module')
def runs():
  model = match_model.as_model(nested, args=(X,))
  entries = match_model.randomized(model.entries, 0)
  return [c.capture(model, entries, (X,), {}) for c in (capture_loops, capture)]


def test_names_have_the_iterations(runs):
  inner = 'stack[{}]/__layer_stack_no_per_layer/linear[{}]'
  expected = []
  for i in range(2):
    expected += [inner.format(i, 0), inner.format(i, 1)]
    expected += [f'stack[{i}]/mlp/~/linear_0', f'stack[{i}]/mlp']
  expected += ['mlp/~/linear_0', 'mlp']
  expected += [f'mlp[{i}]{rest}' for i in range(2) for rest in ('/~/linear_0', '')]
  assert [p.label for p in runs[0].points] == expected
  assert [p.label for p in runs[1].points][-2:] == ['mlp/~/linear_0', 'mlp']
  assert runs[1].inside == {''} and not runs[0].inside
  first, second = runs[0].points[0], runs[0].points[1]
  w = 'params:stack/__layer_stack_no_per_layer/linear/w'
  assert first.iterations == (0, 0) and f'{w}[0][0]' in first.entries
  assert second.entries - first.entries == {f'{w}[0][1]', f'{w[:-1]}b[0][1]'}


def test_unrolling_does_not_change_numbers(runs):
  for name in ('outputs', 'gradients'):
    ours, theirs = (jax.tree.leaves(getattr(run, name)) for run in runs)
    for a, b in zip(ours, theirs, strict=True):
      # Rounding of the same operations, fused or not.
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_derivatives_of_their_own_are_kept():
  @jax.custom_vjp
  def odd(x, factor):
    return x * factor

  odd.defvjp(lambda x, factor: (x * factor, None), lambda _, g: (7 * g, None))

  def net(x):
    return odd(jax.nn.relu(hk.Linear(4)(x)), 2.0)

  model = match_model.as_model(net, args=(X,))
  ours, theirs = (
    c.capture(model, model.entries, (X,), {}) for c in (capture_loops, capture)
  )
  for name, there in theirs.gradients.items():
    np.testing.assert_allclose(ours.gradients[name], there, rtol=1e-5, atol=1e-5)


def test_long_loops_stay_whole():
  def net(x):
    layer = hk.Linear(4, name='step')
    return hk.scan(lambda x, _: (layer(x) / 3, None), layer(x), None, length=9000)[0]

  same = interop.Mapping.from_text(
    'params:step/w = params:step/w\nparams:step/b = params:step/b'
  )
  found = loop(net, net, same, X, gradients=False)
  assert [r.target for r in found.rows if r.part == 'forward'] == ['step']
  assert found.remarks == 2 * [
    'a loop of 9000 iterations is too long to be shown one by one'
  ]
