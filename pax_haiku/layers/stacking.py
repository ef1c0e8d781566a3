"""StackingOverTime: frames of a sequence joined with their neighbours, and strided."""

import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

__all__ = ['StackingOverTime']

JTensor = pytypes.JTensor


class StackingOverTime(base_layer.BaseLayer):
  """Joins each `stride`-th frame with its neighbours, along depth.

  With `left_context = right_context = 1` and `stride = 3`, the frames 1 2 3 4 5 6 7
  become (0 1 2) (3 4 5) (6 7 0).

  Attributes:
    left_context: number of frames taken before each frame.
    right_context: number of frames taken after each frame.
    stride: distance of the frames that are kept, at least 1.
    pad_with_left_frame: before the first frame come copies of it, not zeros.
    pad_with_right_frame: after the last frame come copies of it, not zeros.
    padding_reduce_option: `'reduce_min'`: a result counts as padding if all its
      frames do; `'reduce_max'`: if any does.
  """

  left_context: int = 0
  right_context: int = 0
  stride: int = 0
  pad_with_left_frame: bool = False
  pad_with_right_frame: bool = False
  padding_reduce_option: str = 'reduce_min'

  def setup(self) -> None:
    if self.stride < 1:
      raise AssertionError(
        f'{describe(self)}: stride must be at least 1, found {self.stride}.'
      )
    if self.padding_reduce_option not in ('reduce_min', 'reduce_max'):
      raise AssertionError(
        f"{describe(self)}: padding_reduce_option must be 'reduce_min' or "
        f"'reduce_max', found {self.padding_reduce_option!r}."
      )

  @property
  def window_size(self) -> int:
    """Number of frames joined into one."""
    return self.left_context + self.right_context + 1

  def _changes_nothing(self) -> bool:
    return self.window_size == 1 and self.stride == 1

  def _windows(self, x: JTensor, constant: float) -> JTensor:
    """`[B, T, D]` to `[B, ceil(T / stride), window_size D]`."""
    length = x.shape[1]
    for before, after, edge in (
      (self.left_context, 0, self.pad_with_left_frame),
      (0, self.right_context, self.pad_with_right_frame),
    ):
      options = {'mode': 'edge'} if edge else {'constant_values': constant}
      x = jnp.pad(x, ((0, 0), (before, after), (0, 0)), **options)
    shifted = [x[:, i : i + length : self.stride] for i in range(self.window_size)]
    return jnp.concatenate(shifted, axis=-1)

  def __call__(
    self, inputs: JTensor, paddings: JTensor | None = None
  ) -> tuple[JTensor, JTensor | None]:
    """Joins frames.

    Args:
      inputs: `[B, T, D]`.
      paddings: `[B, T, 1]`, 1 where a frame is padding.

    Returns:
      `([B, ceil(T / stride), window_size D], paddings [B, ceil(T / stride), 1])`. The
      arguments, if there is no context and the stride is 1.

    Raises:
      ValueError: the arguments have other shapes.
    """
    if self._changes_nothing():
      return inputs, paddings
    if inputs.ndim != 3:
      raise ValueError(
        f'{describe(self)}: expected inputs [batch, time, depth], got shape '
        f'{inputs.shape}.'
      )
    outputs = self._windows(inputs, 0)
    if paddings is None:
      return outputs, jnp.zeros((*outputs.shape[:-1], 1), outputs.dtype)
    if paddings.shape != (*inputs.shape[:-1], 1):
      raise ValueError(
        f'{describe(self)}: expected paddings of shape {(*inputs.shape[:-1], 1)} for '
        f'inputs of shape {inputs.shape}, got {paddings.shape}.'
      )
    reduce = jnp.min if self.padding_reduce_option == 'reduce_min' else jnp.max
    return outputs, reduce(self._windows(paddings, 1), axis=-1, keepdims=True)

  def unstack(self, stacked: JTensor) -> JTensor:
    """Takes joined frames apart again.

    Args:
      stacked: `[B, n, window_size D]`, as `__call__` returns it.

    Returns:
      `[B, (n - 1) stride + right_context + 1, D]`: the frames that were joined, up to
      the end of the last window.

    Raises:
      ValueError: frames are missing because the stride is larger than the window, or
        the depth is not a multiple of the window size.
    """
    if self._changes_nothing():
      return stacked
    if self.stride > self.window_size:
      raise ValueError(
        f'{describe(self)}: cannot unstack, stride {self.stride} is larger than the '
        f'window of {self.window_size} frames, so frames were dropped.'
      )
    batch, n, depth = stacked.shape
    if depth % self.window_size:
      raise ValueError(
        f'{describe(self)}: expected a depth that is a multiple of the window size '
        f'{self.window_size}, got stacked of shape {stacked.shape}.'
      )
    frames = stacked.reshape(batch, n, self.window_size, -1)
    # A frame is in the window of its own stride, unless it is past that one's end.
    window, offset = np.divmod(np.arange((n - 1) * self.stride), self.stride)
    past_end = offset > self.right_context
    slot = self.left_context + offset - self.stride * past_end
    body = frames[:, window + past_end, slot]
    return jnp.concatenate([body, frames[:, -1, self.left_context :]], axis=1)
