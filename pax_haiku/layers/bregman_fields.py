"""Fields that `BregmanPCA` and the layers around it have in common."""

from pax_haiku import base_layer
from pax_haiku.layers.bregman_losses import ActivationType


class PcaFields(base_layer.BaseLayer):
  """Fields of `BregmanPCA` and of the layers that hand them on to it.

  Attributes:
    num_components: number K of coefficients.
    activation_type: what is applied to combinations of components.
    negative_slope: of LEAKY_RELU below 0.
    mean_beta: how much of the mean stays in an update.
    coefficients_lr: size of the first step of the descent; the steps shrink to 0.
    coefficients_beta: momentum of the descent.
    coefficients_steps: number of steps.
    components_lr: size of an update of the components.
    components_beta: share of `components_momentum` in it. As in Pax that stays 0.
    start_step: call in training from which mean and components are updated.
    end_step: call before which that ends.
    constant_lr_schedule: keep `components_lr`, or lower it linearly to 0 at `end_step`.
  """

  num_components: int = 0
  activation_type: ActivationType = ActivationType.IDENTITY
  negative_slope: float = 0.0
  mean_beta: float = 0.99
  coefficients_lr: float = 0.01
  coefficients_beta: float = 0.9
  coefficients_steps: int = 20
  components_lr: float = 0.01
  components_beta: float = 0.9
  start_step: int = 0
  end_step: int = 0
  constant_lr_schedule: bool = True
