"""Random keys by path: the same seed gives the same weights and masks as in Pax.

The c-th draw (counting from 1) of a layer at path `(p1, ..., pn)` from a stream is

    fold_in(root key of the stream, h),
    h = first 4 bytes, big endian, of SHA-1(p1 + ... + pn + bytes(c))

where the pieces are joined without a separator and `bytes(c)` is `c` in as few
big-endian bytes as hold it. So a draw depends on the layer's path and on how many
draws that very layer made before, and on nothing else in the model.
"""

import functools
import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku.core import constants, errors

# Shape of an untyped key under each of JAX's key implementations.
_RAW_KEY_SHAPES = {'threefry2x32': (2,), 'rbg': (4,), 'unsafe_rbg': (4,)}


@functools.lru_cache(maxsize=1 << 16)
def path_hash(path: tuple[str, ...], count: int) -> np.uint32:
  """The 32 bits that the `count`-th draw of the layer at `path` folds into its key."""
  if count < 1:
    raise ValueError(f'Draws are counted from 1, got count={count} for path {path}.')
  count_bytes = count.to_bytes((count.bit_length() + 7) // 8, 'big')
  raw = b''.join(name.encode() for name in path) + count_bytes
  return np.uint32(int.from_bytes(hashlib.sha1(raw).digest()[:4], 'big'))


def fold_in_path(root_key: jax.Array, path: tuple[str, ...], count: int) -> jax.Array:
  """Returns the key of a layer's `count`-th draw from the stream of `root_key`.

  Args:
    root_key: the stream's key, typed or uint32.
    path: names from the root layer, exclusive, down to the layer; `()` at the root.
    count: how many draws the layer has made from this stream, with this one: from 1.
  """
  return jax.random.fold_in(root_key, path_hash(path, count))


def is_key(x) -> bool:
  """Whether `x` is one random key: a typed key or uint32[2] (as the default impl)."""
  if not hasattr(x, 'dtype') or not hasattr(x, 'shape'):
    return False
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return x.shape == ()
  raw_shape = _RAW_KEY_SHAPES.get(str(jax.config.jax_default_prng_impl))
  shape_fits = len(x.shape) == 1 if raw_shape is None else x.shape == raw_shape
  return x.dtype == jnp.uint32 and shape_fits


def check_rngs(rngs) -> dict[str, jax.Array]:
  """Turns what a user gives as `rngs` into a dict from stream name to key.

  Args:
    rngs: one key, which then is the stream `params`, or a mapping from stream names
      such as `params` and `random` to keys.

  Raises:
    InvalidRngError: for anything else; the text lists every offending entry.
  """
  if is_key(rngs):
    return {constants.PARAMS: rngs}
  way_out = (
    'Give one key, e.g. jax.random.PRNGKey(0), or a dict from stream names to keys, '
    "e.g. {'params': jax.random.PRNGKey(0), 'random': jax.random.PRNGKey(1)}."
  )
  if not isinstance(rngs, Mapping):
    raise errors.InvalidRngError(
      f'rngs is neither a key nor a dict of keys: found {_describe(rngs)}. {way_out}'
    )
  bad = [
    f'stream {name!r}: {_describe(key)}'
    for name, key in rngs.items()
    if not (isinstance(name, str) and is_key(key))
  ]
  if bad:
    raise errors.InvalidRngError(
      f'rngs has entries that are not a name with one key: {"; ".join(bad)}. {way_out}'
    )
  return dict(rngs)


def _describe(x) -> str:
  if hasattr(x, 'dtype') and hasattr(x, 'shape'):
    return f'{type(x).__name__} of dtype {x.dtype} and shape {tuple(x.shape)}'
  return f'{type(x).__name__} {x!r:.80}'
