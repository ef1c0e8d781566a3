"""Cases of `resnets`: both blocks, with and without shortcut, and small networks."""

from praxis_compare.inputs import floats
from praxis_compare.spec import DTYPES, FLOAT32, cfg, family

IM = floats(2, 3, 3, 4)
IMAGE = floats(2, 11, 11, 3)  # becomes [2, 3, 3, 4] where the blocks begin
TRAIN = ('train',)

# Convolutions compile slowly, so networks have blocks of the shapes that are compared
# alone; evaluation differs in the normalization only.
block = family('resnets.ResNetBlock', IM, input_dim=4, output_dim=4, dtypes=FLOAT32,
               modes=TRAIN)
basic = family('resnets.ResNetBasicBlock', IM, input_dim=4, output_dim=4,
               dtypes=FLOAT32, modes=TRAIN)
net = family('resnets.ResNet', IMAGE, strides=[1], channels=[4], blocks=[1],
             kernels=[3], entryflow_conv_kernel=(3, 3, 3), dtypes=FLOAT32, modes=TRAIN)
BASIC = cfg('resnets.ResNetBasicBlock')

CASES = [
    block('default'),
    block('stride', stride=2, output_dim=8, dtypes=DTYPES, grads=False),
    block('channels-kernel', output_dim=8, kernel_size=2, grads=False,
          activation_tpl=cfg('activations.Tanh')),
    block('droppath', residual_droppath_prob=0.5, grads=False),
    block('zero-init', zero_init_residual=True, modes=('eval',), grads=False),
    block('biases', conv_params=cfg('convolutions.ConvBNAct', bias=True,
                                    batch_norm_tpl=None)),
    block('zero-init-without-norm', zero_init_residual=True, raises=
          'NotImplementedError',
          conv_params=cfg('convolutions.ConvBNAct', batch_norm_tpl=None)),
    basic('stride-droppath', stride=2, residual_droppath_prob=0.5, grads=False),
    basic('default', zero_init_residual=True, modes=('eval',), dtypes=DTYPES),
    net('default'),
    net('stages', strides=[1, 2], channels=[4, 8], blocks=[1, 2], kernels=[1, 3],
        grads=False),
    net('basic-features', block_params=BASIC, return_block_features=True,
        entry_max_pool=False, entryflow_conv_stride=(1, 2), grads=False),
    net('no-pooling', output_spatial_pooling_params=None, dtypes=DTYPES,
        modes=('eval',), grads=False),
    net('block-conv-is-replaced', grads=False, block_params=cfg(
        'resnets.ResNetBlock', zero_init_residual=True,
        conv_params=cfg('convolutions.ConvBNAct', bias=True))),
    net('strides', strides=[1, 2], raises='ValueError'),
    net('kernels', kernels=[], raises='ValueError'),
]
