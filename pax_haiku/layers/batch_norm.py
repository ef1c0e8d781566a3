"""Batch normalization that masks padded steps and averages over devices."""

import dataclasses

import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import norm_base
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit

_EPSILON = 0.001
_VERBOSITY = 4


class BatchNorm(norm_base.BaseNormalization):
  """`(x - mean) / sqrt(variance + 0.001) * (1 + gamma) + beta`, a statistic a channel.

  https://arxiv.org/abs/1502.03167. Training takes the moments of the batch, over all
  axes but the last and over all devices of a `pmap` over axis `'batch'`, and moves the
  averages `moving_mean` and `moving_variance`; eval uses these averages.

  The averages stay in the variables' dtype: with `fprop_dtype=bfloat16` the result is
  bfloat16 from batch statistics, but float32 from the averages.

  Attributes:
    decay: `average = decay * average + (1 - decay) * batch moment` at each step.
    use_moving_avg_in_training: normalize by the (updated) averages in training too, and
      ignore `beta` and `gamma`.
    set_padded_output_to_zero: multiply the result by `1 - paddings`.
    force_eval_mode: behave as in eval.
    gamma_init: initial `gamma`; the scale is `1 + gamma`.
  """

  decay: float = 0.999
  use_moving_avg_in_training: bool = False
  set_padded_output_to_zero: bool = True
  force_eval_mode: bool = False
  gamma_init: WeightInit = dataclasses.field(
    default_factory=lambda: WeightInit.Constant(0.0)
  )

  def setup(self) -> None:
    def channels(init, collections=None):
      return WeightHParams(shape=[self.dim], init=init, collections=collections)

    self.create_variable('beta', channels(WeightInit.Constant(0.0)))
    self.create_variable('gamma', channels(self.gamma_init))
    sync = [base_layer.WeightHParamsCollection.REQUIRES_MEAN_SYNC]
    self.create_variable(
      'moving_mean', channels(WeightInit.Constant(0.0), sync), trainable=False
    )
    self.create_variable(
      'moving_variance', channels(WeightInit.Constant(1.0), sync), trainable=False
    )

  def _beta_and_gain(self) -> tuple[JTensor, JTensor]:
    beta, gain = self.theta.beta, self.theta.gamma + 1.0
    if self.use_moving_avg_in_training:
      return jnp.zeros_like(beta), jnp.ones_like(gain)
    return beta, gain

  def compute_and_update_moments(
    self, inputs: JTensor, paddings: JTensor
  ) -> tuple[JTensor, JTensor, JTensor, JTensor]:
    """The statistics to normalize by; moves the averages when training.

    Args:
      inputs: `[..., dim]`.
      paddings: `[..., 1]`, 1 where padded.

    Returns:
      `(mean, variance, beta, 1 + gamma)`, each `[dim]`.
    """
    if self.do_eval or self.force_eval_mode:
      mean = self.get_var('moving_mean')
      variance = self.get_var('moving_variance')
    else:
      mean, variance = norm_base.compute_moments(
        inputs, paddings, reduce_over_dims=range(inputs.ndim - 1)
      )
      for name, moment in (('mean', mean), ('variance', variance)):
        moving = f'moving_{name}'
        self.update_var(
          moving, self.get_var(moving) * self.decay + moment * (1.0 - self.decay)
        )
        self.add_summary(name, moment, verbosity=_VERBOSITY)
      if self.use_moving_avg_in_training:
        mean = self.get_var('moving_mean')
        variance = self.get_var('moving_variance')
    for name in ('moving_mean', 'moving_variance'):
      self.add_summary(name, self.get_var(name), verbosity=_VERBOSITY)
    beta, gain = self._beta_and_gain()
    return mean, variance, beta, gain

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes `inputs [..., dim]`.

    Args:
      inputs: rank 2 or more (1 if paddings are given); cast to `fprop_dtype`.
      paddings: `inputs.shape[:-1]`, 1 where padded; None: nothing is.

    Raises:
      ValueError: a rank does not fit.
    """
    too_small = paddings is None and inputs.ndim < 2
    if paddings is None:
      paddings = jnp.zeros(inputs.shape[:-1])
    if too_small or paddings.ndim != inputs.ndim - 1:
      raise ValueError(
        f'{describe(self)}: expected inputs [..., {self.dim}] of rank 2 or more and '
        f'paddings of the same shape without the last axis, found inputs of shape '
        f'{inputs.shape} and paddings of shape {paddings.shape}.'
      )
    inputs, paddings = self._cast_to_fprop_dtype((inputs, paddings))
    paddings = jnp.expand_dims(paddings, -1)
    mean, variance, beta, gain = self.compute_and_update_moments(inputs, paddings)
    outputs = (inputs - mean) * (gain / jnp.sqrt(variance + _EPSILON)) + beta
    if self.set_padded_output_to_zero:
      outputs *= 1.0 - paddings
    return outputs
