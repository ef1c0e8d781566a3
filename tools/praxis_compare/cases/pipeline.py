"""Cases of `pipeline`: stages by microbatches, circular, with keys and losses."""

import numpy as np

from praxis_compare.inputs import floats
from praxis_compare.spec import BFLOAT16, DTYPES, FLOAT32, Dtype, cfg, family

X = floats(4, 3, 4)
FF = cfg('linears.FeedForward', input_dims=4, output_dims=4,
         activation_tpl=cfg('activations.Tanh'))
FEED = cfg('transformers.TransformerFeedForward', input_dims=4, hidden_dims=5,
           residual_dropout_prob=0.3)
DROP = cfg('sequential.Sequential', layers=[
    FF, cfg('stochastics.Dropout', keep_prob=0.7)])
ADD = cfg('local.AddArgument', dims=4)
RICH = cfg('local.Counting', dims=4)
KEPT = cfg('repeats.Repeat', sub_tpl=FF, x_times=1, collect_intermediate_outputs=True)
EXTRA = floats(4, 3, 4, name='y')
PAD = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]], np.int32)

# A loop compiles each time, and its gradient too: gradients only where they tell.
pipe = family('pipeline.LayerwiseShardablePipelined', X, num_stages=2,
              num_microbatches=2, single_stage_body=FF, dtypes=FLOAT32,
              modes=('train',))
circular = family('pipeline.CircularLayerwiseShardablePipelined', X, num_stages=2,
                  circular_repeat=3, num_microbatches=2, single_stage_body=FF,
                  dtypes=FLOAT32, modes=('train',), grads=False)
OTHER = dict(bf16_accum_in_fp32=True, enable_bubble_grad_skipping=False,
             pipeline_broadcast_inputs=True)

CASES = [
    pipe('default'),
    pipe('unsplit', floats(2, 2, 3, 4), num_microbatches=None, modes=('eval',),
         grads=False),
    pipe('three-stages', num_stages=3, num_microbatches=4, grads=False),
    pipe('dropout', X, PAD, single_stage_body=FEED, grads=False),
    pipe('streams', stream_io=True, num_microbatches=4, grads=False),
    pipe('bfloat16-variables', X, EXTRA, single_stage_body=ADD, dtype=Dtype('bfloat16'),
         dtypes=BFLOAT16, precision='bfloat16', **OTHER),
    pipe('nan-and-intermediates', single_stage_body=KEPT, grads=False, modes=('eval',),
         collect_intermediate_outputs=True, polluting_bubbles_with_nan=True,
         collections=('intermediates',), dtypes=DTYPES),
    pipe('state-and-losses', single_stage_body=RICH),
    pipe('packed-summaries', single_stage_body=RICH, unpack_summaries=False,
         grads=False),
    pipe('intermediates-of-iterations', single_stage_body=KEPT, grads=False,
         collections=('intermediates',)),
    pipe('batch-norm', single_stage_body=cfg('normalizations.BatchNorm', dim=4),
         grads=False),
    circular('dropout', single_stage_body=DROP),
    circular('state-and-losses', single_stage_body=RICH),
    # With more microbatches than stages Praxis 1.4.0 computes something else without
    # its asynchronous transfers.
    circular('gradients', X, EXTRA, single_stage_body=ADD, circular_repeat=2,
             grads=True, enable_async_circular_transfer=False, **OTHER),
    circular('shared', share_weights=True, modes=('eval',), dtypes=DTYPES),
    circular('shared-summaries', share_weights=True, single_stage_body=RICH,
             unpack_summaries=False, stream_io=True, polluting_bubbles_with_nan=True),
    circular('intermediates', collect_intermediate_outputs=True,
             raises='AssertionError'),
    circular('few-microbatches', num_stages=4, raises='NotImplementedError'),
    pipe('streamed-intermediates', single_stage_body=KEPT, stream_io=True,
         collections=('intermediates',), collect_intermediate_outputs=True,
         raises='AssertionError'),
    pipe('bad-batch', num_microbatches=3, raises='AssertionError'),
    pipe('both', microbatch_size=2, raises='AssertionError'),
    pipe('no-body', single_stage_body=None, raises='AssertionError'),
]
