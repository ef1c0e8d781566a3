"""hk.LSTM with hk.dynamic_unroll as a Pax FRnn.

    python examples/ports/lstm.py --small

Haiku has the gates input, candidate, forget and output, Pax has the candidate first.
Both add 1 to the forget gate.
"""

import haiku as hk
import jax.numpy as jnp
import numpy as np
import port_proof

from pax_haiku import base_layer, layers, pax_fiddle

FULL, SMALL = (64, 128), (3, 4)  # inputs, units


def original(units: int):
  def run(x):
    core = hk.LSTM(units)
    outputs, _ = hk.dynamic_unroll(
      core, x, core.initial_state(x.shape[0]), time_major=False
    )
    return outputs

  return run


class Lstm(base_layer.BaseLayer):
  """An FRnn over sequences without paddings.

  Attributes:
    input_dims: depth of the inputs.
    units: depth of the outputs.
  """

  input_dims: int = 0
  units: int = 0

  def setup(self):
    cell = pax_fiddle.Config(
      layers.LstmCellSimple,
      num_input_nodes=self.input_dims,
      num_output_nodes=self.units,
      cell_value_cap=None,
      forget_gate_bias=1.0,
    )
    self.create_child('rnn', pax_fiddle.Config(layers.FRnn, cell_tpl=cell))

  def __call__(self, x):
    """Maps `[B, T, input_dims]` to `[B, T, units]`."""
    inputs = base_layer.NestedMap(act=x, padding=jnp.zeros([*x.shape[:2], 1]))
    outputs, _ = self.rnn(inputs)
    return outputs


def port(small: bool) -> port_proof.Port:
  inputs, units = SMALL if small else FULL
  x = np.random.default_rng(0).normal(size=(2, 5, inputs)).astype(np.float32)
  config = pax_fiddle.Config(Lstm, name='lstm', input_dims=inputs, units=units)
  return port_proof.Port(lambda train: original(units), config, (x,), ('eval',))


if __name__ == '__main__':
  port_proof.run(port)
