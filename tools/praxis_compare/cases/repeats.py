"""Cases of `repeats`: stacked variables, per-iteration keys and state."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import DTYPES, FLOAT32, Name, cfg, family

X = floats(2, 5, 4)
FF = cfg('linears.FeedForward', input_dims=4, output_dims=4,
         activation_tpl=cfg('activations.Tanh'))
POLICY = 'checkpoint_policy.AutodiffCheckpointType.'


def init_states(layer, steps):
  """Makes the decode cache, in an apply of its own."""
  layer.init_states(steps.shape[1:])


def prefill(layer, steps):
  """Makes the decode cache by a call."""
  layer(steps[0])


def decode(layer, steps):
  """All steps of scanned or unrolled decoding; in init, whatever makes variables."""
  if layer.is_initializing():
    return layer(steps[0])
  return [layer.extend_step(step) for step in steps]


def twice(layer, inputs):
  return layer(layer(inputs))


DROPOUT = cfg('stochastics.Dropout', keep_prob=0.7)
RICH = cfg('local.Counting', dims=4)
ADD = cfg('local.AddArgument', dims=4)
SUM = cfg('local.Accumulate', dims=4)
EXTRA = floats(2, 5, 4, name='extra')
STEPS = floats(2, 3, 4, name='steps')

# A scan compiles each time; bfloat16 only where it tells.
repeat = family('repeats.Repeat', X, sub_tpl=FF, x_times=3, dtypes=FLOAT32)

CASES = [
    repeat('default', dtypes=DTYPES),
    repeat('once', x_times=1),
    repeat('nd', x_times=6, nd_prefix_shape=(3, 2)),
    repeat('nd-one-dim', nd_prefix_shape=(3,)),
    repeat('sublayer-name', sublayer_name='block'),
    repeat('dropout', sub_tpl=DROPOUT, dtypes=DTYPES),
    repeat('dropout-nd', sub_tpl=DROPOUT, x_times=4, nd_prefix_shape=(2, 2)),
    repeat('state-and-losses', sub_tpl=RICH, dtypes=DTYPES, tol={
        ('bfloat16', section): (rtol, 6e-3, 'a scan is compiled, and two XLA versions '
                                'keep more than bfloat16 between other operations of '
                                'its body; op by op (jax.disable_jit) both sides agree')
        for section, rtol in (('outputs', 0.03), ('summaries', 0.03), ('grads', 0.1))}),
    repeat('state-and-losses-nd', sub_tpl=RICH, x_times=4, nd_prefix_shape=(2, 2)),
    repeat('unpacked-summaries', sub_tpl=RICH, unpack_summaries=True),
    repeat('called-twice', sub_tpl=DROPOUT, method=twice),
    repeat('batch-norm', sub_tpl=cfg('normalizations.BatchNorm', dim=4, decay=0.9),
           kwargs={'paddings': paddings(2, 5)}),
    repeat('extra-argument', X, EXTRA, sub_tpl=ADD),
    repeat('per-layer-kwargs', sub_tpl=ADD,
           kwargs={'per_layer_kwargs': {'extra': floats(3, 2, 5, 4, name='p')}}),
    repeat('reversed-kwargs', sub_tpl=ADD,
           kwargs={'reversed_per_layer_kwargs': {
               'extra': floats(3, 2, 5, 4, name='p')}}),
    repeat('positional-carry', X, EXTRA, sub_tpl=cfg('local.SwapPair'),
           positional_args_as_scan_carry=True),
    repeat('positional-carry-one', positional_args_as_scan_carry=True),
    repeat('method-name', sub_tpl=RICH, kwargs={'method_name': 'scale_only'}),
    repeat('returned-intermediates', return_intermediate_outputs=True),
    repeat('collected-intermediates', collect_intermediate_outputs=True,
           collections=('intermediates',)),
    repeat('save-everything', checkpoint_policy=Name(f'{POLICY}SAVE_EVERYTHING')),
    repeat('save-dot', checkpoint_policy=Name(f'{POLICY}SAVE_DOT_ONLY')),
    repeat('nested', sub_tpl=cfg('repeats.Repeat', sub_tpl=FF, x_times=2)),
    repeat('nested-dropout', sub_tpl=cfg('repeats.Repeat', sub_tpl=DROPOUT, x_times=2)),
    repeat('nested-state', sub_tpl=cfg('repeats.Repeat', sub_tpl=RICH, x_times=2)),
    repeat('nested-unpacked', unpack_summaries=True, sub_tpl=cfg(
        'repeats.Repeat', sub_tpl=RICH, x_times=2, unpack_summaries=True)),
    repeat('sequence', sub_tpl=cfg('sequential.Sequential', layers=[FF, DROPOUT]),
           dtypes=DTYPES),
    repeat('key-counters', sub_tpl=cfg('local.Block', dims=4)),
    repeat('sharded', ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'],
           optimizer_dims_mapping=['d'], **{'weight_split_dims_mapping.sub': ['m']}),
    repeat('fans', sub_tpl=cfg('einsum.Einsum', eqn='BTD,DE->BTE', w_shape=(4, 4))),
    repeat('fans-nd', sub_tpl=cfg('einsum.Einsum', eqn='BTD,DE->BTE', w_shape=(4, 4)),
           x_times=4, nd_prefix_shape=(2, 2)),
    repeat('decode', STEPS, sub_tpl=SUM, method=decode,
           prepare=init_states, collections=('decoder_cache',)),
    repeat('decode-unrolled', STEPS, sub_tpl=SUM, method=decode,
           prepare=init_states, unroll_in_decode=True, collections=('decoder_cache',),
           known={'error': 'after Praxis 1.4.0 init_states lays out per layer'}),
    repeat('prefill', STEPS, sub_tpl=SUM, method=decode,
           prepare=prefill, collections=('decoder_cache',), dtypes=DTYPES),
    repeat('prefill-unrolled', STEPS, sub_tpl=SUM, method=decode,
           prepare=prefill, unroll_in_decode=True, collections=('decoder_cache',)),
    repeat('no-sublayer', sub_tpl=None, raises='AssertionError'),
    repeat('zero-times', x_times=0, raises='AssertionError'),
    repeat('nd-product', nd_prefix_shape=(2, 2), raises='AssertionError'),
    repeat('structure', sub_tpl=cfg('local.ToMap'), raises='ValueError'),
    repeat('shape', sub_tpl=cfg('linears.Linear', input_dims=4, output_dims=3),
           raises='TypeError'),
]
