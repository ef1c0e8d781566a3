"""Cases of `bregman`: online PCA with each activation."""

from praxis_compare.inputs import floats, probabilities
from praxis_compare.spec import DTYPES, FLOAT32, Name, family

X = floats(8, 4)
TYPE = 'bregman.ActivationType.'
TRAIN = ('train',)
pca = family('bregman.BregmanPCA', X, num_components=2, input_dims=4,
             coefficients_steps=2, end_step=9, dtypes=FLOAT32, modes=TRAIN, grads=False)


def show(layer, *args):
  """What the coefficients stand for."""
  return layer.reconstruct(layer(*args)[1])


CASES = [
    pca('default', dtypes=DTYPES, modes=('eval',)),
    pca('schedule', constant_lr_schedule=False, start_step=0),
    pca('leaky-relu', method=show, activation_type=Name(TYPE + 'LEAKY_RELU'),
        negative_slope=0.1),
    pca('softmax', probabilities(8, 4), method=show, input_dims=[4],
        activation_type=Name(TYPE + 'SOFTMAX')),
    pca('no-end', end_step=0, raises='AssertionError'),
]
