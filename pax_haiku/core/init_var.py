"""Draws a variable's initial value: the formulas of `WeightInit`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from pax_haiku.core import weights


def init_var(
  var_p: weights.WeightHParams, prng_key: jax.Array, var_full_name: str
) -> jax.Array:
  """Returns the initial value of a variable, of shape `var_p.shape`.

  Args:
    var_p: the variable, with `init` and `dtype` set.
    prng_key: the key to draw with.
    var_full_name: name for error texts and warnings.

  Raises:
    AssertionError: a scale that is no int or float; a dim of size 0; stacking dims,
      which are the stacking transform's affair; an unknown method.
    ValueError: an integer variable with a random method or with a float constant;
      delta_orthogonal for more than 5 dims.
    TypeError: Xavier for a scalar, which has no fans.
  """
  method, scale = var_p.init.method, var_p.init.scale
  shape, dtype = tuple(var_p.shape), var_p.dtype
  if not isinstance(scale, (int, float)):
    raise AssertionError(
      f'{var_full_name}: the scale of {method!r} must be an int or float, found '
      f'{scale!r} of type {type(scale).__name__}.'
    )
  if isinstance(scale, np.floating):
    scale = float(scale)  # A numpy double would turn bfloat16 values into float32.
  if 0 in shape:
    raise AssertionError(f'{var_full_name}: every dim must be > 0, found {shape}.')
  if var_p.repeat_prefix or var_p.repeat_prefix_split_dims_mapping:
    raise AssertionError(
      f'{var_full_name}: init_var draws one unstacked value, found '
      f'repeat_prefix={var_p.repeat_prefix} and repeat_prefix_split_dims_mapping='
      f'{var_p.repeat_prefix_split_dims_mapping}.'
    )
  if method == 'constant':
    return _constant(scale, shape, dtype, var_full_name)
  if method == 'delta_orthogonal':
    return _delta_orthogonal(scale, shape, dtype, prng_key, var_full_name)
  if method.endswith('_sqrt_dim') and len(shape) > 2:
    logging.warning(
      '%s: %s scales by the first dim only, of shape %s.', var_full_name, method, shape
    )
  fans = weights.get_fan_in_fan_out(shape, var_p.fan_in_axes, var_p.fan_out_axes)
  sample = _SAMPLERS.get(method)
  if sample is None:
    raise AssertionError(
      f'{var_full_name}: unknown init method {method!r}; known are '
      f'{sorted([*_SAMPLERS, "constant", "delta_orthogonal"])}.'
    )
  values = sample(prng_key, shape, dtype=dtype)
  return _factor(method, scale, shape, *fans, var_full_name) * values


_normal = jax.random.normal
_uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)


def _truncated_normal(key, shape, dtype):
  return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


_SAMPLERS = {
  'gaussian': _normal,
  'gaussian_sqrt_dim': _normal,
  'gaussian_sqrt_fanin': _normal,
  'gaussian_sqrt_fanout': _normal,
  'gaussian_sqrt_fanavg': _normal,
  'uniform': _uniform,
  'uniform_sqrt_dim': _uniform,
  'uniform_sqrt_fanavg': _uniform,
  'uniform_unit_scaling': _uniform,
  'xavier': _uniform,
  'truncated_gaussian': _truncated_normal,
  'truncated_gaussian_sqrt_dim': _truncated_normal,
  'truncated_gaussian_sqrt_fanin': _truncated_normal,
  'truncated_gaussian_sqrt_fanout': _truncated_normal,
}


def _factor(method, scale, shape, fan_in, fan_out, name) -> float:
  """What multiplies the sample: a Python float, so the sample keeps its dtype."""
  if method == 'xavier':
    if not shape:
      raise TypeError(
        f'{name}: a scalar has no fans, so it cannot be drawn with Xavier, which also '
        'is the default. Give its WeightHParams another init, e.g. '
        'init=WeightInit.Constant(0.0).'
      )
    return scale * math.sqrt(6 / (fan_in + fan_out))
  if method == 'uniform_sqrt_fanavg':
    fan_scale = math.sqrt(2 / (fan_in + fan_out)) if shape else 1.0
    # Pax rounds both factors and their product to float32.
    return float(np.float32(math.sqrt(3)) * np.float32(scale * fan_scale))
  if method == 'uniform_unit_scaling':
    return scale * math.sqrt(3 / max(1, math.prod(shape[:-1])))
  if not shape:
    return scale
  if method.endswith('_sqrt_dim'):
    return scale / math.sqrt(shape[0])
  if method.endswith('_sqrt_fanin'):
    return scale / math.sqrt(fan_in)
  if method.endswith('_sqrt_fanout'):
    return scale / math.sqrt(fan_out)
  if method == 'gaussian_sqrt_fanavg':
    return scale * math.sqrt(2 / (fan_in + fan_out))
  return scale


def _constant(scale, shape, dtype, name):
  if jnp.issubdtype(dtype, jnp.integer):
    if not isinstance(scale, int):
      raise ValueError(
        f'{name}: an integer variable ({jnp.dtype(dtype).name}) needs an int constant, '
        f'found {scale!r}.'
      )
    if dtype in (jnp.int4, jnp.uint4):
      return (scale + jnp.zeros(shape, jnp.int8)).astype(dtype)
  return scale + jnp.zeros(shape, dtype)


def _delta_orthogonal(scale, shape, dtype, key, name):
  if len(shape) < 2:
    logging.warning(
      '%s: delta_orthogonal of shape %s is a plain gaussian.', name, shape
    )
    return scale * _normal(key, shape, dtype=dtype)
  if len(shape) > 5:
    raise ValueError(
      f'{name}: delta_orthogonal is for kernels of 2 to 5 dims, found shape {shape}.'
    )
  gain = max(math.sqrt(shape[-2] / shape[-1]), 1)
  orthogonal = jax.nn.initializers.orthogonal(scale=gain, column_axis=-1, dtype=dtype)
  matrix = orthogonal(key, shape[-2:])
  if len(shape) == 2:
    return matrix
  center = tuple((k - 1) // 2 for k in shape[:-2])
  return jnp.zeros(shape, dtype).at[center].set(matrix)
