"""Projections of the last axis, with bias and activation, and chains of them."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import activations, base_ops
from pax_haiku.layers.describe import describe
from pax_haiku.layers.stacking import StackingOverTime

__all__ = [
  'Bias',
  'FeedForward',
  'Linear',
  'MLPBlock',
  'StackingOverTime',
  'project_last_dim',
]

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]


def project_last_dim(inputs: JTensor, weight: JTensor) -> JTensor:
  """Multiplies the last axis of `inputs [..., y]` with `weight [y, z]`.

  Raises:
    AssertionError: `inputs` has rank < 2, `weight` has not rank 2, or `y` differs.
  """
  shapes = f'inputs {inputs.shape} and weight {weight.shape}'
  if inputs.ndim < 2 or weight.ndim != 2:
    raise AssertionError(
      f'project_last_dim: expected inputs [..., y] of rank >= 2 and weight [y, z], '
      f'got {shapes}.'
    )
  if inputs.shape[-1] != weight.shape[0]:
    raise AssertionError(
      f'project_last_dim: the last axis of inputs must be as long as the first of '
      f'weight, got {shapes}.'
    )
  return jnp.einsum('...y,yz->...z', inputs, weight)


def _output_mapping(sharding, rank: int) -> SplitDimsMapping:
  """How an output is sharded; with rank 2 it may be that of one decoding step."""
  step = getattr(sharding, 'extend_step_out', None)
  if rank == 2 and step is not None and len(step) == 2:
    return step
  if rank == 2 and sharding.out is not None and len(sharding.out) == 3:
    return [sharding.out[0], sharding.out[2]]
  return sharding.out


class Linear(base_layer.BaseLayer):
  """`x w`, without bias.

  Attributes:
    input_dims: length of the last axis of the inputs.
    output_dims: length of the last axis of the outputs.
    weight_init: initializer of `w`; None: the layer's `params_init`.
    einsum_tpl: does the product.
  """

  input_dims: int = 0
  output_dims: int = 0
  weight_init: WeightInit | None = None
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the outputs.

    Attributes:
      extend_step_out: of the outputs of one decoding step, which have rank 2.
    """

    extend_step_out: Sequence[SplitDimsMapping] | None = None

  def setup(self) -> None:
    self.create_variable(
      'w',
      WeightHParams(
        shape=[self.input_dims, self.output_dims],
        init=self.weight_init,
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=self.weight_split_dims_mapping.wt,
      ),
    )
    self.create_child('einsum', self.einsum_tpl)

  def __call__(self, inputs: JTensor) -> JTensor:
    """Maps `[..., input_dims]` to `[..., output_dims]`; the inputs are not cast.

    Raises:
      ValueError: the last axis of the inputs has another length.
    """
    if inputs.shape[-1:] != (self.input_dims,):
      raise ValueError(
        f'{describe(self)}: expected inputs [..., {self.input_dims}] (input_dims), got '
        f'shape {inputs.shape}.'
      )
    outputs = self.einsum('...y,yz->...z', inputs, self.theta.w)
    mapping = _output_mapping(self.activation_split_dims_mapping, outputs.ndim)
    return base_layer.maybe_shard(outputs, mapping, self.mesh_axis_names)


class Bias(base_layer.BaseLayer):
  """`x + b`.

  Attributes:
    dims: length of the last axis.
    bias_init: what each entry of `b` starts at.
  """

  dims: int = 0
  bias_init: float | None = 0.0

  def setup(self) -> None:
    self.create_variable(
      'b',
      WeightHParams(
        shape=[self.dims],
        init=WeightInit.Constant(self.bias_init),
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=self.weight_split_dims_mapping.wt,
      ),
    )

  def __call__(self, inputs: JTensor) -> JTensor:
    """Adds `b` to `inputs [..., dims]`."""
    return inputs + self.theta.b


class FeedForward(base_layer.BaseLayer):
  """`activation(x w + b)`.

  Attributes:
    input_dims: length of the last axis of the inputs.
    output_dims: length of the last axis of the outputs.
    has_bias: adds a bias.
    linear_tpl: the product. Its dims, initializer and sharding are overwritten with
      this layer's.
    bias_tpl: the sum.
    activation_tpl: the activation.
    weight_init: initializer of the linear's `w`; None: its `params_init`.
    bias_init: what each entry of the bias starts at.
    checkpoint_str: name given to the linear's output, for rematerialization policies.
  """

  input_dims: int = 0
  output_dims: int = 0
  has_bias: bool = True
  linear_tpl: LayerTpl = pax_fiddle.template_field(Linear)
  bias_tpl: LayerTpl = pax_fiddle.template_field(Bias)
  activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.ReLU)
  )
  weight_init: WeightInit | None = None
  bias_init: float | None = 0.0
  checkpoint_str: str | None = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the outputs.

    Attributes:
      extend_step_out: of the outputs of one decoding step, which have rank 2.
    """

    extend_step_out: Sequence[SplitDimsMapping] | None = None

  def setup(self) -> None:
    ap = self.activation_split_dims_mapping
    linear_p = self.linear_tpl.clone().set(
      input_dims=self.input_dims,
      output_dims=self.output_dims,
      weight_init=self.weight_init,
      weight_split_dims_mapping=self.weight_split_dims_mapping.clone(),
      activation_split_dims_mapping=ap.clone(),
    )
    self.create_child('linear', linear_p, skip_clone=True)
    if self.has_bias:
      bias_p = self.bias_tpl.clone().set(
        dims=self.output_dims, bias_init=self.bias_init
      )
      if self.mesh_shape is not None and ap.out is not None:
        bias_p.weight_split_dims_mapping.wt = [ap.out[-1]]
      self.create_child('bias', bias_p, skip_clone=True)
    self.create_child('activation', self.activation_tpl)

  def __call__(self, inputs: JTensor) -> JTensor:
    """Maps `[..., input_dims]` to `[..., output_dims]`."""
    outputs = self.linear(inputs)
    if self.checkpoint_str is not None:
      outputs = checkpoint_name(outputs, self.checkpoint_str)
    if self.has_bias:
      outputs = self.bias(outputs)
    return self.activation(outputs)


class MLPBlock(base_layer.BaseLayer):
  """A chain of `FeedForward` layers.

  Attributes:
    num_layers: how many, at least 1.
    hidden_dims: width between the layers.
    activate_final: False: the last layer has no activation.
    ff_tpl: the layers. Its `input_dims` and `output_dims` are those of the chain; its
      sharding is overwritten with this layer's.
  """

  num_layers: int = 3
  hidden_dims: int = 128
  activate_final: bool = True
  ff_tpl: LayerTpl = pax_fiddle.template_field(FeedForward)

  def setup(self) -> None:
    if self.num_layers < 1:
      raise ValueError(
        f'{describe(self)}: num_layers must be at least 1, found {self.num_layers}.'
      )
    layers = [
      self.ff_tpl.clone().set(
        input_dims=self.hidden_dims,
        output_dims=self.hidden_dims,
        weight_split_dims_mapping=self.weight_split_dims_mapping.clone(),
        activation_split_dims_mapping=self.activation_split_dims_mapping.clone(),
      )
      for _ in range(self.num_layers)
    ]
    layers[0].input_dims = self.ff_tpl.input_dims
    layers[-1].output_dims = self.ff_tpl.output_dims
    if not self.activate_final:
      layers[-1].activation_tpl = pax_fiddle.Config(activations.Identity)
    self.create_children('mlp_layers', layers)

  def __call__(self, inputs: JTensor) -> JTensor:
    """Maps `[..., ff_tpl.input_dims]` to `[..., ff_tpl.output_dims]`."""
    outputs = inputs
    for layer in self.mlp_layers:
      outputs = layer(outputs)
    return outputs
