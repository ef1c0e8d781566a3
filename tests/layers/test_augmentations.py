"""Augmentations: recorded draws, distribution, what stays as it is."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import augmentations
from tests.layers import harness

IDS = (np.arange(24) % 20).reshape(2, 12)
PADDINGS = np.zeros((2, 12), np.float32)
PADDINGS[0, 9:] = 1
OFTEN = dict(
  vocab_size=20, mask_token_id=19, mask_prob=0.4, random_prob=0.2, same_prob=0.1
)


def mask(ids=IDS, paddings=PADDINGS, do_eval=False, **fields):
  cls = augmentations.MaskedLmDataAugmenter
  return harness.run(cls, ids, paddings, do_eval=do_eval, **{**OFTEN, **fields})


def test_recorded_masking():
  ids, replaced = mask()
  np.testing.assert_array_equal(
    ids,
    [
      [0, 19, 2, 3, 4, 5, 18, 19, 19, 9, 10, 11],
      [12, 19, 19, 19, 5, 19, 19, 19, 19, 11, 11, 19],
    ],
  )
  np.testing.assert_array_equal(
    replaced, [[0, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 12]
  )
  assert ids.dtype == jnp.int32 and replaced.dtype == jnp.float32


def test_shares():
  # Inputs outside the vocabulary tell the three kinds apart.
  shape, n = (100, 200), 2e4
  ids, replaced = mask(np.full(shape, 30), np.zeros(shape, np.float32))
  ids, replaced = np.asarray(ids), np.asarray(replaced)
  assert np.all(ids[replaced == 0] == 30)
  masked, same = ids == 19, (ids == 30) & (replaced == 1)
  drawn = ids < 20
  # A random token is the mask token in one case of 20. 5 standard deviations.
  for share, expected in [
    (replaced.mean(), 0.7),
    (masked.mean(), 0.4 + 0.2 / 20),
    (same.mean(), 0.1),
    (drawn.mean(), 0.6),
  ]:
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n)
  assert set(np.unique(ids)) == {*range(20), 30}


def test_padding_is_never_replaced():
  ids, replaced = mask(paddings=np.ones((2, 12), np.float32))
  np.testing.assert_array_equal(ids, IDS)
  np.testing.assert_array_equal(replaced, 0)


def test_masking_in_evaluation_is_the_same():
  for ours, theirs in zip(mask(do_eval=True), mask(), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  layer = harness.build(augmentations.MaskedLmDataAugmenter, **OFTEN)
  with harness.context(do_eval=True), pytest.raises(base_layer.InvalidRngError):
    layer.apply({}, IDS, PADDINGS)


@pytest.mark.parametrize('dtype', [jnp.int8, jnp.int32, jnp.uint8])
def test_dtypes(dtype):
  ids, replaced = mask(
    jnp.asarray(IDS, dtype), PADDINGS.astype(bool), fprop_dtype=jnp.bfloat16
  )
  assert ids.dtype == dtype and replaced.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(vocab_size=0), 'vocab_size > 0 and mask_token_id >= 0, found 0 and 19'),
    (dict(mask_token_id=-1), 'found 20 and -1'),
    (dict(mask_prob=0.7), 'between 0 and 1, found mask_prob=0.7'),
    (dict(random_prob=0.0, same_prob=0.0), r'random_prob \+ same_prob > 0'),
    (dict(mask_prob=-0.5), 'between 0 and 1'),
  ],
)
def test_masking_refuses(fields, message):
  with pytest.raises(AssertionError, match=f'at the root: .*{message}'):
    mask(**fields)


WAVE = np.arange(1, 25, dtype=np.float32).reshape(4, 6)


def shift(x=WAVE, paddings=None, do_eval=False, **fields):
  fields = {'sample_rate': 1000.0, 'shift_range_ms': 3.0, **fields}
  cls = augmentations.TemporalShifting
  return harness.run(cls, x, paddings, do_eval=do_eval, **fields)


def test_recorded_shifts():
  out, paddings = shift(paddings=np.zeros((4, 6), np.float32))
  np.testing.assert_array_equal(
    out,
    [
      [0, 0, 0, 1, 2, 3],
      [8, 9, 10, 11, 12, 0],
      [15, 16, 17, 18, 0, 0],
      [20, 21, 22, 23, 24, 0],
    ],
  )
  np.testing.assert_array_equal(
    paddings,
    [[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]],
  )


@pytest.mark.parametrize('axis', [1, 2])
def test_each_example_has_one_shift_within_range(axis):
  length, reach = 9, 3
  x = np.broadcast_to(
    np.arange(1.0, length + 1).reshape(-1, *[1] * (2 - axis)),
    (300, length, 2) if axis == 1 else (300, 2, length),
  ).astype(np.float32)
  paddings = np.zeros(x.shape, np.float32)
  out, paddings = (
    np.moveaxis(np.asarray(a), axis, -1)[:, 0] for a in shift(x, paddings, axis=axis)
  )
  padded = np.pad(np.arange(1, length + 1), reach)
  seen = set()
  for got, pad in zip(out, paddings, strict=True):
    (found,) = [
      s
      for s in range(-reach, reach + 1)
      if np.array_equal(got, padded[reach + s : reach + s + length])
    ]
    seen.add(found)
    np.testing.assert_array_equal(pad, got == 0)
  assert seen == set(range(-reach, reach + 1))


def test_range_is_rounded_to_steps():
  x = np.ones((200, 9), np.float32)
  for ms, reach in [(0.4, 0), (0.6, 1), (1.6, 2)]:
    out, _ = shift(x, shift_range_ms=ms)
    assert np.max(np.sum(np.asarray(out) == 0, axis=1)) == reach


@pytest.mark.parametrize('options', [{'do_eval': True}, {'shift_range_ms': 0.0}])
def test_unchanged(options):
  paddings = np.zeros((4, 6), np.float32)
  out = shift(paddings=paddings, **options)
  np.testing.assert_array_equal(out[0], WAVE)
  np.testing.assert_array_equal(out[1], paddings)
  assert shift(**options)[1] is None


def test_gradient_follows_the_shift():
  layer = harness.build(
    augmentations.TemporalShifting, sample_rate=1000.0, shift_range_ms=3.0
  )
  _, grad = harness.gradients(layer, {}, WAVE, loss=lambda out: jnp.sum(out[0]))
  kept = np.asarray(shift()[0])
  expected = [
    [t in row for t in example] for example, row in zip(WAVE, kept, strict=True)
  ]
  np.testing.assert_array_equal(grad, np.array(expected, np.float32))


def test_shift_keeps_dtypes():
  out, paddings = shift(jnp.asarray(WAVE, jnp.bfloat16), np.zeros((4, 6), np.int32))
  assert out.dtype == jnp.bfloat16 and paddings.dtype == jnp.int32


@pytest.mark.parametrize(
  'args, fields, error, message',
  [
    ((), dict(shift_range_ms=-1.0), AssertionError, 'must not be negative, found -1.0'),
    ((), dict(axis=0), AssertionError, 'axis must be at least 1'),
    ((), dict(shift_range_ms=6.0), ValueError, '6 steps, which can blank out all'),
    ((), dict(axis=2), ValueError, r'features of shape \(4, 6\) have no axis 2'),
    (
      (harness.noise(4, 6, 9), WAVE),
      dict(axis=2),
      ValueError,
      r'paddings of shape \(4, 6\) have no axis 2',
    ),
  ],
)
def test_shift_refuses(args, fields, error, message):
  with pytest.raises(error, match=f'at the root: .*{message}'):
    shift(*args, **fields)


def test_in_a_haiku_model():
  cfg = pax_fiddle.Config(augmentations.MaskedLmDataAugmenter, name='mask', **OFTEN)
  net = hk.transform_with_state(lambda *a: cfg.Instantiate()(*a))
  first, _ = net.apply({}, {}, jax.random.PRNGKey(0), IDS, PADDINGS)
  again, _ = net.apply({}, {}, jax.random.PRNGKey(0), IDS, PADDINGS)
  np.testing.assert_array_equal(first[0], again[0])
  assert np.all((np.asarray(first[1]) == 1) | (np.asarray(first[0]) == IDS))
