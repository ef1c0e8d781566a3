"""Recurrent cells: one step of an LSTM and of its variants.

A step maps a state and inputs, both NestedMaps, to the next state. `frnn.FRnn` runs a
cell over time.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
NestedMap = base_layer.NestedMap
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


class BaseRnnCell(base_layer.BaseLayer):
  """What a cell has to offer."""

  def init_states(self, batch_size: int) -> NestedMap:
    """The state before the first step."""
    raise NotImplementedError(f'{describe(self)} does not define init_states.')

  def get_output(self, state: NestedMap) -> JTensor:
    """The output that belongs to a state."""
    raise NotImplementedError(f'{describe(self)} does not define get_output.')

  def __call__(self, state0: NestedMap, inputs: NestedMap) -> NestedMap:
    """The state after a step.

    Args:
      state0: the state before.
      inputs: `act`, one array [B, dim] or a list of them, and `padding` [B, 1].
    """
    raise NotImplementedError(f'{describe(self)} does not define __call__.')


class LstmCellSimple(BaseRnnCell):
  """LSTM with optional projection, cap of the cell, zoneout and resets.

      i, g, f, o = split([act, m] @ wm + b)
      c' = clip(sigmoid(f) * c + sigmoid(g) * tanh(i), -cap, cap)
      m' = (sigmoid(o) * tanh(c')) @ w_proj

  https://doi.org/10.1162/neco.1997.9.8.1735, projection:
  https://arxiv.org/abs/1402.1128. The state is NestedMap(m [B, num_output_nodes],
  c [B, hidden_size]); where padded it stays as it was.

  Zoneout (https://arxiv.org/abs/1606.01305) keeps each entry of the old state with
  probability `zo_prob` in training, and mixes old and new in that ratio in evaluation.
  It draws two keys per step, for `c` and then for `m`, in evaluation too.

  Attributes:
    inputs_arity: number of arrays in `inputs.act`.
    num_input_nodes: their depths in total.
    num_output_nodes: depth of `m`.
    num_hidden_nodes: depth of `c`; 0: as `m`, and no projection.
    reset_cell_state: multiply the old state by `inputs.reset_mask` [B, 1] first.
    cell_value_cap: bound of the entries of `c`; None: none.
    forget_gate_bias: added to the bias of the forget gate.
    output_nonlinearity: whether tanh is applied to `c` in the output.
    zo_prob: probability of zoneout; 0: none.
    bias_init: initial `b`.
  """

  inputs_arity: int = 1
  num_input_nodes: int = 0
  num_output_nodes: int = 0
  num_hidden_nodes: int = 0
  reset_cell_state: bool = False
  cell_value_cap: float = 10.0
  forget_gate_bias: float = 0.0
  output_nonlinearity: bool = True
  zo_prob: float = 0.0
  bias_init: WeightInit = dataclasses.field(
    default_factory=lambda: WeightInit.Constant(0.0)
  )

  @property
  def num_gates(self) -> int:
    """How many gates `wm` and `b` hold, one after the other."""
    return 4

  @property
  def output_size(self) -> int:
    """Depth of the output."""
    return self.num_output_nodes

  @property
  def hidden_size(self) -> int:
    """Depth of the cell."""
    return self.num_hidden_nodes or self.num_output_nodes

  def setup(self) -> None:
    cap = self.cell_value_cap
    if cap is not None and not isinstance(cap, int | float):
      raise ValueError(
        f'{describe(self)}: cell_value_cap must be a number or None, found {cap!r}.'
      )
    width = self.num_gates * self.hidden_size
    depth = self.num_input_nodes + self.output_size
    self.create_variable('wm', WeightHParams(shape=[depth, width]))
    if self.num_hidden_nodes:
      self.create_variable(
        'w_proj', WeightHParams(shape=[self.hidden_size, self.output_size])
      )
    self.create_variable('b', WeightHParams(shape=[width], init=self.bias_init))

  def init_states(self, batch_size: int) -> NestedMap:
    """Zeros of `fprop_dtype`."""
    return NestedMap(
      m=jnp.zeros([batch_size, self.output_size], self.fprop_dtype),
      c=jnp.zeros([batch_size, self.hidden_size], self.fprop_dtype),
    )

  def get_output(self, state: NestedMap) -> JTensor:
    """`m`, [B, num_output_nodes]."""
    return state.m

  def __call__(self, state0: NestedMap, inputs: NestedMap) -> NestedMap:
    """One step.

    Args:
      state0: the state before.
      inputs: `act`, [B, dim] or a list of `inputs_arity` such arrays; `padding` [B, 1],
        1 where padded; `reset_mask` [B, 1] if `reset_cell_state`, 0 where the state is
        reset.

    Returns:
      The state after.

    Raises:
      ValueError: `act` holds another number of arrays.
    """
    acts = _as_list(inputs.act)
    if len(acts) != self.inputs_arity:
      raise ValueError(
        f'{describe(self)}: expected {self.inputs_arity} arrays in inputs.act '
        f'(inputs_arity), found {len(acts)}.'
      )
    state0 = self._maybe_reset(state0, inputs)
    x = jnp.concatenate([*acts, state0.m], axis=1)
    return self._step(state0, inputs, jnp.einsum('bd,dc->bc', x, self.theta.wm))

  def project_input(self, inputs: NestedMap) -> JTensor:
    """The part of the gates that comes from the inputs, for all steps at once.

    Args:
      inputs: `act`, [., ., dim] or a list of such arrays.

    Returns:
      [., ., num_gates * hidden_size].

    Raises:
      AssertionError: the depths don't add up to `num_input_nodes`.
    """
    x = jnp.concatenate(_as_list(inputs.act), axis=-1)
    if x.shape[-1] != self.num_input_nodes:
      raise AssertionError(
        f'{describe(self)}: expected inputs.act of depth {self.num_input_nodes} '
        f'(num_input_nodes), found {x.shape[-1]}.'
      )
    return jnp.einsum('tbd,dh->tbh', x, self.theta.wm[: self.num_input_nodes])

  def fprop_with_projected_inputs(
    self, state0: NestedMap, inputs: NestedMap
  ) -> NestedMap:
    """`__call__` with `inputs.proj_inputs`, a step of `project_input`, for `act`."""
    state0 = self._maybe_reset(state0, inputs)
    recurrent = jnp.einsum('bd,dc->bc', state0.m, self.theta.wm[self.num_input_nodes :])
    return self._step(state0, inputs, inputs.proj_inputs + recurrent)

  # -- The parts of a step -----------------------------------------------------------

  def _maybe_reset(self, state: NestedMap, inputs: NestedMap) -> NestedMap:
    if not self.reset_cell_state:
      return state
    return NestedMap(m=inputs.reset_mask * state.m, c=inputs.reset_mask * state.c)

  def _step(self, state0: NestedMap, inputs: NestedMap, x: JTensor) -> NestedMap:
    c, o = self._cell_and_output_gate(state0.c, *self._gates(x))
    m = jax.nn.sigmoid(o) * (jnp.tanh(c) if self.output_nonlinearity else c)
    if self.num_hidden_nodes:
      m = jnp.einsum('bd,dc->bc', m, self.theta.w_proj)
    c = self._zoneout(state0.c, c, inputs.padding)
    return NestedMap(m=self._zoneout(state0.m, m, inputs.padding), c=c)

  def _gates(self, x: JTensor) -> list[JTensor]:
    """Splits [B, num_gates * hidden_size] into the gates and adds their biases."""
    if self.forget_gate_bias == 0.0:
      return self._split(x + self.theta.b)
    return [x + b for x, b in zip(self._split(x), self._biases(), strict=True)]

  def _split(self, x: JTensor) -> list[JTensor]:
    if x.shape[-1] != self.num_gates * self.hidden_size:
      raise ValueError(
        f'{describe(self)}: expected {self.num_gates} gates of {self.hidden_size} '
        f'units, found an array of shape {x.shape}.'
      )
    return jnp.split(x, self.num_gates, axis=-1)

  def _biases(self) -> list[JTensor]:
    i, g, f, o = self._split(self.theta.b)
    return [i, g, f + self.forget_gate_bias if self.forget_gate_bias else f, o]

  def _cell_and_output_gate(self, c, i, g, f, o) -> tuple[JTensor, JTensor]:
    return self._cap(jax.nn.sigmoid(f) * c + jax.nn.sigmoid(g) * jnp.tanh(i)), o

  def _cap(self, c: JTensor) -> JTensor:
    cap = self.cell_value_cap
    return c if cap is None else jnp.clip(c, -cap, cap)

  def _zoneout(self, old: JTensor, new: JTensor, padding: JTensor) -> JTensor:
    keep_old = padding != 0
    if self.zo_prob > 0:
      noise = jax.random.uniform(self.next_prng_key(), old.shape)
      if self.do_eval:
        new = self.zo_prob * old + (1.0 - self.zo_prob) * new
      else:
        keep_old = keep_old | (noise < self.zo_prob)
    return jnp.where(keep_old, old, new)


class LayerNormalizedLstmCellSimple(LstmCellSimple):
  """LSTM whose gates are normalized, each over its own units, before the biases.

  https://arxiv.org/abs/1607.06450.

  Attributes:
    layer_norm_epsilon: added to the variance.
  """

  layer_norm_epsilon: float = 1e-8

  def setup(self) -> None:
    super().setup()
    shape = [self.num_gates * self.hidden_size]
    self.create_variable(
      'ln_scale', WeightHParams(shape=shape, init=WeightInit.Constant(1.0))
    )

  def _gates(self, x: JTensor) -> list[JTensor]:
    def normalized(x):
      x_centered = x - jnp.mean(x, axis=-1, keepdims=True)
      variance = jnp.mean(jnp.square(x_centered), axis=-1, keepdims=True)
      return x_centered * jax.lax.rsqrt(variance + self.layer_norm_epsilon)

    scales, biases = self._split(self.theta.ln_scale), self._biases()
    return [
      normalized(x) * scale + bias
      for x, scale, bias in zip(self._split(x), scales, biases, strict=True)
    ]


class CifgLstmCellSimple(LstmCellSimple):
  """LSTM whose input gate is what the forget gate leaves: three gates `i, f, o`.

  `c' = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(i)`. https://arxiv.org/abs/1503.04069.
  There is no `forget_gate_bias`.
  """

  @property
  def num_gates(self) -> int:
    return 3

  def _biases(self) -> list[JTensor]:
    raise AssertionError(
      f'{describe(self)}: forget_gate_bias must be 0 where input and forget gate are '
      f'coupled, found {self.forget_gate_bias}.'
    )

  def _cell_and_output_gate(self, c, i, f, o) -> tuple[JTensor, JTensor]:
    forget = jax.nn.sigmoid(f)
    return self._cap(forget * c + (1.0 - forget) * jnp.tanh(i)), o


def _as_list(act) -> list[JTensor]:
  return list(act) if isinstance(act, list | tuple) else [act]
