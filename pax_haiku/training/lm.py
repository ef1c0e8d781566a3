"""Language models for the trainer: from a shape to a config, and its losses."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import fiddle as fdl
import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils
from pax_haiku.layers import (
  activations,
  checkpoint_policy,
  lean_softmax,
  models,
  repeated_transformer,
  shared_trace,
)
from pax_haiku.training.cli import UserError
from pax_haiku.training.lm_shapes import LmShape

WeightInit = base_layer.WeightInit


def language_model(
  shape: LmShape,
  *,
  packed: bool = True,
  remat: str | None = None,
) -> pax_fiddle.Config:
  """Returns the config of a causal `models.LanguageModel`, named `lm`.

  GELU feed-forward layers, norms before them, one embedding for tokens and logits.

  Args:
    shape: Its sizes.
    packed: Rows hold several documents, told apart by `segment_ids`.
    remat: A policy of `checkpoint_policy`, such as 'save_nothing': what of a block to
      keep for its gradient, the rest is computed again. None keeps all; or, with
      `shape.repeat`, what products of weights give ('save_dot_with_no_batch_dims').
  """
  model = pax_fiddle.Config(models.LanguageModel, name='lm')
  lm = model.lm_tpl
  lm.model_dims = shape.model_dims
  lm.vocab_size = shape.vocab_size
  lm.packed_input = packed
  if shape.loss_chunk:
    lm.softmax_tpl = pax_fiddle.Config(
      lean_softmax.LeanSharedEmbeddingSoftmax, tokens_per_chunk=shape.loss_chunk
    )
  lm.softmax_tpl.scale_sqrt_depth = True
  lm.softmax_tpl.params_init = WeightInit.Gaussian(shape.model_dims**-0.5)
  if shape.shared_trace:
    lm.stacked_transformer_tpl = pax_fiddle.Config(shared_trace.SharedTraceStack)
  stack = lm.stacked_transformer_tpl
  stack.num_layers = shape.num_layers
  stack.num_heads = shape.num_heads
  stack.hidden_dims = shape.hidden_dims
  block = stack.transformer_layer_params_tpl
  block.tr_atten_tpl.combine_qkv = True
  if shape.rotary:
    lm.position_emb_tpl = None
    block.tr_atten_tpl.use_rotary_position_emb = True
    block.tr_atten_tpl.consolidate_rope_key_state = True  # one cache of keys, not two
  block.tr_fflayer_tpl.activation_tpl = pax_fiddle.Config(activations.GELU)
  if shape.repeat:
    stack.num_layers = 1
    lm.stacked_transformer_tpl = pax_fiddle.Config(
      repeated_transformer.StackedTransformerRepeated,
      block=stack,
      x_times=shape.num_layers,
      checkpoint_policy=_policy(remat or 'save_dot_with_no_batch_dims'),
    )
  elif remat:
    stack.remat = True
    stack.checkpoint_policy = _policy(remat)
  if shape.bfloat16:
    model.fprop_dtype = jnp.bfloat16
  return model


def _policy(name: str) -> checkpoint_policy.AutodiffCheckpointType:
  policies = checkpoint_policy.AutodiffCheckpointType
  try:
    return policies(name)
  except ValueError as error:
    raise UserError(
      f'there is no policy {name!r} of what to keep for gradients; there are '
      f'{", ".join(p.value for p in policies)}'
    ) from error


def inputs(batch: Mapping[str, Any]) -> py_utils.NestedMap:
  """Returns what the model reads of a batch of `packing`."""
  return py_utils.NestedMap({k: v for k, v in batch.items() if k != 'num_bytes'})


def weighted_scalars(model: fdl.Config) -> Callable[[dict[str, jax.Array]], dict]:
  """Returns a model function for `trainer.Task`: losses of a batch, by name.

  `loss` and `accuracy` are means over tokens; `bits_per_byte` is the loss in bits over
  the bytes of the text, whatever the tokens: what the held-out text takes when it is
  compressed by the model. A batch without `num_bytes` has none.
  """

  def forward(batch):
    read = inputs(batch)
    if model.fprop_dtype is not None and 'paddings' in read:
      # float32 paddings would make float32 of all that they are multiplied with.
      read.paddings = jnp.asarray(read.paddings, model.fprop_dtype)
    metrics, _ = base_layer.instantiate(model)(read)
    mean, weight = metrics.avg_xent
    result: dict[str, tuple[Any, Any]] = {
      'loss': metrics.total_loss,
      'accuracy': metrics.fraction_of_correct_next_step_preds,
    }
    if 'num_bytes' in batch:
      total = jnp.sum(batch['num_bytes'])
      bits = mean * weight / math.log(2)
      result['bits_per_byte'] = (bits / jnp.maximum(total, 1.0), total)
    return result

  return forward


def count(tree: Any) -> int:
  """Returns how many numbers the arrays of a tree hold."""
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
