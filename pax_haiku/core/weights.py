"""What a variable is: its shape, dtype, labels, sharding and initial distribution."""

import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from fiddle.experimental import auto_config

# A scale that nobody would write by hand: it marks "not chosen by the user".
_DEFAULT_SCALE = 1.000001


class WeightHParamsCollection:
  """Labels that a variable may carry in `WeightHParams.collections`."""

  SKIP_LP_REGULARIZATION = '__lingvo_jax_skip_regularization'
  NON_TRAINABLE = '_lingvo_jax_non_trainable'
  REQUIRES_MEAN_SYNC = '_requires_mean_sync'
  REQUIRES_SUM_SYNC = '_requires_sum_sync'
  DISALLOW_BFLOAT16_CONVERSION = '_disallow_bfloat16_conversion'
  OVERWRITE_WITH_GRADIENT = '_overwrite_with_gradient'


@dataclasses.dataclass
class WeightHParams:
  """Declaration of one variable.

  Attributes:
    shape: the shape that the layer declares, without dims that stacking adds.
    init: initial distribution; None: the layer's `params_init`.
    dtype: None: the layer's `dtype`.
    collections: labels out of `WeightHParamsCollection`; None becomes a fresh list.
    mesh_shape: shape of the logical device mesh.
    tensor_split_dims_mapping: for each dim a mesh axis (name or index), a tuple of
      them, or None or -1 for replicated. With a `mesh_shape`, None becomes all -1.
    repeat_prefix: leading dims added by repeating or pipelining the layer.
    repeat_prefix_split_dims_mapping: sharding of those dims.
    repeat_optimizer_dims_mapping: sharding of those dims in the optimizer's state.
    fan_in_axes: dims that count as inputs, see `get_fan_in_fan_out`.
    fan_out_axes: dims that count as outputs.

  Raises:
    AssertionError: `mesh_shape` is given and the mapping's length is not the rank.
  """

  shape: Sequence[int]
  init: 'WeightInit | None' = None
  dtype: Any = None
  collections: list[str] | None = None
  mesh_shape: Sequence[int] | None = None
  tensor_split_dims_mapping: Sequence[Any] | None = None
  repeat_prefix: Sequence[int] | None = None
  repeat_prefix_split_dims_mapping: Sequence[Any] | None = None
  repeat_optimizer_dims_mapping: Sequence[Any] | None = None
  fan_in_axes: Sequence[int] | None = None
  fan_out_axes: Sequence[int] | None = None

  def __post_init__(self):
    if self.collections is None:
      self.collections = []
    if self.mesh_shape is not None:
      if self.tensor_split_dims_mapping is None:
        self.tensor_split_dims_mapping = (-1,) * len(self.shape)
      _check_mapping(self.tensor_split_dims_mapping, self.shape, 'shape')

  @property
  def full_shape(self) -> tuple[int, ...]:
    """`repeat_prefix` followed by `shape`."""
    return (*(self.repeat_prefix or ()), *self.shape)

  @property
  def full_split_dims_mapping(self) -> tuple[Any, ...]:
    """The mapping of each dim of `full_shape`; -1 where none is declared."""
    prefix = self.repeat_prefix or ()
    prefix_mapping = self.repeat_prefix_split_dims_mapping
    if prefix_mapping is None:
      prefix_mapping = (-1,) * len(prefix)
    _check_mapping(prefix_mapping, prefix, 'repeat_prefix')
    mapping = self.tensor_split_dims_mapping
    if mapping is None:
      mapping = (-1,) * len(self.shape)
    _check_mapping(mapping, self.shape, 'shape')
    return (*prefix_mapping, *mapping)

  def clone(self) -> 'WeightHParams':
    """Returns a deep copy."""
    return copy.deepcopy(self)

  def set(self, **kwargs) -> 'WeightHParams':
    """Sets the given fields and returns the object itself."""
    names = [f.name for f in dataclasses.fields(self)]
    for name, value in kwargs.items():
      if name not in names:
        raise AttributeError(f'WeightHParams has no field {name!r}; it has {names}.')
      setattr(self, name, value)
    return self


def _check_mapping(mapping: Sequence[Any], shape: Sequence[int], what: str):
  if len(mapping) != len(shape):
    raise AssertionError(
      f'A split dims mapping needs one entry for each dim of {what} {list(shape)}; '
      f'found {len(mapping)} entries: {mapping!r}.'
    )


def var_skip_lp_regularization(var_p: WeightHParams) -> bool:
  """Whether L1/L2 regularization leaves the variable out."""
  return WeightHParamsCollection.SKIP_LP_REGULARIZATION in var_p.collections


def var_not_trainable(var_p: WeightHParams) -> bool:
  """Whether the variable is not trained."""
  return WeightHParamsCollection.NON_TRAINABLE in var_p.collections


def var_requires_mean_sync(var_p: WeightHParams) -> bool:
  """Whether replicas must be averaged after a step."""
  return WeightHParamsCollection.REQUIRES_MEAN_SYNC in var_p.collections


def var_requires_sum_sync(var_p: WeightHParams) -> bool:
  """Whether replicas must be summed after a step."""
  return WeightHParamsCollection.REQUIRES_SUM_SYNC in var_p.collections


def var_disallow_bfloat16_conversion(var_p: WeightHParams) -> bool:
  """Whether the variable keeps its dtype when the layer computes in bfloat16."""
  return WeightHParamsCollection.DISALLOW_BFLOAT16_CONVERSION in var_p.collections


def var_overwrite_with_gradient(var_p: WeightHParams) -> bool:
  """Whether a training step stores the gradient itself as the new value."""
  return WeightHParamsCollection.OVERWRITE_WITH_GRADIENT in var_p.collections


def _constructor(fn):
  """Static method making a WeightInit; its `.as_buildable(...)` makes a Config."""

  @functools.wraps(fn)
  def as_buildable(*args, **kwargs):
    from pax_haiku.core import config_types  # Plain use does without it.

    init = fn(*args, **kwargs)
    return config_types.PaxConfig(WeightInit, method=init.method, scale=init.scale)

  return auto_config.AutoConfig(
    func=staticmethod(fn),
    buildable_func=staticmethod(as_buildable),
    always_inline=True,
  )


@dataclasses.dataclass
class WeightInit:
  """An initial distribution: a method's name and a scale.

  The constructors below name the method and give its formula. N is a standard normal
  sample, U is uniform in [-1, 1), TN is a standard normal truncated to [-2, 2] (its
  variance is not corrected), s is the scale, d0 is `shape[0]`, fi and fo are the fans
  of `get_fan_in_fan_out`. `init_var` draws the values.
  """

  method: str
  scale: float | int

  @_constructor
  def Gaussian(scale=1.0):
    """s N."""
    return WeightInit('gaussian', scale)

  @_constructor
  def Uniform(scale=1.0):
    """s U."""
    return WeightInit('uniform', scale)

  @_constructor
  def Xavier(scale=1.0):
    """s sqrt(6 / (fi + fo)) U: Glorot and Bengio 2010. Not for scalars."""
    return WeightInit('xavier', scale)

  @_constructor
  def XavierWithFixupParams(scale=1.0, depth=1.0, layers_per_residual_block=1.0):
    """Xavier with s depth^(-1 / (2 layers_per_residual_block)): Fixup, Zhang 2019."""
    power = -1.0 / (2.0 * layers_per_residual_block)
    return WeightInit('xavier', scale * math.pow(depth, power))

  @_constructor
  def Constant(scale=1.0):
    """s everywhere."""
    return WeightInit('constant', scale)

  @_constructor
  def TruncatedGaussian(scale=1.0):
    """s TN."""
    return WeightInit('truncated_gaussian', scale)

  @_constructor
  def GaussianSqrtDim(scale=1.0):
    """s / sqrt(d0) N."""
    return WeightInit('gaussian_sqrt_dim', scale)

  @_constructor
  def GaussianSqrtFanIn(scale=1.0):
    """s / sqrt(fi) N."""
    return WeightInit('gaussian_sqrt_fanin', scale)

  @_constructor
  def GaussianSqrtFanOut(scale=1.0):
    """s / sqrt(fo) N."""
    return WeightInit('gaussian_sqrt_fanout', scale)

  @_constructor
  def GaussianSqrtFanAvg(scale=1.0):
    """s sqrt(2 / (fi + fo)) N."""
    return WeightInit('gaussian_sqrt_fanavg', scale)

  @_constructor
  def UniformSqrtDim(scale=1.0):
    """s / sqrt(d0) U."""
    return WeightInit('uniform_sqrt_dim', scale)

  @_constructor
  def UniformSqrtFanAvg(scale=1.0):
    """s sqrt(6 / (fi + fo)) U."""
    return WeightInit('uniform_sqrt_fanavg', scale)

  @_constructor
  def UniformUnitScaling(scale=1.0):
    """s sqrt(3 / m) U, m the product of all dims but the last, at least 1."""
    return WeightInit('uniform_unit_scaling', scale)

  @_constructor
  def TruncatedGaussianSqrtDim(scale=1.0):
    """s / sqrt(d0) TN."""
    return WeightInit('truncated_gaussian_sqrt_dim', scale)

  @_constructor
  def TruncatedGaussianSqrtFanIn(scale=1.0):
    """s / sqrt(fi) TN."""
    return WeightInit('truncated_gaussian_sqrt_fanin', scale)

  @_constructor
  def TruncatedGaussianSqrtFanOut(scale=1.0):
    """s / sqrt(fo) TN."""
    return WeightInit('truncated_gaussian_sqrt_fanout', scale)

  @_constructor
  def ScaledDeltaOrthogonal(scale=1.0):
    """An orthogonal matrix at the center of a convolution kernel: Xiao et al. 2018.

    From rank 2 on, s is ignored: the gain is max(1, sqrt(shape[-2] / shape[-1])).
    """
    return WeightInit('delta_orthogonal', scale)


def get_fan_in_fan_out(
  shape: Sequence[int],
  fan_in_axes: Sequence[int] | None = None,
  fan_out_axes: Sequence[int] | None = None,
) -> tuple[int | None, int | None]:
  """Returns how many inputs and outputs a weight of this shape connects.

  With both axes given, the products of the named dims. Otherwise `shape[-2] r` and
  `shape[-1] r` with r the product of the dims before these two (a kernel's receptive
  field); `(n, n)` for a vector, `(None, None)` for a scalar, axes or not.

  Raises:
    AssertionError: only one of the axes is given.
  """
  if not shape:
    return None, None
  if len(shape) == 1:
    return shape[0], shape[0]
  if (fan_in_axes is None) != (fan_out_axes is None):
    raise AssertionError(
      'fan_in_axes and fan_out_axes must be given together, found '
      f'fan_in_axes={fan_in_axes}, fan_out_axes={fan_out_axes} for shape {shape}.'
    )
  if fan_in_axes is not None:
    fan_in = math.prod(shape[i] for i in fan_in_axes)
    return fan_in, math.prod(shape[i] for i in fan_out_axes)
  receptive_field = math.prod(shape[:-2])
  return shape[-2] * receptive_field, shape[-1] * receptive_field


def default_param_init() -> WeightInit:
  """Xavier with a scale of 1.000001, which tells that the user did not choose it."""
  return WeightInit.Xavier(_DEFAULT_SCALE)


def is_default_param_init(p) -> bool:
  """Whether `p`, a WeightInit or a Config of one, is `default_param_init()`."""
  return p.method == 'xavier' and abs(p.scale - _DEFAULT_SCALE) < 1e-7


def var_init_scale(var_p: WeightHParams, var_key: str | None = None) -> float:
  """The spread of a variable's initial values, for optimizers that scale by it.

  Args:
    var_p: the variable; its `init` must be gaussian, gaussian_sqrt_fanin or xavier.
    var_key: name for the error text.

  Raises:
    NotImplementedError: for any other method.
  """
  method, scale = var_p.init.method, var_p.init.scale
  fan_in, fan_out = get_fan_in_fan_out(
    var_p.shape, var_p.fan_in_axes, var_p.fan_out_axes
  )
  if method == 'gaussian':
    return scale
  if method == 'gaussian_sqrt_fanin':
    return scale / math.sqrt(fan_in)
  if method == 'xavier':
    return scale * math.sqrt(6.0 / (fan_in + fan_out))
  raise NotImplementedError(
    f'No init scale is known for method {method!r} of variable {var_key or ""!r}; '
    "known are 'gaussian', 'gaussian_sqrt_fanin' and 'xavier'."
  )
