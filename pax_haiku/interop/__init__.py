"""From Haiku to Pax and back: trees of variables, matching, comparison, checkpoints."""

from pax_haiku.interop.trees import to_haiku, to_pax

__all__ = ['to_haiku', 'to_pax']
