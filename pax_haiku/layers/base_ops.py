"""Injectable operations: layers call these so that a config can swap them.

They own no variables, so they leave no key in the tree of variables.
"""

import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

__all__ = ['ArrayLookup', 'EinsumGatedOp', 'EinsumOp']

JTensor = pytypes.JTensor


class EinsumOp(base_layer.BaseLayer):
  """`jnp.einsum` at default precision."""

  def __call__(self, equation: str, *args: JTensor) -> JTensor:
    """Contracts `args` as `equation` says; see `jnp.einsum`."""
    return jnp.einsum(equation, *args)


class EinsumGatedOp(base_layer.BaseLayer):
  """Two einsums of one input: the value and its gate."""

  def __call__(self, equation: str, *args: JTensor) -> tuple[JTensor, JTensor]:
    """Contracts the first array with the second, and with the third.

    Args:
      equation: an einsum equation of two operands.
      *args: input, kernel, kernel of the gate.

    Returns:
      `(einsum(input, kernel), einsum(input, gate kernel))`.

    Raises:
      AssertionError: not exactly three arrays.
    """
    if len(args) != 3:
      raise AssertionError(
        f'{describe(self)}: expected 3 arrays (input, kernel, gate kernel) after '
        f'the equation {equation!r}, got {len(args)}.'
      )
    x, kernel, gate_kernel = args
    return jnp.einsum(equation, x, kernel), jnp.einsum(equation, x, gate_kernel)


class ArrayLookup(base_layer.BaseLayer):
  """`x[idx]`."""

  def __call__(self, x: JTensor, idx: tuple[JTensor, ...]) -> JTensor:
    """Indexes `x`, for rows with the 1-tuple `(ids,)`.

    Negative ids count from the end; then all are clamped into range, as `jnp` does.
    """
    return x[idx]
