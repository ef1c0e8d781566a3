"""Cases of `transformers`: feed-forward layers, blocks, stacks."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from praxis_compare.inputs import floats, paddings
from praxis_compare.spec import DTYPES, FLOAT32, cfg, family

# Running op by op compiles each op once per shape: the cases share shapes.
X = floats(2, 6, 4)
PAD = paddings(2, 6)
DROPPED = {'residual_dropout_prob': 0.3, 'relu_dropout_prob': 0.2}

ff = family('transformers.TransformerFeedForward', X, PAD, input_dims=4, hidden_dims=5)

FEED_FORWARD = [
    ff('default'),
    ff('no-paddings', X, output_dims=4),
    ff('padding-first', apply_padding_first=True, output_dims=4),
    ff('gated', use_gated_activation=True, activation_tpl=cfg('activations.SiLU')),
    ff('dropout', **DROPPED),
    ff('dropout-gated', use_gated_activation=True, **DROPPED, dtypes=FLOAT32),
    ff('no-bias', has_bias=False, dtypes=FLOAT32),
    ff('no-skip', add_skip_connection=False, output_dims=3, dtypes=FLOAT32),
    ff('weight', residual_weight=0.5, dtypes=FLOAT32),
    ff('droppath', residual_droppath_prob=0.4, residual_weight=0.5),
    ff('primer', norm_policy='primer_hybrid', output_dims=4, dtypes=FLOAT32),
    ff('post', norm_policy='post', output_dims=4),
    ff('post-skip', norm_policy='post_skip', output_dims=4),
    ff('rms-norm', ln_tpl=cfg('normalizations.RmsNorm'), dtypes=FLOAT32),
    ff('gshard-init', internal_gshard_variance_scaling_fan_in_init=True,
       use_gated_activation=True, dtypes=FLOAT32),
    ff('sharded', ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'], dtypes=FLOAT32,
       **{'weight_split_dims_mapping.ffn0': ['d', 'm'],
          'weight_split_dims_mapping.ffn1': ['m', 'd']}),
    ff('step', floats(2, 4), method='extend_step', kwargs={'time_step': 2},
       modes=('eval',), grads=False, dtypes=FLOAT32),
    ff('bad-policy', norm_policy='none', raises='ValueError', dtypes=FLOAT32),
    ff('bad-skip', output_dims=3, raises='ValueError', dtypes=FLOAT32),
    ff('bad-droppath', residual_droppath_prob=0.1, add_skip_connection=False,
       raises='AssertionError', dtypes=FLOAT32),
]

SEGMENTS = np.array([[1, 1, 2, 2, 2, 2], [1, 1, 1, 2, 0, 0]], np.int32)

moe = family('transformers.TransformerFeedForwardMoe', X, np.array(PAD, np.int32),
             input_dims=4, hidden_dims=5,
             num_experts=3, num_groups=2, dtypes=FLOAT32)

MIXTURES = [
    moe('default', dtypes=DTYPES),
    moe('no-paddings', X),
    moe('gated', use_gated_activation=True, activation_tpl=cfg('activations.GELU')),
    moe('dropout', **DROPPED),
    moe('little-room', unadjusted_expert_capacity_factor=0.5, expert_capacity_dim=2,
        modes=('train',)),
    moe('capped', gating_logit_cap=1.5),
    moe('min-group', num_groups=12, min_group_size=6),
    moe('sampling', second_expert_policy='sampling'),
    moe('random', second_expert_policy='random'),
    moe('expert-choice', gating_func='expert_choice'),
    moe('expert-choice-v2', gating_func='expert_choice_v2'),
    moe('dense', gating_func='dense_top2'),
    moe('dense-dropout', gating_func='dense_top2', **DROPPED),
    moe('padding-first', apply_padding_first=True, residual_weight=0.5),
    moe('primer', norm_policy='primer_hybrid', residual_droppath_prob=0.4),
    moe('post', norm_policy='post', add_skip_connection=False),
    moe('sentence', moe_gating_embedding_level='sentence'),
    moe('sentence-segments', X, np.zeros([2, 6], np.int32), SEGMENTS,
        moe_gating_embedding_level='sentence'),
    moe('sentence-plain', X, moe_gating_embedding_level='sentence'),
    moe('plain-init', internal_gshard_variance_scaling_fan_in_init=False),
    moe('fans', internal_gshard_variance_scaling_fan_in_init=False,
        explicit_fan_in_fan_out_axes=True, use_gated_activation=True),
    moe('loss-weight', moe_load_balance_loss_weight=0.01),
    moe('step', floats(12, 4), method='extend_step', kwargs={'time_step': 1}),
    moe('sharded', ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'],
        **{'weight_split_dims_mapping.me': [None, 'd'],
           'weight_split_dims_mapping.emh': [None, 'd', 'm'],
           'weight_split_dims_mapping.ehm': [None, 'm', 'd']}),
    moe('bad-groups', num_groups=5, raises='ValueError'),
    moe('bad-gating', gating_func='top3', raises='ValueError'),
    moe('bad-weight', moe_load_balance_loss_weight=0.0, raises='AssertionError'),
    moe('bad-experts', num_experts=0, raises='AssertionError'),
    moe('bad-dense', gating_func='dense_top2', use_gated_activation=True,
        raises='AssertionError'),
]



def gating(function, **options):
  """Calls a gating function of the package whose layer is given."""
  def call(layer, logits, pad):
    package = type(layer).__module__.partition('.')[0]
    module = importlib.import_module(f'{package}.gshard_utils')
    args = (logits, 3, 4, jnp.float32)
    if function != 'expert_choice_gating_on_logits':
      args = (pad, *args)
    if options.get('second_expert_policy', 'all') != 'all':
      key = {'prng_key': jax.random.PRNGKey(7)}
    else:
      key = {}
    return getattr(module, function)(*args, **options, **key)

  call.__name__ = f'{function} {options}'
  return call


def route(variant, function, pad=True, **options):
  tokens = np.array(PAD, np.int32) if pad else None
  return moe(f'gating-{variant}', floats(2, 6, 3, name='logits'), tokens,
             method=gating(function, **options), modes=('train',))


GATING = [
    route('top2', 'top2_gating_on_logits', capacity_factor=2.0, gating_logit_cap=3.0),
    route('top2-later', 'top2_gating_on_logits', legacy_mtf_behavior=False),
    route('top2-random', 'top2_gating_on_logits', second_expert_policy='random',
          second_expert_threshold=0.5, pad=False),
    route('top2-sampling', 'top2_gating_on_logits', second_expert_policy='sampling',
          legacy_mtf_behavior=False),
    route('top3', 'topk_gating_on_logits', k=3, capacity_factor=1.0),
    route('top1', 'topk_gating_on_logits', k=1, pad=False),
    route('choice', 'expert_choice_gating_on_logits', capacity_factor=1.5),
    route('choice-v2', 'expert_choice_gating_on_logits_v2', gating_logit_cap=2.0),
]

LARGE = np.float32(-0.7) * np.finfo(np.float32).max
CAUSAL = np.where(np.tri(6, dtype=bool), 0, LARGE).astype(np.float32)[None, None]
PADDED = (PAD[:, None, None] * LARGE).astype(np.float32)
CROSS = {'cross_inputs': floats(2, 3, 4, name='cross'),
         'cross_attention_mask': np.zeros([2, 1, 1, 3], np.float32)}
GATED = cfg('transformers.TransformerFeedForward', use_gated_activation=True,
            ln_tpl=cfg('normalizations.RmsNorm'))

block = family('transformers.Transformer', X, np.array(PAD, np.int32), CAUSAL,
               input_dims=4, hidden_dims=5, num_heads=2, dtypes=FLOAT32)
STEPS = floats(3, 2, 4, name='steps')


def prefill(layer, steps, *args, **kwargs):
  layer(*args, **kwargs)


def decode(layer, steps, inputs, pad, mask, **kwargs):
  """Three steps of a block, from the cache of a call."""
  if layer.is_initializing():
    return layer(inputs, pad, mask, **kwargs)
  cross = {k: v for k, v in kwargs.items() if k == 'cross_attention_mask'}
  return [layer.extend_step(step, time_step=jnp.asarray(t), attention_mask=mask[0, :, t:
          t + 1], **cross) for t, step in enumerate(steps)]


DECODE = {'method': decode, 'prepare': prefill, 'collections': ('decoder_cache',),
          'modes': ('eval',), 'grads': False}

BLOCKS = [
    block('default', dtypes=DTYPES),
    block('padded', X, PAD, PADDED, kwargs={'segment_pos': np.arange(12, dtype=np.int32
          ).reshape(2, 6) % 4}, grads=False, **{
              'tr_atten_tpl.use_rotary_position_emb': True}),
    block('dropout', residual_dropout_prob=0.3, relu_dropout_prob=0.2,
          atten_dropout_prob=0.1, modes=('train',)),
    block('droppath', residual_droppath_prob=0.4, modes=('train',)),
    block('primer', norm_policy='primer_hybrid'),
    block('post', norm_policy='post'),
    block('post-skip', norm_policy='post_skip'),
    block('head-dims', dim_per_head=3, tr_fflayer_tpl=GATED,
          ln_tpl=cfg('normalizations.RmsNorm'), packed_input=True, modes=('eval',),
          grads=False),
    block('cross', kwargs=CROSS, use_cross_attention=True, residual_dropout_prob=0.2),
    block('cross-primer', kwargs=CROSS, use_cross_attention=True,
          norm_policy='primer_hybrid', modes=('eval',), grads=False),
    block('cross-post-skip', kwargs=CROSS, use_cross_attention=True, modes=('eval',),
          norm_policy='post_skip', grads=False, cross_atten_tpl=cfg(
              'attentions.DotProductAttention', use_bias=False)),
    block('cross-skipped', use_cross_attention=True, allow_skip_cross_attention=True,
          modes=('eval',)),
    block('moe', tr_fflayer_tpl=cfg('transformers.TransformerFeedForwardMoe',
                                    num_experts=3, num_groups=2)),
    block('decode', STEPS, X, PAD, CAUSAL, **DECODE),
    block('decode-cross', STEPS, X, PAD, CAUSAL, kwargs=CROSS, use_cross_attention=True,
          norm_policy='primer_hybrid', residual_droppath_prob=0.3, **DECODE),
    block('bad-policy', norm_policy='none', raises='ValueError'),
    block('bad-cross', use_cross_attention=True, raises='AssertionError'),
]

SEGMENT_MASK = np.where(SEGMENTS[:, :, None] == SEGMENTS[:, None], 0, LARGE)[:, None]
SEGMENT_MASK = SEGMENT_MASK.astype(np.float32)
SEGMENT_POS = np.array([[0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 1]], np.int32)
PACKED = {'segment_mask': SEGMENT_MASK, 'segment_pos': SEGMENT_POS}
CROSS_STACK = {'cross_inputs': CROSS['cross_inputs'],
               'cross_paddings': np.array([[0, 0, 1], [0, 0, 0]], np.int32)}
BLOCK = cfg('transformers.Transformer')
ROTARY = {'transformer_layer_params_tpl.tr_atten_tpl.use_rotary_position_emb': True}

stack = family('transformers.StackedTransformer', X, np.array(PAD, np.int32),
               model_dims=4, hidden_dims=5, num_heads=2, num_layers=2, dtypes=FLOAT32,
               mask_self_attention=True)


def prefill_stack(layer, steps, *args, **kwargs):
  layer(*args, **kwargs)
  layer.transform_decode_state(lambda x, batch, time: jnp.pad(
      x, [(0, 2 if i == time else 0) for i in range(x.ndim)]))


def decode_stack(layer, steps, *args, **kwargs):
  """Three steps of a stack, from a longer cache than that of the call."""
  if layer.is_initializing():
    return layer(*args, **kwargs)
  given = {k: v for k, v in kwargs.items() if k == 'cross_paddings'}
  out = []
  for t, step in enumerate(steps):
    pos = jnp.asarray([t, max(t - 1, 0)]) if 'segment_pos' in kwargs else None
    out.append(layer.extend_step(step, time_step=jnp.asarray(t + 5), segment_pos=pos,
                                 **given))
  return out


DECODE_STACK = {**DECODE, 'method': decode_stack, 'prepare': prefill_stack}

STACKS = [
    stack('default', dtypes=DTYPES),
    stack('unmasked', mask_self_attention=False),
    stack('packed', kwargs=PACKED, packed_input=True, grads=False, **ROTARY),
    stack('packed-folded', kwargs=PACKED, packed_input=True, modes=('eval',),
          fold_padding_with_segment_mask=True, mask_self_attention=False),
    stack('dropout', dropout_prob=0.2, residual_dropout_prob=0.0, relu_dropout_prob=0.4,
          input_dropout_prob=0.1, modes=('train',)),
    stack('droppath', residual_droppath_prob=0.5, modes=('train',)),
    stack('moe', moe_layers=[1], num_experts=3, num_groups=2, modes=('train',)),
    stack('moe-hidden', moe_layers=[0], num_experts=3, min_group_size=6, num_groups=12,
          modes=('train',), grads=False, **{'moe_layer_tpl.hidden_dims': 4}),
    stack('cross', kwargs=CROSS_STACK, use_cross_attention=True, modes=('train',)),
    stack('templates', modes=('eval',), transformer_layer_params_tpl=[
        BLOCK, cfg('transformers.Transformer', norm_policy='post')]),
    stack('remat', remat=True, num_layers=1, dropout_prob=0.2, modes=('train',),
          slow=True),
    stack('decode', STEPS, X, PAD, **DECODE_STACK),
    stack('decode-packed', STEPS, X, PAD, kwargs=PACKED, **ROTARY, **DECODE_STACK),
    stack('decode-cross', STEPS, X, PAD, kwargs=CROSS_STACK, use_cross_attention=True,
          **DECODE_STACK),
    stack('bad-packed', packed_input=True, raises='AssertionError'),
    stack('bad-layers', num_layers=0, raises='AssertionError'),
    stack('bad-templates', transformer_layer_params_tpl=[BLOCK] * 3, raises='ValueError'
          ),
    stack('bad-cross', use_cross_attention=True, raises='AssertionError'),
]

STACK = cfg('transformers.StackedTransformer', model_dims=4, hidden_dims=5, num_heads=2,
            num_layers=1, mask_self_attention=True, dropout_prob=0.2)
PLAIN = cfg('transformers.StackedTransformer', **{**STACK.fields, 'dropout_prob': 0.0})
# A loop compiles each time; for its gradients see transformer_models and repeats.
repeated = family('transformers.StackedTransformerRepeated', X, np.array(PAD, np.int32),
                  block=STACK, x_times=2, dtypes=FLOAT32)

REPEATED = [
    repeated('returned-intermediates', return_intermediate_outputs=True,
             modes=('train',), grads=False),
    repeated('named', repeat_layer_name='pipeline', sublayer_name='body', x_times=4,
             nd_prefix_shape=[2, 2], collect_intermediate_outputs=True, modes=('eval',),
             collections=('intermediates',), dtypes=DTYPES, grads=False),
    repeated('decode', STEPS, X, PAD, slow=True, **DECODE_STACK),
    repeated('decode-scanned', STEPS[:1], X, PAD, unroll_in_decode=False,
             **DECODE_STACK),
    family('transformers.PipelineCompatibleStackedTransformerRepeated')(
        'default', X, np.array(PAD, np.int32), block=PLAIN, x_times=2,
        nd_prefix_shape=[1, 2], return_intermediate_outputs=True,
        collect_intermediate_outputs=True, unroll_in_decode=False, grads=False,
        slow=True, known={
            'error': 'Praxis 1.4.0 cannot set it up: it assigns frozen fields'}),
]

pipelined = family('transformers.PipelinedTransformer', X, np.array(PAD, np.int32),
                   pipeline_stage=STACK, num_pipeline_stages=2,
                   num_pipeline_microbatches=2, dtypes=FLOAT32, grads=False)

PIPELINED = [
    pipelined('default', modes=('train',)),
    pipelined('packed-circular', kwargs=PACKED, circular_repeat=2, modes=('eval',),
              slow=True,
              stream_io=True, pipeline_broadcast_inputs=True, bf16_accum_in_fp32=True,
              enable_async_circular_transfer=False, dtypes=DTYPES),
    pipelined('no-stages', num_pipeline_stages=None, raises='AssertionError'),
]

CASES = [*FEED_FORWARD, *MIXTURES, *GATING, *BLOCKS, *STACKS, *REPEATED, *PIPELINED]
