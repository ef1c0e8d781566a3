"""Cases of `bregman`: online PCA with each activation, and its schedule."""

from praxis_compare.inputs import floats, probabilities, uniform
from praxis_compare.spec import DTYPES, FLOAT32, Name, family

X, MASK = floats(8, 4), (uniform('mask', (8, 1), 0.0, 1.0) > 0.4).astype('float32')
TYPE = 'bregman.ActivationType.'
TRAIN = ('train',)
pca = family('bregman.BregmanPCA', X, num_components=2, input_dims=4,
             coefficients_steps=2, end_step=9, dtypes=FLOAT32, modes=TRAIN, grads=False)


def show(layer, *args):
  """What the coefficients stand for."""
  return layer.reconstruct(layer(*args)[1])


def train_twice(layer, *args):
  """With what the first step of training leaves."""
  layer(*args)
  return layer(*args)


CASES = [
    pca('default', dtypes=DTYPES, modes=('eval',)),
    pca('schedule', X, MASK, method=train_twice, constant_lr_schedule=False,
        start_step=1, end_step=4, mean_beta=0.5, coefficients_lr=0.3,
        coefficients_beta=0.5, components_lr=0.2, components_beta=0.4),
    pca('leaky-relu', method=show, activation_type=Name(TYPE + 'LEAKY_RELU'),
        negative_slope=0.1),
    pca('softmax', probabilities(8, 4), method=show, input_dims=[4],
        activation_type=Name(TYPE + 'SOFTMAX')),
    pca('no-end', end_step=0, raises='AssertionError'),
]
