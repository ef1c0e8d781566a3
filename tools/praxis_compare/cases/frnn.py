"""Cases of `frnn`: cells over time, both directions, keys and state between steps."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import BFLOAT16, DTYPES, FLOAT32, Map, cfg, family

PAD = paddings(2, 5, 1)
IN = Map(act=floats(2, 5, 4), padding=PAD)
TWO = Map(act=[floats(2, 5, 3), floats(2, 5, 1)], padding=PAD)
SEGMENTS = (floats(2, 5, 1, name='s') > -1).cumsum(axis=1).astype('int32')
PACKED = Map(act=floats(2, 5, 4), padding=0 * PAD, segment_ids=SEGMENTS)
STATE = Map(m=floats(2, 3, name='m'), c=floats(2, 3, name='c'))


def lstm(kind='LstmCellSimple', **fields):
  return cfg(f'rnn_cell.{kind}', **{'num_input_nodes': 4, 'num_output_nodes': 3,
                                    **fields})


LSTM = lstm()
RICH = cfg('local.CountingCell', dims=4)


def twice(layer, inputs):
  """The second call goes on from the last state."""
  act, state = layer(inputs)
  return (act, state) if layer.is_initializing() else (act, *layer(inputs, state))


def steps(layer, inputs):
  """Step by step."""
  if layer.is_initializing():
    return layer(inputs)
  state, out = layer.init_states(2), []
  for t in range(2):
    one = type(inputs)(act=inputs.act[:, t], padding=inputs.padding[:, t])
    state, act = layer.extend_step(one, state)
    out.append(act)
  return out, state, layer.get_output(state)


def nodes(layer, inputs):
  return layer(inputs)[0] * layer.num_input_nodes + layer.num_output_nodes


# A scan compiles each time, and its gradient too: evaluation and gradients only where
# they tell.
TRAIN = ('train',)
frnn = family('frnn.FRnn', IN, cell_tpl=LSTM, dtypes=FLOAT32, modes=TRAIN)
fast = family('frnn.LstmFrnn', IN, cell_tpl=LSTM, dtypes=FLOAT32, modes=TRAIN)
stack = family('frnn.StackFrnn', IN, frnn_tpl=cfg('frnn.LstmFrnn', cell_tpl=LSTM),
               num_layers=2, num_input_nodes=4, num_output_nodes=2, dtypes=FLOAT32,
               modes=TRAIN)
both = family('frnn.StackBiFrnn', IN, frnn_tpl=cfg('frnn.FRnn', cell_tpl=LSTM),
              num_layers=2, num_input_nodes=4, num_output_nodes=4, dtypes=FLOAT32,
              modes=TRAIN)

CASES = [
    frnn('default'),
    frnn('reverse-state', IN, STATE, reverse=True, grads=False),
    frnn('two-inputs-unroll', TWO, cell_tpl=lstm(inputs_arity=2), unroll=2,
         grads=False),
    frnn('segments', PACKED, cell_tpl=lstm(reset_cell_state=True), grads=False),
    frnn('segments-reverse', PACKED, STATE, cell_tpl=lstm(reset_cell_state=True),
         reverse=True),
    frnn('zoneout-segments-without-reset', PACKED, cell_tpl=lstm(zo_prob=0.4),
         modes=('eval',), dtypes=DTYPES, grads=False),
    frnn('zoneout-twice', cell_tpl=lstm(zo_prob=0.4), method=twice, grads=False),
    frnn('state-and-losses', cell_tpl=RICH, grads=False),
    frnn('steps', method=steps),
    frnn('no-padding', Map(act=floats(2, 5, 4)), raises='AssertionError'),
    frnn('no-cell', cell_tpl=cfg('linears.Linear', input_dims=4, output_dims=4),
         raises='AssertionError'),
    frnn('unroll-zero', unroll=0, raises='AssertionError'),
    frnn('float32-input', cast_inputs=False, dtypes=BFLOAT16, raises='TypeError'),
    fast('cifg-projection', cell_tpl=lstm('CifgLstmCellSimple', num_hidden_nodes=5),
         method=nodes, modes=('eval',), grads=False),
    fast('reverse-zoneout-segments', PACKED, reverse=True,
         cell_tpl=lstm(zo_prob=0.4, reset_cell_state=True), dtypes=DTYPES),
    stack('segments', PACKED, slow=True, frnn_tpl=cfg(
        'frnn.FRnn', cell_tpl=lstm(reset_cell_state=True, zo_prob=0.3)), grads=False),
    stack('steps', method=steps, dtypes=DTYPES, modes=('eval',), grads=False),
    stack('no-layers', num_layers=0, raises='AssertionError'),
    stack('no-template', frnn_tpl=None, raises='AssertionError'),
    both('zoneout', frnn_tpl=cfg('frnn.LstmFrnn', cell_tpl=lstm(zo_prob=0.3)),
         num_layers=1, grads=False),
    both('default', modes=('eval',), dtypes=DTYPES, grads=False),
    both('no-template', frnn_tpl=None, raises='AssertionError'),
]
