"""Stands in for `praxis.test_utils`, which needs lingvo and TensorFlow.

Holds what the tests call, except for what turns weights into those of lingvo.
"""

from typing import Any

import jax
import numpy as np
from absl.testing import parameterized


def to_np(x: Any) -> Any:
  """A tree with numpy arrays for arrays."""
  return jax.tree_util.tree_map(np.asarray, x)


def _float(x: Any) -> np.ndarray:
  x = np.asarray(x)
  # numpy compares its own dtypes only; bfloat16 is none of them
  return x.astype(np.float32) if x.dtype.kind == 'V' else x


class TestCase(parameterized.TestCase):
  """Comparisons of arrays and of trees of arrays."""

  def _pairs(self, a: Any, b: Any):
    """Yields leaves of two trees side by side; fails if the trees differ.

    A list is one leaf, as if it were an array, if numpy can make one of it.
    """
    if isinstance(a, dict) or isinstance(b, dict):
      self.assertEqual(set(a), set(b))
      for key in a:
        yield from self._pairs(a[key], b[key])
    elif _is_ragged(a) or _is_ragged(b):
      self.assertEqual(len(a), len(b))
      for x, y in zip(a, b, strict=True):
        yield from self._pairs(x, y)
    else:
      yield _float(a), _float(b)

  def assertAllClose(self, a, b, rtol=1e-6, atol=1e-6, msg='', check_dtypes=False):
    for x, y in self._pairs(a, b):
      if check_dtypes:
        self.assertEqual(x.dtype, y.dtype, msg)
      # lower precision than float32 can't be compared more closely than it is
      low = np.float16 in (x.dtype, y.dtype)
      np.testing.assert_allclose(x, y, max(rtol, 1e-3) if low else rtol,
                                 max(atol, 1e-3) if low else atol, err_msg=msg or '')

  def assertNotAllClose(self, a, b, rtol=1e-6, atol=1e-6, msg=None):
    try:
      self.assertAllClose(a, b, rtol, atol)
    except AssertionError:
      return
    self.fail(msg or 'the two are close')

  def assertArraysEqual(self, a, b, **unused):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

  def assertArraysAllClose(self, a, b, **kwargs):
    self.assertAllClose(a, b, **kwargs)

  def assertDtypesMatch(self, a, b):
    """Of arrays or dtypes, as JAX sees them: without x64, int64 is int32."""
    dtypes = [x if isinstance(x, type) else getattr(x, 'dtype', x) for x in (a, b)]
    self.assertEqual(*map(jax.dtypes.canonicalize_dtype, dtypes))


def _is_ragged(x: Any) -> bool:
  """Whether a list or tuple is a tree rather than an array written down."""
  if not isinstance(x, list | tuple):
    return False
  try:
    return np.asarray(x).dtype == object
  except ValueError:
    return True


def __getattr__(name: str):
  from praxis_tests import stand_ins
  if name.startswith('__'):
    raise AttributeError(name)
  return stand_ins.Absent(f'lingvo (praxis.test_utils.{name})')
