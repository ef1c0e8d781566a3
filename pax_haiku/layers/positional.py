"""Positional embeddings that are added: sinusoids in one and two axes, learned ones."""

import math

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import base_ops
from pax_haiku.layers.describe import describe
from pax_haiku.layers.embeddings import lookup_rows, shard_vectors

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
SplitDimsMapping = pytypes.SplitDimsMapping


class PositionalEmbedding(base_layer.BaseLayer):
  """Sinusoids of position (https://arxiv.org/abs/1706.03762, section 3.5).

  With `n = embedding_dims // 2` frequencies
  `f_i = min_timescale * (max_timescale / min_timescale) ** (-i / max(n - 1, 1))`
  a position `p` becomes `[sin(p f_0), sin(p f_1), ..., cos(p f_0), cos(p f_1), ...]`,
  with a 0 at the end if `embedding_dims` is odd. As in Pax, `min_timescale` multiplies.

  Attributes:
    min_timescale: see the formula.
    max_timescale: see the formula.
    embedding_dims: size of an embedding.
  """

  min_timescale: int = 1
  max_timescale: int = 10_000
  embedding_dims: int = 0

  def _positions(
    self, seq_length: int | None, position: JTensor | None
  ) -> JTensor:
    """`position` after a check of its rank, or `[[0, ..., seq_length - 1]]`."""
    if position is None:
      if seq_length is None:
        raise AssertionError(
          f'{describe(self)}: give seq_length or position; both are None.'
        )
      return jnp.arange(seq_length)[jnp.newaxis]
    if position.ndim != 2:
      raise AssertionError(
        f'{describe(self)}: position must be [batch, time], found shape '
        f'{position.shape}.'
      )
    return position

  def __call__(
    self, seq_length: int | None = None, position: JTensor | None = None
  ) -> JTensor:
    """Embeds positions.

    Args:
      seq_length: embed the positions `0 ... seq_length - 1`; unused if `position` is
        given.
      position: `[B, T]`.

    Returns:
      `[B, T, embedding_dims]` in `fprop_dtype`; B is 1 without `position`.

    Raises:
      AssertionError: both arguments are None, or `position` is not of rank 2.
    """
    position = self._positions(seq_length, position).astype(jnp.float32)
    count = self.embedding_dims // 2
    increment = math.log(self.max_timescale / self.min_timescale) / max(count - 1, 1)
    frequency = self.min_timescale * jnp.exp(
      jnp.arange(count, dtype=jnp.float32) * -increment
    )
    angle = position[:, :, jnp.newaxis] * frequency
    embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    embedding = embedding.astype(self.fprop_dtype)
    return jnp.pad(embedding, [(0, 0), (0, 0), (0, self.embedding_dims % 2)])


class PositionalEmbedding2D(base_layer.BaseLayer):
  """Sinusoids of row and column for the patches of an image, in row-major order.

  The first half of an embedding belongs to the row, the second to the column. A row or
  column at distance `p` from the middle (`-h/2, -h/2 + 1, ...`) becomes
  `[sin(p f_k)..., cos(p f_k)...]` with `f_k = 10000 ** (-k / K)`, `K` a quarter of
  `embedding_dims`.

  Attributes:
    h: rows.
    w: columns.
    embedding_dims: size of an embedding, a multiple of 4.
    pos_transform: not used; there for Pax's sake.
    num_prepend_cls_tokens: zero vectors before the patches.
    num_append_cls_tokens: zero vectors behind them.
  """

  h: int = 0
  w: int = 0
  embedding_dims: int = 0
  pos_transform: str = 'hwd->(hw)d'
  num_prepend_cls_tokens: int = 0
  num_append_cls_tokens: int = 0

  def _axis_embedding(self, size: int) -> JTensor:
    """`[size, embedding_dims / 2]`."""
    count = self.embedding_dims // 4
    frequency = 1.0 / 10000 ** (jnp.arange(count, dtype=jnp.float32) / count)
    position = jnp.arange(-size / 2, size / 2, dtype=jnp.float32)
    angle = position[:, jnp.newaxis] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)

  def __call__(
    self, seq_length: int | None = None, position: JTensor | None = None
  ) -> JTensor:
    """Returns the embeddings; both arguments are there for Pax's sake only.

    Returns:
      `[1, prepended + h * w + appended, embedding_dims]`, float32 whatever
      `fprop_dtype` is.

    Raises:
      TypeError: `embedding_dims` is not a positive multiple of 4.
    """
    if self.embedding_dims <= 0 or self.embedding_dims % 4:
      raise TypeError(
        f'{describe(self)}: embedding_dims must be a positive multiple of 4, found '
        f'{self.embedding_dims}.'
      )
    half = self.embedding_dims // 2
    grid = (self.h, self.w, half)
    rows = jnp.broadcast_to(self._axis_embedding(self.h)[:, jnp.newaxis], grid)
    columns = jnp.broadcast_to(self._axis_embedding(self.w), grid)
    patches = jnp.concatenate([rows, columns], axis=-1)
    patches = jnp.reshape(patches, (1, self.h * self.w, self.embedding_dims))
    cls_tokens = (self.num_prepend_cls_tokens, self.num_append_cls_tokens)
    return jnp.pad(patches, [(0, 0), cls_tokens, (0, 0)])


class TrainablePositionalEmbedding(PositionalEmbedding):
  """A learned vector for each position.

  Attributes:
    max_seq_length: number of positions.
    lookup_style: `'matmul'`, where a position of `seq_length` or more gives zeros, or
      `'index'`, where it is clamped.
    array_lookup_tpl: does the indexing.
    einsum_tpl: does the product with one-hot vectors.
  """

  max_seq_length: int = 10_240
  lookup_style: str = 'matmul'
  array_lookup_tpl: LayerTpl = pax_fiddle.template_field(base_ops.ArrayLookup)
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of what the layer returns.

    Attributes:
      emb_out_split_dims_mapping: of the vectors.
    """

    emb_out_split_dims_mapping: SplitDimsMapping = None

  def setup(self) -> None:
    self.create_variable(
      'emb_var',
      base_layer.WeightHParams(
        shape=[self.max_seq_length, self.embedding_dims],
        mesh_shape=self.mesh_shape,
        tensor_split_dims_mapping=self.weight_split_dims_mapping.wt,
      ),
    )
    self.create_child('array_lookup', self.array_lookup_tpl.clone())
    self.create_child('einsum', self.einsum_tpl.clone())

  def __call__(
    self, seq_length: int | None = None, position: JTensor | None = None
  ) -> JTensor:
    """Embeds positions.

    Args:
      seq_length: the first so many positions are used; at most `max_seq_length`. None:
        the length of `position` for `'matmul'`, all positions for `'index'`.
      position: `[B, T]`; None: `[[0, ..., seq_length - 1]]`.

    Returns:
      `[B, T, embedding_dims]`.

    Raises:
      AssertionError: both arguments are None, or `position` is not of rank 2.
      TypeError: `seq_length` exceeds `max_seq_length`.
      ValueError: unknown lookup style.
    """
    position = self._positions(seq_length, position)
    if seq_length is None and self.lookup_style == 'matmul':
      seq_length = position.shape[1]
    table = self.theta.emb_var
    if seq_length is not None:
      if seq_length > self.max_seq_length:
        raise TypeError(
          f'{describe(self)}: seq_length={seq_length} exceeds max_seq_length='
          f'{self.max_seq_length}. Raise max_seq_length.'
        )
      table = table[:seq_length]
    vectors = lookup_rows(self, table, position, self.array_lookup, self.einsum)
    return shard_vectors(self, vectors)
