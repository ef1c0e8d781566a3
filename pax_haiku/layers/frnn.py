"""Recurrent layers: a cell run over time, forwards or backwards, and stacks of them."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import rnn_cell
from pax_haiku.layers.describe import describe
from pax_haiku.layers.frnn_scan import scan_over_time
from pax_haiku.layers.frnn_stack import StackBiFrnn, StackFrnn

__all__ = ['FRnn', 'LstmFrnn', 'StackBiFrnn', 'StackFrnn', 'reset_mask']

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
NestedMap = base_layer.NestedMap


def reset_mask(
  segment_ids: JTensor, paddings: JTensor | None = None, dtype: jnp.dtype = jnp.float32
) -> JTensor:
  """0 at the first step of each segment, 1 elsewhere and where padded.

  Args:
    segment_ids: [B, T] or [B, T, 1]; equal from step to step within a segment.
    paddings: of the same shape, 1 where padded.
    dtype: of the result.
  """
  before = jnp.roll(segment_ids, 1, axis=1).at[:, 0].set(-1)
  mask = before == segment_ids
  if paddings is not None:
    mask |= paddings != 0
  return mask.astype(dtype)


class FRnn(base_layer.BaseLayer):
  """Runs a recurrent cell over time.

  Attributes:
    cell_tpl: the cell, a `rnn_cell.BaseRnnCell`.
    reverse: run from the last step to the first. Paddings at the end then come first.
    unroll: steps per iteration of the compiled loop; no effect on values.
  """

  cell_tpl: LayerTpl | None = pax_fiddle.template_field(None)
  reverse: bool = False
  unroll: int = 1

  def setup(self) -> None:
    if self.unroll <= 0:
      raise AssertionError(
        f'{describe(self)}: unroll must be positive, found {self.unroll}.'
      )
    self.create_child('cell', self.cell_tpl)

  def init_states(self, batch_size: int) -> NestedMap:
    """The cell's state before the first step."""
    return self.cell.init_states(batch_size)

  def get_output(self, state: NestedMap) -> JTensor:
    """The output that belongs to a state of the cell."""
    return self.cell.get_output(state)

  def extend_step(
    self, inputs: NestedMap, state0: NestedMap
  ) -> tuple[NestedMap, JTensor]:
    """One step; the state is never reset.

    Args:
      inputs: `act` [B, dim] or a list of such arrays, `padding` [B, 1].
      state0: the state before.

    Returns:
      (state, output): not in the order of `__call__`.
    """
    inputs = NestedMap(inputs)
    inputs.reset_mask = jnp.ones_like(inputs.padding)
    state = self.cell(state0, inputs)
    return state, self.get_output(state)

  def __call__(
    self, inputs: NestedMap, state0: NestedMap | None = None
  ) -> tuple[JTensor, NestedMap]:
    """Runs the cell over all steps.

    Args:
      inputs: `act` [B, T, dim] or a list of such arrays; `padding` [B, T, 1], 1 where
        padded; optionally `segment_ids` [B, T, 1], at whose changes a cell with
        `reset_cell_state` starts anew. Further entries [B, T, ...] reach the cell.
      state0: the state before; None: the cell's initial one.

    Returns:
      (outputs [B, T, num_output_nodes], the last state). Where padded, state and output
      are those of the step before.

    Raises:
      AssertionError: `act` or `padding` is missing, or the cell is no `BaseRnnCell`.
      ValueError: an entry has another number of steps.
      TypeError: a step changes the dtype of the state.
    """
    inputs = self._prepared(inputs)
    state0 = state0 or self.init_states(inputs.padding.shape[0])
    inputs = self._projected(inputs)

    def step(cell, state, inputs):
      state = self._run_cell(cell, state, inputs)
      return state, cell.get_output(state)

    state, act = scan_over_time(
      self, self.cell, step, state0, inputs, unroll=self.unroll
    )
    return jnp.flip(act, axis=1) if self.reverse else act, state

  def _prepared(self, inputs: NestedMap) -> NestedMap:
    """The inputs with a reset mask, in the order in which they are visited."""
    missing = [name for name in ('act', 'padding') if name not in inputs]
    if missing:
      raise AssertionError(
        f'{describe(self)}: inputs must have act and padding; {missing} not found in '
        f'{sorted(inputs)}.'
      )
    if not isinstance(self.cell, rnn_cell.BaseRnnCell):
      raise AssertionError(
        f'{describe(self)}: the cell must be a BaseRnnCell, found '
        f'{type(self.cell).__name__}.'
      )
    inputs = NestedMap(inputs)
    if not isinstance(inputs.act, list | tuple):
      inputs.act = [inputs.act]
    if 'segment_ids' in inputs:
      inputs.reset_mask = reset_mask(
        inputs.segment_ids, inputs.padding, self.fprop_dtype
      )
    else:
      inputs.reset_mask = jnp.ones_like(inputs.padding, dtype=self.fprop_dtype)
    self._check_steps(inputs)
    if self.reverse:
      inputs = jax.tree.map(lambda x: jnp.flip(x, axis=1), inputs)
    return inputs

  def _check_steps(self, inputs: NestedMap):
    expected = inputs.padding.shape[:2]
    for name, x in inputs.FlattenItems():
      for leaf in jax.tree.leaves(x):
        if leaf.shape[:2] != expected:
          raise ValueError(
            f'{describe(self)}: all inputs must be [batch, time, ...] as padding '
            f'{inputs.padding.shape}; {name} has shape {leaf.shape}.'
          )

  def _projected(self, inputs: NestedMap) -> NestedMap:
    """What can be computed for all steps at once."""
    return inputs

  def _run_cell(self, cell, state: NestedMap, inputs: NestedMap) -> NestedMap:
    return cell(state, inputs)


class LstmFrnn(FRnn):
  """FRnn for LSTM cells: projects the inputs of all steps at once, before the loop.

  Equal to FRnn up to rounding.
  """

  @property
  def num_input_nodes(self) -> int:
    """Depth of the inputs."""
    return self.cell.num_input_nodes

  @property
  def num_output_nodes(self) -> int:
    """Depth of the outputs."""
    return self.cell.num_output_nodes

  def _projected(self, inputs: NestedMap) -> NestedMap:
    inputs.proj_inputs = self.cell.project_input(inputs)
    return inputs

  def _run_cell(self, cell, state: NestedMap, inputs: NestedMap) -> NestedMap:
    return cell.fprop_with_projected_inputs(state, inputs)
