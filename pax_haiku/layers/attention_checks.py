"""What attention layers say when shapes do not fit."""

from typing import Any

import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

JTensor = pytypes.JTensor


def check_call(
  layer: base_layer.BaseLayer,
  query: JTensor,
  key: JTensor,
  value: JTensor,
  atten_mask: AttentionMask,
  relative_bias: JTensor | None = None,
) -> None:
  """Checks projected sequences `[B, L, N, H]` (keys may be without N) and their mask.

  Raises:
    ValueError: something does not fit.
  """
  batch, length, heads = query.shape[:3]
  key_length = key.shape[1]
  if key.shape != value.shape or key.shape[0] != batch:
    raise ValueError(
      f'{describe(layer)}: queries, keys and values do not fit: their projections have '
      f'the shapes {query.shape}, {key.shape} and {value.shape}.'
    )
  check_mask(layer, atten_mask, batch, length, key_length)
  if relative_bias is not None and relative_bias.shape not in (
    (batch, heads, length, key_length),
    (1, heads, length, key_length),
  ):
    raise ValueError(
      f'{describe(layer)}: the relative bias must have shape [1 or {batch}, {heads}, '
      f'{length}, {key_length}], found {list(relative_bias.shape)}.'
    )


def check_mask(
  layer: base_layer.BaseLayer,
  atten_mask: AttentionMask,
  batch: int,
  length: int,
  key_length: int,
) -> None:
  """Checks a mask of `length` queries and `key_length` keys.

  Raises:
    ValueError: it does not fit.
  """
  if isinstance(atten_mask, StructuredMask):
    atten_mask.check(batch, length, key_length, describe(layer))
    return
  shape = getattr(atten_mask, 'shape', None)
  if (
    shape is None
    or len(shape) != 4
    or shape[0] not in (1, batch)
    or shape[1] != 1
    or shape[2] not in (1, length)
    or shape[3] != key_length
  ):
    raise ValueError(
      f'{describe(layer)}: atten_mask must have shape [1 or {batch}, 1, 1 or {length}, '
      f'{key_length}] (batch, heads, queries, keys), found {_shape_of(atten_mask)}. '
      'Functions of layers.attentions make such masks, or give a StructuredMask.'
    )


def check_step_mask(
  layer: base_layer.BaseLayer,
  atten_mask: JTensor,
  batch: int,
  key_shape: tuple[int, ...],
) -> None:
  """Checks the mask of one decoding step.

  Args:
    layer: which asks.
    atten_mask: to be `[1|b|B, 1, S]`.
    batch: B of the query.
    key_shape: `[b, S, ...]` of the cached keys.

  Raises:
    ValueError: it does not fit.
  """
  shape = getattr(atten_mask, 'shape', None)
  if (
    shape is None
    or len(shape) != 3
    or shape[0] not in (1, batch, key_shape[0])
    or shape[1:] != (1, key_shape[1])
  ):
    raise ValueError(
      f'{describe(layer)}: in extend_step atten_mask must be an array [1 or {batch}, '
      f'1, {key_shape[1]}] (batch, heads, length of the cache), found '
      f'{_shape_of(atten_mask)}.'
    )


def check_scalar(layer: base_layer.BaseLayer, time_step: Any) -> None:
  """Raises a ValueError unless `time_step` is a scalar."""
  if jnp.ndim(time_step) != 0:
    raise ValueError(
      f'{describe(layer)}: time_step must be a scalar, found shape '
      f'{jnp.shape(time_step)}.'
    )


def _shape_of(x: Any) -> Any:
  shape = getattr(x, 'shape', None)
  return type(x).__name__ if shape is None else list(shape)
