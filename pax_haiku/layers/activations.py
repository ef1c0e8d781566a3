"""Activations: elementwise functions as layers, found by class or by name.

They have no variables and keep the dtype of floating inputs.
"""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes

__all__ = [
  'BaseActivation',
  'CubedReLU',
  'ELU',
  'Exp',
  'GELU',
  'Identity',
  'LeakyReLU',
  'ReLU',
  'ReLU6',
  'SiLU',
  'Sigmoid',
  'SineReLU',
  'Softplus',
  'SquaredReLU',
  'Swish',
  'Tanh',
]

JTensor = pytypes.JTensor


class BaseActivation(base_layer.BaseLayer):
  """Base of all activations."""

  def __call__(self, inputs: JTensor) -> JTensor:
    """Maps `inputs` to an array of the same shape."""
    raise NotImplementedError(f'{type(self).__name__} must define __call__(inputs).')

  @classmethod
  def get_subclass_by_name(cls, name: str) -> type['BaseActivation']:
    """The direct subclass of this class that is called `name`.

    Args:
      name: a class name; case and underscores do not count (`'leaky_relu'`).

    Raises:
      KeyError: no subclass, or more than one, has that name.
    """
    wanted = name.replace('_', '').lower()
    classes = cls.__subclasses__()
    found = [c for c in classes if c.__name__.lower() == wanted]
    if len(found) != 1:
      raise KeyError(
        f'{cls.__name__}: expected one direct subclass named {name!r}, found '
        f'{len(found)}. Known names: {sorted({c.__name__ for c in classes})}.'
      )
    return found[0]


class ReLU(BaseActivation):
  """`max(x, 0)`; the gradient at 0 is 0."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.relu(inputs)


class SineReLU(BaseActivation):
  """`sin(max(x, 0))`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jnp.sin(jax.nn.relu(inputs))


class ReLU6(BaseActivation):
  """`min(max(x, 0), 6)`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.relu6(inputs)


class SquaredReLU(BaseActivation):
  """`max(x, 0)^2`, https://arxiv.org/abs/2109.08668."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jnp.square(jax.nn.relu(inputs))


class CubedReLU(BaseActivation):
  """`max(x, 0)^3`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    positive = jax.nn.relu(inputs)
    return positive * jnp.square(positive)


class LeakyReLU(BaseActivation):
  """`x` where `x >= 0`, else `negative_slope x`.

  Attributes:
    negative_slope: slope on the negative side.
  """

  negative_slope: float = 0.01

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.leaky_relu(inputs, negative_slope=self.negative_slope)


class ELU(BaseActivation):
  """`x` where `x > 0`, else `exp(x) - 1`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.elu(inputs)


class Sigmoid(BaseActivation):
  """`1 / (1 + exp(-x))`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.sigmoid(inputs)


class Tanh(BaseActivation):
  """`tanh(x)`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jnp.tanh(inputs)


class GELU(BaseActivation):
  """Gaussian error linear unit, https://arxiv.org/abs/1606.08415.

  Attributes:
    approximate: True: `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`; False:
      `x (1 + erf(x / sqrt(2))) / 2`.
  """

  approximate: bool = True

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.gelu(inputs, approximate=self.approximate)


class SiLU(BaseActivation):
  """`x sigmoid(x)`, https://arxiv.org/abs/1702.03118."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.silu(inputs)


class Swish(BaseActivation):
  """The same function as `SiLU`, under its other name."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.swish(inputs)


class Softplus(BaseActivation):
  """`log(1 + exp(x))`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jax.nn.softplus(inputs)


class Exp(BaseActivation):
  """`exp(x)`."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return jnp.exp(inputs)


class Identity(BaseActivation):
  """Returns its inputs."""

  def __call__(self, inputs: JTensor) -> JTensor:
    return inputs
