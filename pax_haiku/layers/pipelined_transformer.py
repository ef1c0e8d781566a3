"""Transformer blocks as a pipeline."""

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import checkpoint_policy, pipeline, stacked_transformer
from pax_haiku.layers.structured_masks import AttentionMask

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
AutodiffCheckpointType = checkpoint_policy.AutodiffCheckpointType


class PipelinedTransformer(base_layer.BaseLayer):
  """`num_pipeline_stages` stacks of transformer blocks, as a pipeline.

  Attributes:
    pipeline_stage: one stage: a `StackedTransformer`, or a repeated one.
    circular_repeat: how often a microbatch passes all stages.
    num_pipeline_stages: number of stages.
    num_pipeline_microbatches: number of microbatches; or
    pipeline_microbatch_size: the size of one.
    stream_io, pipeline_broadcast_inputs, checkpoint_policy, bf16_accum_in_fp32,
    enable_async_circular_transfer: see `pipeline`.
  """

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the stacked axis.

    Attributes:
      stages: a sequence of one entry.
    """

    stages: SplitDimsMapping = (None,)

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the result.

    Attributes:
      final_out: of `[B, T, D]`.
    """

    final_out: SplitDimsMapping = None

  pipeline_stage: LayerTpl = pax_fiddle.template_field(
    stacked_transformer.StackedTransformer
  )
  circular_repeat: int = 1
  num_pipeline_stages: int | None = None
  num_pipeline_microbatches: int | None = None
  pipeline_microbatch_size: int | None = None
  stream_io: bool = False
  pipeline_broadcast_inputs: bool = False
  checkpoint_policy: AutodiffCheckpointType = (
    AutodiffCheckpointType.SAVE_ITERATION_INPUT
  )
  enable_async_circular_transfer: bool = True
  bf16_accum_in_fp32: bool = False

  def setup(self) -> None:
    if not self.num_pipeline_stages or self.num_pipeline_stages < 0:
      raise AssertionError(
        f'{self._pax_describe()}: num_pipeline_stages must be > 0, found '
        f'{self.num_pipeline_stages}.'
      )
    cls, own = pipeline.LayerwiseShardablePipelined, {}
    if self.circular_repeat != 1:
      cls = pipeline.CircularLayerwiseShardablePipelined
      own = {
        'circular_repeat': self.circular_repeat,
        'enable_async_circular_transfer': self.enable_async_circular_transfer,
      }
    tpl = pax_fiddle.Config(
      cls,
      num_stages=self.num_pipeline_stages,
      single_stage_body=self.pipeline_stage,
      num_microbatches=self.num_pipeline_microbatches,
      microbatch_size=self.pipeline_microbatch_size,
      unpack_summaries=True,
      stream_io=self.stream_io,
      pipeline_broadcast_inputs=self.pipeline_broadcast_inputs,
      checkpoint_policy=self.checkpoint_policy,
      bf16_accum_in_fp32=self.bf16_accum_in_fp32,
      **own,
    )
    tpl.weight_split_dims_mapping.stages = self.weight_split_dims_mapping.stages
    self.create_child('pipeline', tpl)

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
    """Runs the pipeline; arguments and result as in `StackedTransformer`.

    All arrays must have the whole batch as leading axis.
    """
    out = self.pipeline(
      inputs,
      paddings,
      segment_mask=segment_mask,
      cross_inputs=cross_inputs,
      cross_paddings=cross_paddings,
      cross_segment_mask=cross_segment_mask,
      segment_pos=segment_pos,
    )
    mapping = self.activation_split_dims_mapping.final_out
    return base_layer.maybe_shard(out, mapping, self.mesh_axis_names)

  def init_states(self, *args, **kwargs):
    """Not implemented, as in Pax."""
    raise NotImplementedError(self._no_decoding())

  def extend_step(self, *args, **kwargs):
    """Not implemented, as in Pax."""
    raise NotImplementedError(self._no_decoding())

  def _no_decoding(self) -> str:
    return (
      f'{self._pax_describe()}: a pipeline cannot decode. Put the same weights into a '
      'PipelineCompatibleStackedTransformerRepeated, which has the same variables.'
    )
