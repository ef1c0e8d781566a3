"""BregmanPCA: principal components, found online, of what an activation gives."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers import bregman_fields, bregman_losses, ngram_heads
from pax_haiku.layers.bregman_losses import ActivationType, unit_rms
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit


class BregmanPCA(bregman_fields.PcaFields):
  """Describes each input by K coefficients, and learns the components for that.

      inputs ~ activation(coefficients . components + mean)

  The coefficients of a batch are found by gradient descent from 0, with momentum and
  gradients of unit size, on the Bregman divergence that belongs to the activation (see
  `bregman_losses`). In training, from `start_step` until before `end_step`, mean and
  components follow the batch: nothing of it is trained by gradients from outside, and
  none go through the coefficients.

  Shapes: B batch, K components, `dims` those of an input.

  Attributes:
    input_dims: `dims`, a size or a sequence of sizes.
    others: see `bregman_fields.PcaFields`.
  """

  input_dims: int | Sequence[int] = 0

  def setup(self) -> None:
    self._check_fields()
    dims = self._dims()

    def create(name: str, shape: list[int], init: WeightInit | None = None) -> None:
      sync = base_layer.WeightHParamsCollection.REQUIRES_MEAN_SYNC
      hparams = WeightHParams(shape=shape, init=init, collections=[sync])
      self.create_variable(name, hparams, trainable=False)

    zero = WeightInit.Constant(0.0)
    create('step', [], zero)
    create('mean', [1, *dims], zero)
    create('components', [self.num_components, *dims])
    create('components_momentum', [self.num_components, *dims], zero)

  def _dims(self) -> list[int]:
    dims = self.input_dims
    return [dims] if isinstance(dims, int) else list(dims)

  def _check_fields(self) -> None:
    where = describe(self)
    ngram_heads.check_positive(self, AssertionError, 'num_components')
    if not self._dims() or min(self._dims()) <= 0:
      raise AssertionError(
        f'{where}: input_dims must be positive, found {self._dims()}.'
      )
    if self.end_step <= self.start_step:
      raise AssertionError(
        f'{where}: end_step must be greater than start_step = {self.start_step}, found '
        f'{self.end_step}; nothing would be learned.'
      )
    if self.activation_type not in list(ActivationType):
      raise ValueError(
        f'{where}: activation_type must be one of {", ".join(ActivationType)}, found '
        f'{self.activation_type!r}.'
      )
    if self.activation_type == ActivationType.LEAKY_RELU and self.negative_slope == 0:
      raise ValueError(
        f'{where}: LEAKY_RELU must have an inverse: set negative_slope to other than 0.'
      )

  def _activation(self) -> tuple[ActivationType, float]:
    return ActivationType(self.activation_type), self.negative_slope

  # -- The loss ---------------------------------------------------------------------

  def bregman_loss_fn(
    self, coefficients: JTensor, components: JTensor, mean: JTensor, labels: JTensor
  ) -> JTensor:
    """How far the combinations of components are from the labels, a scalar.

    The mean over examples, or for SOFTMAX over all distributions.

    Args:
      coefficients: `[B, K]`.
      components: `[K, *dims]`.
      mean: `[1, *dims]`.
      labels: `[B, *dims]`.
    """
    return bregman_losses.loss(
      coefficients, components, mean, labels, *self._activation()
    )

  @property
  def coefficients_grad_fn(self) -> Callable[..., JTensor]:
    """The gradient of `bregman_loss_fn` by the coefficients, `[B, K]`."""
    return jax.grad(self.bregman_loss_fn, argnums=0)

  @property
  def components_grad_fn(self) -> Callable[..., JTensor]:
    """The gradient of `bregman_loss_fn` by the components, `[K, *dims]`."""
    return jax.grad(self.bregman_loss_fn, argnums=1)

  # -- Learning ---------------------------------------------------------------------

  def base_learning_rate(self, step: JTensor) -> tuple[JTensor, JTensor]:
    """The learning rate, as a share of `components_lr`, and 1 if anything is learned.

    Args:
      step: a scalar, float32.
    """
    apply = jnp.where((step >= self.start_step) & (step < self.end_step), 1.0, 0.0)
    if self.constant_lr_schedule:
      return apply, apply
    done = (step - self.start_step) / (self.end_step - self.start_step)
    return jnp.maximum(1.0 - done, 0.0) * apply, apply

  def __call__(
    self, inputs: JTensor, mask: JTensor | None = None
  ) -> tuple[JTensor, JTensor]:
    """Finds the coefficients and, in training, improves mean and components.

    Adds the summary `bregman_loss`.

    Args:
      inputs: `[B, *dims]`; for SOFTMAX the last axis holds probabilities.
      mask: `[B, 1]`, multiplied with the coefficients before components learn from
        them: 0 at examples to be ignored. The mean doesn't ignore them.

    Returns:
      The inputs, in `fprop_dtype`, and the coefficients `[B, K]`.

    Raises:
      ValueError: the inputs have other dims.
    """
    inputs = self._cast_to_fprop_dtype(inputs)
    if list(inputs.shape[1:]) != self._dims():
      raise ValueError(
        f'{describe(self)}: expected inputs [batch, {", ".join(map(str, self._dims()))}'
        f'], found shape {inputs.shape}.'
      )
    mean, components = self.get_var('mean'), self.get_var('components')
    if not self.do_eval:
      step = self.get_var('step')
      rate, apply = self.base_learning_rate(step)
      self.update_var('step', step + 1)
      beta = 1.0 - apply * (1.0 - self.mean_beta)
      target = jnp.mean(inputs, axis=0, keepdims=True)
      target = bregman_losses.invert(target, *self._activation())
      mean = beta * mean + (1.0 - beta) * target
      self.update_var('mean', mean)
    coefficients = bregman_losses.best_coefficients(
      inputs,
      components,
      mean,
      *self._activation(),
      lr=self.coefficients_lr,
      beta=self.coefficients_beta,
      steps=self.coefficients_steps,
    )
    if not self.do_eval:
      shown = coefficients if mask is None else coefficients * mask
      grad = unit_rms(self.components_grad_fn(shown, components, mean, inputs))
      beta, momentum = self.components_beta, self.get_var('components_momentum')
      momentum = beta * momentum + (1 - beta) * grad * apply
      components -= rate * self.components_lr * momentum
      self.update_var('components', components)
    loss = self.bregman_loss_fn(coefficients, components, mean, inputs)
    self.add_summary('bregman_loss', loss)
    return inputs, coefficients

  def reconstruct(self, coefficients: JTensor) -> JTensor:
    """What the coefficients `[B, K]` stand for, `[B, *dims]`."""
    mean, components = self.get_var('mean'), self.get_var('components')
    x = jnp.tensordot(coefficients, components, axes=1) + mean
    return bregman_losses.activate(x, *self._activation())


__all__ = ['ActivationType', 'BregmanPCA']
