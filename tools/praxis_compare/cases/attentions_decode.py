"""Cases of `attentions`: a prefix in one call, then two steps with the cache."""

import jax.numpy as jnp
import numpy as np

from praxis_compare.cases.attentions import LOW, REL, causal, mask_of
from praxis_compare.inputs import floats
from praxis_compare.spec import DTYPES, FLOAT32, cfg, family

PREFIX = floats(2, 3, 8)
STEPS = floats(2, 2, 8, name='steps')
SAMPLES = floats(6, 2, 8, name='samples')
CAUSAL = mask_of(causal(3))
POS = np.array([[0, 1, 0], [0, 1, 2]], np.int32)
CACHES = ('decoder_cache', 'prefix_decoder_cache')


def step_mask(last, length, batch=1):
  """[batch, 1, length], hides the keys after `last`."""
  return jnp.asarray(np.broadcast_to(mask_of(np.arange(length) > last),
                                     (batch, 1, length)))


def can_decode(layer):
  """False while variables are made."""
  return layer.is_mutable_collection('decoder_cache')


def pad(x, _batch_dim, time_dim):
  widths = [(0, 0)] * x.ndim
  widths[time_dim] = (0, 2)
  return jnp.pad(x, widths)


def decode(layer, x, mask, steps, positions=None, segment_pos=None):
  out = layer(x, x, x, mask, positions, positions)[0]
  if not can_decode(layer):
    return out
  layer.transform_decode_state(pad)
  return [out] + [layer.extend_step(
      steps[:, i], atten_mask=step_mask(3 + i, 5, 1 + i), time_step=3 + i,
      segment_pos=None if segment_pos is None else segment_pos + i)
      for i in range(2)]


def blind(layer, x, mask, steps):
  """Only the second example sees something."""
  out = layer(x, x, x, mask)[0]
  if not can_decode(layer):
    return out
  hidden = jnp.concatenate([jnp.full([1, 1, 3], LOW), step_mask(2, 3)])
  return out, layer.extend_step(steps[:, 0], atten_mask=hidden, time_step=2,
                                segment_pos=None)


def cross(layer, x, mask, steps):
  """Queries of three samples for each example, against a cache of examples."""
  out = layer(x, x, x, mask)[0]
  if not can_decode(layer):
    return out
  mask = jnp.concatenate([step_mask(1, 3), step_mask(2, 3)])
  return out, layer.extend_step(steps[:, 0], atten_mask=mask, time_step=0,
                                segment_pos=None, is_cross_attention=True)


def lazy(layer, x, mask, steps, positions=None):
  """Samples of one prefix, one token each and then, of one more level, another."""
  out = layer(x, x, x, mask, positions, positions)[0]
  if not can_decode(layer):
    return out
  layer.lazy_broadcast_prefix(3, 1)
  one = layer.extend_step(steps[:, 0], atten_mask=step_mask(3, 4), time_step=3,
                          segment_pos=None)
  layer.lazy_broadcast_prefix(1, 2)
  two = layer.extend_step(steps[:, 1], atten_mask=step_mask(4, 6, 6), time_step=4,
                          segment_pos=jnp.arange(6))
  layer.transform_decode_state(pad)
  return out, one, two, layer.decoding_state_sequence_length() * jnp.ones([])


def lazy_tokens(layer, x, mask, steps, segment_pos=None):
  """Two tokens at once for each sample."""
  out = layer(x, x, x, mask)[0]
  if not can_decode(layer):
    return out
  layer.lazy_broadcast_prefix(3, 2)
  mask = jnp.concatenate([step_mask(3, 5, 6), step_mask(4, 5, 6)], axis=1)[:, None]
  return out, layer.extend_step(steps, atten_mask=mask, time_step=3,
                                segment_pos=segment_pos)


def right_align(layer, x, mask):
  out = layer(x, x, x, mask)[0]
  if not can_decode(layer):
    return out
  layer.lazy_broadcast_prefix(2, 1)
  layer.right_align_decode_state_with_prefix(
      2, lambda x, batch_dim, time_dim: jnp.roll(x, 1, time_dim))
  return out


ONCE = dict(modes=('eval',), dtypes=FLOAT32, grads=False)
DECODE = dict(method=decode, collections=CACHES[:1], **ONCE)
LAZY = dict(method=lazy, collections=CACHES, **ONCE)
SMALL = dict(input_dim=8, hidden_dim=8, num_heads=2)

atten = family('attentions.DotProductAttention', PREFIX, CAUSAL, STEPS, **SMALL,
               **DECODE)
lpb = family('attentions.DotProductAttentionWithLPB', PREFIX, CAUSAL, SAMPLES, **SMALL,
             **LAZY)
xl = family('attentions.DotProductAttentionXL', PREFIX, CAUSAL, STEPS,
            rel_pos_emb_dim=6, **SMALL, **DECODE)
local = family('attentions.LocalSelfAttention', PREFIX,
               mask_of(np.zeros((2, 1, 1, 3), bool)), STEPS, left_context=2,
               right_context=0, **SMALL, **DECODE)

CASES = [
    atten('decode', dtypes=DTYPES),
    atten('decode-rotary-positions', PREFIX, CAUSAL, STEPS, POS,
          np.array([1, 3], np.int32), use_rotary_position_emb=True),
    atten('decode-dconv-rotary', PREFIX, CAUSAL, STEPS, POS, np.array([1, 3], np.int32),
          dconv_qkv=True, use_rotary_position_emb=True),
    atten('decode-relative-bias', PREFIX, CAUSAL, STEPS, POS, relative_bias_tpl=REL),
    atten('decode-cap-scale-extra', atten_logit_cap=0.9, scale_logits_by_head_dims=True,
          attention_extra_logit=0.4, dtypes=DTYPES),
    atten('decode-qk-norm', ln_tpl=cfg('normalizations.RmsNorm')),
    atten('decode-blind', zero_fully_masked=True, method=blind),
    atten('decode-cross', PREFIX, CAUSAL, SAMPLES, method=cross),
    atten('no-decode-cache', decode_cache=False,
          method=lambda layer, x, mask, _: layer(x, x, x, mask)[0]),
    lpb('default'),
    lpb('dconv', dconv_qkv=True, combine_qkv=True),
    lpb('relative-bias', PREFIX, CAUSAL, SAMPLES, POS, relative_bias_tpl=REL),
    lpb('cap-scale-extra', atten_logit_cap=0.9, scale_logits_by_head_dims=True,
        attention_extra_logit=0.4, zero_fully_masked=True),
    lpb('tokens-rotary', PREFIX, CAUSAL, SAMPLES, np.tile(np.arange(3, 5), (6, 1)),
        method=lazy_tokens, use_rotary_position_emb=True),
    lpb('tokens-dconv', method=lazy_tokens, dconv_qkv=True,
        raises='NotImplementedError'),
    lpb('right-align', PREFIX, CAUSAL, method=right_align),
    xl('decode', zero_fully_masked=True, scale_logits_by_head_dims=True,
       atten_logit_cap=0.9),
    local('decode'),
    local('decode-right', left_context=1, right_context=1, atten_logit_cap=0.9,
          scale_logits_by_head_dims=True),
]
