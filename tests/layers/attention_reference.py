"""Attention in numpy, in float64, query by query: what the layers must give."""

import jax
import numpy as np

from tests.layers import harness

LOW = -0.7 * float(np.finfo(np.float32).max)


def hidden(*parts):
  """An array mask that hides what any of the boolean arrays says."""
  together = np.zeros((), bool)
  for part in parts:
    together = together | part
  return np.where(together, np.float32(LOW), np.float32(0))


def future(length):
  """`[1, 1, length, length]`, True for keys after the query."""
  return np.triu(np.ones((length, length), bool), 1)[None, None]


def attend(q, k, v, seen, cap=0.0, extra=None, bias=None, scale=1.0, zero_blind=False):
  """Attention of `q [B, T, N, H]`, scaled already, to `k, v [B, S, N, H]`.

  Args:
    q, k, v: see above.
    seen: booleans, broadcastable to `[B, N, T, S]`.
    cap: as `atten_logit_cap`.
    extra: as `attention_extra_logit`.
    bias: added to the logits, broadcastable to `[B, N, T, S]`.
    scale: factor of logits and bias.
    zero_blind: as `zero_fully_masked`.

  Returns:
    `[B, T, N, H]` and probabilities `[B, N, T, S]`.
  """
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  batch, length, heads, _ = q.shape
  key_length = k.shape[1]
  shape = (batch, heads, length, key_length)
  seen = np.broadcast_to(seen, shape)
  bias = np.broadcast_to(0.0 if bias is None else np.asarray(bias, np.float64), shape)
  out, probs = np.zeros(q.shape), np.zeros(shape)
  for b, n, t in np.ndindex(batch, heads, length):
    logits = (k[b, :, n] @ q[b, t, n] + bias[b, n, t]) * scale
    if cap:
      logits = cap * np.tanh(logits / cap)
    visible = seen[b, n, t]
    if visible.any():
      weights = np.where(visible, np.exp(logits - logits[visible].max()), 0.0)
      rest = 0.0 if extra is None else np.exp(extra - logits[visible].max())
      probs[b, n, t] = weights / (weights.sum() + rest)
    elif extra is None:
      probs[b, n, t] = 1.0 / key_length
    if visible.any() or not zero_blind:
      out[b, t, n] = probs[b, n, t] @ v[b, :, n]
  return out, probs


def project(params, x, name):
  """Heads `[B, L, N, H]` by the child `name`."""
  p = params[name]
  out = np.einsum('bld,dnh->blnh', x.astype(np.float64), np.asarray(p['w'], np.float64))
  return out + np.asarray(p.get('b', 0.0), np.float64)


def scaled_query(params, query):
  """By the child `per_dim_scale`."""
  scale = np.asarray(params['per_dim_scale']['per_dim_scale'], np.float64)
  return query * 1.442695041 / np.sqrt(query.shape[-1]) * np.log1p(np.exp(scale))


def post(params, encoded):
  p = params['post']
  out = np.einsum('blnh,dnh->bld', encoded, np.asarray(p['w'], np.float64))
  return out + np.asarray(p.get('b', 0.0), np.float64)


def self_attention(params, x, seen, **options):
  """`DotProductAttention` of defaults; options are those of `attend`."""
  q, k, v = (project(params, x, name) for name in ('query', 'key', 'value'))
  encoded, probs = attend(scaled_query(params, q), k, v, seen, **options)
  return post(params, encoded), probs


def make(cls, *args, do_eval=True, **fields):
  """A layer and variables for it that are random throughout."""
  layer = harness.build(cls, **fields)
  arrays = {i: x for i, x in enumerate(args) if hasattr(x, 'shape')}

  def init(arrays):
    given = [arrays.get(i, x) for i, x in enumerate(args)]
    if len(args) > 2 and args[1] is args[0] and args[2] is args[0]:
      given[1] = given[2] = given[0]  # combine_qkv looks at identity
    return harness.init(layer, *given, do_eval=do_eval)

  return layer, harness.randomize(jax.eval_shape(init, arrays))
