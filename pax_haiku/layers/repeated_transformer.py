"""A block of transformer layers, repeated in a scan."""

from collections.abc import Sequence

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import checkpoint_policy, repeats, stacked_transformer
from pax_haiku.layers.structured_masks import AttentionMask

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
AutodiffCheckpointType = checkpoint_policy.AutodiffCheckpointType
DecodeStateTransformFn = base_layer.DecodeStateTransformFn


class StackedTransformerRepeated(base_layer.BaseLayer):
  """`x_times` copies of a `StackedTransformer`, by `repeats.Repeat`.

  Weights are stacked along a new first axis, below `repeat/sub`; the program is as
  large as that of one copy.

  Attributes:
    block: what is repeated.
    x_times: how often, > 0.
    checkpoint_policy: what the backward pass may keep of each copy's intermediates.
    unroll_in_decode: decode with a Python loop over the copies.
    repeat_layer_name, sublayer_name: keys in the tree of variables.
    repeat_optimizer_dims_mapping: sharding of the stacked axis in optimizer states.
    nd_prefix_shape: stack on several axes; their product is `x_times`.
    return_intermediate_outputs: return the outputs of all copies, stacked.
    collect_intermediate_outputs: sow them as `repeat_intermediates`.
  """

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the stacked axis.

    Attributes:
      block: None, or a list of one entry.
    """

    block: SplitDimsMapping = None

  block: LayerTpl = pax_fiddle.template_field(stacked_transformer.StackedTransformer)
  x_times: int = 0
  checkpoint_policy: AutodiffCheckpointType = AutodiffCheckpointType.SAVE_NOTHING
  unroll_in_decode: bool = True
  repeat_layer_name: str = 'repeat'
  sublayer_name: str = 'sub'
  repeat_optimizer_dims_mapping: SplitDimsMapping = None
  nd_prefix_shape: Sequence[int] | None = None
  return_intermediate_outputs: bool = False
  collect_intermediate_outputs: bool = False

  def setup(self) -> None:
    repeat = pax_fiddle.Config(
      repeats.Repeat,
      sub_tpl=self.block,
      x_times=self.x_times,
      checkpoint_policy=self.checkpoint_policy,
      unpack_summaries=True,
      unroll_in_decode=self.unroll_in_decode,
      sublayer_name=self.sublayer_name,
      optimizer_dims_mapping=self.repeat_optimizer_dims_mapping,
      nd_prefix_shape=self.nd_prefix_shape,
      return_intermediate_outputs=self.return_intermediate_outputs,
      collect_intermediate_outputs=self.collect_intermediate_outputs,
    )
    repeat.weight_split_dims_mapping.sub = self.weight_split_dims_mapping.block
    self.create_child(self.repeat_layer_name, repeat)

  @property
  def repeat_layer(self) -> repeats.Repeat:
    """The child that repeats."""
    return getattr(self, self.repeat_layer_name)

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None,
    segment_mask: AttentionMask | None = None,
    cross_inputs: JTensor | None = None,
    cross_paddings: JTensor | None = None,
    cross_segment_mask: AttentionMask | None = None,
    segment_pos: JTensor | None = None,
  ) -> JTensor:
    """Runs all copies; arguments and result as in `StackedTransformer`."""
    return self.repeat_layer(
      inputs,
      paddings,
      segment_mask,
      cross_inputs,
      cross_paddings,
      cross_segment_mask,
      segment_pos,
    )

  def extend_step(
    self,
    inputs: JTensor,
    *,
    time_step: JTensor,
    segment_pos: JTensor | None = None,
    atten_mask: JTensor | None = None,
    cross_paddings: JTensor | None = None,
    cross_segment_mask: JTensor | None = None,
  ) -> JTensor:
    """One decoding step; arguments and result as in `StackedTransformer`."""
    return self.repeat_layer.extend_step(
      inputs,
      time_step=time_step,
      segment_pos=segment_pos,
      atten_mask=atten_mask,
      cross_paddings=cross_paddings,
      cross_segment_mask=cross_segment_mask,
    )

  def init_states(self, *args, **kwargs) -> None:
    """Not implemented, as in Pax: the first call makes the caches."""
    raise NotImplementedError(
      f'{self._pax_describe()}: call the layer with the collection decoder_cache '
      'mutable, then pad with transform_decode_state; init_states does not exist.'
    )

  def transform_decode_state(self, transform_fn: DecodeStateTransformFn) -> None:
    """Transforms the caches of all copies."""
    self.repeat_layer.transform_decode_state(transform_fn)

  def lazy_broadcast_prefix(self, num_suffix_samples: int, suffix_length: int) -> None:
    """Starts new caches for samples that share what is cached so far."""
    self.repeat_layer.lazy_broadcast_prefix(num_suffix_samples, suffix_length)

  def right_align_decode_state_with_prefix(
    self, max_prefix_size: int, right_align_fn: DecodeStateTransformFn
  ) -> None:
    """Joins prefixes and caches, right-aligned."""
    self.repeat_layer.right_align_decode_state_with_prefix(
      max_prefix_size, right_align_fn
    )


class PipelineCompatibleStackedTransformerRepeated(StackedTransformerRepeated):
  """`StackedTransformerRepeated` with the variable names of `PipelinedTransformer`.

  For running in one place what was trained as a pipeline. Of a circular pipeline, set
  `nd_prefix_shape=[circular_repeat, num_stages]`.
  """

  repeat_layer_name: str = 'pipeline'
  sublayer_name: str = 'body'
