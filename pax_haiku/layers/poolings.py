"""Max and average pooling that knows about paddings."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

__all__ = ['GlobalPooling', 'Pooling', 'Pooling1D']

JTensor = pytypes.JTensor


def _check_one_of(layer: base_layer.BaseLayer, field: str, choices: Sequence[str]):
  value = getattr(layer, field)
  if value not in choices:
    raise ValueError(
      f'{describe(layer)}: {field} must be one of {list(choices)}, found {value!r}.'
    )


def _smallest(layer: base_layer.BaseLayer, dtype) -> np.ndarray:
  """What a maximum never picks: -inf, for integers their least value."""
  if jnp.issubdtype(dtype, jnp.integer):
    return np.array(jnp.iinfo(dtype).min, dtype)
  if jnp.issubdtype(dtype, jnp.floating):
    return np.array(-np.inf, dtype)
  raise ValueError(
    f'{describe(layer)}: expected inputs of a floating or an integer dtype, found '
    f'{dtype}.'
  )


def _window_max(x: JTensor, lowest, window, strides, padding: str) -> JTensor:
  return jax.lax.reduce_window(x, lowest, jax.lax.max, window, strides, padding)


def _window_sum(x: JTensor, window, strides, padding: str) -> JTensor:
  zero = np.zeros((), x.dtype)
  return jax.lax.reduce_window(x, zero, jax.lax.add, window, strides, padding)


def _as_floating(x: JTensor) -> JTensor:
  return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def _divide_or_zero(x: JTensor, count: JTensor) -> JTensor:
  """`x / count`, and 0 where the count is 0."""
  return jnp.where(count > 0, x / jnp.where(count > 0, count, 1), 0)


class Pooling(base_layer.BaseLayer):
  """Pooling over windows of the two spatial axes.

  Attributes:
    window_shape: height and width of the window.
    window_stride: distance of the windows, vertical and horizontal.
    pooling_type: `'MAX'` or `'AVG'`.
    padding: `'SAME'` or `'VALID'`.
  """

  window_shape: Sequence[int] = (0, 0)
  window_stride: Sequence[int] = (0, 0)
  pooling_type: str = 'MAX'
  padding: str = 'SAME'

  def setup(self) -> None:
    for field in ('window_shape', 'window_stride'):
      value = tuple(getattr(self, field))
      if len(value) != 2 or min(value) <= 0:
        raise ValueError(
          f'{describe(self)}: {field} must be two positive integers, found {value}.'
        )
    _check_one_of(self, 'pooling_type', ('MAX', 'AVG'))
    _check_one_of(self, 'padding', ('SAME', 'VALID'))

  def __call__(
    self, inputs: JTensor, paddings: JTensor | None = None
  ) -> tuple[JTensor, JTensor | None]:
    """Pools.

    Borders that 'SAME' adds never count. Padded rows do not count for the maximum. The
    average takes them as zeros, which they must be already, and leaves them out when
    it counts rows.

    Args:
      inputs: `[B, H, W, C]`.
      paddings: `[B, H]`, 1 where a row is padding.

    Returns:
      `(outputs [B, H', W', C], paddings [B, H'] or None)`. With stride 1 and 'SAME' the
      paddings stay; else a row is padding if any row of its windows is. Padded rows
      are 0.

    Raises:
      ValueError: wrong shapes or dtype.
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim != 4:
      raise ValueError(
        f'{describe(self)}: expected inputs [batch, height, width, channels], got '
        f'shape {inputs.shape}.'
      )
    if paddings is not None and paddings.shape != inputs.shape[:2]:
      raise ValueError(
        f'{describe(self)}: expected paddings of shape {inputs.shape[:2]} for inputs '
        f'of shape {inputs.shape}, got {paddings.shape}.'
      )
    lowest = _smallest(self, inputs.dtype)
    window, strides = (1, *self.window_shape, 1), (1, *self.window_stride, 1)
    if self.pooling_type == 'AVG':
      outputs = self._average(inputs, paddings, window, strides)
    else:
      if paddings is not None:
        inputs = jnp.where(paddings[..., None, None] > 0, lowest, inputs)
      outputs = _window_max(inputs, lowest, window, strides, self.padding)
    if paddings is None:
      return outputs, None
    if paddings.dtype == bool:
      paddings = paddings.astype(jnp.float32)
    if self.window_stride[0] > 1 or self.padding == 'VALID':
      lowest = _smallest(self, paddings.dtype)
      paddings = _window_max(paddings, lowest, window[:2], strides[:2], self.padding)
    padded = paddings[..., None, None] >= 1
    return jnp.where(padded, jnp.zeros((), outputs.dtype), outputs), paddings

  def _average(self, inputs, paddings, window, strides) -> JTensor:
    inputs = _as_floating(inputs)
    # Counted on one image of one channel: all of them have the same borders.
    ones = jnp.ones((1, *inputs.shape[1:3], 1), inputs.dtype)
    cells = _window_sum(ones, window, strides, self.padding)
    outputs = _window_sum(inputs, window, strides, self.padding) / cells
    if paddings is None:
      return outputs

    def rows(x):
      return _window_sum(x, window[:2], strides[:2], self.padding)

    valid = 1 - _as_floating(paddings)
    scale = _divide_or_zero(rows(jnp.ones_like(valid)), rows(valid))
    return outputs * scale[..., None, None]


class GlobalPooling(base_layer.BaseLayer):
  """Maximum or average over whole axes.

  Attributes:
    pooling_type: `'AVG'` or `'MAX'`.
    pooling_dims: the axes, non-negative.
    keepdims: keep the axes, with size 1.
  """

  pooling_type: str = 'AVG'
  pooling_dims: Sequence[int] | None = None
  keepdims: bool = False

  def setup(self) -> None:
    _check_one_of(self, 'pooling_type', ('MAX', 'AVG'))
    dims = self.pooling_dims
    if not isinstance(dims, Sequence) or not all(
      isinstance(dim, int) and dim >= 0 for dim in dims
    ):
      raise ValueError(
        f'{describe(self)}: pooling_dims must be a list of non-negative integers, '
        f'found {dims!r}.'
      )

  def __call__(
    self,
    inputs: JTensor,
    epsilon: float = 1e-8,
    compatible_paddings: JTensor | None = None,
  ) -> JTensor:
    """Pools.

    Args:
      inputs: any shape.
      epsilon: added to the number of entries that an average with paddings divides by.
      compatible_paddings: broadcastable to `inputs`, same rank; 1 marks what to leave
        out. An average divides by the sum of `1 - compatible_paddings` over the pooled
        axes *as they are*: an axis of size 1 counts once, however long it is in
        `inputs`.

    Returns:
      The inputs without the pooled axes, in their dtype.

    Raises:
      ValueError: an axis does not exist, paddings have another rank, or wrong dtype.
    """
    inputs, dims = jnp.asarray(inputs), tuple(self.pooling_dims)
    if any(dim >= inputs.ndim for dim in dims):
      raise ValueError(
        f'{describe(self)}: pooling_dims={list(dims)} are not all axes of inputs of '
        f'shape {inputs.shape}.'
      )
    paddings = compatible_paddings
    if paddings is not None and paddings.ndim != inputs.ndim:
      raise ValueError(
        f'{describe(self)}: compatible_paddings of shape {paddings.shape} have another '
        f'rank than inputs of shape {inputs.shape}. Add axes of size 1.'
      )
    if self.pooling_type == 'MAX':
      if paddings is not None:
        inputs = jnp.where(paddings > 0, _smallest(self, inputs.dtype), inputs)
      return jnp.max(inputs, dims, keepdims=self.keepdims)
    if paddings is None:
      return jnp.mean(inputs, dims, keepdims=self.keepdims).astype(inputs.dtype)
    kept = jnp.where(paddings > 0, jnp.zeros((), inputs.dtype), inputs)
    count = jnp.sum(1 - _as_floating(paddings), dims, keepdims=True)
    outputs = jnp.sum(kept, dims, keepdims=True) / (count + epsilon)
    outputs = outputs.astype(inputs.dtype)
    return outputs if self.keepdims else jnp.squeeze(outputs, dims)


class Pooling1D(base_layer.BaseLayer):
  """Pooling over windows of axis 1, 'SAME' at the borders.

  Attributes:
    stride: distance of the windows.
    window: their length; 0: as long as the stride.
    pooling_type: `'AVG'` or `'MAX'`.
  """

  stride: int = 1
  window: int = 0
  pooling_type: str = 'AVG'

  def setup(self) -> None:
    if self.stride <= 0:
      raise ValueError(
        f'{describe(self)}: stride must be positive, found {self.stride}.'
      )
    if self.window < 0:
      raise ValueError(
        f'{describe(self)}: window must not be negative, found {self.window}.'
      )
    _check_one_of(self, 'pooling_type', ('MAX', 'AVG'))

  def __call__(
    self, inputs: JTensor, paddings: JTensor | None = None
  ) -> tuple[JTensor, JTensor | None]:
    """Pools.

    Padded steps and the borders that 'SAME' adds do not count; an average over no step
    is 0.

    Args:
      inputs: `[B, T, ...]`.
      paddings: `[B, T]`, 1 where a step is padding.

    Returns:
      `(outputs [B, ceil(T / stride), ...], paddings[:, ::stride] or None)`.

    Raises:
      ValueError: wrong shapes or dtype.
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 2:
      raise ValueError(
        f'{describe(self)}: expected inputs [batch, time, ...], got shape '
        f'{inputs.shape}.'
      )
    if paddings is not None and paddings.shape != inputs.shape[:2]:
      raise ValueError(
        f'{describe(self)}: expected paddings of shape {inputs.shape[:2]} for inputs '
        f'of shape {inputs.shape}, got {paddings.shape}.'
      )
    length = self.window or self.stride
    strided = None if paddings is None else paddings[:, :: self.stride]
    if length == 1:
      return (inputs if self.stride == 1 else inputs[:, :: self.stride]), strided
    features = (1,) * (inputs.ndim - 2)
    window, strides = (1, length, *features), (1, self.stride, *features)

    def per_step(x):
      return x.reshape(*x.shape, *features)

    if self.pooling_type == 'MAX':
      lowest = _smallest(self, inputs.dtype)
      if paddings is not None:
        inputs = jnp.where(per_step(paddings) > 0, lowest, inputs)
      outputs = _window_max(inputs, lowest, window, strides, 'SAME')
      if paddings is not None:
        zero = jnp.zeros((), outputs.dtype)
        outputs = jnp.where(per_step(strided) == 1, zero, outputs)
      return outputs, strided
    inputs = _as_floating(inputs)
    valid = jnp.ones((1, inputs.shape[1]), inputs.dtype)
    if paddings is not None:
      valid = 1 - _as_floating(paddings)
      inputs = jnp.where(per_step(paddings) > 0, jnp.zeros((), inputs.dtype), inputs)
    count = _window_sum(valid, window[:2], strides[:2], 'SAME')
    outputs = _window_sum(inputs, window, strides, 'SAME')
    return _divide_or_zero(outputs, per_step(count)), strided
