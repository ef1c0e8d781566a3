"""Types of decoding: the functions that a model gives to the loops, and callbacks."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence

from pax_haiku import base_layer, pytypes

JTensor = pytypes.JTensor
NestedJTensor = pytypes.NestedJTensor
NestedMap = pytypes.NestedMap

# (model, ids [Bn], segment_pos [Bn]) -> logits [Bn, V]
ExtendStepFn = Callable[[base_layer.BaseLayerApi, JTensor, JTensor], JTensor]
# (model, ids, segment_pos, state of the loop) -> logits
ExpandedExtendStepFn = Callable[
  [base_layer.BaseLayerApi, JTensor, JTensor, NestedMap], JTensor
]
# (model, ids [B, T], paddings [B, T]): fills the decode caches.
FPropFn = Callable[[base_layer.BaseLayerApi, JTensor, JTensor], None]
# (model, (array, batch_dim, time_dim) -> array)
TransformStateFn = Callable[
  [base_layer.BaseLayerApi, base_layer.DecodeStateTransformFn], None
]
# (model, num_suffix_samples, suffix_length)
LazyBroadcastPrefixFn = Callable[[base_layer.BaseLayerApi, int, int], None]
ProcessResultFn = Callable[[base_layer.BaseLayerApi, NestedMap], NestedMap]

# A key given with the batch whose entries are all this number counts as none.
DUMMY_PRNG_KEY = 15753


@dataclasses.dataclass(frozen=True)
class StreamingResultCallback:
  """Called with what was decoded, every few steps, while the loop runs.

  Attributes:
    callback_fn: given a NestedMap of arrays `[B, num_samples, ...]`. It is called while
      the loop is traced: use `jax.debug.callback` and the like inside.
    interval_steps: number of steps between calls.
    init_fn: called first, with `(B, num_samples)`.
    done_fn: called last.
  """

  callback_fn: Callable[[NestedJTensor], None]
  interval_steps: int = 1
  init_fn: Callable[[int | Sequence[int]], None] | None = None
  done_fn: Callable[[], None] | None = None


@dataclasses.dataclass
class ControlledDecodingHParams:
  """Settings of blockwise decoding.

  Attributes:
    interval: number of steps of a block; 0: the stages of `max_decode_steps`.
    block_num_samples: samples that continue each kept one in a block.
  """

  interval: int = 0
  block_num_samples: int = 0


def coerce_to_expanded_extend_step_fn(
  extend_step_fn: ExtendStepFn | ExpandedExtendStepFn,
) -> ExpandedExtendStepFn:
  """`extend_step_fn` as a function of four parameters; the last may be dropped."""
  if len(inspect.signature(extend_step_fn).parameters) == 4:
    return extend_step_fn
  return lambda model, ids, segment_pos, state: extend_step_fn(model, ids, segment_pos)
