"""Records the real Praxis's initial values in init_var.npz beside this file.

Run it with the Python of the environment that has Praxis:

  JAX_PLATFORMS=cpu JAX_THREEFRY_PARTITIONABLE=true python record_init_var.py

JAX's rounding of bfloat16 inside a compiled function has changed between releases, so
those values are recorded op by op. The file holds `cases`, an array of texts, and
`values`, all cases' values flattened and joined.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from praxis import base_layer

METHODS = (
  'gaussian',
  'gaussian_sqrt_dim',
  'gaussian_sqrt_fanin',
  'gaussian_sqrt_fanout',
  'gaussian_sqrt_fanavg',
  'uniform',
  'uniform_sqrt_dim',
  'uniform_sqrt_fanavg',
  'uniform_unit_scaling',
  'xavier',
  'truncated_gaussian',
  'truncated_gaussian_sqrt_dim',
  'truncated_gaussian_sqrt_fanin',
  'truncated_gaussian_sqrt_fanout',
  'constant',
  'delta_orthogonal',
)
# shape, fan_in_axes, fan_out_axes
SHAPES = (
  ((), None, None),
  ((5,), None, None),
  ((6, 4), None, None),
  ((2, 3, 5), None, None),
  ((3, 2, 2, 4), None, None),
  ((4, 2, 3), (0,), (1, 2)),
)


def main():
  cases, values = [], []
  for method in METHODS:
    for shape, fan_in_axes, fan_out_axes in SHAPES:
      if method == 'xavier' and not shape:
        continue
      for scale in (1.0, 0.37):
        for dtype in ('float32', 'bfloat16'):
          if dtype == 'bfloat16' and (
            method == 'delta_orthogonal' or scale == 1.0 or shape != (2, 3, 5)
          ):
            continue
          var_p = base_layer.WeightHParams(
            list(shape),
            base_layer.WeightInit(method, scale),
            jnp.dtype(dtype),
            fan_in_axes=fan_in_axes,
            fan_out_axes=fan_out_axes,
          )
          with jax.disable_jit(dtype == 'bfloat16'):
            value = base_layer.init_var(var_p, jax.random.PRNGKey(7), 'v')
          assert value.dtype == dtype
          case = repr((method, shape, fan_in_axes, fan_out_axes, scale, dtype))
          cases.append(case)
          values.append(np.ravel(value.astype(jnp.float32)))
  path = pathlib.Path(__file__).with_name('init_var.npz')
  np.savez_compressed(path, cases=np.array(cases), values=np.concatenate(values))


if __name__ == '__main__':
  main()
