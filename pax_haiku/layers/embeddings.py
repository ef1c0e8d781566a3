"""Embedding of ids: the lookup that embedding layers share, and `Embedding`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
WeightHParams = base_layer.WeightHParams


def lookup_rows(
  layer: base_layer.BaseLayer,
  table: JTensor,
  ids: JTensor,
  index_op: Callable[[JTensor, tuple[JTensor]], JTensor],
  einsum_op: Callable[..., JTensor],
) -> JTensor:
  """The rows `ids` of `table`, found as `layer.lookup_style` says.

  `'index'` clamps ids that lie outside the table, `'matmul'` (a product with one-hot
  vectors in `layer.fprop_dtype`) gives zeros for them.

  Args:
    layer: whose `lookup_style` and `fprop_dtype` count.
    table: `[num_classes, dims]`.
    ids: integers of any shape.
    index_op: `(table, (ids,)) -> rows`.
    einsum_op: `(equation, *operands) -> result`.

  Returns:
    `ids.shape + [dims]`.

  Raises:
    ValueError: unknown lookup style.
  """
  if layer.lookup_style == 'index':
    return index_op(jnp.asarray(table), (ids,))
  if layer.lookup_style == 'matmul':
    one_hot = jax.nn.one_hot(ids, table.shape[0], dtype=layer.fprop_dtype)
    return einsum_op('...y,yz->...z', one_hot, table)
  raise ValueError(
    f"{describe(layer)}: lookup_style must be 'index' or 'matmul', found "
    f'{layer.lookup_style!r}.'
  )


def shard_vectors(layer: base_layer.BaseLayer, vectors: JTensor) -> JTensor:
  """Shards embeddings as the layer's `emb_out_split_dims_mapping` says."""
  mapping = layer.activation_split_dims_mapping.emb_out_split_dims_mapping
  return base_layer.maybe_shard(vectors, mapping, layer.mesh_axis_names)


class TokenCounter(base_layer.BaseLayer):
  """Counts the unpadded tokens seen in training, in millions.

  The sum is kept in floating point, hence approximate; across data-parallel replicas
  it is to be added up. A summary of the variable's name shows it as of before the call.
  """

  def setup(self) -> None:
    labels = base_layer.WeightHParamsCollection
    self.create_variable(
      'approx_total_tokens_mm',
      WeightHParams(
        shape=(),
        init=base_layer.WeightInit.Constant(0.0),
        collections=[labels.REQUIRES_SUM_SYNC, labels.DISALLOW_BFLOAT16_CONVERSION],
      ),
      trainable=False,
    )

  def __call__(self, inputs: JTensor, paddings: JTensor) -> None:
    """Adds the tokens of a batch.

    Args:
      inputs: unused.
      paddings: any shape, 1 where there is no token.
    """
    if self.do_eval:
      return
    total = self.get_var('approx_total_tokens_mm')
    self.add_summary('approx_total_tokens_mm', total)
    tokens = jnp.sum(1.0 - paddings.astype(jnp.float32))
    self.update_var('approx_total_tokens_mm', total + tokens / 1e6)


class Embedding(base_layer.BaseLayer):
  """A vector for each id.

  Attributes:
    num_classes: number of ids.
    input_dims: size of a vector.
    lookup_style: `'index'`, where ids outside the table are clamped, or `'matmul'`,
      where they give zeros.
    scale_sqrt_depth: multiply the vectors by `sqrt(input_dims)`.
    set_nan_for_oob_id: give NaN for ids that are `num_classes` or more.
    array_lookup: does the indexing.
    einsum: does the product with one-hot vectors.
  """

  num_classes: int = 0
  input_dims: int = 0
  lookup_style: str = 'index'
  scale_sqrt_depth: bool = False
  set_nan_for_oob_id: bool = False
  array_lookup: base_ops.ArrayLookup = pax_fiddle.instance_field(base_ops.ArrayLookup)
  einsum: base_ops.EinsumOp = pax_fiddle.instance_field(base_ops.EinsumOp)

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of what the layer returns.

    Attributes:
      emb_out_split_dims_mapping: of the vectors.
    """

    emb_out_split_dims_mapping: SplitDimsMapping = None

  def setup(self) -> None:
    if self.num_classes <= 0 or self.input_dims <= 0:
      raise AssertionError(
        f'{describe(self)}: num_classes and input_dims must be positive, found '
        f'{self.num_classes} and {self.input_dims}.'
      )
    self.create_variable(
      'emb_var',
      WeightHParams(
        shape=[self.num_classes, self.input_dims],
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=self.weight_split_dims_mapping.wt,
      ),
    )

  def __call__(self, ids: JTensor) -> JTensor:
    """Maps integers `[...]` to vectors `[..., input_dims]`."""
    vectors = lookup_rows(
      self, self.theta.emb_var, ids, self.array_lookup, self.einsum
    )
    if self.set_nan_for_oob_id:
      vectors = jnp.where(ids[..., jnp.newaxis] < self.num_classes, vectors, jnp.nan)
    if self.scale_sqrt_depth:
      vectors *= self.input_dims**0.5
    return shard_vectors(self, vectors)

  def emb_lookup(self, ids: JTensor) -> JTensor:
    """The same as calling the layer."""
    return self(ids)

  def extend_step(self, ids: JTensor, *, time_step: JTensor) -> JTensor:
    """Embeds the ids of one decoding step; `time_step` is not used."""
    return self.emb_lookup(ids)
