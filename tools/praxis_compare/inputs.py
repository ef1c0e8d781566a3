"""Deterministic input arrays, the same under every numpy version.

Only uniform draws of the legacy generator are used: its stream is frozen and needs
no transcendental function, so the bits do not depend on the platform's libm.
"""

import zlib
from collections.abc import Sequence

import numpy as np


def uniform(name: str, shape: Sequence[int], low: float = -1.0,
            high: float = 1.0) -> np.ndarray:
  """Float32 values in [low, high) that depend on `name` and `shape` only."""
  seed = zlib.crc32(f'{name}:{list(shape)}'.encode())
  draw = np.random.RandomState(seed).random_sample(tuple(shape))
  return (low + (high - low) * draw).astype(np.float32)


def floats(*shape: int, name: str = 'x', scale: float = 2.0) -> np.ndarray:
  """Features in [-scale, scale)."""
  return uniform(name, shape, -scale, scale)


def ids(*shape: int, below: int, name: str = 'ids') -> np.ndarray:
  """Int32 ids in [0, below)."""
  return (uniform(name, shape, 0.0, 1.0) * below).astype(np.int32) % below


def paddings(batch: int, time: int, *trailing: int) -> np.ndarray:
  """Right paddings [batch, time]: row i has i padded steps at the end (at most all
  but one)."""
  out = np.zeros((batch, time), np.float32)
  for row in range(batch):
    pad = min(row, time - 1)
    out[row, time - pad:] = 1.0
  return out.reshape(batch, time, *trailing)


def probabilities(*shape: int, name: str = 'p') -> np.ndarray:
  """Rows that sum to one over the last axis."""
  raw = uniform(name, shape, 0.1, 1.0)
  return raw / raw.sum(-1, keepdims=True, dtype=np.float32)
