"""Stacks that trace equal blocks once: a choice, not Pax's own."""

from collections.abc import Callable

from pax_haiku import pytypes
from pax_haiku.core import shared_trace
from pax_haiku.core.shared_trace import each_by_itself
from pax_haiku.layers import stacked_transformer

__all__ = ['SharedTraceStack', 'each_by_itself']


class SharedTraceStack(stacked_transformer.StackedTransformer):
  """A `StackedTransformer` whose blocks, where they are alike, are traced once.

  Variables, numbers, keys and compiled program are those of `StackedTransformer`; what
  is saved is time before compiling: with 12 blocks most of it. See
  `core.shared_trace` for when a block is traced by itself.

  Interceptors, custom getters and names of operations see the first of equal blocks
  only; with `each_by_itself():` they see all.
  """

  def _caller(
    self, body: Callable[..., pytypes.JTensor], checkpoint: dict | None = None
  ) -> Callable[..., pytypes.JTensor]:
    return shared_trace.SharedTrace(self, body, checkpoint)
