"""Cases of `repeats`: stacked variables, per-iteration keys and state."""

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import Name, case, cfg

X = floats(2, 5, 4)
FF = cfg('linears.FeedForward', input_dims=4, output_dims=4,
         activation_tpl=cfg('activations.Tanh'))
OPTIONS = ('raises', 'kwargs', 'method', 'collections', 'dtypes', 'modes', 'known',
           'cast_inputs', 'prepare')
POLICY = 'checkpoint_policy.AutodiffCheckpointType.'


def repeat(variant, sub, *args, **fields):
  options = {'dtypes': ('float32',)}  # a scan compiles each time; BOTH where it tells
  options.update((k, fields.pop(k)) for k in OPTIONS if k in fields)
  fields = {'sub_tpl': sub, 'x_times': 3, **fields}
  return case('repeats.Repeat', variant, fields, *args or (X,), **options)


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


BOTH = ('float32', 'bfloat16')
DROPOUT = cfg('stochastics.Dropout', keep_prob=0.7)
RICH = cfg('local.Counting', dims=4)
STEPS = floats(2, 3, 4, name='steps')

CASES = [
    repeat('default', FF, dtypes=BOTH),
    repeat('once', FF, x_times=1),
    repeat('nd', FF, x_times=6, nd_prefix_shape=(3, 2)),
    repeat('nd-one-dim', FF, nd_prefix_shape=(3,)),
    repeat('sublayer-name', FF, sublayer_name='block'),
    repeat('dropout', DROPOUT, dtypes=BOTH),
    repeat('dropout-nd', DROPOUT, x_times=4, nd_prefix_shape=(2, 2)),
    repeat('state-and-losses', RICH, dtypes=BOTH),
    repeat('state-and-losses-nd', RICH, x_times=4, nd_prefix_shape=(2, 2)),
    repeat('unpacked-summaries', RICH, unpack_summaries=True),
    repeat('called-twice', DROPOUT, method=twice),
    repeat('batch-norm', cfg('normalizations.BatchNorm', dim=4, decay=0.9),
           kwargs={'paddings': paddings(2, 5)}),
    repeat('extra-argument', cfg('local.AddArgument', dims=4), X,
           floats(2, 5, 4, name='extra')),
    repeat('per-layer-kwargs', cfg('local.AddArgument', dims=4), X,
           kwargs={'per_layer_kwargs': {'extra': floats(3, 2, 5, 4, name='p')}}),
    repeat('reversed-kwargs', cfg('local.AddArgument', dims=4), X,
           kwargs={'reversed_per_layer_kwargs': {
               'extra': floats(3, 2, 5, 4, name='p')}}),
    repeat('positional-carry', cfg('local.SwapPair'), X, floats(2, 5, 4, name='y'),
           positional_args_as_scan_carry=True),
    repeat('positional-carry-one', FF, positional_args_as_scan_carry=True),
    repeat('method-name', cfg('local.Counting', dims=4), kwargs={
        'method_name': 'scale_only'}),
    repeat('returned-intermediates', FF, return_intermediate_outputs=True),
    repeat('collected-intermediates', FF, collect_intermediate_outputs=True,
           collections=('intermediates',)),
    repeat('save-everything', FF, checkpoint_policy=Name(f'{POLICY}SAVE_EVERYTHING')),
    repeat('save-dot', FF, checkpoint_policy=Name(f'{POLICY}SAVE_DOT_ONLY')),
    repeat('nested', cfg('repeats.Repeat', sub_tpl=FF, x_times=2)),
    repeat('nested-dropout', cfg('repeats.Repeat', sub_tpl=DROPOUT, x_times=2)),
    repeat('nested-state', cfg('repeats.Repeat', sub_tpl=RICH, x_times=2)),
    repeat('nested-unpacked', cfg('repeats.Repeat', sub_tpl=RICH, x_times=2,
                                  unpack_summaries=True), unpack_summaries=True),
    repeat('sequence', cfg('sequential.Sequential', layers=[FF, DROPOUT]), dtypes=BOTH),
    repeat('key-counters', cfg('local.Block', dims=4)),
    repeat('sharded', FF, ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'],
           optimizer_dims_mapping=['d'], **{'weight_split_dims_mapping.sub': ['m']}),
    repeat('fans', cfg('einsum.Einsum', eqn='BTD,DE->BTE', w_shape=(4, 4))),
    repeat('fans-nd', cfg('einsum.Einsum', eqn='BTD,DE->BTE', w_shape=(4, 4)),
           x_times=4, nd_prefix_shape=(2, 2)),
    repeat('decode', cfg('local.Accumulate', dims=4), STEPS, method=decode,
           prepare=init_states, collections=('decoder_cache',)),
    repeat('decode-unrolled', cfg('local.Accumulate', dims=4), STEPS, method=decode,
           prepare=init_states, unroll_in_decode=True, collections=('decoder_cache',),
           known={'error': 'init_states makes one cache per layer since'}),
    repeat('prefill', cfg('local.Accumulate', dims=4), STEPS, method=decode,
           prepare=prefill, collections=('decoder_cache',), dtypes=BOTH),
    repeat('prefill-unrolled', cfg('local.Accumulate', dims=4), STEPS, method=decode,
           prepare=prefill, unroll_in_decode=True, collections=('decoder_cache',)),
    repeat('no-sublayer', None, raises='AssertionError'),
    repeat('zero-times', FF, x_times=0, raises='AssertionError'),
    repeat('nd-product', FF, nd_prefix_shape=(2, 2), raises='AssertionError'),
    repeat('structure', cfg('local.ToMap'), raises='ValueError'),
    repeat('shape', cfg('linears.Linear', input_dims=4, output_dims=3),
           raises='TypeError'),
]
