"""Cases of `rnn_cell`: one step of each cell, with projections, resets and zoneout."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import DTYPES, FLOAT32, Map, case, family, init

STATE = Map(m=floats(2, 3, name='m'), c=floats(2, 3, name='c'))
WIDE = Map(m=floats(2, 3, name='m'), c=floats(2, 5, name='wide'))
PAD = paddings(2, 2)[:, 1:]  # the second of two rows is padded
IN = Map(act=floats(2, 4), padding=PAD)
TWO = Map(act=[floats(2, 3), floats(2, 1)], padding=PAD)
RESET = Map(act=floats(2, 4), padding=PAD, reset_mask=PAD[::-1].copy())
PROJECTED = Map(act=floats(2, 4), padding=PAD, proj_inputs=floats(2, 12, name='proj'))


def start(layer, state, inputs):
  """The initial state, and its output, beside a step."""
  first = layer.init_states(inputs.padding.shape[0])
  return first, layer.get_output(state), layer(state, inputs)


def projected(layer, state, inputs):
  return layer.fprop_with_projected_inputs(state, inputs)


def project(layer, state, inputs):
  return layer.project_input(inputs)


TRAIN = ('train',)  # only zoneout knows evaluation
lstm = family('rnn_cell.LstmCellSimple', STATE, IN, num_input_nodes=4,
              num_output_nodes=3, dtypes=FLOAT32, modes=TRAIN)
normed = family('rnn_cell.LayerNormalizedLstmCellSimple', STATE, IN, num_input_nodes=4,
                num_output_nodes=3, dtypes=FLOAT32, modes=TRAIN)
cifg = family('rnn_cell.CifgLstmCellSimple', STATE, IN, num_input_nodes=4,
              num_output_nodes=3, dtypes=FLOAT32, modes=TRAIN)
SEQUENCE = Map(act=[floats(2, 3, 1, name='a'), floats(2, 3, 3, name='b')],
               padding=PAD)

CASES = [
    case('rnn_cell.BaseRnnCell', 'abstract', {}, STATE, IN,
         raises='NotImplementedError'),
    case('rnn_cell.BaseRnnCell', 'abstract-start', {}, STATE, IN, method=start,
         raises='NotImplementedError'),
    lstm('default', dtypes=DTYPES),
    lstm('start', method=start),
    lstm('two-inputs', STATE, TWO, inputs_arity=2),
    lstm('projection', WIDE, IN, num_hidden_nodes=5),
    lstm('reset', STATE, RESET, reset_cell_state=True),
    lstm('no-reset', STATE, RESET),
    lstm('small-cap', cell_value_cap=0.1),
    lstm('no-cap', cell_value_cap=None),
    lstm('forget-bias', forget_gate_bias=1.0, bias_init=init('Constant', 0.5)),
    lstm('linear-output', output_nonlinearity=False),
    lstm('zoneout', zo_prob=0.4, dtypes=DTYPES, modes=('train', 'eval')),
    lstm('zoneout-projection', WIDE, IN, zo_prob=0.4, num_hidden_nodes=5,
         modes=('eval',)),
    lstm('projected-inputs', STATE, PROJECTED, method=projected),
    lstm('project', STATE, SEQUENCE, method=project),
    lstm('arity', STATE, TWO, raises='ValueError'),
    lstm('cap', cell_value_cap='much', raises='ValueError'),
    lstm('depth', STATE, TWO, num_input_nodes=5, method=project,
         raises='AssertionError'),
    normed('default'),
    normed('epsilon-bias', STATE, RESET, layer_norm_epsilon=0.1, forget_gate_bias=1.0,
           reset_cell_state=True, modes=('eval',), dtypes=DTYPES),
    normed('projection', WIDE, IN, num_hidden_nodes=5, output_nonlinearity=False),
    cifg('default', dtypes=DTYPES),
    cifg('projection', WIDE, RESET, num_hidden_nodes=5, output_nonlinearity=False,
         cell_value_cap=None, reset_cell_state=True, modes=('eval',)),
    cifg('forget-bias', forget_gate_bias=1.0, raises='AssertionError'),
]
