"""Convolution layers, under the name that Pax gives this module."""

from pax_haiku.layers.conv_bn_act import ConvBNAct, ConvBNActWithPadding
from pax_haiku.layers.conv_nd import Conv2D, Conv3D
from pax_haiku.layers.conv_padding import causal_padding
from pax_haiku.layers.depthwise_conv import BaseDepthwiseConv1D, DepthwiseConv1D
from pax_haiku.layers.light_conv import LightConv1D

__all__ = [
  'BaseDepthwiseConv1D',
  'Conv2D',
  'Conv3D',
  'ConvBNAct',
  'ConvBNActWithPadding',
  'DepthwiseConv1D',
  'LightConv1D',
  'causal_padding',
]
