"""Summaries: their types and keys, and those of the active JaxContext."""

from typing import Any

from pax_haiku.core import context
from pax_haiku.core.summary_types import (
  SummaryDict,
  SummaryType,
  get_summary_base_type,
  get_summary_type_from_key,
  get_summary_type_suffix,
  layer_summary_value,
  trim_summary_type_from_key,
)

__all__ = [
  'SummaryDict',
  'SummaryType',
  'add_global_summary',
  'all_global_summaries',
  'clear_global_summary',
  'get_summary_base_type',
  'get_summary_type_from_key',
  'get_summary_type_suffix',
  'layer_summary_value',
  'trim_summary_type_from_key',
]


def add_global_summary(
  name: str,
  tensor: Any,
  summary_type: SummaryType = SummaryType.SCALAR,
  verbosity: int = 2,
):
  """Adds a summary that belongs to no layer to the active JaxContext.

  Dropped when `verbosity` exceeds the context's `summary_verbosity`. See
  `SummaryDict.add_summary` for the key and the ranks.

  Raises:
    AssertionError: no context is active, or an image's rank is neither 3 nor 4.
  """
  ctx = context.cur_jax_context()
  if verbosity <= ctx.summary_verbosity:
    ctx.summary_dict.add_summary(name, tensor, summary_type)


def all_global_summaries() -> dict[str, Any]:
  """Returns the active context's summaries, by key."""
  return context.cur_jax_context().summary_dict.dict


def clear_global_summary():
  """Forgets the active context's summaries."""
  context.cur_jax_context().summary_dict.clear()
