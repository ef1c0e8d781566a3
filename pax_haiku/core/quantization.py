"""Entry points of weight quantization: by default weights pass through unchanged."""

from typing import Any

import haiku as hk

from pax_haiku.core import boxes, constants, sharding


class QuantizationMixin:
  """quantize_weight and quantized_partition_specs; layers override both."""

  def _pax_quantization_children(self):
    self._pax_require_setup('quantize_weight')
    return self._pax_children.items()

  def quantize_weight(self) -> dict[str, Any]:
    """This layer's variables and its children's, as they are.

    Call it through `layer.apply(variables, method='quantize_weight')`.

    Returns:
      {collection: {variable: value, child: {...}}} over params and non_trainable.
    """
    out: dict[str, Any] = {}
    children = list(self._pax_quantization_children())
    for collection, table in (
      (constants.PARAMS, self._pax_weights),
      (constants.NON_TRAINABLE, self._pax_non_trainables),
    ):
      for name in table:
        out.setdefault(collection, {})[name] = self.get_variable(collection, name)
    return _with_children(out, children, 'quantize_weight')

  def quantized_partition_specs(self) -> dict[str, Any]:
    """Partition specs in the structure of `quantize_weight`."""
    out: dict[str, Any] = {}
    children = list(self._pax_quantization_children())
    for collection, table in (
      (constants.PARAMS, self._pax_weights),
      (constants.NON_TRAINABLE, self._pax_non_trainables),
    ):
      for name, declared in table.items():
        hparams = declared.hparams
        mapping = hparams.tensor_split_dims_mapping or [None] * len(hparams.shape)
        out.setdefault(collection, {})[name] = boxes.BoxedPartitionSpec(
          meta=sharding.to_partition_spec(mapping, self.mesh_axis_names)
        )
    return _with_children(out, children, 'quantized_partition_specs')


def _with_children(out, children, method: str):
  for name, child in children:
    if not _holds_variables(child):
      continue
    for collection, tree in getattr(child, method)().items():
      if tree:
        out.setdefault(collection, {})[name] = tree
  return out


def _holds_variables(layer) -> bool:
  """Whether the variables given have any of the layer or of what lies below it."""
  own, below = layer.module_name, layer.module_name + '/'
  return any(
    module == own or module.startswith(below)
    for held in (hk.get_params(), hk.get_current_state())
    for module in held
  )
