"""Normalization of weights: by their L2 norm, or by their largest singular value."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, py_utils, pytypes
from pax_haiku.layers import norm_base
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


class WeightNormL2(norm_base.BaseNormalization):
  """`(1 + g) * w / sqrt(sum(w^2) + 1e-12)`, the sum over all axes but the last.

  https://arxiv.org/abs/1602.07868; meant for a kernel `[..., dim]`, for example as
  `Conv2D.weight_norm_tpl`.
  """

  def setup(self) -> None:
    self.create_variable(
      'g', WeightHParams(shape=[self.dim], init=WeightInit.Constant(0.0))
    )

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes the kernel `inputs [..., dim]`; `paddings` are ignored."""
    axes = tuple(range(inputs.ndim - 1))
    return (1 + self.theta.g) * py_utils.l2_normalize(inputs, axis=axes)


class SpectralNorm(norm_base.BaseNormalization):
  """A weight divided by an estimate of its largest singular value.

  https://arxiv.org/abs/1802.05957. The left vector `u [dim]` is kept as a non-trainable
  variable and refined by power iteration at each training step; in eval the iteration
  starts from the stored `u` and stores nothing.

  Attributes:
    n_power_iteration: iterations a call, at least 1.
  """

  n_power_iteration: int = 1

  def setup(self) -> None:
    if self.n_power_iteration < 1:
      raise ValueError(
        f'{describe(self)}: n_power_iteration={self.n_power_iteration} must be at '
        'least 1.'
      )
    self.create_variable(
      'u',
      WeightHParams(
        shape=[self.dim],
        init=WeightInit.Gaussian(1.0),
        collections=[base_layer.WeightHParamsCollection.REQUIRES_MEAN_SYNC],
      ),
      trainable=False,
    )

  def __call__(self, inputs: JTensor, paddings: JTensor | None = None) -> JTensor:
    """Normalizes the kernel `inputs [..., dim]`; `paddings` are ignored."""
    w = jnp.reshape(inputs, [-1, self.dim])
    u = self.get_var('u')
    for _ in range(self.n_power_iteration):
      v = py_utils.l2_normalize(jnp.matmul(w, u), axis=None)
      u = py_utils.l2_normalize(jnp.matmul(v, w), axis=None)
    u = jax.lax.stop_gradient(u)
    v = jax.lax.stop_gradient(v)
    if not self.do_eval:
      self.update_var('u', u)
    sigma = jnp.matmul(jnp.matmul(v, w), u)
    return jnp.reshape(w / sigma, inputs.shape).astype(self.fprop_dtype)
