"""A decoder-only transformer in plain JAX, of the shape of `pax_haiku.training.lm`.

What one writes by hand without any layer library, to measure libraries against: a dict
of arrays, functions, optax. The operations of the Pax model: norms before each part,
one projection for queries, keys and values, GELU, one table for tokens and logits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pax_haiku.training.lm_shapes import LmShape


def init(shape: LmShape, key: jax.Array) -> dict:
  """Returns float32 weights; those of the blocks are stacked, [layers, ...]."""
  n, d, h = shape.num_layers, shape.model_dims, shape.hidden_dims
  keys = jax.random.split(key, 5)

  def normal(key, dims, fan_in):
    return jax.random.normal(key, dims, jnp.float32) * fan_in**-0.5

  blocks = {
    'ln1': {'scale': jnp.zeros([n, d]), 'bias': jnp.zeros([n, d])},
    'qkv': {'w': normal(keys[0], (n, d, 3 * d), d), 'b': jnp.zeros([n, 3 * d])},
    'out': {'w': normal(keys[1], (n, d, d), d), 'b': jnp.zeros([n, d])},
    'ln2': {'scale': jnp.zeros([n, d]), 'bias': jnp.zeros([n, d])},
    'up': {'w': normal(keys[2], (n, d, h), d), 'b': jnp.zeros([n, h])},
    'down': {'w': normal(keys[3], (n, h, d), h), 'b': jnp.zeros([n, d])},
  }
  return {
    'embed': normal(keys[4], (shape.vocab_size, d), d),
    'blocks': blocks,
    'ln': {'scale': jnp.zeros([d]), 'bias': jnp.zeros([d])},
  }


def _norm(p, x):
  y = x.astype(jnp.float32)
  y -= y.mean(-1, keepdims=True)
  y *= jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)
  return (y * (1 + p['scale']) + p['bias']).astype(x.dtype)


def _dense(p, x):
  return x @ p['w'].astype(x.dtype) + p['b'].astype(x.dtype)


def _positions(length: int, dims: int) -> np.ndarray:
  rates = np.exp(-np.log(1e4) * np.arange(dims // 2) / max(dims // 2 - 1, 1))
  angles = np.arange(length)[:, None] * rates
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _rotate(x):
  half = x.shape[-1] // 2
  rates = 1e4 ** (-np.arange(half, dtype=np.float32) / half)
  angles = (np.arange(x.shape[1])[:, None] * rates)[:, None, :]
  sin, cos = np.sin(angles).astype(x.dtype), np.cos(angles).astype(x.dtype)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _block(shape: LmShape, x, p):
  batch, length, d = x.shape
  qkv = _dense(p['qkv'], _norm(p['ln1'], x))
  q, k, v = jnp.split(qkv.reshape(batch, length, 3 * shape.num_heads, -1), 3, axis=2)
  if shape.rotary:
    q, k = _rotate(q), _rotate(k)
  on_gpu = jax.default_backend() == 'gpu' and x.dtype == jnp.bfloat16
  context = jax.nn.dot_product_attention(
    q, k, v, is_causal=True, implementation='cudnn' if on_gpu else 'xla'
  )
  x = x + _dense(p['out'], context.reshape(batch, length, d))
  return x + _dense(p['down'], jax.nn.gelu(_dense(p['up'], _norm(p['ln2'], x))))


def loss(shape: LmShape, remat: bool, weights: dict, batch: dict) -> jax.Array:
  """Returns the mean cross entropy of labels [B, T] after ids [B, T]."""
  dtype = jnp.bfloat16 if shape.bfloat16 else jnp.float32
  table = weights['embed'].astype(dtype)
  d = shape.model_dims
  x = table[batch['ids']] * d**0.5
  if not shape.rotary:
    x = x + _positions(x.shape[1], d).astype(dtype)
  block = functools.partial(_block, shape)
  block = jax.checkpoint(block) if remat else block
  if shape.repeat:
    x, _ = jax.lax.scan(lambda x, p: (block(x, p), None), x, weights['blocks'])
  else:
    for i in range(shape.num_layers):
      x = block(x, jax.tree.map(lambda w, i=i: w[i], weights['blocks']))
  x = _norm(weights['ln'], x)

  def xent(x, labels):
    logits = (x @ table.T).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

  labels = batch['labels']
  rows, length = labels.shape
  size = max(shape.loss_chunk // rows, 1) if shape.loss_chunk else length
  if length > size and length % size == 0:
    # The logits of a chunk of time at a time, of all rows.
    chunks = x.reshape(rows, length // size, size, d), labels.reshape(rows, -1, size)
    chunks = jax.tree.map(lambda a: a.swapaxes(0, 1), chunks)
    step = jax.checkpoint(lambda total, c: (total + xent(*c), None), prevent_cse=False)
    total, _ = jax.lax.scan(step, 0.0, chunks)
  else:
    total = xent(x, labels)
  return total / labels.size


def train_step(shape: LmShape, optimizer, remat: bool = False):
  """Returns a compiled `step((weights, optimizer state), batch) -> (same, loss)`."""

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, batch):
    weights, opt_state = state
    value, grads = jax.value_and_grad(functools.partial(loss, shape, remat))(
      weights, batch
    )
    updates, opt_state = optimizer.update(grads, opt_state, weights)
    return (optax.apply_updates(weights, updates), opt_state), value

  return step
