"""Normalization layers, under the name that Pax gives this module."""

from pax_haiku.layers.batch_norm import BatchNorm
from pax_haiku.layers.group_norm import GroupNorm
from pax_haiku.layers.layer_norm import LayerNorm, RmsNorm, RmsNormNoScale
from pax_haiku.layers.norm_base import (
  BaseNormalization,
  IdentityNorm,
  compute_moments,
)
from pax_haiku.layers.weight_norm import SpectralNorm, WeightNormL2

__all__ = [
  'BaseNormalization',
  'BatchNorm',
  'GroupNorm',
  'IdentityNorm',
  'LayerNorm',
  'RmsNorm',
  'RmsNormNoScale',
  'SpectralNorm',
  'WeightNormL2',
  'compute_moments',
]
