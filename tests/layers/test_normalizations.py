"""Normalization layers under their Pax names, with Pax's fields and defaults."""

import pytest

from pax_haiku.layers import normalizations
from tests.layers import harness

# 'class base': what the class adds to its base, as recorded from Praxis.
FIELDS = {
  'BaseNormalization BaseLayer': 'dim=0',
  'IdentityNorm BaseNormalization': '',
  'BatchNorm BaseNormalization': (
    'decay=0.999, use_moving_avg_in_training=False, '
    'set_padded_output_to_zero=True, force_eval_mode=False, '
    "gamma_init='constant 0.0'"
  ),
  'LayerNorm BaseNormalization': (
    'direct_scale=False, epsilon=1e-06, use_scale=True, use_bias=True, '
    'reductions_in_fp32=False'
  ),
  'RmsNorm BaseNormalization': (
    'epsilon=1e-06, direct_scale=True, intermediate_dtype=None'
  ),
  'RmsNormNoScale BaseNormalization': 'epsilon=1e-06',
  'GroupNorm BaseNormalization': (
    'num_groups=32, min_group_size=1, cumulative=False, input_rank=None, '
    'epsilon=0.001, set_padded_output_to_zero=True, use_scale=True, '
    'use_bias=True'
  ),
  'WeightNormL2 BaseNormalization': '',
  'SpectralNorm BaseNormalization': 'n_power_iteration=1',
}


@pytest.mark.parametrize('names', list(FIELDS))
def test_fields_and_defaults(names):
  name, base = names.split()
  cls = getattr(normalizations, name)
  assert cls.__name__ == name
  assert harness.added_fields(cls, base) == FIELDS[names]


def test_exports():
  classes = [names.split()[0] for names in FIELDS]
  functions = ['compute_moments']
  assert sorted(normalizations.__all__) == sorted(classes + functions)
