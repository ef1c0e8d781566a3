"""Kinds of summaries, the key suffixes that tell them, and a dict of them."""

import enum
from typing import Any

import jax.numpy as jnp


class SummaryType(enum.Enum):
  """What a summary shows. AGGREGATE: the trainer averages it over hosts or repeats."""

  SCALAR = 1
  IMAGE = 2
  AGGREGATE_SCALAR = 3
  AGGREGATE_IMAGE = 4
  TEXT = 5
  AUDIO = 6
  VIDEO = 7
  HISTOGRAM = 8


_SUFFIXES = {t: '_' + t.name.lower() for t in SummaryType}
# `x_aggregate_scalar` ends with `_scalar` too, so the longer suffixes come first.
_LONGEST_FIRST = sorted(_SUFFIXES.items(), key=lambda item: -len(item[1]))
_BASE_TYPES = {
  SummaryType.AGGREGATE_SCALAR: SummaryType.SCALAR,
  SummaryType.AGGREGATE_IMAGE: SummaryType.IMAGE,
}


def get_summary_type_suffix(summary_type: SummaryType) -> str:
  """Returns what keys of this type end with, e.g. `_scalar`."""
  return _SUFFIXES[summary_type]


def get_summary_base_type(summary_type: SummaryType) -> SummaryType:
  """Returns the type without AGGREGATE."""
  return _BASE_TYPES.get(summary_type, summary_type)


def get_summary_type_from_key(key: str) -> SummaryType:
  """Returns the type that a key's suffix tells; ValueError when there is none."""
  for summary_type, suffix in _LONGEST_FIRST:
    if key.endswith(suffix):
      return summary_type
  raise ValueError(
    f'Summary key {key!r} ends with no known suffix; known are '
    f'{sorted(_SUFFIXES.values())}.'
  )


def trim_summary_type_from_key(key: str) -> str:
  """Returns the key without its suffix; ValueError when it has none."""
  return key.removesuffix(_SUFFIXES[get_summary_type_from_key(key)])


def layer_summary_value(tensor: Any, summary_type: SummaryType) -> Any:
  """Returns the tensor as a layer's summary of this type is stored.

  An image [height, width, channels] and an audio clip [time, channels] get a leading
  batch dim; with it they must have rank 4 and 3. Other types are stored as given.

  Raises:
    AssertionError: an image or audio clip of another rank.
  """
  rank = {SummaryType.IMAGE: 4, SummaryType.AUDIO: 3}.get(summary_type)
  if rank is None:
    return tensor
  if jnp.ndim(tensor) == rank - 1:
    tensor = jnp.asarray(tensor)[jnp.newaxis]
  return _check_rank(tensor, rank, summary_type)


def _check_rank(tensor: Any, rank: int, summary_type: SummaryType) -> Any:
  if jnp.ndim(tensor) != rank:
    raise AssertionError(
      f'A summary of type {summary_type.name} must have rank {rank}, or {rank - 1} '
      f'without the batch dim; found shape {jnp.shape(tensor)}.'
    )
  return tensor


class SummaryDict:
  """The global summaries of one JaxContext: key -> tensor, in `dict`."""

  def __init__(self):
    self.dict: dict[str, Any] = {}

  def add_summary(
    self, name: str, tensor: Any, summary_type: SummaryType = SummaryType.SCALAR
  ):
    """Stores a tensor under `name` + suffix, or `name1`, `name2`, ... if in use.

    Floating tensors are stored as float32. Images get a leading batch dim if they have
    rank 3, audio clips if they have rank 2.

    Raises:
      AssertionError: an image, aggregate or not, of a rank other than 3 or 4.
    """
    tensor = jnp.asarray(tensor) if not hasattr(tensor, 'dtype') else tensor
    if jnp.issubdtype(tensor.dtype, jnp.floating):
      tensor = tensor.astype(jnp.float32)
    if get_summary_base_type(summary_type) == SummaryType.IMAGE:
      tensor = tensor[jnp.newaxis] if tensor.ndim == 3 else tensor
      tensor = _check_rank(tensor, 4, summary_type)
    elif summary_type == SummaryType.AUDIO and tensor.ndim == 2:
      tensor = tensor[jnp.newaxis]
    suffix = get_summary_type_suffix(summary_type)
    key, count = name + suffix, 0
    while key in self.dict:
      count += 1
      key = f'{name}{count}{suffix}'
    self.dict[key] = tensor

  def clear(self):
    """Forgets all summaries."""
    self.dict = {}
