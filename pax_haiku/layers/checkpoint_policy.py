"""What rematerialization (`jax.checkpoint`) keeps in memory, by name.

A policy changes memory and time, never values. Layers tag values with
`jax.ad_checkpoint.checkpoint_name`; most policies keep the values with certain tags.
"""

import enum
from collections.abc import Callable
from typing import Any

import jax

__all__ = ['AutodiffCheckpointType', 'custom_policy']


class AutodiffCheckpointType(str, enum.Enum):  # noqa: UP042, as in Pax: str() differs
  """Names of the policies. Members equal their values, which are strings."""

  SAVE_NOTHING = 'save_nothing'
  SAVE_EVERYTHING = 'save_everything'
  SAVE_DOT_ONLY = 'save_dot_only'
  SAVE_DOT_WITH_NO_BATCH_DIM = 'save_dot_with_no_batch_dims'
  SAVE_QKV_OUT_PROJ = 'save_qkv_out_proj'
  SAVE_QKV_OUT_PROJ_SEPARATE = 'save_qkv_out_proj_separate'
  SAVE_CONTEXT = 'save_context'
  SAVE_OUT_PROJ = 'save_out_proj'
  SAVE_CONTEXT_AND_OUT_PROJ = 'save_encoded_and_out_proj'
  SAVE_DOT_FOR_MLPERF_200B = 'save_dot_for_mlperf_200b'
  SAVE_QUANTIZED = 'save_quantized'
  SAVE_ITERATION_INPUT = 'save_iteration_input'
  SAVE_TRANSFORMER_LAYER_OUTPUT = 'save_transformer_layer_output'
  SAVE_DOT_EXCEPT_LOGITS_FFN1 = 'save_dot_except_logits_ffn1'
  SAVE_DOT_EXCEPT_LOGITS = 'save_dot_except_logits'
  SAVE_UNET_CONV = 'save_unet_conv'
  SAVE_UNET_ALL_CONV = 'save_unet_all_conv'


_Type = AutodiffCheckpointType
_ATTENTION = (
  'combined_qkv_proj',
  'query_proj',
  'value_proj',
  'key_proj',
  'context',
  'out_proj',
)
_UNNAMED = {
  _Type.SAVE_NOTHING: jax.checkpoint_policies.nothing_saveable,
  _Type.SAVE_EVERYTHING: jax.checkpoint_policies.everything_saveable,
  _Type.SAVE_DOT_ONLY: jax.checkpoint_policies.checkpoint_dots,
  _Type.SAVE_DOT_WITH_NO_BATCH_DIM: (
    jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
  ),
}
_SAVED_NAMES = {
  _Type.SAVE_QKV_OUT_PROJ: ('combined_qkv_proj', 'out_proj'),
  _Type.SAVE_QKV_OUT_PROJ_SEPARATE: (
    'query_proj',
    'value_proj',
    'key_proj',
    'out_proj',
  ),
  _Type.SAVE_CONTEXT: ('context',),
  _Type.SAVE_OUT_PROJ: ('out_proj',),
  _Type.SAVE_CONTEXT_AND_OUT_PROJ: ('context', 'out_proj'),
  _Type.SAVE_DOT_FOR_MLPERF_200B: _ATTENTION,
  _Type.SAVE_QUANTIZED: (
    'context',
    'out_proj',
    'combined_qkv_proj',
    'qlhs',
    'qrhs',
    'lhs_scale',
    'rhs_scale',
  ),
  _Type.SAVE_ITERATION_INPUT: ('iteration_input',),
  _Type.SAVE_TRANSFORMER_LAYER_OUTPUT: ('transformer_layer_out',),
  _Type.SAVE_DOT_EXCEPT_LOGITS_FFN1: (*_ATTENTION, 'ffn2'),
  _Type.SAVE_DOT_EXCEPT_LOGITS: (*_ATTENTION, 'ffn1', 'ffn2'),
  _Type.SAVE_UNET_CONV: ('conv_out',),
  _Type.SAVE_UNET_ALL_CONV: ('conv_0', 'conv_1', 'conv_out'),
}


def custom_policy(
  checkpoint_policy: AutodiffCheckpointType | str,
) -> Callable[..., Any]:
  """The policy of that name, for `jax.checkpoint(..., policy=...)` and `hk.remat`.

  Args:
    checkpoint_policy: a member of `AutodiffCheckpointType`, or its value.

  Raises:
    AssertionError: there is no such policy.
  """
  if checkpoint_policy in _UNNAMED:
    return _UNNAMED[checkpoint_policy]
  if checkpoint_policy in _SAVED_NAMES:
    names = _SAVED_NAMES[checkpoint_policy]
    return jax.checkpoint_policies.save_only_these_names(*names)
  raise AssertionError(
    f'Unknown checkpoint policy {checkpoint_policy!r}, expected one of '
    f'{[member.value for member in AutodiffCheckpointType]}.'
  )
