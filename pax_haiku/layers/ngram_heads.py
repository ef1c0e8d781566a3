"""What the n-gram layers do with embeddings, head by head."""

from collections.abc import Sequence

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import normalizations
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


def check_positive(layer: base_layer.BaseLayer, error: type, *fields: str) -> None:
  """Raises `error` unless these fields of the layer are positive."""
  for field in fields:
    if getattr(layer, field) <= 0:
      raise error(
        f'{describe(layer)}: {field} must be positive, found {getattr(layer, field)}; '
        'set it in the template.'
      )


def check_ngram_dim(layer: base_layer.BaseLayer, error: type) -> None:
  """Raises `error` unless `ngram_emb_dim` fits into the heads, as `concat_ngrams`."""
  size, head = layer.ngram_emb_dim, layer.dim_per_head
  if layer.concat_ngrams and size > head:
    raise error(
      f'{describe(layer)}: with concat_ngrams, ngram_emb_dim must be at most '
      f'dim_per_head = {head}, found {size}.'
    )
  if not layer.concat_ngrams and size != head:
    raise error(
      f'{describe(layer)}: without concat_ngrams the embeddings are added: '
      f'ngram_emb_dim must be dim_per_head = {head}, found {size}.'
    )


def layer_norms(count: int, dim: int) -> list[pax_fiddle.Config]:
  """Templates of LayerNorms of `[..., dim]`, one for each head."""
  return [
    pax_fiddle.Config(normalizations.LayerNorm, dim=dim) for _ in range(count)
  ]


def split(layer: base_layer.BaseLayer, x: JTensor) -> JTensor:
  """`[B, L, N, H]` of `[B, L, N H]` or `[B, L, N, H]`; ValueError for other shapes."""
  heads = (layer.num_heads, layer.dim_per_head)
  if x.ndim == 3 and x.shape[2] == heads[0] * heads[1]:
    return x.reshape(x.shape[:2] + heads)
  if x.ndim == 4 and x.shape[2:] == heads:
    return x
  raise ValueError(
    f'{describe(layer)}: expected embeddings [batch, length, {heads[0] * heads[1]}] or '
    f'[batch, length, {heads[0]}, {heads[1]}] (num_heads, dim_per_head), found shape '
    f'{x.shape}.'
  )


def normalize(norms: Sequence[base_layer.BaseLayer], x: JTensor) -> JTensor:
  """Applies to each head of `[B, L, N, H]` the norm of that head."""
  return jnp.stack([norm(x[:, :, i]) for i, norm in enumerate(norms)], axis=2)


def combine(
  layer: base_layer.BaseLayer,
  x: JTensor,
  ngrams: JTensor,
  paddings: JTensor | None,
  merge_heads: bool,
) -> JTensor:
  """Puts n-grams `[B, L, N, E]` in place of the last E features, or adds them.

  Args:
    layer: whose `concat_ngrams` counts.
    x: `[B, L, N, H]`.
    ngrams: of these.
    paddings: `[B, L]`, 1 where the result is to be 0; None: nowhere.
    merge_heads: return `[B, L, N H]`.
  """
  if layer.concat_ngrams:
    kept = x[..., : x.shape[-1] - ngrams.shape[-1]]
    x = jnp.concatenate([kept, ngrams], axis=-1)
  else:
    x = x + ngrams
  return finish(x, paddings, merge_heads)


def finish(x: JTensor, paddings: JTensor | None, merge_heads: bool) -> JTensor:
  """Zeroes padded positions of `[B, L, N, H]`, and merges the heads if wanted."""
  if paddings is not None:
    x = x * (1 - paddings[:, :, jnp.newaxis, jnp.newaxis])
  return x.reshape(x.shape[:2] + (-1,)) if merge_heads else x
