"""GraphGPS, of the package haiku-geometric, as Pax layers.

    python examples/ports/graph_gps.py --small

Install the package and what it imports by

    pip install --no-deps haiku-geometric==0.0.5 jraph
    pip install numba tqdm

A graph convolution (`GCNConv`), blocks of attention along edges and between all nodes
(`GPSLayer` with `GATConv` and hk.MultiHeadAttention, with BatchNorm state) and a linear
layer for logits of each node.

At full size the model magnifies rounding some thousand times, so that two float32
programs part by 1e-3. In float64, Pax's softmax included (it is always in float32), the
two differed by 1e-12 in the outputs and 1e-11 in the gradients.
"""

import contextlib
import warnings

import haiku as hk
import haiku_geometric.nn
import jax
import jax.numpy as jnp
import numpy as np
import port_norm
import port_proof

from pax_haiku import base_layer, layers, pax_fiddle

FULL = dict(features=32, dims=64, heads=4, blocks=4, num_classes=10)
SMALL = dict(features=3, dims=4, heads=2, blocks=1, num_classes=3)
# The package's code that the port replaces.
IMPORTED = (
  haiku_geometric.nn.GCNConv,
  haiku_geometric.nn.GATConv,
  haiku_geometric.nn.GPSLayer,
)


# -- The original ----------------------------------------------------------------------


def original(features, dims, heads, blocks, num_classes, train: bool):
  del features  # that of the inputs

  def run(nodes, senders, receivers):
    edges = senders, receivers
    x = haiku_geometric.nn.GCNConv(dims)(nodes, *edges)
    for _ in range(blocks):
      # It prints its sizes and warns that attention has no dropout.
      with contextlib.redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        block = haiku_geometric.nn.GPSLayer(
          dims, 'GAT', 'Transformer', jax.nn.relu, heads
        )
      x = block(train, x, *edges)
    return hk.Linear(num_classes)(x)

  return run


# -- The port --------------------------------------------------------------------------


class GraphConvolution(base_layer.BaseLayer):
  """Sums over neighbors, https://arxiv.org/abs/1609.02907.

  As the original has it: the degrees count twice, a node is scaled once by what comes
  in and goes out of it, and no bias is added.

  Attributes:
    input_dims, output_dims: depth of inputs and outputs.
  """

  input_dims: int = 0
  output_dims: int = 0

  def setup(self):
    linear = pax_fiddle.Config(
      layers.Linear, input_dims=self.input_dims, output_dims=self.output_dims
    )
    self.create_child('linear', linear)

  def __call__(self, x, senders, receivers):
    """Maps nodes `[N, input_dims]` to `[N, output_dims]`."""
    twos = jnp.full(senders.shape, 2.0)
    out_degree, in_degree = (
      jax.ops.segment_sum(twos, ends, x.shape[0]) for ends in (senders, receivers)
    )
    scale = jax.lax.rsqrt(jnp.maximum(out_degree, 1) * jnp.maximum(in_degree, 1))
    x = self.linear(x) * scale[:, None]
    return jax.ops.segment_sum(x[senders], receivers, x.shape[0])


class GraphAttention(base_layer.BaseLayer):
  """Attention along edges, https://arxiv.org/abs/1710.10903.

  Attributes:
    dims: depth of inputs and outputs.
    heads: attention heads.
    slope: of the leaky ReLU below zero.
  """

  dims: int = 0
  heads: int = 1
  slope: float = 0.2

  def setup(self):
    width = self.dims // self.heads
    project = pax_fiddle.Config(
      layers.AttentionProjection,
      input_dim=self.dims,
      num_heads=self.heads,
      dim_per_head=width,
      use_bias=False,
    )
    self.create_child('project', project)
    for name in ('source', 'target'):
      self.create_variable(name, base_layer.WeightHParams([self.heads, width]))

  def __call__(self, x, senders, receivers):
    """Maps nodes `[N, dims]` to `[N, dims]`."""
    nodes = x.shape[0]
    x = self.project(x)
    source = jnp.sum(x * self.theta.source, -1)
    target = jnp.sum(x * self.theta.target, -1)
    logits = source[senders] + target[receivers]
    logits = jnp.where(logits >= 0, logits, self.slope * logits)
    top = jax.ops.segment_max(logits, receivers, nodes)
    weights = jnp.exp(logits - top[receivers])
    total = jax.ops.segment_sum(weights, receivers, nodes)
    weights /= total[receivers]
    mixed = jax.ops.segment_sum(x[senders] * weights[..., None], receivers, nodes)
    return jnp.reshape(mixed, (nodes, self.dims))


class Block(base_layer.BaseLayer):
  """Attention along edges and between all nodes, https://arxiv.org/abs/2205.12454.

  Attributes:
    dims: depth of the nodes.
    heads: attention heads.
  """

  dims: int = 0
  heads: int = 1

  def setup(self):
    norm = pax_fiddle.Config(port_norm.BatchNorm, dim=self.dims, decay=0.9)
    everywhere = pax_fiddle.Config(
      layers.DotProductAttention,
      input_dim=self.dims,
      hidden_dim=self.heads * self.dims,
      num_heads=self.heads,
      internal_enable_per_dim_scale=False,
    )
    along_edges = pax_fiddle.Config(GraphAttention, dims=self.dims, heads=self.heads)
    self.create_child('along_edges', along_edges)
    self.create_child('everywhere', everywhere)
    self.create_child('up', port_proof.linear(self.dims, 2 * self.dims, layers.ReLU))
    self.create_child('down', port_proof.linear(2 * self.dims, self.dims))
    for name in ('edges_norm', 'everywhere_norm', 'norm'):
      self.create_child(name, norm.clone())

  def __call__(self, x, senders, receivers):
    """Maps nodes `[N, dims]` to `[N, dims]`."""
    near = self.edges_norm(x + self.along_edges(x, senders, receivers))
    mask = jnp.zeros([1, 1, 1, x.shape[0]])
    mixed, _ = self.everywhere(x[None], x[None], x[None], mask)
    x = near + self.everywhere_norm(x + mixed[0])
    return self.norm(x + self.down(self.up(x)))


class GraphGps(base_layer.BaseLayer):
  """A convolution, blocks, and logits of each node.

  Attributes:
    features: depth of the inputs.
    dims: depth of the nodes.
    heads: attention heads.
    blocks: number of blocks.
    num_classes: number of logits.
  """

  features: int = 0
  dims: int = 0
  heads: int = 1
  blocks: int = 1
  num_classes: int = 0

  def setup(self):
    stem = pax_fiddle.Config(
      GraphConvolution, input_dims=self.features, output_dims=self.dims
    )
    block = pax_fiddle.Config(Block, dims=self.dims, heads=self.heads)
    self.create_child('stem', stem)
    self.create_children('block', [block.clone() for _ in range(self.blocks)])
    self.create_child('logits', port_proof.linear(self.dims, self.num_classes))

  def __call__(self, nodes, senders, receivers):
    """Logits `[N, num_classes]` of nodes `[N, features]`.

    Args:
      nodes: the nodes.
      senders, receivers: `[E]`, the nodes where edges start and end.
    """
    loops = jnp.arange(nodes.shape[0])
    senders, receivers = (jnp.concatenate([e, loops]) for e in (senders, receivers))
    x = self.stem(nodes, senders, receivers)
    for block in self.block:
      x = block(x, senders, receivers)
    return self.logits(x)


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  nodes, edges = (6, 14) if small else (50, 200)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(nodes, sizes['features'])).astype(np.float32)
  ends = rng.integers(nodes, size=(2, edges)).astype(np.int32)
  config = pax_fiddle.Config(GraphGps, name='graph_gps', **sizes)
  return port_proof.Port(
    lambda train: original(**sizes, train=train), config, (x, *ends)
  )


if __name__ == '__main__':
  port_proof.run(port)
