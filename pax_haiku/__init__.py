"""pax_haiku: Pax (Praxis) layers that run on DeepMind's Haiku."""

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.base_layer import (
    BaseLayer,
    JaxContext,
    NestedMap,
    WeightHParams,
    WeightInit,
    instantiate,
)
from pax_haiku.core.transform import transform
from pax_haiku.version import __version__

__all__ = [
    'BaseLayer', 'JaxContext', 'NestedMap', 'WeightHParams', 'WeightInit',
    '__version__', 'base_layer', 'instantiate', 'pax_fiddle', 'py_utils', 'pytypes',
    'transform',
]
