"""From Haiku's state to TensorBoard: summaries of every type, and moving statistics.

Layers leave their summaries in Haiku's state, one bucket for each module:
`{module: {'summaries': {'<name>_scalar': value}}}`. The suffix tells the type.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pax_haiku.training.tensorboard import Writer, to_numpy

SUMMARIES = 'summaries'
# Buckets that are neither summaries nor variables worth a curve.
_SKIPPED = frozenset(
  {'aux_loss', 'decoder_cache', 'prefix_decoder_cache', 'intermediates'}
)


def write_state(writer: Writer, state: Mapping[str, Any], step: int) -> None:
  """Writes the summaries and the non-trainable variables of Haiku's state.

  Summaries are named `<module>/<name>`; variables `non_trainable/<module>/<name>`, as a
  number if they are one and as a histogram otherwise.
  """
  for module, entries in state.items():
    for name, value in entries.items():
      if name == SUMMARIES:
        for key, summary in value.items():
          write_summary(writer, f'{module}/{key}', summary, step)
      elif name not in _SKIPPED:
        write_array(writer, f'non_trainable/{module}/{name}', value, step)


def write_array(writer: Writer, tag: str, value: Any, step: int) -> None:
  """Writes a number as a curve, any other array as a histogram."""
  value = to_numpy(value)
  if value.size == 1:
    writer.scalar(tag, value.item(), step)
  else:
    writer.histogram(tag, value, step)


def write_summary(
  writer: Writer, key: str, value: Any, step: int, max_items: int = 4
) -> None:
  """Writes one summary as its key's suffix asks for.

  | type | value | written |
  | --- | --- | --- |
  | SCALAR | [...] | one curve; more elements (of a Repeat) become `<name>_<i>` |
  | AGGREGATE_SCALAR | [...] | the mean, as one curve |
  | IMAGE, AGGREGATE_IMAGE | [..., height, width, channels] | images `<name>_<i>` |
  | TEXT | uint8 [..., bytes] of UTF-8, filled up with zeros | texts `<name>_<i>` |
  | AUDIO | [..., time, channels] in [-1, 1], 16 kHz | sounds `<name>_<i>` |
  | VIDEO | [..., time, height, width, channels] | animated images `<name>_<i>` |
  | HISTOGRAM | [...] | one histogram |

  A single item is written as `<name>`, without a number; texts get tensorboardX's own
  suffix `/text_summary` as well.

  Args:
    writer: Where to.
    key: `<name><suffix>`.
    value: Array as in the table.
    step: Number of updates done.
    max_items: How many images, texts, sounds or films of one summary to write. Of
      scalars all are written.

  Raises:
    ValueError: Unknown suffix, or a shape that the type cannot have.
  """
  from pax_haiku import base_layer

  kind = base_layer.get_summary_base_type(base_layer.get_summary_type_from_key(key))
  name = base_layer.trim_summary_type_from_key(key)
  value = to_numpy(value)
  aggregate = kind != base_layer.get_summary_type_from_key(key)

  types = base_layer.SummaryType
  if kind == types.HISTOGRAM:
    writer.histogram(name, value, step)
    return
  if kind == types.SCALAR and aggregate:
    writer.scalar(name, value.astype(np.float64).mean(), step)
    return
  write, rank = {
    types.SCALAR: (writer.scalar, 0),
    types.IMAGE: (writer.image, 3),
    types.TEXT: (_write_text(writer), 1),
    types.AUDIO: (writer.audio, 2),
    types.VIDEO: (writer.video, 4),
  }[kind]
  if value.ndim < rank:
    raise ValueError(
      f'The {kind.name} summary {name!r} needs at least {rank} axes, '
      f'but has shape {list(value.shape)}.'
    )
  items = value.reshape((-1, *value.shape[value.ndim - rank :]))
  if kind != types.SCALAR:
    items = items[:max_items]
  for i, item in enumerate(items):
    write(name if len(items) == 1 else f'{name}_{i}', item, step)


def _write_text(writer: Writer):
  """Returns `write(tag, characters, step)` for arrays of UTF-8 bytes."""

  def write(tag, characters, step):
    data = characters.astype(np.uint8).tobytes().rstrip(b'\0')
    writer.text(tag, data.decode('utf-8', errors='replace'), step)

  return write
