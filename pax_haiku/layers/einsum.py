"""Einsum of the inputs with a weight."""

from collections.abc import Sequence

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops
from pax_haiku.layers.describe import describe

__all__ = ['Einsum']

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]


class Einsum(base_layer.BaseLayer):
  """`einsum(eqn, inputs, w) + b`.

  The initializer of `w` counts as fan-in the axes that the equation contracts, as
  fan-out those that it adds: in `'ABC,CNH->ABNH'` axis 0 and axes 1, 2 of `w`.

  Attributes:
    eqn: `'inputs,weight->outputs'`, as for `jnp.einsum`. The weight's term must be
      spelled out, without `...`.
    w_shape: shape of `w`.
    use_bias: adds `b`, which has the fan-out axes. They must be the last of the
      outputs.
    einsum_op_tpl: does the product.
  """

  eqn: str = ''
  w_shape: Sequence[int] = ()
  use_bias: bool = False
  einsum_op_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  def _terms(self) -> tuple[str, str, str]:
    """The terms of inputs, weight and outputs."""
    operands, arrow, outputs = self.eqn.replace(' ', '').partition('->')
    terms = operands.split(',')
    if not arrow or len(terms) != 2:
      raise ValueError(
        f"{describe(self)}: eqn must have the form 'inputs,weight->outputs', found "
        f'{self.eqn!r}.'
      )
    if '.' in terms[1]:
      raise AssertionError(
        f"{describe(self)}: the weight's term must be spelled out, without '...'; "
        f'found eqn {self.eqn!r}.'
      )
    return terms[0], terms[1], outputs

  def _axes(self, letters: Sequence[str], weight: str) -> list[int]:
    """Where the weight has the letters."""
    for letter in letters:
      if letter not in weight:
        raise ValueError(
          f"{describe(self)}: '{letter}' is on one side of eqn {self.eqn!r} only, and "
          f"not in the weight's term {weight!r}."
        )
    return [weight.index(letter) for letter in letters]

  def setup(self) -> None:
    inputs, weight, outputs = self._terms()
    if len(weight) != len(self.w_shape):
      raise ValueError(
        f"{describe(self)}: the weight's term of eqn {self.eqn!r} has {len(weight)} "
        f'axes, but w_shape is {tuple(self.w_shape)}.'
      )
    fan_in = self._axes([c for c in inputs if c not in outputs], weight)
    added = [c for c in outputs if c not in inputs]
    fan_out = self._axes(added, weight)
    mapping = self.weight_split_dims_mapping.wt
    self.create_variable(
      'w',
      WeightHParams(
        shape=self.w_shape,
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=mapping,
        fan_in_axes=sorted(fan_in),
        fan_out_axes=sorted(fan_out),
      ),
    )
    if self.use_bias:
      if not outputs.endswith(''.join(added)):
        raise AssertionError(
          f'{describe(self)}: with a bias, the axes that the weight adds, {added}, '
          f'must be the last of the outputs; found eqn {self.eqn!r}.'
        )
      self.create_variable(
        'b',
        WeightHParams(
          shape=[self.w_shape[i] for i in fan_out],
          init=base_layer.WeightInit.Constant(0.0),
          mesh_shape=self.mesh_shape,
          tensor_split_dims_mapping=mapping and [mapping[i] for i in fan_out],
        ),
      )
    self.create_child('einsum', self.einsum_op_tpl)

  def __call__(self, inputs: JTensor) -> JTensor:
    """Contracts `inputs` with `w`; they are not cast."""
    outputs = self.einsum(self.eqn, inputs, self.theta.w)
    if self.use_bias:
      outputs += self.theta.b
    return base_layer.maybe_shard(
      outputs, self.activation_split_dims_mapping.out, self.mesh_axis_names
    )
