"""Stacks of recurrent layers, in one direction and in both."""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
NestedMap = base_layer.NestedMap


class _Stack(base_layer.BaseLayer):
  """What the stacks share.

  Attributes:
    frnn_tpl: one layer, a `frnn.FRnn`. The depths of its cell are set by the stack.
    num_layers: number of layers, > 0.
    num_input_nodes: depth of the inputs.
    num_output_nodes: depth of the outputs of each layer.
  """

  frnn_tpl: LayerTpl | None = pax_fiddle.template_field(None)
  num_layers: int = 1
  num_input_nodes: int = 0
  num_output_nodes: int = 0

  def _layers(self, num_output_nodes: int, **fields) -> list[LayerTpl]:
    """A template for each layer, with outputs of that depth."""
    if self.num_layers <= 0 or self.frnn_tpl is None:
      raise AssertionError(
        f'{describe(self)}: frnn_tpl and num_layers > 0 are required, found '
        f'frnn_tpl={self.frnn_tpl!r} and num_layers={self.num_layers}.'
      )
    templates = []
    for i in range(self.num_layers):
      template = self.frnn_tpl.clone().set(**fields)
      template.cell_tpl.set(
        num_input_nodes=self.num_output_nodes if i else self.num_input_nodes,
        num_output_nodes=num_output_nodes,
      )
      templates.append(template)
    return templates


class StackFrnn(_Stack):
  """Recurrent layers, each run over the outputs of the one before.

  Attributes:
    frnn_tpl: one layer, a `frnn.FRnn`. The depths of its cell are set by the stack.
    num_layers: number of layers, > 0.
    num_input_nodes: depth of the inputs.
    num_output_nodes: depth of the outputs of each layer.
  """

  def setup(self) -> None:
    self.create_children('frnn', self._layers(self.num_output_nodes))

  def init_states(self, batch_size: int) -> list[NestedMap]:
    """One state per layer."""
    return [layer.init_states(batch_size) for layer in self.frnn]

  def get_output(self, state: list[NestedMap]) -> JTensor:
    """The output that belongs to the states: that of the last layer."""
    return self.frnn[-1].get_output(state[-1])

  def extend_step(
    self, inputs: NestedMap, state: list[NestedMap]
  ) -> tuple[list[NestedMap], JTensor]:
    """One step through all layers: (states, output). See `FRnn.extend_step`."""
    inputs, states = NestedMap(inputs), []
    for layer, before in zip(self.frnn, state, strict=True):
      after, inputs.act = layer.extend_step(inputs, before)
      states.append(after)
    return states, inputs.act

  def __call__(
    self, inputs: NestedMap, state0: list[NestedMap] | None = None
  ) -> tuple[JTensor, list[NestedMap]]:
    """Runs the layers.

    Args:
      inputs: as of `FRnn`; each layer gets all of it, with its own `act`.
      state0: one state per layer; None: the initial ones.

    Returns:
      (outputs [B, T, num_output_nodes], the last state of each layer).
    """
    inputs, states = NestedMap(inputs), []
    state0 = state0 or self.init_states(inputs.padding.shape[0])
    for layer, before in zip(self.frnn, state0, strict=True):
      inputs.act, after = layer(inputs, before)
      states.append(after)
    return inputs.act, states


class StackBiFrnn(_Stack):
  """Layers of two recurrent layers each, one per direction, outputs concatenated.

  Each direction has half of the `num_output_nodes`.

  Attributes:
    frnn_tpl: one layer, a `frnn.FRnn`. The depths of its cell and its direction are
      set by the stack.
    num_layers: number of layers, > 0.
    num_input_nodes: depth of the inputs.
    num_output_nodes: depth of the outputs of each layer; even.
  """

  def setup(self) -> None:
    half = self.num_output_nodes // 2
    self.create_children('fwd_frnn', self._layers(half, reverse=False))
    self.create_children('bwd_frnn', self._layers(half, reverse=True))

  def fwd_init_states(self, batch_size: int) -> list[NestedMap]:
    """One state per layer, of the forward direction."""
    return [layer.init_states(batch_size) for layer in self.fwd_frnn]

  def bwd_init_states(self, batch_size: int) -> list[NestedMap]:
    """One state per layer, of the backward direction."""
    return [layer.init_states(batch_size) for layer in self.bwd_frnn]

  def init_states(self, batch_size: int) -> NestedMap:
    """NestedMap(fwd, bwd) of a list of states each."""
    return NestedMap(
      fwd=self.fwd_init_states(batch_size), bwd=self.bwd_init_states(batch_size)
    )

  def __call__(
    self, inputs: NestedMap, state0: NestedMap | None = None
  ) -> tuple[JTensor, list[NestedMap]]:
    """Runs the layers.

    Args:
      inputs: as of `FRnn`.
      state0: as from `init_states`; None: the initial states.

    Returns:
      (outputs [B, T, num_output_nodes], a list with a NestedMap(fwd, bwd) of the last
      states per layer: not the structure of `state0`).
    """
    inputs, states = NestedMap(inputs), []
    state0 = state0 or self.init_states(inputs.padding.shape[0])
    for i in range(self.num_layers):
      fwd, fwd_state = self.fwd_frnn[i](inputs, state0.fwd[i])
      bwd, bwd_state = self.bwd_frnn[i](inputs, state0.bwd[i])
      inputs.act = jnp.concatenate([fwd, bwd], axis=-1)
      states.append(NestedMap(fwd=fwd_state, bwd=bwd_state))
    return inputs.act, states
