"""A short convolution over the past, a kernel for each feature (Primer)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.attention_blocks import shift_1d
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


class CausalDepthwiseConv1D(base_layer.BaseLayer):
  """`y[t] = sum_i x[t - i] dconv_i`, with a weight for each feature.

  https://arxiv.org/abs/2109.08668, section 4. Starts as the average of the present
  (weight 1/2) and the past.

  Attributes:
    kernel_size: number of taps.
    hidden_dims: sizes of the feature axes, an int or several.
  """

  kernel_size: int = 3
  hidden_dims: int | Sequence[int] = 0

  def setup(self) -> None:
    dims = self.hidden_dims
    dims = list(dims) if isinstance(dims, list | tuple) else [dims]
    if self.kernel_size <= 0 or min(dims) <= 0:
      raise AssertionError(
        f'{describe(self)}: kernel_size and hidden_dims must be positive, found '
        f'{self.kernel_size} and {self.hidden_dims}.'
      )
    for i in range(self.kernel_size):
      start = 0.5 if i == 0 else 0.5 / self.kernel_size
      self.create_variable(
        f'dconv_{i}',
        base_layer.WeightHParams(
          shape=dims,
          init=base_layer.WeightInit.Constant(start),
          mesh_shape=self.mesh_shape,
          tensor_split_dims_mapping=self.weight_split_dims_mapping.wt,
        ),
      )

  def __call__(
    self, inputs: JTensor, axis: int, segment_pos: JTensor | None = None
  ) -> JTensor:
    """Convolves a sequence.

    Args:
      inputs: `[B, L, *hidden_dims]`, or with L elsewhere.
      axis: where L is.
      segment_pos: `[B, L]`, positions in segments; nothing is taken from before
        position 0. None: one segment.

    Returns:
      The shape of `inputs`.
    """
    outputs = inputs * self.theta.dconv_0
    for i in range(1, self.kernel_size):
      inputs = shift_1d(inputs, 1, axis)
      term = inputs * self.theta[f'dconv_{i}']
      if segment_pos is not None:
        inside = (segment_pos >= i).astype(inputs.dtype)
        term = term * jnp.expand_dims(inside, tuple(range(2, inputs.ndim)))
      outputs = outputs + term
    return outputs

  def extend_step(
    self,
    inputs: JTensor,
    axis: int,
    step: int | JTensor,
    segment_pos: JTensor | None,
  ) -> JTensor:
    """What the call gives at one step.

    Args:
      inputs: `[B, L, *hidden_dims]`, or with L elsewhere; right up to `step`.
      axis: where L is.
      step: the step, a scalar.
      segment_pos: `[B]`, position of the step in its segment; None: `step`.

    Returns:
      The shape of `inputs` without `axis`.
    """
    position = jnp.asarray(step)
    if segment_pos is not None:
      position = jnp.reshape(segment_pos, (-1,) + (1,) * (inputs.ndim - 1))
    outputs = jax.lax.dynamic_slice_in_dim(inputs, step, 1, axis) * self.theta.dconv_0
    for i in range(1, self.kernel_size):
      past = jax.lax.dynamic_slice_in_dim(inputs, step - i, 1, axis)
      past = jnp.where(position - i >= 0, past, jnp.zeros_like(past))
      outputs = outputs + past * self.theta[f'dconv_{i}']
    return jnp.squeeze(outputs, axis)
