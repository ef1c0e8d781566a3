"""How a layer is named in an error message."""

from pax_haiku import base_layer


def describe(layer: base_layer.BaseLayer) -> str:
  """`'Conv2D at encoder/stem'`: the class and the path from the root of a layer."""
  return f'{type(layer).__name__} at {"/".join(layer.path) or "the root"}'
