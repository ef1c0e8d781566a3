"""WeightHParams, WeightInit and what is derived from them."""

import copy
import dataclasses

import jax
import pytest

from pax_haiku import pax_fiddle
from pax_haiku.core import weights
from pax_haiku.core.weights import WeightHParams, WeightInit


@dataclasses.dataclass
class Owner:
  by_name: WeightInit = pax_fiddle.instance_field(WeightInit.UniformSqrtDim)
  by_lambda: WeightInit = pax_fiddle.instance_field(lambda: WeightInit.Uniform(0.5))
  fixup: WeightInit = pax_fiddle.instance_field(
    lambda: WeightInit.XavierWithFixupParams(2.0, depth=16.0)
  )


METHODS = {
  'Gaussian': 'gaussian',
  'Uniform': 'uniform',
  'Xavier': 'xavier',
  'XavierWithFixupParams': 'xavier',
  'Constant': 'constant',
  'TruncatedGaussian': 'truncated_gaussian',
  'GaussianSqrtDim': 'gaussian_sqrt_dim',
  'GaussianSqrtFanIn': 'gaussian_sqrt_fanin',
  'GaussianSqrtFanOut': 'gaussian_sqrt_fanout',
  'GaussianSqrtFanAvg': 'gaussian_sqrt_fanavg',
  'UniformSqrtDim': 'uniform_sqrt_dim',
  'UniformSqrtFanAvg': 'uniform_sqrt_fanavg',
  'UniformUnitScaling': 'uniform_unit_scaling',
  'TruncatedGaussianSqrtDim': 'truncated_gaussian_sqrt_dim',
  'TruncatedGaussianSqrtFanIn': 'truncated_gaussian_sqrt_fanin',
  'TruncatedGaussianSqrtFanOut': 'truncated_gaussian_sqrt_fanout',
  'ScaledDeltaOrthogonal': 'delta_orthogonal',
}


@pytest.mark.parametrize('name', METHODS)
def test_constructor_plain_and_as_config(name):
  constructor = getattr(WeightInit, name)
  assert constructor() == WeightInit(METHODS[name], 1.0)
  assert constructor(0.5) == constructor(scale=0.5) == WeightInit(METHODS[name], 0.5)
  config = constructor.as_buildable(scale=0.5)
  assert isinstance(config, pax_fiddle.Config)
  assert (config.method, config.scale) == (METHODS[name], 0.5)
  assert pax_fiddle.build(config) == constructor(0.5)


def test_fixup_scale():
  # 2 * 16^(-1/2) and 2 * 16^(-1/4).
  assert WeightInit.XavierWithFixupParams(2.0, depth=16.0) == WeightInit('xavier', 0.5)
  two_layers = WeightInit.XavierWithFixupParams(2.0, 16.0, 2.0)
  assert two_layers == WeightInit('xavier', 1.0)


def test_constructors_in_fields():
  config = pax_fiddle.Config(Owner)
  assert (config.by_name.method, config.by_name.scale) == ('uniform_sqrt_dim', 1.0)
  assert (config.by_lambda.method, config.by_lambda.scale) == ('uniform', 0.5)
  config.by_name.scale = 3.0
  built = pax_fiddle.build(config)
  assert built.by_name == WeightInit('uniform_sqrt_dim', 3.0)
  assert built.by_lambda == WeightInit('uniform', 0.5)
  assert built.fixup == WeightInit('xavier', 0.5)
  assert Owner() == dataclasses.replace(built, by_name=WeightInit.UniformSqrtDim())


def test_default_init_is_recognized():
  default = weights.default_param_init()
  assert default == WeightInit('xavier', 1.000001)
  assert weights.is_default_param_init(default)
  assert weights.is_default_param_init(WeightInit.Xavier.as_buildable(1.000001))
  assert weights.is_default_param_init(WeightInit.Xavier(1.00000105))
  assert not weights.is_default_param_init(WeightInit.Xavier(1.0))
  assert not weights.is_default_param_init(WeightInit.Gaussian(1.000001))


def test_hparams_defaults_and_equality():
  a, b = WeightHParams([2, 3]), WeightHParams([2, 3])
  assert a.collections == [] and a.collections is not b.collections
  assert a == b
  assert a != WeightHParams((2, 3))
  assert a != WeightHParams([2, 3], WeightInit.Gaussian())
  names = [f.name for f in dataclasses.fields(WeightHParams)]
  assert names == [
    'shape',
    'init',
    'dtype',
    'collections',
    'mesh_shape',
    'tensor_split_dims_mapping',
    'repeat_prefix',
    'repeat_prefix_split_dims_mapping',
    'repeat_optimizer_dims_mapping',
    'fan_in_axes',
    'fan_out_axes',
  ]


def test_hparams_are_leaves():
  tree = {'a': WeightHParams([1]), 'b': [WeightHParams([2])]}
  assert jax.tree.map(lambda p: p.shape, tree) == {'a': [1], 'b': [[2]]}


def test_clone_and_set():
  a = WeightHParams([2, 3], WeightInit.Gaussian(), collections=['x'])
  b = a.clone()
  assert a == b == copy.deepcopy(a)
  b.collections.append('y')
  b.init.scale = 4.0
  assert a.collections == ['x'] and a.init.scale == 1.0
  assert b.set(shape=[4], init=None) is b
  assert b.shape == [4] and b.init is None
  with pytest.raises(AttributeError, match="'shapes'.*'shape'"):
    b.set(shapes=[4])


def test_split_dims_mapping():
  assert WeightHParams([2, 3]).tensor_split_dims_mapping is None
  assert WeightHParams([2, 3], mesh_shape=[1]).tensor_split_dims_mapping == (-1, -1)
  WeightHParams([2, 3], tensor_split_dims_mapping=['a'])  # Not checked without a mesh.
  with pytest.raises(AssertionError, match=r"\[2, 3\].*1 entries: \['a'\]"):
    WeightHParams([2, 3], mesh_shape=[1], tensor_split_dims_mapping=['a'])


def test_full_shape_and_mapping():
  plain = WeightHParams([2, 3])
  assert plain.full_shape == (2, 3)
  assert plain.full_split_dims_mapping == (-1, -1)
  stacked = WeightHParams([2, 3], repeat_prefix=[5, 4])
  assert stacked.full_shape == (5, 4, 2, 3)
  assert stacked.full_split_dims_mapping == (-1, -1, -1, -1)
  stacked.set(
    repeat_prefix_split_dims_mapping=('s', None),
    tensor_split_dims_mapping=[('a', 'b'), 'c'],
  )
  assert stacked.full_split_dims_mapping == ('s', None, ('a', 'b'), 'c')
  with pytest.raises(AssertionError, match='repeat_prefix'):
    stacked.set(repeat_prefix=[5]).full_split_dims_mapping  # noqa: B018


def test_labels():
  labels = weights.WeightHParamsCollection
  predicates = {
    labels.SKIP_LP_REGULARIZATION: weights.var_skip_lp_regularization,
    labels.NON_TRAINABLE: weights.var_not_trainable,
    labels.REQUIRES_MEAN_SYNC: weights.var_requires_mean_sync,
    labels.REQUIRES_SUM_SYNC: weights.var_requires_sum_sync,
    labels.DISALLOW_BFLOAT16_CONVERSION: weights.var_disallow_bfloat16_conversion,
    labels.OVERWRITE_WITH_GRADIENT: weights.var_overwrite_with_gradient,
  }
  assert list(predicates) == [
    '__lingvo_jax_skip_regularization',
    '_lingvo_jax_non_trainable',
    '_requires_mean_sync',
    '_requires_sum_sync',
    '_disallow_bfloat16_conversion',
    '_overwrite_with_gradient',
  ]
  for label in predicates:
    var_p = WeightHParams([1], collections=[label])
    assert [p(var_p) for p in predicates.values()] == [
      other == label for other in predicates
    ]


@pytest.mark.parametrize(
  'shape, axes, fans',
  [
    ([], (None, None), (None, None)),
    ([], ([0], [0]), (None, None)),
    ([7], (None, None), (7, 7)),
    ([7], ([0], None), (7, 7)),
    ([4, 6], (None, None), (4, 6)),
    ([3, 3, 4, 6], (None, None), (36, 54)),
    ([8, 2, 16], ([0], [1, 2]), (8, 32)),
    ((2, 3, 4), ([0], [-2, -1]), (2, 12)),
    ([4, 6], ([], [0, 1]), (1, 24)),
  ],
)
def test_fans(shape, axes, fans):
  assert weights.get_fan_in_fan_out(shape, *axes) == fans


def test_one_sided_fan_axes():
  with pytest.raises(AssertionError, match=r'fan_in_axes=\[0\], fan_out_axes=None'):
    weights.get_fan_in_fan_out([4, 6], [0])


def test_var_init_scale():
  def scale(init, shape=(4, 6), **kwargs):
    return weights.var_init_scale(WeightHParams(shape, init, **kwargs), 'net/w')

  assert scale(WeightInit.Gaussian(0.3)) == 0.3
  assert scale(WeightInit.GaussianSqrtFanIn(3.0)) == 1.5
  flipped = scale(
    WeightInit.GaussianSqrtFanIn(3.0), (6, 4), fan_in_axes=[1], fan_out_axes=[0]
  )
  assert flipped == 1.5
  assert scale(WeightInit.Xavier(5.0), (10, 14)) == pytest.approx(2.5)
  with pytest.raises(NotImplementedError, match="'uniform'.*net/w"):
    scale(WeightInit.Uniform())
