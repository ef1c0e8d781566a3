"""Token ids outside the vocabulary: an error, on demand.

Ids outside the table are clamped, and labels outside it have no loss, as in Pax: a
tokenizer that does not fit trains a poor model without a word. Inside

    with transformer_models.checked_ids():
      ...

what a `TransformerLm` gets is checked. Ids that are known are checked at once; those of
a traced function each time that it runs, by a callback, which costs time and whose
error JAX raises as its own, with the same text. Under `jit` it counts whether the
function is traced inside.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor
_checking = contextvars.ContextVar('checking', default=False)  # of this thread


@contextlib.contextmanager
def checked_ids(check: bool = True) -> Iterator[None]:
  """Checks the ids and labels of language models, see the module."""
  token = _checking.set(check)
  try:
    yield
  finally:
    _checking.reset(token)


def check(
  layer: base_layer.BaseLayer,
  what: str,
  ids: JTensor,
  size: int,
  weights: JTensor | None = None,
) -> None:
  """Raises if ids lie outside `0 ... size - 1`, where that is to be checked.

  Args:
    layer: whose ids they are.
    what: their name, for the error.
    ids: integers of any shape.
    size: of the vocabulary.
    weights: of the shape of `ids`; those of weight 0 may be any.

  Raises:
    ValueError: ids that are known are outside.
  """
  if not _checking.get() or not ids.size:
    return
  if weights is not None:
    ids = jnp.where(weights > 0, ids, 0)
  raise_if_outside = functools.partial(_raise_if_outside, describe(layer), what, size)
  least, most = jnp.min(ids), jnp.max(ids)
  if isinstance(least, jax.core.Tracer):
    jax.debug.callback(raise_if_outside, least, most)
  else:
    raise_if_outside(least, most)


def _raise_if_outside(
  where: str, what: str, size: int, least: np.ndarray, most: np.ndarray
) -> None:
  if least < 0 or most >= size:
    raise ValueError(
      f'{where}: {what} must lie between 0 and {size - 1}, as the vocabulary has '
      f'{size} tokens; found ids from {int(least)} to {int(most)}. Use the tokenizer '
      'of the model, or raise vocab_size.'
    )
