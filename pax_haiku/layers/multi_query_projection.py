"""Projection to the one head of keys and values that all queries share."""

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
WeightHParams = base_layer.WeightHParams


class OneHeadedAttentionProjection(base_layer.BaseLayer):
  """`x w + b`.

  Attributes:
    input_dim: D.
    output_dim: H.
    use_bias: add a bias.
    einsum_tpl: does the product.
  """

  input_dim: int = 0
  output_dim: int = 0
  use_bias: bool = True
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  def setup(self) -> None:
    wt = self.weight_split_dims_mapping.wt
    if wt is not None and len(wt) != 2:
      raise AssertionError(
        f'{describe(self)}: weight_split_dims_mapping.wt must have 2 entries, found '
        f'{wt!r}.'
      )
    self.create_variable(
      'w',
      WeightHParams(
        shape=[self.input_dim, self.output_dim],
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=wt,
      ),
    )
    if self.use_bias:
      self.create_variable(
        'b',
        WeightHParams(
          shape=[self.output_dim],
          init=base_layer.WeightInit.Constant(0.0),
          mesh_shape=self.mesh_shape,
          tensor_split_dims_mapping=None if wt is None else [wt[1]],
        ),
      )
    self.create_child('einsum', self.einsum_tpl)

  def __call__(self, inputs: JTensor) -> JTensor:
    """Projects `[..., D]` to `[..., H]`; the inputs are cast to `fprop_dtype`.

    Raises:
      ValueError: the last axis of the inputs is not D.
    """
    if inputs.shape[-1] != self.input_dim:
      raise ValueError(
        f'{describe(self)}: expected inputs [..., {self.input_dim}] (input_dim), got '
        f'shape {inputs.shape}.'
      )
    inputs = self._cast_to_fprop_dtype(inputs)
    outputs = self.einsum('...D,DH->...H', inputs, self.theta.w)
    return outputs + self.theta.b if self.use_bias else outputs

  def extend_step(self, inputs: JTensor, *, time_step: JTensor) -> JTensor:
    """The same as calling the layer; `time_step` is not used."""
    return self(inputs)
