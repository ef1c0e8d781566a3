"""Attention as one kernel that never holds the logits, where that is possible.

`jax.nn.dot_product_attention` with cuDNN's flash attention computes the same formula as
`attention_core` in a fraction of time and memory. A layer takes it at trace time if

* the mask is a `StructuredMask` (for an array mask the formula is computed as it
  stands),
* the backend is a GPU and queries, keys and values are bfloat16 or float16,
* its fields ask for nothing that the kernel has not: no dropout in this call, no bias,
  no cap, no extra logit, no einsum or method of one's own, no summaries of logits.

Results agree within the rounding of that dtype, except at padded queries, where they
are arbitrary finite numbers. Probabilities do not exist then: the layer returns None
for them. What was chosen, and why, is logged once for each layer class and reason.

    attentions.set_attention_implementation('xla')  # from now on, everywhere
    with attentions.attention_implementation('cudnn'):  # or around a trace
      ...

* `'auto'`: as above; what the kernel refuses is computed by the formula.
* `'xla'`: always the formula.
* `'cudnn'`: the kernel, also where the backend is none or the dtype another; an error
  if the layer or the kernel cannot.
* `'jax'`: as `'cudnn'`, with JAX's own computation in place of the kernel, on any
  backend and of any dtype; to check numbers.

Under `jit` the setting counts when a function is traced, not when it runs.

Paddings need an array mask `[B, 1, 1|T, S]`, unless they are known to be at the end of
each row: then the kernel needs their lengths at most, and nothing if the mask is
causal. A `StructuredMask` can promise that; for a `TransformerLm` that gets paddings
and no segment ids the promise is

    with attentions.right_padding():  # around the trace
      ...
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.layers.structured_masks import StructuredMask

JTensor = pytypes.JTensor

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'jax')
_setting = 'auto'  # of all threads
_local_setting = contextvars.ContextVar('attention_implementation', default=None)
_right_padding = contextvars.ContextVar('right_padding', default=False)


def _check(name: str) -> None:
  if name not in IMPLEMENTATIONS:
    raise ValueError(
      f'The implementation of attention must be one of {list(IMPLEMENTATIONS)}, found '
      f'{name!r}.'
    )


def set_attention_implementation(name: str) -> str:
  """Sets how attention layers are computed from now on; returns what was set before.

  Raises:
    ValueError: `name` is none of `IMPLEMENTATIONS`.
  """
  global _setting
  _check(name)
  before, _setting = _setting, name
  return before


def get_attention_implementation() -> str:
  """The setting that counts here and now, see the module."""
  return _local_setting.get() or _setting


@contextlib.contextmanager
def attention_implementation(name: str) -> Iterator[None]:
  """The setting of the code inside, in this thread only.

  Raises:
    ValueError: `name` is none of `IMPLEMENTATIONS`.
  """
  _check(name)
  token = _local_setting.set(name)
  try:
    yield
  finally:
    _local_setting.reset(token)


@contextlib.contextmanager
def right_padding() -> Iterator[None]:
  """Promises that language models get paddings at the end of rows only.

  And that nobody looks at their outputs there (labels have weight 0), see
  `StructuredMask.right_padded`. Nothing changes where no kernel is used.
  """
  token = _right_padding.set(True)
  try:
    yield
  finally:
    _right_padding.reset(token)


def is_right_padding() -> bool:
  """Whether that is promised."""
  return _right_padding.get()


@functools.cache
def _log_once(layer: str, choice: str, reason: str) -> None:
  from absl import logging  # only here: importing the package does not need it

  logging.info('%s computes attention by %s: %s.', layer, choice, reason)


def attend(
  layer: Any,
  query: JTensor,
  key: JTensor,
  value: JTensor,
  mask: StructuredMask,
  hindrance: str | None,
  scale: float = 1.0,
) -> JTensor | None:
  """The attention of a layer by one kernel, if the setting and the case allow.

  Args:
    layer: whose attention it is, for the log and for errors.
    query: `[B, T, N, H]`, scaled already.
    key: `[B, S, K, H]`, N a multiple of K.
    value: `[B, S, K, H]`.
    mask: what is hidden.
    hindrance: what about the layer's fields the kernel has not; None: nothing.
    scale: a factor of the logits.

  Returns:
    `[B, T, N, H]`, or None: the caller is to compute the formula.

  Raises:
    ValueError: the kernel is demanded and not possible.
  """
  setting = get_attention_implementation()
  forced = setting in ('cudnn', 'jax')
  if setting == 'xla':
    hindrance = "the setting is 'xla'"
  if hindrance is None and not forced:
    if jax.default_backend() != 'gpu':
      hindrance = f'the backend is {jax.default_backend()}'
    elif query.dtype not in (jnp.bfloat16, jnp.float16):
      hindrance = f'the dtype is {query.dtype}'
  if hindrance is None:
    kernel = 'xla' if setting == 'jax' else 'cudnn'
    try:
      out = _call(query, key, value, mask, scale, kernel)
    except (NotImplementedError, RuntimeError, ValueError) as error:
      if forced:
        raise ValueError(
          f'{layer._pax_describe()}: the implementation of attention is set to '
          f'{setting!r}, and the kernel refuses: {error}'
        ) from error
      hindrance = f'the kernel refuses ({error})'
    else:
      _log_once(type(layer).__name__, 'one kernel', f'jax.nn, {kernel}')
      return out
  elif forced:
    raise ValueError(
      f'{layer._pax_describe()}: the implementation of attention is set to '
      f"{setting!r}, which this layer cannot use: {hindrance}. Set it to 'auto'."
    )
  _log_once(type(layer).__name__, "Praxis's formula", hindrance)
  return None


def _call(
  query: JTensor,
  key: JTensor,
  value: JTensor,
  mask: StructuredMask,
  scale: float,
  kernel: str,
) -> JTensor:
  """`jax.nn.dot_product_attention` with as little of a mask as the parts need."""
  batch, length, key_length = query.shape[0], query.shape[1], key.shape[1]
  causal = mask.causal and mask.causal_attention_mask is None
  rest, lengths = mask.split_lengths()
  if causal:
    # Keys at the end of a row come after all queries that count.
    rest, lengths = dataclasses.replace(rest, causal=False), None
  if lengths is not None:
    lengths = jnp.broadcast_to(lengths, (batch,))
  visible = rest.visible(length, key_length, hide_padded_queries=False)
  if visible is not None and (length % 2 or key_length % 2):
    # What cuDNN says itself only when the call is differentiated, too late.
    raise NotImplementedError(f'odd lengths {length}, {key_length} with an array mask')
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=visible,
    scale=scale,
    is_causal=causal,
    key_value_seq_lengths=lengths,
    implementation=kernel,
  )
