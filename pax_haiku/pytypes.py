"""Type aliases of Pax code.

Array annotations such as `Float[ArrayT, 'b d']` are accepted and stand for the array
type; the shape text is for the reader, nothing checks it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from pax_haiku import base_hyperparams
from pax_haiku.core import nested_map

T = TypeVar('T')

NestedMap = nested_map.NestedMap

JTensor = jax.Array
PRNGKey = jax.Array
NpTensor = np.ndarray

Nested = T | tuple[Any, ...] | list[Any] | dict[str, Any] | NestedMap
NestedJTensor = Nested[JTensor]
NestedNpTensor = Nested[NpTensor]
NestedBool = Nested[bool]
NestedInt = Nested[int]
NestedPartitionSpec = Nested[jax.sharding.PartitionSpec]
NestedShapeDtypeStruct = Nested[jax.ShapeDtypeStruct]
NestedShapedArray = Nested[jax.core.ShapedArray]
JTensorOrPartitionSpec = JTensor | jax.sharding.PartitionSpec
NestedJTensorOrPartitionSpec = Nested[JTensorOrPartitionSpec]
NestedShapeDtypeLike = (
  NestedJTensor | NestedNpTensor | NestedShapeDtypeStruct | NestedShapedArray
)

PyTreeDef = jax.tree_util.PyTreeDef
SummaryDict = NestedMap | dict[str, JTensor]

DimShardingAnnotation = Sequence[int | str] | int | str | None
SplitDimsMapping = Sequence[DimShardingAnnotation] | None
LogicalAxisRules = Sequence[tuple[str, str | None]]

WeightedScalar = tuple[JTensor, JTensor]
WeightedScalars = dict[str, WeightedScalar] | NestedMap
WeightedScalarsList = dict[str, Sequence[WeightedScalar]] | NestedMap
Metrics = NestedMap | dict[str, Any]

DotGeneralT = Callable[..., JTensor]


class _InstanceOf(type):
  """A class whose instances are those of other classes."""

  def __instancecheck__(cls, x: Any) -> bool:
    return isinstance(x, cls.stands_for)


class PyTree(metaclass=_InstanceOf):
  """Anything; `PyTree[X]` is the same."""

  stands_for = object

  def __class_getitem__(cls, item):
    return cls


class ArrayT(metaclass=_InstanceOf):
  """A jax array, `ShapeDtypeStruct` or numpy array."""

  stands_for = (jax.Array, jax.ShapeDtypeStruct, np.ndarray)


class JaxArrayT(metaclass=_InstanceOf):
  """A jax array or `ShapeDtypeStruct`."""

  stands_for = (jax.Array, jax.ShapeDtypeStruct)


class AbstractDtype:
  """Base of annotations of a dtype: `Float[ArrayT, 'b d']` is `ArrayT`."""

  def __class_getitem__(cls, item):
    return item[0] if isinstance(item, tuple) else item


class Shaped(AbstractDtype):
  """Any dtype."""


class Float(AbstractDtype):
  """Any floating dtype."""


class Float32(AbstractDtype):
  """float32."""


class Int(AbstractDtype):
  """Any signed integer dtype."""


class Int32(AbstractDtype):
  """int32."""


class Bool(AbstractDtype):
  """bool."""


AnyArray = Shaped[ArrayT, '...']
AnyJaxArray = Shaped[JaxArrayT, '...']
AnyNPArray = Shaped[np.ndarray, '...']
AnyFloatArray = Float[ArrayT, '...']
AnyIntArray = Int[ArrayT, '...']
AnyPyTreeArray = PyTree[AnyArray]
Scalar = ArrayT | np.generic
ScalarInt = ArrayT | np.generic
ScalarFloat = ArrayT | np.generic


def typed(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Marks a function as written for run-time type checks; returns it unchanged.

  In Praxis, jaxtyping and typeguard check dtypes and shapes at each call. Here nothing
  is checked, whether they are installed or not: the annotations of this module keep
  the array type only. To have checks, annotate with jaxtyping's own types and decorate
  with `jaxtyping.jaxtyped(typechecker=...)`; layers' methods take that as well.
  """
  return fn


HParams = HParamsT = base_hyperparams.BaseHyperParams
InstantiableParams = base_hyperparams.InstantiableHyperParams
NestedHParams = Nested[HParams]
