"""What Pax code imports from `praxis.base_layer`, under the same names.

A facade: the layer system itself lives in pax_haiku/core, one idea a file.
"""

from pax_haiku.core.boxes import (
    BoxedParam,
)
from pax_haiku.core.layer import BaseLayer
from pax_haiku.core.weights import (
    WeightHParams,
)
from pax_haiku.pytypes import (
    Nested,
)

BaseLayerApi = BaseLayer
BaseLayerT = BaseLayer
AxisMetadata = BoxedParam
TAxisMetadata = BoxedParam
ParamsT = dict
NestedWeightHParams = Nested[WeightHParams]

__all__ = [name for name in dir() if not name.startswith('_')]
