"""Decoding loops against what the real Praxis decodes with the same model and keys.

The numbers come from tools/record_decoding.py. Ids, lengths and keys must be the same.
Scores may differ by 1e-5 of their size: both sides sum the same few float32 numbers, by
the matrix products of two versions of XLA. With bfloat16 layers (`_bf16`) logits may
differ by their last bit, 2**-6 between 2 and 4, and what is computed from two of them
by twice that.
"""

import pathlib

import numpy as np
import pytest

from tests.decoding import cases, model_cases

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / 'golden' / 'decoding'
GROUPS = {**cases.GROUPS, 'models': model_cases.CASES}
NAMES = [(group, name) for group, cs in GROUPS.items() for name in cs]


@pytest.fixture(scope='module')
def runner():
  return cases.Runner('pax_haiku')


@pytest.fixture(scope='module')
def model_runner():
  return model_cases.Runner('pax_haiku')


@pytest.fixture(scope='module')
def recorded():
  out = {}
  for group in GROUPS:
    with np.load(GOLDEN / f'{group}.npz') as arrays:
      for key in arrays:
        case, name = key.split('|')
        out.setdefault(case, {})[name] = arrays[key]
  return out


@pytest.mark.parametrize('group,name', NAMES)
def test_decodes_as_praxis(group, name, runner, model_runner, recorded):
  want = recorded[name]
  got = (model_runner if group == 'models' else runner).run(GROUPS[group][name])
  assert sorted(got) == sorted(want)
  for key, value in want.items():
    assert got[key].dtype == value.dtype, key
    if np.issubdtype(value.dtype, np.floating):
      tolerance = 2**-5 if name.endswith('_bf16') else 1e-5
      np.testing.assert_allclose(
        got[key], value, rtol=tolerance, atol=tolerance, err_msg=key
      )
    else:
      np.testing.assert_array_equal(got[key], value, err_msg=key)


def test_nothing_recorded_is_left_over(recorded):
  assert set(recorded) == {name for _, name in NAMES}


def test_the_cases_tell_rows_apart(recorded):
  """Rows that end early, rows that do not, and samples that differ are all there."""
  lengths = {name: r['decode_lengths'] for name, r in recorded.items()}
  assert len(set(np.ravel(lengths['sample_extras']))) >= 3
  ids = recorded['sample_temperature_2d']['output_ids']
  assert (ids[:, 0] != ids[:, 1]).any(axis=-1).all()
  # One row ends with the constraint, at 3; the other one may go on.
  ids = recorded['lm_prefix']['output_ids']
  assert ids[:, 0].tolist() == [[5, 3, 3, 0, 0, 0, 0, 0], [1, 4, 2, 4, 4, 4, 4, 0]]
