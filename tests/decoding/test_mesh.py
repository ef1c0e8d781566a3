"""Decoding with renamed mesh axes: on one device, the same numbers."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pax_haiku import base_layer, decoder_utils
from tests.decoding import cases

RENAMED = {'data': 'mdl', 'mdl': 'data'}
SPECS = {
  'params': {
    'lm': {
      'emb': PartitionSpec('mdl', 'data'),
      'w': PartitionSpec(None, 'mdl'),
      'u': PartitionSpec(None),
      'out': PartitionSpec('data', 'mdl'),
    }
  }
}


@pytest.fixture(scope='module')
def runner():
  return cases.Runner('pax_haiku')


def _decode(runner, **kwargs):
  config = runner.lib.pax_fiddle.Config(
    runner.layers.ToyModel,
    name='model',
    ici_mesh_shape=[1, 1],
    mesh_axis_names=['data', 'mdl'],
  )
  model = base_layer.instantiate(config)
  case = cases.filled('greedy', eos_id=8, **kwargs)
  options = {
    k: np.asarray(v) if k == 'prefix_lengths' else v for k, v in case[3].items()
  }

  def run(variables):
    return model.apply(
      variables, *case[2], method='greedy', mutable=['decoder_cache'], **options
    )[0]

  auto = jax.sharding.AxisType.Auto
  mesh = jax.make_mesh((1, 1), ('data', 'mdl'), axis_types=(auto, auto))
  with jax.set_mesh(mesh):
    return run(runner.variables), str(jax.make_jaxpr(run)(runner.variables))


def test_constrains_variables_twice_and_decodes_the_same(runner):
  plain, before = _decode(runner)
  moved, after = _decode(
    runner, decode_loop_mesh_axes_transpose=RENAMED, model_var_pspecs=SPECS
  )
  jax.tree.map(np.testing.assert_array_equal, dict(plain), dict(moved))
  assert before.count('sharding_constraint') == 0
  assert after.count('sharding_constraint') == 2 * 4


def test_context_inside():
  class Model:
    def is_initializing(self):
      return False

  with base_layer.JaxContext.new_context(
    hparams=base_layer.JaxContext.HParams(do_eval=True)
  ):
    with decoder_utils.maybe_decode_mesh_transpose(Model(), RENAMED):
      inside = base_layer.cur_jax_context().hparams
      assert inside.do_eval and inside.mesh_axes_transpose == RENAMED
    with decoder_utils.maybe_decode_mesh_transpose(Model(), None):
      assert base_layer.cur_jax_context().hparams.mesh_axes_transpose is None
    assert base_layer.cur_jax_context().hparams.mesh_axes_transpose is None


def test_needs_the_specs_of_the_variables(runner):
  with pytest.raises(ValueError, match='needs model_var_pspecs'):
    _decode(runner, decode_loop_mesh_axes_transpose=RENAMED)
