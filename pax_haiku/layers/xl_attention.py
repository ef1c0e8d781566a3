"""Attention to keys and to their distance, as in Transformer-XL.

https://arxiv.org/abs/1901.02860, section 3.3: with a sinusoid of the distance,
projected to the heads as `P`, and learned `u` and `v`, the logit of query `i` and key
`j` is

    (q_i + u) . k_j + (q_i + v) . P(i - j)
"""

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers.attention_fields import head_size
from pax_haiku.layers.describe import describe
from pax_haiku.layers.dot_product_attention import DotProductAttention
from pax_haiku.layers.positional import PositionalEmbedding

JTensor = pytypes.JTensor


def create_relative_positional_embedding(layer: base_layer.BaseLayer) -> None:
  """Creates what embeds distances, in the `setup` of an attention layer.

  These are the children `pos_emb` and `pos_proj`, and with `use_bias` the variables `u`
  and `v` `[N, H]`.

  Raises:
    ValueError: `rel_pos_emb_dim` is not positive.
  """
  if layer.rel_pos_emb_dim <= 0:
    raise ValueError(
      f'{describe(layer)}: rel_pos_emb_dim must be positive, found '
      f'{layer.rel_pos_emb_dim}.'
    )
  heads = (layer.num_heads, head_size(layer))
  layer.create_child(
    'pos_emb',
    pax_fiddle.Config(PositionalEmbedding, embedding_dims=layer.rel_pos_emb_dim),
  )
  proj = layer.proj_tpl.clone().set(
    input_dim=layer.rel_pos_emb_dim,
    num_heads=heads[0],
    dim_per_head=heads[1],
    use_bias=False,
  )
  proj.weight_split_dims_mapping.wt = layer.weight_split_dims_mapping.proj
  layer.create_child('pos_proj', proj)
  if not layer.use_bias:
    return
  wt = layer.weight_split_dims_mapping.proj
  for name in ('u', 'v'):
    layer.create_variable(
      name,
      base_layer.WeightHParams(
        shape=list(heads),
        init=base_layer.WeightInit.Constant(0.0),
        mesh_shape=layer.mesh_shape,
        tensor_split_dims_mapping=None if wt is None else [wt[1], wt[2]],
      ),
    )


def biased_queries(
  layer: base_layer.BaseLayer, query: JTensor
) -> tuple[JTensor, JTensor]:
  """`q + u` and `q + v`; both `q` if there are no biases."""
  if not layer.use_bias:
    return query, query
  return query + layer.theta.u, query + layer.theta.v


def distance_embedding(layer: base_layer.BaseLayer, distance: JTensor) -> JTensor:
  """`P(distance)`, `[F, N, H]` of integers `[F]`."""
  embedding = layer.pos_emb(position=distance[jnp.newaxis])
  return jnp.squeeze(layer.pos_proj(embedding), 0)


def skew(x: JTensor, columns: int) -> JTensor:
  """Row `r` of the result begins at entry `R - 1 - r` of row `r`.

  Args:
    x: `[..., R, F]`, `F = R + columns - 1`.
    columns: length of the rows of the result.

  Returns:
    `[..., R, columns]`.
  """
  *batch, rows, size = x.shape
  padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])
  flat = jnp.reshape(padded, (*batch, rows * (size + 1)))
  flat = flat[..., rows - 1 : rows - 1 + rows * size]
  return jnp.reshape(flat, (*batch, rows, size))[..., :columns]


class DotProductAttentionXL(DotProductAttention):
  """Self-attention with the logits of Transformer-XL, see the module.

  As in Pax, `extend_step` does not use `scale_logits_by_head_dims` and
  `zero_fully_masked`.

  Attributes:
    rel_pos_emb_dim: size of the sinusoid of a distance. Must be set.
  """

  rel_pos_emb_dim: int = 0

  _step_like_call = False

  def setup(self) -> None:
    super().setup()
    create_relative_positional_embedding(self)

  def _rel_position_bias(self, content: JTensor, abs_pos_emb: JTensor) -> JTensor:
    """The second term of the logits.

    Args:
      content: queries `[B, T, N, H]`.
      abs_pos_emb: `[2 T - 1, N, H]`, of the distances `-(T - 1), ..., T - 1`.

    Returns:
      `[B, N, T, T]`.
    """
    by_distance = jnp.einsum('BTNH,FNH->BNTF', content, abs_pos_emb[::-1])
    return skew(by_distance, content.shape[1])

  def _atten_logits(self, query: JTensor, key: JTensor) -> JTensor:
    if key.shape != query.shape:
      raise ValueError(
        f'{describe(self)}: only self-attention, as many keys as queries; found shapes '
        f'{query.shape} and {key.shape}.'
      )
    to_key, to_distance = biased_queries(self, query)
    length = query.shape[1]
    embedding = distance_embedding(self, jnp.arange(1 - length, length))
    logits = self.qk_einsum('BTNH,BSNH->BNTS', to_key, key)
    return logits + self._rel_position_bias(to_distance, embedding)

  def _atten_logits_one_step(
    self, query: JTensor, key: JTensor, step: JTensor | None
  ) -> JTensor:
    to_key, to_distance = biased_queries(self, query)
    embedding = distance_embedding(self, step - jnp.arange(key.shape[1]))
    logits = jnp.einsum('BNH,BSNH->BNS', to_key, key)
    return logits + jnp.einsum('BNH,SNH->BNS', to_distance, embedding)
