"""BaseModel: a layer that predicts, computes a loss and decodes."""

from typing import Any

from pax_haiku import base_layer, pytypes
from pax_haiku.core.nested_map import NestedMap

Predictions = pytypes.JTensor | NestedMap | dict[str, Any] | tuple
WeightedScalars = pytypes.WeightedScalars
Metrics = pytypes.Metrics
DecodeOut = tuple[WeightedScalars, NestedMap, Metrics]
ProcessDecodeOut = tuple[WeightedScalars, list[tuple[str, Any]], Metrics]


class BaseModel(base_layer.BaseLayer):
  """A model: `__call__(batch)` is `compute_loss(compute_predictions(batch), batch)`."""

  def compute_predictions(self, input_batch: NestedMap) -> Predictions:
    """Predictions for a batch: a tensor, NestedMap, dict or namedtuple."""
    raise NotImplementedError(f'{type(self).__name__}.compute_predictions is abstract.')

  def compute_loss(self, predictions: Predictions, input_batch: NestedMap
                   ) -> tuple[WeightedScalars | Metrics, dict[str, Any]]:
    """Loss and metrics of a batch.

    Returns:
      (metrics, per_example_out). Metrics are {name: (value, weight)} of scalars, to be
      aggregated as sum(value * weight) / sum(weight); one of them is the loss to be
      minimised. Values of per_example_out have the batch as first dimension.
    """
    raise NotImplementedError(f'{type(self).__name__}.compute_loss is abstract.')

  def __call__(self, input_batch: NestedMap):
    predictions = self.compute_predictions(input_batch)
    return self.compute_loss(predictions, input_batch)

  def decode(self, input_batch: NestedMap) -> DecodeOut:
    """Decodes a batch: (weighted scalars, NestedMap of results, metrics)."""
    raise NotImplementedError(f'{type(self).__name__}.decode is abstract.')

  def process_decode_out(self, input_obj, decode_out: NestedMap) -> ProcessDecodeOut:
    """Host side of decoding: (weighted scalars, list of (key, value), metrics)."""
    raise NotImplementedError(f'{type(self).__name__}.process_decode_out is abstract.')
