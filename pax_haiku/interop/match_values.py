"""Fingerprints of intermediate values: the same numbers, in whatever layout.

A fingerprint does not change when an array is transposed or reshaped. Two programs that
compute the same thing from the same numbers share most of their fingerprints.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from pax_haiku.interop.match_graph import Const, Graph

_TOLERANCE = {'float64': 2e-3, 'float32': 2e-3}  # float16 and bfloat16: 3e-2


def fingerprint(value) -> np.ndarray | None:
  """Mean, deviation, skewness, largest and smallest; None if there is nothing to see:
  integers, single numbers, constants, not finite."""
  array = np.asarray(value)
  if array.size < 2 or not jnp.issubdtype(array.dtype, jnp.floating):
    return None
  flat = array.astype(np.float64).ravel()
  mean, deviation = flat.mean(), flat.std()
  if not np.isfinite(deviation) or deviation <= 1e-4 * abs(mean) or deviation == 0:
    return None
  scaled = (flat - mean) / deviation
  return np.array(
    [
      mean / (abs(mean) + deviation),
      np.log(deviation) / 4,
      np.mean(scaled**3) / 4,
      scaled.max() / 4,
      scaled.min() / 4,
      np.log(abs(mean) + deviation) / 4,
    ]
  )


class Index:
  """Fingerprints of all values of a program, to look others up in.

  Args:
    env: variable -> value.
    chosen: the variables to enter.
  """

  def __init__(self, env: Mapping[int, Any], chosen):
    rows: dict[int, tuple[list[int], list[np.ndarray]]] = {}
    self.tolerance = 2e-3
    for var in chosen:
      mark = fingerprint(env[var])
      if mark is not None:
        dtype = str(np.asarray(env[var]).dtype)
        self.tolerance = max(self.tolerance, _TOLERANCE.get(dtype, 3e-2))
        variables, marks = rows.setdefault(np.size(env[var]), ([], []))
        variables.append(var)
        marks.append(mark)
    self._rows = {n: (v, np.stack(m)) for n, (v, m) in rows.items()}

  def find(self, value) -> list[int]:
    """Variables that hold these numbers in some order."""
    rows = self._rows.get(np.size(value))
    mark = fingerprint(value) if rows else None
    if mark is None:
      return []
    close = (np.abs(rows[1] - mark) <= self.tolerance).all(1)
    return [rows[0][i] for i in np.flatnonzero(close)]


def evaluate(graph: Graph, env: dict[int, Any]) -> dict[int, Any]:
  """All values of a program, from those of its pieces and inputs."""
  for node in graph.nodes:
    inputs = [r.value if isinstance(r, Const) else env[r] for r in node.inputs]
    env.update(zip(node.outputs, node.call(inputs), strict=True))
  return env
