"""A mask that says what it hides instead of holding it: `StructuredMask`.

Wherever an attention layer takes an array `atten_mask [1|B, 1, 1|T, S]` it takes a
`StructuredMask` as well, a pytree of a few small arrays and flags:

    mask = StructuredMask(causal=True, paddings=paddings)  # [B, T], 1 where padded
    mask = StructuredMask(causal=True, segment_ids=segment_ids)  # packed sequences
    out, probs = attention(x, x, x, mask)

The layer makes of it what the path that it takes needs: nothing at all for a causal
mask in a fused kernel, booleans fused into the softmax elsewhere. It hides what the
arrays hide that `attention_masks` and `transformers.compute_attention_masks_for_fprop`
make of the same arguments, so the numbers are the same; `as_array` gives that array.
Only `probs` may be None (see `fused_attention`).

A stack of layers passes one mask on to all of them. It goes through `jit`, `scan`,
`remat` and `vmap` as any pytree; `causal` and `right_padded` are static.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import py_utils, pytypes

JTensor = pytypes.JTensor


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StructuredMask:
  """What queries must not see, in parts; hidden is what any part hides.

  Attributes:
    causal: hide keys after the query.
    paddings: `[B, S]`, 1 for padded keys, which are hidden. Together with `causal` or
      `segment_ids`, in self-attention, a padded position sees nothing as a query
      either (and so attends to all keys equally), as in Pax.
    segment_ids: `[B, T]`; keys of another segment than the query's are hidden.
    key_segment_ids: `[B, S]`, of the keys; None: `segment_ids`. For cross-attention:
      if given, queries are not hidden.
    causal_attention_mask: `[B, S]`, 0 for keys that `causal` does not hide (a prefix),
      1 for the rest; None: all ones.
    right_padded: promises that `paddings` are at the end of each row and that nobody
      looks at results of padded queries, which may then be any finite numbers. Without
      `paddings` it says so of `segment_ids`: one segment that is not 0, then 0s. Lets a
      fused kernel do with the lengths of rows, or with `causal` alone.
  """

  causal: bool = dataclasses.field(default=False, metadata=dict(static=True))
  paddings: JTensor | None = None
  segment_ids: JTensor | None = None
  key_segment_ids: JTensor | None = None
  causal_attention_mask: JTensor | None = None
  right_padded: bool = dataclasses.field(default=False, metadata=dict(static=True))

  def split_lengths(self) -> 'tuple[StructuredMask, JTensor | None]':
    """The mask without what `right_padded` promises, and that as lengths of rows.

    Returns:
      A mask that hides nothing because of padding at the end of rows, and how many keys
      of each row there are, `[1|B]` int32; the mask itself and None without a promise.
    """
    if not self.right_padded:
      return self, None
    if self.paddings is not None:
      rest, real = dataclasses.replace(self, paddings=None), self.paddings < 0.5
    elif self.segment_ids is not None and self.key_segment_ids is None:
      rest, real = dataclasses.replace(self, segment_ids=None), self.segment_ids != 0
    else:
      return self, None
    return rest, jnp.sum(real, axis=1, dtype=jnp.int32)

  def _hides_padded_queries(self) -> bool:
    if self.paddings is None or self.key_segment_ids is not None:
      return False
    return self.causal or self.segment_ids is not None

  def visible(
    self, query_length: int, key_length: int, hide_padded_queries: bool = True
  ) -> JTensor | None:
    """What may be seen.

    Args:
      query_length: T.
      key_length: S.
      hide_padded_queries: False: let padded queries see what others see.

    Returns:
      Booleans `[1|B, 1, 1|T, S]`, True where the query sees the key; None: all True.
    """
    parts = []
    if self.causal:
      query = jnp.arange(query_length)[:, jnp.newaxis]
      past = (query >= jnp.arange(key_length))[jnp.newaxis, jnp.newaxis]
      if self.causal_attention_mask is not None:
        prefix = self.causal_attention_mask == 0
        past = past | prefix[:, jnp.newaxis, jnp.newaxis]
      parts.append(past)
    if self.segment_ids is not None:
      keys = self.key_segment_ids
      keys = self.segment_ids if keys is None else keys
      same = self.segment_ids[:, :, jnp.newaxis] == keys[:, jnp.newaxis]
      parts.append(same[:, jnp.newaxis])
    if self.paddings is not None:
      real = self.paddings < 0.5
      parts.append(real[:, jnp.newaxis, jnp.newaxis])
      if hide_padded_queries and self._hides_padded_queries():
        parts.append(real[:, jnp.newaxis, :, jnp.newaxis])
    if not parts:
      return None
    seen = parts[0]
    for part in parts[1:]:
      seen = seen & part
    return seen

  def check(self, batch: int, query_length: int, key_length: int, where: str) -> None:
    """Raises a ValueError that begins with `where` if a part does not fit."""
    t, s = query_length, key_length
    if self.causal and t != s:
      raise ValueError(
        f'{where}: a causal mask needs as many queries as keys, found {t} and {s}. For '
        'decoding give extend_step an array mask.'
      )
    key_ids = self.key_segment_ids
    if key_ids is not None and self.segment_ids is None:
      raise ValueError(f'{where}: key_segment_ids need segment_ids of the queries.')
    for name, length in (
      ('paddings', s),
      ('segment_ids', t),
      ('key_segment_ids', s),
      ('causal_attention_mask', s),
    ):
      part = getattr(self, name)
      if part is not None and part.shape not in ((batch, length), (1, length)):
        raise ValueError(
          f'{where}: {name} of the mask must have shape [{batch}, {length}], found '
          f'{list(part.shape)}.'
        )
    if self.segment_ids is not None and key_ids is None and t != s:
      raise ValueError(
        f'{where}: {t} queries and {s} keys need key_segment_ids in the mask.'
      )

  def as_array(
    self, query_length: int, key_length: int, dtype: Any = jnp.float32
  ) -> JTensor:
    """The array mask `[1|B, 1, 1|T, S]`: 0 where seen, a large negative number else."""
    seen = self.visible(query_length, key_length)
    if seen is None:
      return jnp.zeros((1, 1, 1, key_length), dtype)
    large = py_utils.get_large_negative_number(dtype)
    return jnp.where(seen, jnp.zeros_like(large), large)


AttentionMask = JTensor | StructuredMask


def as_array(
  mask: AttentionMask, query_length: int, key_length: int, dtype: Any = jnp.float32
) -> JTensor:
  """`mask` if it is an array, else the array that it stands for."""
  if isinstance(mask, StructuredMask):
    return mask.as_array(query_length, key_length, dtype)
  return mask


def apply_mask(logits: JTensor, mask: AttentionMask) -> JTensor:
  """Replaces hidden logits `[B, N, T, S]` by a large negative number."""
  if not isinstance(mask, StructuredMask):
    return py_utils.apply_mask_to_logits(logits, mask)
  seen = mask.visible(logits.shape[-2], logits.shape[-1])
  if seen is None:
    return logits
  return jnp.where(seen, logits, py_utils.get_large_negative_number(logits.dtype))


def fully_masked_rows(
  mask: AttentionMask, query_length: int, key_length: int
) -> JTensor:
  """`[1|B, 1, 1|T, 1]`, True for queries that see no key."""
  if isinstance(mask, StructuredMask):
    seen = mask.visible(query_length, key_length)
    if seen is None:
      return jnp.zeros((1, 1, 1, 1), bool)
    return jnp.all(~seen, axis=-1, keepdims=True)
  threshold = py_utils.get_large_negative_number(jnp.float32) / 2
  return jnp.all(mask < threshold, axis=-1, keepdims=True)
