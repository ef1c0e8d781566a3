"""Summary types and keys; global summaries; what a layer's summary stores."""

import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.core import summaries
from pax_haiku.core.context import JaxContext
from pax_haiku.core.summaries import SummaryType

TYPES = {
  SummaryType.SCALAR: (1, '_scalar', SummaryType.SCALAR),
  SummaryType.IMAGE: (2, '_image', SummaryType.IMAGE),
  SummaryType.AGGREGATE_SCALAR: (3, '_aggregate_scalar', SummaryType.SCALAR),
  SummaryType.AGGREGATE_IMAGE: (4, '_aggregate_image', SummaryType.IMAGE),
  SummaryType.TEXT: (5, '_text', SummaryType.TEXT),
  SummaryType.AUDIO: (6, '_audio', SummaryType.AUDIO),
  SummaryType.VIDEO: (7, '_video', SummaryType.VIDEO),
  SummaryType.HISTOGRAM: (8, '_histogram', SummaryType.HISTOGRAM),
}


def test_types_and_suffixes():
  assert set(SummaryType) == set(TYPES)
  for summary_type, (value, suffix, base) in TYPES.items():
    assert summary_type.value == value
    assert summaries.get_summary_type_suffix(summary_type) == suffix
    assert summaries.get_summary_base_type(summary_type) == base
    key = 'a/b_scalar' + suffix
    assert summaries.get_summary_type_from_key(key) == summary_type
    assert summaries.trim_summary_type_from_key(key) == 'a/b_scalar'


@pytest.mark.parametrize('key', ['x', 'x_scalar1', 'scalar', ''])
def test_keys_without_suffix(key):
  with pytest.raises(ValueError, match='_aggregate_image'):
    summaries.get_summary_type_from_key(key)
  with pytest.raises(ValueError, match='no known suffix'):
    summaries.trim_summary_type_from_key(key)


def stored_shape(store, summary_type, rank):
  try:
    return store(jnp.ones((2,) * rank), summary_type).shape
  except AssertionError:
    return AssertionError


# Type -> stored shape of an array of twos of rank 0, 1, 2, ..., as Praxis stores it.
UNCHANGED = [(2,) * rank for rank in range(6)]
IMAGES = [AssertionError] * 3 + [(1, 2, 2, 2), (2, 2, 2, 2), AssertionError]
BATCHED_AUDIO = UNCHANGED[:2] + [(1, 2, 2)] + UNCHANGED[3:]


def test_global_ranks():
  def store(tensor, summary_type):
    with JaxContext.new_context():
      summaries.add_global_summary('x', tensor, summary_type)
      (value,) = summaries.all_global_summaries().values()
      return value

  for summary_type, (_, _, base) in TYPES.items():
    expected = {SummaryType.IMAGE: IMAGES, SummaryType.AUDIO: BATCHED_AUDIO}
    found = [stored_shape(store, summary_type, rank) for rank in range(6)]
    assert found == expected.get(base, UNCHANGED), summary_type


def test_layer_ranks():
  audio = [AssertionError] * 2 + [(1, 2, 2), (2, 2, 2)] + [AssertionError] * 2
  for summary_type in TYPES:
    expected = {SummaryType.IMAGE: IMAGES, SummaryType.AUDIO: audio}
    found = [
      stored_shape(summaries.layer_summary_value, summary_type, rank)
      for rank in range(6)
    ]
    assert found == expected.get(summary_type, UNCHANGED), summary_type


def test_layer_value_is_stored_as_given():
  x = jnp.ones((2,), jnp.bfloat16)
  assert summaries.layer_summary_value(x, SummaryType.SCALAR) is x
  with pytest.raises(AssertionError, match=r'AUDIO.*rank 3, or 2.*\(5,\)'):
    summaries.layer_summary_value(np.ones(5), SummaryType.AUDIO)


def test_global_names_are_numbered():
  with JaxContext.new_context():
    for value in range(3):
      summaries.add_global_summary('g', jnp.int32(value))
    summaries.add_global_summary('g', jnp.ones(2), SummaryType.HISTOGRAM)
    stored = summaries.all_global_summaries()
    assert list(stored) == ['g_scalar', 'g1_scalar', 'g2_scalar', 'g_histogram']
    assert [int(v) for v in list(stored.values())[:3]] == [0, 1, 2]
    summaries.clear_global_summary()
    assert summaries.all_global_summaries() == {}


def test_global_floats_become_float32():
  with JaxContext.new_context():
    for name, dtype in [('f', jnp.bfloat16), ('d', np.float64), ('i', jnp.int8)]:
      summaries.add_global_summary(name, np.ones((), dtype))
    summaries.add_global_summary('python', 1.5)
    dtypes = {k: v.dtype.name for k, v in summaries.all_global_summaries().items()}
  assert dtypes == {
    'f_scalar': 'float32',
    'd_scalar': 'float32',
    'i_scalar': 'int8',
    'python_scalar': 'float32',
  }


@pytest.mark.parametrize('verbosity, kept', [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_global_verbosity(verbosity, kept):
  hparams = JaxContext.HParams(summary_verbosity=verbosity)
  with JaxContext.new_context(hparams=hparams):
    for v in (1, 2, 3):
      summaries.add_global_summary('x', 1.0, verbosity=v)
    assert len(summaries.all_global_summaries()) == kept


def test_global_summaries_need_a_context():
  for call in (
    lambda: summaries.add_global_summary('x', 1.0),
    summaries.all_global_summaries,
    summaries.clear_global_summary,
  ):
    with pytest.raises(AssertionError, match='No JaxContext is active'):
      call()
