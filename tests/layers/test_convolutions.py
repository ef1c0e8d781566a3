"""Convolution layers under their Pax names, with Pax's fields and defaults."""

import pytest

from pax_haiku.layers import convolutions
from tests.layers import harness

# 'class base': what the class adds to its base, as recorded from Praxis.
FIELDS = {
  'Conv2D BaseLayer': (
    'filter_shape=(0, 0, 0, 0), filter_stride=(0, 0), dilations=(1, 1), '
    "bias=False, bias_init='constant 0.0', kernel_init=None, padding='SAME', "
    'tf_equivalent_padding=False, is_causal=False, '
    "weight_norm_tpl='IdentityNorm'"
  ),
  'Conv3D BaseLayer': (
    'filter_shape=(0, 0, 0, 0, 0), filter_stride=(0, 0, 0), dilations=(1, 1, '
    "1), bias=False, bias_init='constant 0.0', kernel_init=None, "
    "padding='SAME', tf_equivalent_padding=False, is_causal=False"
  ),
  'ConvBNAct Conv2D': "batch_norm_tpl='BatchNorm', activation_tpl='ReLU'",
  'ConvBNActWithPadding ConvBNAct': 'compat_with_lingvo=False',
  'BaseDepthwiseConv1D BaseLayer': (
    "filter_shape=(0, 0, 0), bias=False, bias_init='constant 0.0', "
    'is_causal=False, use_2d_conv_weight_shape=False, rhs_dilation_rate=1'
  ),
  'DepthwiseConv1D BaseDepthwiseConv1D': 'WeightSharding=him',
  'LightConv1D BaseLayer': (
    "input_dims=None, kernel_size=None, conv_activation_tpl='Swish', "
    "dropout_prob=0.0, ln_tpl='LayerNorm', linear_start_tpl='FeedForward', "
    "depthwise_conv_tpl='DepthwiseConv1D', conv_norm_layer_tpl='BatchNorm', "
    "linear_end_tpl='FeedForward', dropout_tpl='Dropout', is_causal=False, "
    'use_2d_conv_norm=False, WeightSharding=df/him, '
    'ActivationSharding=blf/bld'
  ),
}


@pytest.mark.parametrize('names', list(FIELDS))
def test_fields_and_defaults(names):
  name, base = names.split()
  cls = getattr(convolutions, name)
  assert cls.__name__ == name
  assert harness.added_fields(cls, base) == FIELDS[names]


def test_exports():
  classes = [names.split()[0] for names in FIELDS]
  functions = ['causal_padding']
  assert sorted(convolutions.__all__) == sorted(classes + functions)
