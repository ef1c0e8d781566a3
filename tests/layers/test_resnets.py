"""Residual networks: parts put together by hand, known sizes, recorded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.layers import activations, convolutions, resnets
from tests.layers import harness, reference

Config = pax_fiddle.Config
X = harness.noise(2, 4, 4, 4)
IMAGES = harness.noise(2, 8, 8, 3)


def block(cls=resnets.ResNetBlock, **fields):
  return harness.build(cls, **{'input_dim': 4, 'output_dim': 4, **fields})


def small(**fields):
  return Config(resnets.ResNet, **{
    **dict(strides=[1, 2], channels=[8, 16], blocks=[1, 2], kernels=[3, 3]), **fields})


def shapes_of(layer, x):
  return jax.eval_shape(lambda x: harness.init(layer, x), x)


def test_fields():
  assert harness.added_fields(resnets.ResNetBlock, 'BaseLayer') == (
    "input_dim=0, output_dim=0, conv_params='ConvBNAct', kernel_size=3, stride=1, "
    "activation_tpl='ReLU', residual_droppath_prob=0.0, zero_init_residual=False")
  assert harness.added_fields(resnets.ResNetBasicBlock, 'ResNetBlock') == ''
  assert harness.added_fields(resnets.ResNet, 'BaseLayer') == (
    "conv_params='ConvBNAct', block_params='ResNetBlock', strides=(1, 2, 2, 2), "
    'channels=(256, 512, 1024, 2048), blocks=(3, 4, 6, 3), kernels=(3, 3, 3, 3), '
    'entryflow_conv_kernel=(7, 7, 3), entryflow_conv_stride=(2, 2), '
    "output_spatial_pooling_params='GlobalPooling', return_block_features=False, "
    'entry_max_pool=True')
  conv = Config(resnets.ResNet).conv_params
  assert (conv.params_init.scale, conv.batch_norm_tpl.decay) == (1.4141, 0.9)


@pytest.mark.parametrize('cls', [resnets.ResNetBlock, resnets.ResNetBasicBlock])
def test_a_block_is_its_convolutions_and_a_way_around_them(cls):
  layer = block(cls, stride=2, output_dim=8)
  variables = harness.randomize(shapes_of(layer, X))
  params = variables['params']
  one, two = {
    resnets.ResNetBlock: ((1, 3, 1), (4, 2, 2, 8)),
    resnets.ResNetBasicBlock: ((3, 3), (4, 8, 8)),
  }[cls]
  for i, size in enumerate(one):
    assert params[f'body_{i}']['w'].shape == (size, size, two[i], two[i + 1])
  variables['non_trainable'] = jax.tree.map(
    lambda v: jnp.abs(v) + 0.5, variables['non_trainable'])

  def conv(name, x, stride, activation):
    config = Config(
      convolutions.ConvBNAct, name='conv', filter_shape=params[name]['w'].shape,
      filter_stride=(stride, stride), activation_tpl=Config(activation))
    mine = {c: t[name] for c, t in variables.items()}
    return harness.apply(config.Instantiate(), mine, x, do_eval=True)[0]

  def by_hand(x):
    y = x
    strided = 1 if cls is resnets.ResNetBlock else 0
    for i in range(len(one)):
      last = i == len(one) - 1
      y = conv(f'body_{i}', y, 2 if i == strided else 1,
               activations.Identity if last else activations.ReLU)
    return jnp.maximum(conv('shortcut', x, 2, activations.Identity) + y, 0)

  out = jax.jit(
    lambda x: harness.apply(layer, variables, x, do_eval=True)[0])(X)
  assert out.shape == (2, 2, 2, 8)
  # Convolutions of some ten products, fused differently.
  np.testing.assert_allclose(out, jax.jit(by_hand)(X), rtol=1e-5, atol=1e-5)


def test_zero_init_begins_as_the_identity():
  layer = block(zero_init_residual=True)
  variables = jax.jit(lambda: harness.init(layer, X))()
  np.testing.assert_array_equal(variables['params']['body_2']['bn']['gamma'], [-1] * 4)
  out = jax.jit(lambda v: harness.apply(layer, v, X)[0])(variables)
  np.testing.assert_array_equal(out, np.maximum(X, 0))


def test_branches_are_left_out_at_random():
  layer = block(residual_droppath_prob=0.5, input_dim=4)
  x = np.repeat(X[:1], 16, axis=0)
  run = jax.jit(lambda: harness.apply(layer, harness.init(layer, x), x)[0])
  left_out = (run() == np.maximum(x, 0)).all((1, 2, 3))
  assert 0 < left_out.sum() < 16


def test_features_of_the_stages():
  layer = small(return_block_features=True, name='net').Instantiate()
  out = jax.eval_shape(
    lambda: harness.apply(layer, harness.init(layer, IMAGES), IMAGES)[0])
  assert harness.shapes(out) == {2: (2, 2, 2, 8), 3: (2, 1, 1, 16)}


def test_recorded_numbers():
  images = reference.reference_input((2, 16, 16, 3))
  out = jax.jit(lambda: reference.run(small(), images, do_eval=True))()
  reference.check(out, 32, 0, 0.5781127, 20.33711)
  x = reference.reference_input((2, 4, 4, 8))
  config = Config(resnets.ResNetBlock, input_dim=8, output_dim=8)
  out = jax.jit(lambda: reference.run(config, x, do_eval=True))()
  reference.check(out, 256, 1.304881, 0.6271588, 96.20378)


@pytest.mark.parametrize(
  'name, blocks, count',
  [
    # The published networks, less their last layer of 1000 classes.
    ('18', 8, 11_176_512),
    ('50', 16, 23_508_032),
  ],
)
def test_sizes_of_the_known_networks(name, blocks, count):
  layer = getattr(resnets.ResNet, f'HParamsResNet{name}')().set(name='n').Instantiate()
  params = shapes_of(layer, jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32))['params']
  assert sum('stage' in k for k in params) == blocks
  assert sum(x.size for x in jax.tree.leaves(params)) == count


def test_other_networks():
  found = {n: list(getattr(resnets.ResNet, f'HParamsResNet{n}')().blocks)
           for n in (5, 34, 56, 83, 101, 152)}
  assert found == {5: [1], 34: [3, 4, 6, 3], 56: [3, 3, 9, 3], 83: [3, 3, 18, 3],
                   101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
  basic = resnets.ResNet.HParamsResNet34().block_params
  assert basic.cls is resnets.ResNetBasicBlock


def test_errors():
  with pytest.raises(ValueError, match="ResNet at the root: .*'channels': 1"):
    shapes_of(small(channels=[8], name='net').Instantiate(), IMAGES)
  layer = block(zero_init_residual=True,
                conv_params=Config(convolutions.ConvBNAct, batch_norm_tpl=None))
  with pytest.raises(NotImplementedError, match='found batch_norm_tpl=None'):
    shapes_of(layer, X)
