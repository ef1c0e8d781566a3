"""Splitting an axis into chunks of equal length, and merging them again."""

import jax.numpy as jnp

from pax_haiku import pytypes

__all__ = ['chunk', 'unchunk']

JTensor = pytypes.JTensor


def chunk(x: JTensor, *, chunk_size: int, axis: int = 1) -> JTensor:
  """Splits `axis` into chunks; the last one is filled up with zeros.

  Args:
    x: `[..., L, ...]`, with `L` at `axis`.
    chunk_size: length of a chunk.
    axis: what to split.

  Returns:
    `[ceil(L / chunk_size), ..., chunk_size, ...]`: the chunks, along a new first axis.
  """
  axis %= x.ndim
  n = -(-x.shape[axis] // chunk_size)
  pad = [(0, 0)] * x.ndim
  pad[axis] = (0, n * chunk_size - x.shape[axis])
  shape = (*x.shape[:axis], n, chunk_size, *x.shape[axis + 1 :])
  return jnp.moveaxis(jnp.pad(x, pad).reshape(shape), axis, 0)


def unchunk(y: JTensor, axis: int = 1, seqlen: int | None = None) -> JTensor:
  """The inverse of `chunk`.

  Args:
    y: `[n, ..., chunk_size, ...]`, as `chunk` returns it.
    axis: the axis that was split, as numbered in the result.
    seqlen: length of that axis in the result; None: `n chunk_size`. Only a length that
      is no multiple of the chunk size cuts anything off.
  """
  axis %= y.ndim - 1
  n, chunk_size = y.shape[0], y.shape[axis + 1]
  x = jnp.moveaxis(y, 0, axis)
  x = x.reshape(*x.shape[:axis], n * chunk_size, *x.shape[axis + 2 :])
  if seqlen is not None and seqlen % chunk_size:
    x = x[(slice(None),) * axis + (slice(seqlen),)]
  return x
