"""Group normalization, also in a cumulative form for streaming models."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import norm_base
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


class GroupNorm(norm_base.BaseNormalization):
  """`(x - mean) / sqrt(variance + epsilon) * (1 + gamma) + beta`, a statistic a group.

  https://arxiv.org/abs/1803.08494. Each `max(dim // num_groups, min_group_size)`
  neighbouring channels make a group; its moments run over all axes but the batch. The
  variables have shape `[1, ..., 1, dim]` of `input_rank`.

  Attributes:
    num_groups: wished number of groups; must divide `dim` unless it is larger.
    min_group_size: lower bound of the group size; must divide `dim`.
    cumulative: step `t` (axis 1) is normalized by the moments of the steps up to `t`.
    input_rank: 3 (`[B, T, dim]`), 4 or 5.
    epsilon: added to the variance.
    set_padded_output_to_zero: multiply the result by `1 - paddings`.
    use_scale: has a `gamma`.
    use_bias: has a `beta`.
  """

  num_groups: int = 32
  min_group_size: int = 1
  cumulative: bool = False
  input_rank: int | None = None
  epsilon: float = 0.001
  set_padded_output_to_zero: bool = True
  use_scale: bool = True
  use_bias: bool = True

  def setup(self) -> None:
    self._check_fields()
    variable = WeightHParams(
      shape=[1] * (self.input_rank - 1) + [self.dim],
      init=WeightInit.Constant(0.0),
      collections=[base_layer.WeightHParamsCollection.SKIP_LP_REGULARIZATION],
    )
    if self.use_bias:
      self.create_variable('beta', variable)
    if self.use_scale:
      self.create_variable('gamma', variable)

  def _check_fields(self) -> None:
    dim, groups, smallest = self.dim, self.num_groups, self.min_group_size

    def need(condition, expected):
      if not condition:
        raise ValueError(
          f'{describe(self)}: {expected}; found dim={dim}, num_groups={groups}, '
          f'min_group_size={smallest}, input_rank={self.input_rank}.'
        )

    need(groups > 0, 'num_groups must be positive')
    need(smallest > 0, 'min_group_size must be positive')
    need(smallest <= dim, 'min_group_size must not exceed dim')
    need(dim % smallest == 0, 'min_group_size must divide dim')
    need(dim < groups or dim % groups == 0, 'num_groups must divide dim')
    need(self.input_rank in (3, 4, 5), 'input_rank must be 3, 4 or 5')

  def _moments(
    self, x: JTensor, paddings: JTensor | None
  ) -> tuple[JTensor, JTensor]:
    """Moments of `x [B, T, ..., groups, size]`, kept broadcastable to it."""
    if paddings is None and not self.cumulative:
      axes = (*range(1, x.ndim - 2), x.ndim - 1)
      mean = jnp.mean(x, axis=axes, keepdims=True)
      centered = x - jax.lax.stop_gradient(mean)
      return mean, jnp.mean(jnp.square(centered), axis=axes, keepdims=True)
    if paddings is None:
      raise TypeError(
        f'{describe(self)}: cumulative=True needs paddings [batch, time], found None. '
        'Pass zeros if nothing is padded.'
      )
    first = 2 if self.cumulative else 1
    return norm_base.compute_moments(
      x,
      jnp.reshape(paddings, paddings.shape[:2] + (1,) * (x.ndim - 2)),
      reduce_over_dims=(*range(first, x.ndim - 2), x.ndim - 1),
      cumulative_axis=1 if self.cumulative else None,
      keepdims=True,
    )

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes `inputs [B, T, ..., dim]`.

    Args:
      inputs: rank `input_rank`; cast to `fprop_dtype`.
      paddings: `[B, T]`, 1 where padded.

    Raises:
      ValueError: the inputs have another rank.
      TypeError: `cumulative` without paddings.
    """
    if inputs.ndim != self.input_rank:
      raise ValueError(
        f'{describe(self)}: expected inputs of rank input_rank={self.input_rank}, '
        f'found shape {inputs.shape}.'
      )
    inputs, paddings = self._cast_to_fprop_dtype((inputs, paddings))
    group_size = max(self.dim // self.num_groups, self.min_group_size)
    groups = self.dim // group_size
    x = jnp.reshape(inputs, inputs.shape[:-1] + (groups, group_size))
    mean, variance = self._moments(x, paddings)
    x = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
    outputs = jnp.reshape(x, inputs.shape)
    if self.use_scale:
      outputs *= 1 + self.theta.gamma
    if self.use_bias:
      outputs += self.theta.beta
    if self.set_padded_output_to_zero and paddings is not None:
      outputs *= 1 - jnp.reshape(
        paddings, paddings.shape[:2] + (1,) * (inputs.ndim - 2)
      )
    return outputs
