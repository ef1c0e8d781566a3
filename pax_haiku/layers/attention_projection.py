"""Projections to the heads of an attention layer, and back."""

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SplitDimsMapping = pytypes.SplitDimsMapping
WeightHParams = base_layer.WeightHParams


def _check_mapping(layer: base_layer.BaseLayer, length: int) -> SplitDimsMapping:
  """The layer's `wt`, which must have `length` entries if it is given."""
  wt = layer.weight_split_dims_mapping.wt
  if wt is not None and len(wt) != length:
    raise AssertionError(
      f'{describe(layer)}: weight_split_dims_mapping.wt must have {length} entries, '
      f'found {wt!r}.'
    )
  return wt


def _axes_of(entry) -> tuple:
  """The mesh axes of one entry of a mapping, as a tuple."""
  if entry is None:
    return ()
  return tuple(entry) if isinstance(entry, list | tuple) else (entry,)


class AttentionProjection(base_layer.BaseLayer):
  """`D -> N heads of H`, or back to D.

  Attributes:
    input_dim: D.
    num_heads: N.
    dim_per_head: H.
    is_output_projection: project heads to D; else D to heads.
    use_bias: add a bias.
    attention_combine_dims: store the weight with N and H as one axis. Not with a bias.
    use_nhd_shape: of an output projection, store the weight as `[N, H, D]`; else it is
      `[D, N, H]` as that of an input projection.
    explicit_fan_in_fan_out_axes: tell the initializer which axes are in and out; else
      it takes the last two for them and the rest for a receptive field.
    einsum_tpl: does the product.
  """

  input_dim: int = 0
  num_heads: int = 0
  dim_per_head: int = 0
  is_output_projection: bool = False
  use_bias: bool = True
  attention_combine_dims: bool = False
  use_nhd_shape: bool = False
  explicit_fan_in_fan_out_axes: bool = False
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  def _is_nhd(self) -> bool:
    return self.is_output_projection and self.use_nhd_shape

  def setup(self) -> None:
    if self.attention_combine_dims and self.use_bias:
      raise AssertionError(
        f'{describe(self)}: attention_combine_dims does not go with a bias; set '
        'use_bias=False.'
      )
    wt = self.weight_split_dims_mapping.wt
    dims, heads = [self.input_dim], [self.num_heads, self.dim_per_head]
    if self.attention_combine_dims:
      heads = [self.num_heads * self.dim_per_head]
    nhd = self._is_nhd()
    shape = heads + dims if nhd else dims + heads
    rank = len(shape)
    first, last = ([-1], [-3, -2]) if nhd else ([-3], [-2, -1])
    if self.attention_combine_dims:
      first, last = ([-1], [-2]) if nhd else ([-2], [-1])
    hparams = {}
    if self.explicit_fan_in_fan_out_axes:
      hparams = dict(fan_in_axes=first, fan_out_axes=last[::-1])
    mapping = wt
    if wt is not None and self.attention_combine_dims:
      _check_mapping(self, 3)
      merged = [_axes_of(a) for a in (wt[:2] if nhd else wt[1:])]
      merged = tuple(merged[0] + merged[1])
      mapping = [merged, wt[2]] if nhd else [wt[0], merged]
    elif wt is not None:
      _check_mapping(self, rank)
    self.create_variable(
      'w',
      WeightHParams(
        shape=shape,
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=mapping,
        **hparams,
      ),
    )
    if self.use_bias:
      bias_mapping = None
      if wt is not None:
        bias_mapping = [wt[0]] if self.is_output_projection else [wt[1], wt[2]]
      self.create_variable(
        'b',
        WeightHParams(
          shape=dims if self.is_output_projection else heads,
          init=base_layer.WeightInit.Constant(0.0),
          mesh_shape=self.mesh_shape,
          tensor_split_dims_mapping=bias_mapping,
        ),
      )
    self.create_child('einsum', self.einsum_tpl)

  def __call__(self, inputs: JTensor) -> JTensor:
    """Projects `[..., D]` to `[..., N, H]`, or the other way for an output projection.

    The inputs are cast to `fprop_dtype`.

    Raises:
      AssertionError: the last axes of the inputs have other lengths.
    """
    heads = (self.num_heads, self.dim_per_head)
    expected = heads if self.is_output_projection else (self.input_dim,)
    if inputs.shape[-len(expected) :] != expected:
      raise AssertionError(
        f'{describe(self)}: expected inputs [..., '
        f'{", ".join(map(str, expected))}], got shape {inputs.shape}.'
      )
    inputs = self._cast_to_fprop_dtype(inputs)
    weight = self.theta.w
    if self.attention_combine_dims:
      dims = (self.input_dim,)
      weight = jnp.reshape(weight, heads + dims if self._is_nhd() else dims + heads)
    if not self.is_output_projection:
      equation = '...D,DNH->...NH'
    else:
      equation = '...NH,NHD->...D' if self.use_nhd_shape else '...NH,DNH->...D'
    outputs = self.einsum(equation, inputs, weight)
    return outputs + self.theta.b if self.use_bias else outputs

  def extend_step(self, inputs: JTensor, *, time_step: JTensor) -> JTensor:
    """The same as calling the layer; `time_step` is not used."""
    return self(inputs)


class CombinedQKVProjectionLayer(base_layer.BaseLayer):
  """Queries, keys and values of one input, by one weight.

  Attributes:
    input_dim: D.
    num_heads: N.
    dim_per_head: H.
    use_bias: add a bias.
    attention_combine_dims: store weight and bias with N and H as one axis.
    explicit_fan_in_fan_out_axes: as of `AttentionProjection`.
    einsum_tpl: does the product.
  """

  input_dim: int = 0
  num_heads: int = 0
  dim_per_head: int = 0
  use_bias: bool = True
  attention_combine_dims: bool = False
  explicit_fan_in_fan_out_axes: bool = False
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  def setup(self) -> None:
    heads = [self.num_heads, self.dim_per_head]
    if self.attention_combine_dims:
      heads = [self.num_heads * self.dim_per_head]
    wt = _check_mapping(self, 1 + len(heads))
    hparams = {}
    if self.explicit_fan_in_fan_out_axes:
      fan_in, fan_out = (-2, [-1]) if len(heads) == 1 else (-3, [-1, -2])
      hparams = dict(fan_in_axes=[fan_in], fan_out_axes=fan_out)
    self.create_variable(
      'w',
      WeightHParams(
        shape=[3, self.input_dim, *heads],
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=None if wt is None else [None, *wt],
        **hparams,
      ),
    )
    if self.use_bias:
      self.create_variable(
        'b',
        WeightHParams(
          shape=[3, *heads],
          init=base_layer.WeightInit.Constant(0.0),
          mesh_shape=self.mesh_shape,
          tensor_split_dims_mapping=None if wt is None else [None, *wt[1:]],
        ),
      )
    self.create_child('einsum', self.einsum_tpl)

  def __call__(self, inputs: JTensor) -> tuple[JTensor, JTensor, JTensor]:
    """Projects `[..., D]` to query, key and value `[..., N, H]`; no cast of the inputs.

    Raises:
      ValueError: the last axis of the inputs is not D.
    """
    if inputs.shape[-1] != self.input_dim:
      raise ValueError(
        f'{describe(self)}: expected inputs [..., {self.input_dim}] (input_dim), got '
        f'shape {inputs.shape}.'
      )
    heads = (self.num_heads, self.dim_per_head)
    weight = jnp.reshape(self.theta.w, (3, self.input_dim, *heads))
    outputs = self.einsum('...D,KDNH->K...NH', inputs, weight)
    outputs = checkpoint_name(outputs, 'combined_qkv_proj')
    if self.use_bias:
      bias = jnp.reshape(self.theta.b, (3, *heads))
      outputs += jnp.expand_dims(bias, tuple(range(1, inputs.ndim)))
    query, key, value = outputs
    return (
      checkpoint_name(query, 'query_proj'),
      checkpoint_name(key, 'key_proj'),
      checkpoint_name(value, 'value_proj'),
    )

  def extend_step(self, inputs: JTensor, *, time_step: JTensor) -> JTensor:
    """The same as calling the layer; `time_step` is not used."""
    return self(inputs)
