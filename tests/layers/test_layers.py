"""The package's exports: names, and what reaches Pax code only through its module."""

import pytest

from pax_haiku import base_layer, layers
from pax_haiku.layers import (
  activations,
  base_ops,
  checkpoint_policy,
  convolutions,
  embedding_softmax,
  normalizations,
)


def test_exports_exist_and_are_sorted():
  assert list(layers.__all__) == sorted(layers.__all__)
  assert all(hasattr(layers, name) for name in layers.__all__)


@pytest.mark.parametrize(
  'module, names',
  [
    (activations, 'SineReLU Softplus Exp'),
    (base_ops, 'ArrayLookup EinsumGatedOp'),
    (checkpoint_policy, 'custom_policy'),
    (convolutions, 'BaseDepthwiseConv1D Conv3D causal_padding'),
    (
      embedding_softmax,
      'NClassMajorSharedEmbeddingSoftmax RotaryPositionalEmbedding TokenCounter',
    ),
    (normalizations, 'SpectralNorm WeightNormL2'),
  ],
)
def test_what_only_its_module_has(module, names):
  for name in names.split():
    assert hasattr(module, name) and not hasattr(layers, name)


def test_layers_are_layers():
  classes = [v for v in map(vars(layers).get, layers.__all__) if isinstance(v, type)]
  for enum in (layers.AutodiffCheckpointType, layers.LanguageModelType):
    classes.remove(enum)
  assert len(classes) >= 51
  assert all(issubclass(cls, base_layer.BaseLayer) for cls in classes)


def test_class_and_module_of_similar_names():
  assert layers.Einsum is layers.einsum.Einsum
  assert layers.chunk.chunk is not layers.chunk
