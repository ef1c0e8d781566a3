"""From Haiku to Pax and back: trees of variables, matching, comparison, checkpoints."""

from pax_haiku.interop.checkpoint import load_checkpoint, save_checkpoint
from pax_haiku.interop.checkpoint_error import CheckpointError
from pax_haiku.interop.compare_models import Comparison, compare
from pax_haiku.interop.mapping import Mapping, MappingError
from pax_haiku.interop.mapping_optimizer import convert_optimizer
from pax_haiku.interop.matching import match
from pax_haiku.interop.trees import to_haiku, to_pax

__all__ = [
  'CheckpointError',
  'Comparison',
  'Mapping',
  'MappingError',
  'compare',
  'convert_optimizer',
  'load_checkpoint',
  'match',
  'save_checkpoint',
  'to_haiku',
  'to_pax',
]
