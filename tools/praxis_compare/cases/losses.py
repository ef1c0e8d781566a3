"""Cases of `losses`: temperatures, their schedule, smoothing.

Float32 logits only, as a softmax hands them over: Praxis refuses bfloat16 ones.
"""

from praxis_compare.inputs import floats, probabilities
from praxis_compare.spec import family

LOGITS = floats(2, 5, 4)
LABELS = probabilities(2, 5, 4)


def twice(layer, logits, labels):
  return layer(logits, labels), layer(logits, labels)


bi = family('losses.BiTemperedLoss', LOGITS, LABELS, cast_inputs=False)

CASES = [
    bi('default'),
    bi('robust', t1=0.8, t2=1.3),
    bi('robust-smoothed', t1=0.8, t2=1.3, label_smoothing=0.1),
    bi('cold', t1=0.7, t2=0.6),
    bi('smoothed', label_smoothing=0.2),
    bi('schedule', t1=0.8, t2=1.3, start_step=0, end_step=4),
    bi('late-start', t1=0.8, t2=1.3, start_step=2, end_step=4),
    bi('rank-2', floats(3, 7), probabilities(3, 7), t1=0.5, t2=1.5),
    bi('called-twice', t1=0.8, t2=1.3, end_step=3, method=twice),
    bi('bad-steps', start_step=3, end_step=1, raises='AssertionError'),
]
