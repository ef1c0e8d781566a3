"""A user's layer may have a private method of a likely name.

Found while writing the layers of tools/fuzz_praxis.py: a method `_run` was hidden by
bookkeeping of the base layer.
"""

import jax
import numpy as np

from pax_haiku import base_layer


def test_fuzz_private_method():
  def setup(self):
    self.create_variable('w', base_layer.WeightHParams(
        [2], init=base_layer.WeightInit.Constant(2.0)))

  def helper(self, x):
    return x * self.theta.w

  def call(self, x):
    return self._run(x)

  cls = type('L', (base_layer.BaseLayer,), {
    '__module__': __name__, 'setup': setup, '_run': helper, '__call__': call})
  layer = cls.config(name='l').Instantiate()
  x = np.ones((3, 2), np.float32)
  variables = layer.init(jax.random.PRNGKey(0), x)
  np.testing.assert_array_equal(layer.apply(variables, x), 2 * x)
