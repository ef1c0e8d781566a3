"""Arguments of sampling, made ready for the rows of the loop.

A row is one sample of one example: `Bn = B * num_samples`, samples of an example side
by side. With classifier-free guidance examples come in pairs, conditional before
unconditional, and what is given per example has one entry for each pair.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku.decoding import checks
from pax_haiku.decoding.top_k_top_p import is_array
from pax_haiku.decoding.types import JTensor


def split_batch_dim(x: JTensor, batch_dim: int, num_samples: int) -> JTensor:
  """`[..., B * n, ...]` as `[..., B, n, ...]`."""
  shape = list(x.shape)
  if shape[batch_dim] % num_samples:
    raise ValueError(
      f'split_batch_dim: axis {batch_dim} of shape {x.shape} is not a multiple of '
      f'num_samples={num_samples}.'
    )
  shape[batch_dim : batch_dim + 1] = [shape[batch_dim] // num_samples, num_samples]
  return jnp.reshape(x, shape)


@dataclasses.dataclass
class Rows:
  """The number of rows that come from a batch.

  Attributes:
    batch: number of examples, B.
    num_samples: samples of each.
    guided: examples come in pairs.
  """

  batch: int
  num_samples: int
  guided: bool

  @property
  def examples(self) -> int:
    """How many entries an argument per example has."""
    return self.batch // 2 if self.guided else self.batch

  def repeat(self, x: JTensor) -> JTensor:
    """`[B, ...]` to `[Bn, ...]`: a, a, b, b."""
    n = self.num_samples
    return x if x is None or n == 1 else jnp.repeat(x, n, axis=0)

  def per_row(self, x: JTensor | None, name: str) -> JTensor | None:
    """An argument per example, `[examples, ...]` or one for all, for each row."""
    if x is None:
      return None
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[0] == 1:
      x = jnp.broadcast_to(x, (self.examples, *x.shape[1:]))
    if x.shape[0] != self.examples:
      raise ValueError(
        f'Dynamic {name} must have shape ({self.examples}, ...), one entry for each '
        f'example{" pair" if self.guided else ""} of the batch, found {x.shape}.'
      )
    return self.repeat(x)

  def of_both(self, x: JTensor | None) -> JTensor | None:
    """An argument per row of conditional examples, for the rows of both kinds."""
    if x is None or not self.guided:
      return x
    x = jnp.reshape(x, (self.examples, 1, self.num_samples, *x.shape[1:]))
    x = jnp.concatenate([x, x], axis=1)
    return jnp.reshape(x, (self.batch * self.num_samples, *x.shape[3:]))


def decode_stages(max_decode_steps, seq_len: int) -> list[int]:
  """`max_decode_steps` (None, an int, or several) as a sorted list."""
  if max_decode_steps is None:
    return [seq_len]
  if not isinstance(max_decode_steps, Sequence):
    max_decode_steps = [max_decode_steps]
  stages = sorted(max_decode_steps) or [seq_len]
  for steps in stages:
    checks.check_positive('max_decode_steps', steps)
  return stages


def row_temperature(temperature, rows: Rows):
  """A temperature as a number, or `[rows, 1]`."""
  checks.check_temperature(temperature)
  if not is_array(temperature):
    return temperature
  temperature = jnp.asarray(temperature)
  if temperature.ndim == 2:
    shape = (rows.examples, rows.num_samples)
    if temperature.shape != shape:
      raise ValueError(
        f'2D dynamic temperature must have shape {shape}, [batch, num_samples], found '
        f'{temperature.shape}.'
      )
  elif temperature.size != 1:
    temperature = rows.per_row(temperature, 'temperature')
  return jnp.reshape(temperature, (-1, 1))


def row_top_p(top_p, rows: Rows):
  """A top p as a number, or `[rows, 1]`."""
  checks.check_top_p(top_p)
  if not is_array(top_p):
    return top_p
  top_p = jnp.asarray(top_p)
  return top_p if top_p.ndim == 0 else rows.per_row(top_p, 'per_example_top_p')[:, None]


def guidance_scale(scale, num_samples: int):
  """A guidance scale (number, list, `[B]` or `[B, n]`) that broadcasts to [B, n, V]."""
  if isinstance(scale, Sequence):
    if len(scale) != num_samples:
      raise ValueError(
        f'cf_guidance_scale as a list needs one number for each of the {num_samples} '
        f'samples, found {len(scale)}.'
      )
    return jnp.asarray(scale)[None, :, None]
  if scale is None or not is_array(scale):
    return scale
  scale = jnp.asarray(scale)
  if scale.ndim == 1:
    return scale[:, None, None]
  if scale.ndim == 2 and scale.shape[1] == num_samples:
    return scale[:, :, None]
  raise ValueError(
    'cf_guidance_scale as an array must be [batch] or [batch, num_samples] with '
    f'num_samples={num_samples}, found shape {scale.shape}.'
  )


def prng_keys(keys: Any) -> JTensor | None:
  """Keys given with the batch, `[B]` or `[B, key size]`, as `[B, key size]` uint32."""
  if keys is None:
    return None
  keys = jnp.asarray(keys).astype(jnp.uint32)
  size = jax.random.key_data(jax.random.key(0)).shape[0]
  return jnp.stack([keys] * size, axis=-1) if keys.ndim == 1 else keys


def eos_ids(eos_id, rows: Rows):
  """None, a list of ids, or stop sequences `[Bn, L]` padded with 0 on the left."""
  if eos_id is None or (isinstance(eos_id, Sequence) and not is_array(eos_id)):
    return eos_id if eos_id is None else list(eos_id)
  if not is_array(eos_id) or eos_id.ndim == 0:
    return [int(eos_id)]
  if eos_id.ndim != 2:
    raise ValueError(
      'eos_id as an array must be [batch, length], a stop sequence for each example '
      f'padded with 0 on the left, found shape {eos_id.shape}.'
    )
  eos_id = jnp.asarray(eos_id).astype(jnp.int32)
  if eos_id.shape[0] == rows.batch:
    return rows.repeat(eos_id)
  return rows.of_both(rows.per_row(eos_id, 'eos_id'))
