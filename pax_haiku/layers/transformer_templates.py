"""What models do to the templates of their stacks of transformer blocks."""

import dataclasses
from collections.abc import Sequence

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import (
  pipelined_transformer,
  repeated_transformer,
  stacked_transformer,
)

LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]


def innermost_stack(tpl: LayerTpl) -> LayerTpl:
  """The template of the stack that a pipeline or a repeated stack is made of."""
  while True:
    if issubclass(tpl.cls, pipelined_transformer.PipelinedTransformer):
      tpl = tpl.pipeline_stage
    elif issubclass(tpl.cls, repeated_transformer.StackedTransformerRepeated):
      tpl = tpl.block
    else:
      return tpl


def _stacks() -> list[type]:
  return [
    stacked_transformer.StackedTransformer,
    repeated_transformer.StackedTransformerRepeated,
    pipelined_transformer.PipelinedTransformer,
  ]


def is_stack(tpl: LayerTpl) -> bool:
  """Whether a template is of one of the stacks of this library."""
  return issubclass(tpl.cls, tuple(_stacks()))


def passes_structured_masks(tpl: LayerTpl) -> bool:
  """Whether a stack hands its segment masks to stacks of ours, structured as they are.

  The stack makes arrays of them if its blocks need such.
  """
  def is_ours(cls: type) -> bool:
    return any(issubclass(cls, k) and cls.__call__ is k.__call__ for k in _stacks())

  return is_ours(tpl.cls) and is_ours(innermost_stack(tpl).cls)


def set_model_dims(where: str, stack: LayerTpl, model_dims: int) -> None:
  """Gives a stack the model's dims; AssertionError if it has others."""
  if stack.model_dims not in (0, model_dims):
    raise AssertionError(
      f'{where}: model_dims is {model_dims}, but that of the stack of transformer '
      f'blocks is {stack.model_dims}. Leave it 0 there, or make both equal.'
    )
  stack.model_dims = model_dims


def check_ngrammers(
  where: str, tpls: Sequence[LayerTpl] | None, stack: LayerTpl
) -> None:
  """ValueError unless there is one n-gram template for each block."""
  if tpls is not None and len(tpls) != stack.num_layers:
    raise ValueError(
      f'{where}: {len(tpls)} post-attention n-gram templates for {stack.num_layers} '
      'layers; give one (or None) for each.'
    )


def sized(tpl: LayerTpl, **dims: int) -> LayerTpl:
  """A copy of `tpl` with those of `dims` that its class has as fields."""
  fields = {f.name for f in dataclasses.fields(tpl.cls)}
  return tpl.clone().set(**{k: v for k, v in dims.items() if k in fields})
