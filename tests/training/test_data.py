"""pax_haiku.training.data: every example as often as it should, by seed and step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pax_haiku.training import data

sizes = st.integers(1, 30)


@given(count=sizes, batch_size=sizes, seed=st.integers(0, 2**32), epochs=sizes)
def test_each_epoch_has_each_example_once(count, batch_size, seed, epochs):
  epochs = min(epochs, 4)
  steps = -(-epochs * count // batch_size)
  stream = np.concatenate(
    [data.batch_indices(count, batch_size, seed, step) for step in range(steps)]
  )
  assert len(stream) == steps * batch_size
  for epoch in range(epochs):
    part = stream[epoch * count : (epoch + 1) * count]
    assert sorted(part) == list(range(count))


def test_batch_is_a_function_of_seed_and_step():
  first = data.batch_indices(100, 8, 3, 20)
  data.batch_indices(50, 4, 9, 1)
  np.testing.assert_array_equal(data.batch_indices(100, 8, 3, 20), first)
  assert (data.batch_indices(100, 8, 4, 20) != first).any()
  assert (data.batch_indices(100, 8, 3, 21) != first).any()


def test_epochs_differ():
  first, second = (data.batch_indices(50, 50, 0, epoch) for epoch in range(2))
  assert (first != second).any()


def test_batch_holds_the_chosen_rows_together():
  examples = {'x': np.arange(10), 'y': 2 * np.arange(10)}
  batch = data.batch_at(examples, 4, 0, 1)
  np.testing.assert_array_equal(batch['y'], 2 * batch['x'])
  np.testing.assert_array_equal(batch['weights'], np.ones(4, np.float32))


@given(count=sizes, batch_size=sizes)
def test_evaluation_epoch_weighs_each_example_once(count, batch_size):
  batches = list(data.epoch({'x': np.arange(count)}, batch_size))
  assert {batch['x'].shape for batch in batches} == {(batch_size,)}
  x = np.concatenate([batch['x'] for batch in batches])
  weights = np.concatenate([batch['weights'] for batch in batches])
  np.testing.assert_array_equal(x[weights == 1], np.arange(count))
  assert weights.sum() == count


def test_split_is_a_partition_by_seed():
  examples = {'x': np.arange(10), 'y': np.arange(10) ** 2}
  train, held_out = data.split(examples, 0.2, seed=1)
  assert len(held_out['x']) == 2
  assert sorted([*train['x'], *held_out['x']]) == list(range(10))
  np.testing.assert_array_equal(train['y'], train['x'] ** 2)
  again = data.split(examples, 0.2, seed=1)[1]
  np.testing.assert_array_equal(again['x'], held_out['x'])
  others = [tuple(data.split(examples, 0.2, seed=s)[1]['x']) for s in range(5)]
  assert len(set(others)) > 1


@pytest.mark.parametrize('held_out', [0.0, 0.01, 1.0, 2.0])
def test_split_with_an_empty_side_is_refused(held_out):
  with pytest.raises(ValueError, match='leaves one side empty'):
    data.split({'x': np.arange(10)}, held_out, seed=0)


@pytest.mark.parametrize('examples', [{}, {'x': np.arange(3), 'y': np.arange(4)}])
def test_arrays_must_agree(examples):
  with pytest.raises(ValueError, match='one common first axis'):
    data.size(examples)
