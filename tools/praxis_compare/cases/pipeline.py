"""Cases of `pipeline`: stages by microbatches, circular, with keys and losses."""

import numpy as np

from praxis_compare.inputs import floats
from praxis_compare.spec import FLOAT32, cfg, family

X = floats(4, 3, 4)
FF = cfg('linears.FeedForward', input_dims=4, output_dims=4,
         activation_tpl=cfg('activations.Tanh'))
FEED = cfg('transformers.TransformerFeedForward', input_dims=4, hidden_dims=5,
           residual_dropout_prob=0.3)
MOE = cfg('transformers.TransformerFeedForwardMoe', input_dims=4, hidden_dims=5,
          num_experts=2, num_groups=1)
PAD = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]], np.int32)

pipe = family('pipeline.LayerwiseShardablePipelined', X, num_stages=2,
              num_microbatches=2, single_stage_body=FF, dtypes=FLOAT32,
              modes=('train',))
circular = family('pipeline.CircularLayerwiseShardablePipelined', X, num_stages=2,
                  circular_repeat=3, num_microbatches=2, single_stage_body=FF,
                  dtypes=FLOAT32, modes=('train',))

CASES = [
    pipe('default'),
    pipe('unsplit', floats(2, 2, 3, 4), num_microbatches=None, modes=('eval',)),
    pipe('three-stages', num_stages=3, num_microbatches=4, grads=False),
    pipe('dropout', X, PAD, single_stage_body=FEED),
    pipe('streams', X, PAD, single_stage_body=FEED, stream_io=True, num_microbatches=4,
         grads=False),
    pipe('moe', X, PAD, single_stage_body=MOE),
    pipe('packed-summaries', X, PAD, single_stage_body=MOE, unpack_summaries=False,
         grads=False),
    pipe('batch-norm', single_stage_body=cfg('normalizations.BatchNorm', dim=4),
         grads=False),
    circular('dropout', X, PAD, single_stage_body=FEED, grads=False),
    circular('moe', X, PAD, single_stage_body=MOE, grads=False),
    circular('shared', share_weights=True, grads=False),
    circular('few-microbatches', num_stages=4, raises='NotImplementedError'),
    pipe('bad-batch', num_microbatches=3, raises='AssertionError'),
    pipe('both', microbatch_size=2, raises='AssertionError'),
    pipe('no-body', single_stage_body=None, raises='AssertionError'),
]
