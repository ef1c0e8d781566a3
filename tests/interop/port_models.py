"""Small Haiku models and Pax ports of them, to match and compare."""

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku import base_layer, interop, layers, pax_fiddle

Config = pax_fiddle.Config
WeightHParams = base_layer.WeightHParams
DIM, HEADS, WIDTH = 8, 2, 4
LSTM = 6


def normal(seed, *shape):
  return jax.random.normal(jax.random.PRNGKey(seed), shape)


def ffn(inputs, outputs, activation=layers.Identity, **fields):
  return Config(
    layers.FeedForward,
    input_dims=inputs,
    output_dims=outputs,
    activation_tpl=Config(activation),
    **fields,
  )


# -- Dense layers, norms, a stack ------------------------------------------------------


def hk_mixed(x):
  """MLP, LayerNorm, BatchNorm in training, three stacked layers."""
  x = hk.nets.MLP([4, 4])(x)
  x = hk.LayerNorm(-1, True, True)(x)
  x = hk.BatchNorm(True, True, 0.9, eps=1e-3)(x, True)
  return hk.experimental.layer_stack(3)(lambda x: jax.nn.gelu(hk.Linear(4)(x)))(x)


class Mixed(base_layer.BaseLayer):
  """The port of `hk_mixed`, with a list of layers or a Repeat, and planted faults."""

  stacked: bool = False
  epsilon: float = 1e-5
  decay: float = 0.9
  has_bias: bool = True

  def setup(self):
    self.create_child('a', ffn(3, 4, layers.ReLU))
    self.create_child('b', ffn(4, 4, has_bias=self.has_bias))
    self.create_child('ln', Config(layers.LayerNorm, dim=4, epsilon=self.epsilon))
    self.create_child('bn', Config(layers.BatchNorm, dim=4, decay=self.decay))
    block = ffn(4, 4, layers.GELU)
    if self.stacked:
      self.create_child('ff', Config(layers.Repeat, sub_tpl=block, x_times=3))
    else:
      self.create_children('ff', [block.clone() for _ in range(3)])

  def __call__(self, x):
    x = self.bn(self.ln(self.b(self.a(x))))
    if self.stacked:
      return self.ff(x)
    for layer in self.ff:
      x = layer(x)
    return x


# The mapping of `hk_mixed` and `Mixed` with a list.
STACK = 'params:__layer_stack_no_per_layer/linear'
NORM = 'reshape(params:batch_norm/{}, [1,4], [4])'
AVERAGE = 'reshape(state:batch_norm/~/{}_ema/average, [1,4], [4])'
MIXED = interop.Mapping.from_text(
  '\n'.join(
    [
      'params:a/linear/w = params:mlp/~/linear_0/w',
      'params:a/bias/b = params:mlp/~/linear_0/b',
      'params:b/linear/w = params:mlp/~/linear_1/w',
      'params:b/bias/b = params:mlp/~/linear_1/b',
      'params:ln/scale = add(params:layer_norm/scale, -1)',
      'params:ln/bias = params:layer_norm/offset',
      f'params:bn/gamma = add({NORM.format("scale")}, -1)',
      f'params:bn/beta = {NORM.format("offset")}',
      *(
        f'params:ff_{i}/{n} = index({STACK}/{n[-1]}, {i}, 3)'
        for i in range(3)
        for n in ('linear/w', 'bias/b')
      ),
      f'non_trainable:bn/moving_mean = {AVERAGE.format("mean")}',
      f'non_trainable:bn/moving_variance = {AVERAGE.format("var")}',
      *(
        f'back state:batch_norm/~/{short}_ema/hidden = reshape('
        f'non_trainable:bn/moving_{name}, [4], [1,4])\n'
        f'back state:batch_norm/~/{short}_ema/counter = full(1000000000, [], int32)'
        for short, name in (('mean', 'mean'), ('var', 'variance'))
      ),
    ]
  )
)


# -- Attention -------------------------------------------------------------------------


def attend(q, k, v):
  weights = jax.nn.softmax(jnp.einsum('btnh,bsnh->bnts', q, k) / WIDTH**0.5)
  return jnp.einsum('bnts,bsnh->btnh', weights, v)


def hk_attention(x):
  """Three projections, attention, one projection, a skip connection."""
  init = hk.initializers.RandomNormal(0.3)
  attention = hk.MultiHeadAttention(HEADS, WIDTH, w_init=init, model_size=DIM)
  return x + attention(x, x, x)


class Fused(base_layer.BaseLayer):
  """The port of `hk_attention` with one matrix for queries, keys and values.

  Attributes:
    by_head: the three lie side by side for each head.
  """

  by_head: bool = False

  def setup(self):
    self.create_variable('qkv_w', WeightHParams([DIM, 3 * DIM]))
    self.create_variable('qkv_b', WeightHParams([3 * DIM]))
    self.create_variable('post_w', WeightHParams([DIM, HEADS, WIDTH]))
    self.create_variable('post_b', WeightHParams([DIM]))

  def __call__(self, x):
    theta, heads = self.theta, (*x.shape[:2], HEADS, WIDTH)
    y = x @ theta.qkv_w + theta.qkv_b
    if self.by_head:
      y = y.reshape(*x.shape[:2], HEADS, 3 * WIDTH)
    q, k, v = (a.reshape(heads) for a in jnp.split(y, 3, -1))
    mixed = jnp.einsum('btnh,dnh->btd', attend(q, k, v), theta.post_w)
    return x + mixed + theta.post_b


class PaxAttention(base_layer.BaseLayer):
  """The port of `hk_attention` with Pax's own layer."""

  def setup(self):
    self.create_child(
      'atten',
      Config(
        layers.DotProductAttention,
        input_dim=DIM,
        hidden_dim=DIM,
        num_heads=HEADS,
        combine_qkv=True,
        internal_enable_per_dim_scale=False,
        scale_query_by_dim_per_head=True,
      ),
    )

  def __call__(self, x):
    mask = jnp.zeros([1, 1, x.shape[1], x.shape[1]])
    return x + self.atten(x, x, x, mask)[0]


# -- Recurrence ------------------------------------------------------------------------


def hk_lstm(x):
  core = hk.LSTM(LSTM)
  return hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))[0]


class Lstm(base_layer.BaseLayer):
  """An LSTM with its gates in another order, or with one matrix for each operand."""

  separate: bool = False

  def setup(self):
    if self.separate:
      self.create_variable('wx', WeightHParams([4, 4 * LSTM]))
      self.create_variable('wh', WeightHParams([LSTM, 4 * LSTM]))
    else:
      self.create_variable('wm', WeightHParams([4 + LSTM, 4 * LSTM]))
    self.create_variable('b', WeightHParams([4 * LSTM]))

  def __call__(self, x):
    theta = self.theta

    def step(carry, x):
      h, m = carry
      if self.separate:
        i, g, f, o = jnp.split(x @ theta.wx + h @ theta.wh + theta.b, 4, -1)
      else:
        joined = jnp.concatenate([x, h], -1)
        g, i, f, o = jnp.split(joined @ theta.wm + theta.b, 4, -1)
      m = jax.nn.sigmoid(f + 1) * m + jax.nn.sigmoid(i) * jnp.tanh(g)
      h = jax.nn.sigmoid(o) * jnp.tanh(m)
      return (h, m), h

    zeros = jnp.zeros([x.shape[1], LSTM])
    return jax.lax.scan(step, (zeros, zeros), x)[1]


# -- Convolutions ----------------------------------------------------------------------


def hk_conv(x, is_training):
  x = hk.Conv2D(4, 3, stride=2, with_bias=False, padding='SAME')(x)
  x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, eps=1e-3)(x, is_training))
  x = hk.Conv2D(4, 1)(x)
  x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, eps=1e-3)(x, is_training))
  x = hk.DepthwiseConv2D(1, 3)(x)
  return hk.Linear(3)(x.mean((1, 2)))


class Conv(base_layer.BaseLayer):
  """The port of `hk_conv`, whose first kernel is stored `[out, in, height, width]`."""

  tf_padding: bool = True

  def setup(self):
    norm = Config(layers.BatchNorm, decay=0.9)
    self.create_variable('first', WeightHParams([4, 3, 3, 3]))
    self.create_child('norm', norm.clone().set(dim=4))
    self.create_child(
      'point',
      Config(
        layers.ConvBNAct,
        filter_shape=(1, 1, 4, 4),
        filter_stride=(1, 1),
        bias=True,
        batch_norm_tpl=norm,
      ),
    )
    self.create_child(
      'depth',
      Config(
        layers.Conv2D,
        filter_shape=(3, 3, 1, 4),
        filter_stride=(1, 1),
        bias=True,
        padding='SAME' if self.tf_padding else 'VALID',
      ),
    )
    self.create_child('out', ffn(4, 3))

  def __call__(self, x):
    numbers = ('NHWC', 'OIHW', 'NHWC')
    x = jax.lax.conv_general_dilated(
      x, self.theta.first, (2, 2), 'SAME', dimension_numbers=numbers
    )
    x = self.depth(self.point(jax.nn.relu(self.norm(x))))
    return self.out(x.mean((1, 2)))
