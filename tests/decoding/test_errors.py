"""Errors that users of the decoding loops make."""

import numpy as np
import pytest

from pax_haiku import sample_decode
from tests.decoding import cases

SAMPLE = {'top_k': 3, 'num_samples': 2, 'temperature': 1.0}
BEAM = {'beam_size': 2, 'max_decode_steps': 3, 'eos_id': 2}


@pytest.fixture(scope='module')
def runner():
  return cases.Runner('pax_haiku')


def _fails(runner, case, what, error=ValueError):
  """Not jitted, so that values are known."""
  function, arrays = runner.function(case)
  with pytest.raises(error, match=what):
    function(runner.variables, np.array([0, 1], np.uint32), arrays)


@pytest.mark.parametrize(
  'change,what',
  [
    ({'seq_len': 0}, 'sequence length for decoding must be > 0, found 0'),
    ({'seq_len': 3}, r'prefix is longer than the output: .*\[2, 4\].* 3'),
    ({'temperature': -1.0}, 'temperature must be >= 0, found -1.0'),
    ({'temperature': np.array([1.0, -2.0])}, 'found -2.0'),
    ({'temperature': np.ones([2, 3])}, r'2D dynamic temperature.*\(2, 2\).*\(2, 3\)'),
    ({'temperature': np.ones(3)}, r'temperature must have shape \(2, ...\).*\(3,\)'),
    ({'top_k': 12}, 'vocabulary, 11, found 12'),
    ({'top_p': -0.1}, r'top_p must be in \[0, 1\]'),
    ({'top_p': 1.5}, 'found 1.5'),
    ({'per_example_top_p': np.array([0.5, -1.0])}, r'found \[0.5, -1.0\]'),
    ({'per_example_top_k': np.array([1, 2, 3])}, r'per_example_top_k.*\(3,\)'),
    ({'num_samples': 0}, 'num_samples must be an int >= 1, found 0'),
    ({'eos_id': 11}, r'eos_id \[11\] lies outside the vocabulary.*0 to 10'),
    ({'eos_id': [2, -1]}, r'eos_id \[-1\]'),
    ({'eos_id': np.array([2, 3])}, r'eos_id as an array.*\(2,\)'),
    ({'prefix_lengths': np.array([2, 5])}, r'between 0 and .* 4, found \[2, 5\]'),
    ({'prefix_lengths': np.array([2])}, r'prefix_lengths must be \[batch\]'),
    ({'max_decode_steps': 0}, 'max_decode_steps must be an int >= 1, found 0'),
    ({'max_decode_steps': [2, -3]}, 'found -3'),
    ({'optimize_eos': True}, 'optimize_eos needs eos_id'),
    ({'enforce_sample_constraints': np.array([True])}, 'go together'),
    ({'cf_guidance_scale': [1.0]}, 'each of the 2 samples, found 1'),
    ({'cf_guidance_scale': np.ones([1, 2, 3])}, r'\(1, 2, 3\)'),
    ({'controlled': (0, 0)}, 'block_num_samples must be > 0'),
    ({'controlled': (4, 2)}, r'\(6\) must be a multiple of .*\(4\)'),
    ({'controlled': (2, 2), 'max_decode_steps': [2]}, 'must be an int'),
    ({'gumbel_prng_key': np.arange(3, dtype=np.uint32)}, 'each of 2 examples'),
  ],
)
def test_sampling(runner, change, what):
  _fails(runner, cases.filled('sample', **{**SAMPLE, **change}), what)


def test_caches_that_are_too_short(runner):
  """Caches of 4 + 6 steps; the arguments speak of a prefix of 12."""
  case = cases.filled('sample', **SAMPLE, max_prefix_len=12)
  case[3]['seq_len'] = 18
  _fails(runner, case, '(?s)sequence is longer than the decode cache.*0 to 16.*has 10')


def test_prefixes_longer_than_the_output(runner):
  case = cases.stepped('sample', **SAMPLE, seq_len=3)
  _fails(runner, case, r'prefix is longer than the output: prefix_lengths \[2, 4\]')


def test_prefix_arrays_longer_than_the_output(runner):
  case = cases.filled('sample', **SAMPLE, prefix_lengths=np.array([2, 3]))
  case[3]['seq_len'] = 3
  _fails(runner, case, 'prefix_ids have length 4.*the sequence length 3')


def test_prefix_lengths_without_their_length():
  with pytest.raises(ValueError, match='needs max_prefix_len.*: 4'):
    sample_decode.sample_decode_after_fprop(
      None, None, None, None, None, cases.RIGHT, cases.RIGHT_PADDINGS, 8, 1,
      fprop_for_prefix=True,
    )  # fmt: skip


@pytest.mark.parametrize('shape', [(2, 0), (0, 4)])
def test_empty_prefixes(runner, shape):
  method, args, _, kwargs = cases.right('vanilla', top_k=1, max_decode_steps=3)
  empty = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
  _fails(runner, (method, args, empty, kwargs), r'prefix_ids must be \[batch, length\]')


@pytest.mark.parametrize(
  'change,what',
  [
    ({'beam_size': 0}, 'beam_size must be an int >= 1, found 0'),
    ({'beam_size': 12}, 'at most the size of the vocabulary, 11, found 12'),
    ({'tokens_per_beam': 0}, 'tokens_per_beam must be an int >= 1'),
    ({'tokens_per_beam': 12}, 'tokens_per_beam .* 11, found 12'),
    ({'max_decode_steps': None}, 'needs max_decode_steps'),
    ({'eos_id': 11}, r'eos_id \[11\] lies outside the vocabulary'),
    ({'eos_id': -1}, r'eos_id \[-1\]'),
  ],
)
def test_beam_search(runner, change, what):
  _fails(runner, cases.right('beam', **{**BEAM, **change}), what)


@pytest.mark.parametrize(
  'change,what',
  [
    ({'beam_size': 0}, 'beam_size must be an int >= 1'),
    ({'beam_size': 12}, 'at most the size of the vocabulary, 11, found 12'),
    ({'seq_len': 0}, 'must be > 0'),
    ({'eos_id': 11}, 'outside the vocabulary'),
    ({'eos_id': None}, 'needs one eos_id, found None'),
    ({'max_decode_steps': 9}, 'max_decode_steps must be at most seq_len, 6, found 9'),
  ],
)
def test_flat_beam_search(runner, change, what):
  options = {'beam_size': 2, 'seq_len': 6, 'eos_id': 2, **change}
  _fails(runner, cases.right('flat', **options), what)


@pytest.mark.parametrize(
  'change,what',
  [
    ({'max_decode_steps': 0}, 'max_decode_steps must be an int >= 1'),
    ({'temperature': -1.0}, 'temperature must be >= 0'),
    ({'eos_id': 99}, 'outside the vocabulary'),
    ({'gumbel_prng_key': np.arange(3, dtype=np.uint32)}, 'each of 2 examples'),
  ],
)
def test_vanilla(runner, change, what):
  options = {'top_k': 3, 'max_decode_steps': 3, 'temperature': 1.0, **change}
  _fails(runner, cases.right('vanilla', **options), what)
