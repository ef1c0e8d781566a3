"""Cases of `augmentations`: same key, same masking and same shift."""

from praxis_compare.inputs import floats, ids, paddings
from praxis_compare.spec import family

IDS = ids(3, 12, below=20)
PAD = paddings(3, 12)
WAVE = floats(4, 30)


mlm = family('augmentations.MaskedLmDataAugmenter', IDS, PAD)
shift = family('augmentations.TemporalShifting')

CASES = [
    mlm('default', vocab_size=20, mask_token_id=19),
    mlm('often', vocab_size=20, mask_token_id=0, mask_prob=0.4, random_prob=0.2,
        same_prob=0.1),
    mlm('never-same', vocab_size=7, mask_token_id=3, mask_prob=0.3, random_prob=0.3,
        same_prob=0.0),
    mlm('no-vocabulary', mask_token_id=1, raises='AssertionError'),
    mlm('no-mask-token', vocab_size=20, raises='AssertionError'),
    mlm('certain', vocab_size=20, mask_token_id=1, mask_prob=1.0,
        raises='AssertionError'),
    shift('default', WAVE),
    shift('small', WAVE, shift_range_ms=0.5),
    shift('paddings', WAVE, paddings(4, 30), shift_range_ms=0.5),
    shift('rank-3', floats(3, 10, 2), paddings(3, 10), shift_range_ms=2.0,
          sample_rate=1000.0),
    shift('axis-2', floats(3, 2, 10), shift_range_ms=3.0, sample_rate=1000.0, axis=2),
    shift('too-far', WAVE, shift_range_ms=2.0, raises='ValueError', modes=('train',)),
    shift('negative', WAVE, shift_range_ms=-1.0, raises='AssertionError'),
    shift('bad-axis', WAVE, shift_range_ms=0.5, axis=0, raises='AssertionError'),
]
