"""A linear chain of layers and functions."""

from collections.abc import Callable, Sequence
from typing import Any

from pax_haiku import base_layer
from pax_haiku.layers.describe import describe

__all__ = ['Sequential']


class Sequential(base_layer.BaseLayer):
  """Calls layers one after the other.

  The variables of the layer at position `i` are under `layers_<i>`; plain functions
  count as positions.

  Attributes:
    layers: the chain: layers, configs of layers, or functions.
  """

  layers: Sequence[Callable[..., Any]] | None = None

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Runs the chain.

    Args:
      *args: given to the first layer.
      **kwargs: given to the first layer.

    Returns:
      What the last layer returns. In between, a tuple is given to the next layer as
      positional arguments, a dict as keyword arguments, anything else as one argument.

    Raises:
      ValueError: there are no layers.
    """
    if not self.layers:
      raise ValueError(
        f'{describe(self)}: a Sequential needs at least one layer, found '
        f'layers={self.layers!r}.'
      )
    first, *rest = self.layers
    outputs = first(*args, **kwargs)
    for layer in rest:
      if isinstance(outputs, tuple):
        outputs = layer(*outputs)
      elif isinstance(outputs, dict):
        outputs = layer(**outputs)
      else:
        outputs = layer(outputs)
    return outputs
