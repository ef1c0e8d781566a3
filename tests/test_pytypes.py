"""Aliases: usable in annotations, and instance checks where Pax code makes them."""

import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_hyperparams, pytypes

ALIASES = """
JTensor PRNGKey NpTensor Nested NestedJTensor NestedNpTensor NestedBool NestedInt
NestedHParams NestedPartitionSpec NestedShapeDtypeStruct NestedShapedArray
NestedJTensorOrPartitionSpec NestedShapeDtypeLike JTensorOrPartitionSpec PyTreeDef
PyTree SummaryDict DimShardingAnnotation SplitDimsMapping WeightedScalar
WeightedScalars WeightedScalarsList Metrics LogicalAxisRules DotGeneralT HParams
HParamsT InstantiableParams NestedMap AnyArray AnyJaxArray AnyNPArray AnyFloatArray
AnyIntArray AnyPyTreeArray Scalar ScalarInt ScalarFloat ArrayT JaxArrayT Float Float32
Int Int32 Bool Shaped AbstractDtype typed
""".split()


@pytest.mark.parametrize('name', ALIASES)
def test_names_exist_and_serve_as_annotations(name):
  alias = getattr(pytypes, name)

  def fn(x: alias, y: typing.Optional[alias] = None): ...  # noqa: UP045

  assert 'x' in typing.get_type_hints(fn)


def test_instance_checks():
  struct = jax.ShapeDtypeStruct((1,), jnp.float32)
  for value, array, jax_array in [
      (jnp.ones(2), True, True),
      (np.ones(2), True, False),
      (struct, True, True),
      (3, False, False),
      (np.float32(2), False, False),
  ]:
    assert isinstance(value, pytypes.ArrayT) == array
    assert isinstance(value, pytypes.JaxArrayT) == jax_array
  assert isinstance({'a': 1}, pytypes.PyTree)
  assert isinstance(jnp.ones(2), pytypes.JTensor)


def test_subscripts():
  annotation = pytypes.Float[pytypes.ArrayT, 'b d']
  assert isinstance(np.ones(2), annotation)
  assert typing.get_args(annotation | None) == (pytypes.ArrayT, type(None))
  assert isinstance(3, pytypes.PyTree[pytypes.JTensor])
  assert int in typing.get_args(pytypes.Nested[int])


def test_older_names():
  assert pytypes.HParams is base_hyperparams.BaseHyperParams


def test_typed_returns_the_function():
  fn = lambda x: x  # noqa: E731
  assert pytypes.typed(fn) is fn


def test_import_needs_nothing_heavy():
  heavy = 'flax lingvo jaxtyping tensorflow optax orbax clu matplotlib sklearn'
  code = (
      'import sys, pax_haiku.base_layer, pax_haiku.base_hyperparams, '
      'pax_haiku.py_utils, pax_haiku.asserts, pax_haiku.trees, pax_haiku.fiddle_tags; '
      f'print([m for m in {heavy.split()!r} if m in sys.modules])'
  )
  out = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'
