"""Rotary positional embedding of queries and keys."""

import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.layers import positional
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


class RotaryPositionalEmbedding(positional.PositionalEmbedding):
  """Rotates pairs of features by an angle that grows with position.

  https://arxiv.org/abs/2104.09864, section 3.2.2, with feature `i` paired with feature
  `i + H/2` of the `H = embedding_dims` features (halves, not neighbours). Position `p`
  turns pair `i` by `p / (min_timescale * ratio ** (2 i / H))`, `ratio` being
  `max_timescale / min_timescale`.

  Attributes:
    cast_as_fprop_dtype: return `fprop_dtype`; else what inputs and the float32 angles
      promote to.
  """

  cast_as_fprop_dtype: bool = True

  def setup(self) -> None:
    if self.embedding_dims % 2:
      raise ValueError(
        f'{describe(self)}: embedding_dims must be even, found {self.embedding_dims}.'
      )

  def __call__(self, inputs: JTensor, position: JTensor | None = None) -> JTensor:
    """Rotates `inputs`.

    Args:
      inputs: `[B, S, N, H]` or `[B, S, H]`, `H = embedding_dims`.
      position: `[B, S]`; None: `0 ... S - 1`.

    Returns:
      The shape of `inputs`.

    Raises:
      ValueError: rank or last axis do not fit.
    """
    if inputs.ndim not in (3, 4):
      raise ValueError(
        f'{describe(self)}: expected inputs [batch, time, heads, dims] or '
        f'[batch, time, dims], found shape {inputs.shape}.'
      )
    if inputs.shape[-1] != self.embedding_dims:
      raise ValueError(
        f'{describe(self)}: expected inputs whose last axis has embedding_dims='
        f'{self.embedding_dims}, found shape {inputs.shape}.'
      )
    half = self.embedding_dims // 2
    fraction = 2 * jnp.arange(half) / self.embedding_dims
    ratio = self.max_timescale / self.min_timescale
    timescale = self.min_timescale * ratio**fraction
    if position is None:
      position = jnp.arange(inputs.shape[1], dtype=jnp.float32)[jnp.newaxis]
    position = jnp.expand_dims(position, tuple(range(2, inputs.ndim)))
    angle = position / timescale
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    x1, x2 = jnp.split(inputs, 2, axis=-1)
    first = x1 * cos - x2 * sin
    second = x2 * cos + x1 * sin
    if self.cast_as_fprop_dtype:
      first, second = self._cast_to_fprop_dtype((first, second))
    return jnp.concatenate([first, second], axis=-1)

  def extend_step(
    self, inputs: JTensor, position: int | JTensor | None = None
  ) -> JTensor:
    """Rotates the tokens of a window that ends at `position`, for decoding.

    Args:
      inputs: `[B, H]`, `[B, N, H]` or, with a window of P tokens, `[B, P, N, H]`.
      position: of the last token, a scalar or `[B]`. Token `j` of the window has
        position `max(position - (P - 1 - j), 0)`.

    Returns:
      The shape of `inputs`.

    Raises:
      TypeError: `position` is None.
    """
    if position is None:
      raise TypeError(
        f'{describe(self)}: extend_step needs the position of the last token, a scalar '
        'or [batch]; found None.'
      )
    rank = inputs.ndim
    if rank == 2:
      windowed = inputs[:, jnp.newaxis, jnp.newaxis]
    elif rank == 3:
      windowed = inputs[:, jnp.newaxis]
    else:
      windowed = inputs
    batch, length = windowed.shape[:2]
    last = jnp.broadcast_to(jnp.asarray(position), (batch,))
    window = jnp.arange(length) - (length - 1)
    outputs = self(windowed, jnp.maximum(last[:, jnp.newaxis] + window, 0))
    return jnp.reshape(outputs, inputs.shape)
