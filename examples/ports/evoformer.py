"""AlphaFold's Evoformer block, of the package alphafold-colabfold, as Pax layers.

    python examples/ports/evoformer.py --small

The package pins none of what it needs, and needs much that this block does not:

    pip install --no-deps alphafold-colabfold==2.3.27 colabfold-kernels==0.9.0 \
        dm-tree ml-collections immutabledict attrs wrapt PyYAML
    pip install scipy

The block is `EvoformerIteration` with the settings of model_1, without dropout, in
float32, on the path without fused kernels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import port_proof
from alphafold.model import config as alphafold_config
from alphafold.model import modules, prng

from pax_haiku import base_layer, layers, pax_fiddle

FULL = dict(msa_dims=256, pair_dims=128, msa_heads=8, pair_heads=4, outer=32,
            triangle=128, expansion=4)  # fmt: skip
SMALL = dict(msa_dims=8, pair_dims=6, msa_heads=2, pair_heads=3, outer=3,
             triangle=5, expansion=2)  # fmt: skip
# The package's code that the port replaces.
IMPORTED = (
  modules.EvoformerIteration,
  modules.Attention,
  modules.MSARowAttentionWithPairBias,
  modules.MSAColumnAttention,
  modules.TriangleAttention,
  modules.TriangleMultiplication,
  modules.OuterProductMean,
  modules.Transition,
)


# -- The original ----------------------------------------------------------------------


def original(
  msa_dims, pair_dims, msa_heads, pair_heads, outer, triangle, expansion, train
):
  """The package's block; the depth of its outputs is that of the inputs."""
  del msa_dims, pair_dims
  model = alphafold_config.model_config('model_1').model
  block, shared = model.embeddings_and_evoformer.evoformer, model.global_config
  # In one chunk, and without dropout.
  shared.update(subbatch_size=128, deterministic=True, bfloat16=False)
  for name, part in block.items():
    if 'attention' in name:
      part.num_head = msa_heads if name.startswith('msa') else pair_heads
    elif name.startswith('triangle'):
      part.num_intermediate_channel = triangle
    elif 'transition' in name:
      part.num_intermediate_factor = expansion
  block.outer_product_mean.num_outer_channel = outer

  def run(msa, pair, msa_mask, pair_mask):
    net = modules.EvoformerIteration(block, shared, is_extra_msa=False)
    key = prng.SafeKey(jax.random.PRNGKey(0))
    acts, masks = {'msa': msa, 'pair': pair}, {'msa': msa_mask, 'pair': pair_mask}
    return net(acts, masks, is_training=train, safe_key=key)

  return run


# -- The port --------------------------------------------------------------------------


def norm(dims: int) -> pax_fiddle.Config:
  return pax_fiddle.Config(layers.LayerNorm, dim=dims, epsilon=1e-5, direct_scale=True)


class Transition(base_layer.BaseLayer):
  """Two linear layers for each position (algorithms 9 and 15).

  Attributes:
    dims: depth of inputs and outputs.
    expansion: how many times as wide the layer between them is.
  """

  dims: int = 0
  expansion: int = 4

  def setup(self):
    hidden = self.dims * self.expansion
    self.create_child('norm', norm(self.dims))
    self.create_child('up', port_proof.linear(self.dims, hidden, layers.ReLU))
    self.create_child('down', port_proof.linear(hidden, self.dims))

  def __call__(self, x):
    """The update of `[..., dims]`."""
    return self.down(self.up(self.norm(x)))


class GatedAttention(base_layer.BaseLayer):
  """Attention along the rows of a matrix of vectors (algorithms 7, 8, 13, 14).

  Attributes:
    dims: depth of the vectors.
    heads: attention heads.
    bias_dims: depth of what biases the logits, 0 for no bias.
    norm_bias: it has a normalization of its own; else `x`, normalized, is it.
  """

  dims: int = 0
  heads: int = 0
  bias_dims: int = 0
  norm_bias: bool = False

  def setup(self):
    width = self.dims // self.heads
    project = pax_fiddle.Config(
      layers.AttentionProjection,
      input_dim=self.dims,
      num_heads=self.heads,
      dim_per_head=width,
    )
    self.create_child('norm', norm(self.dims))
    for name in ('query', 'key', 'value'):
      self.create_child(name, project.clone().set(use_bias=False))
    self.create_child('gate', project.clone())
    self.create_child('post', project.clone().set(is_output_projection=True))
    if self.bias_dims:
      linear = pax_fiddle.Config(
        layers.Linear, input_dims=self.bias_dims, output_dims=self.heads
      )
      self.create_child('bias', linear)
    if self.norm_bias:
      self.create_child('bias_norm', norm(self.bias_dims))

  def __call__(self, x, mask, pair=None):
    """The update of `[R, T, dims]`, from what `mask` `[R, T]` lets see.

    Args:
      x: the vectors.
      mask: 1 for those that can be seen, 0 for others.
      pair: `[T, T, bias_dims]`, with `norm_bias`.
    """
    x = self.norm(x)
    logits = jnp.einsum(
      'rqnh,rknh->rnqk', self.query(x) * (self.dims // self.heads) ** -0.5, self.key(x)
    )
    if self.bias_dims:
      pair = self.bias_norm(pair) if self.norm_bias else x
      logits += jnp.moveaxis(self.bias(pair), -1, 0)
    logits = jnp.where(mask[:, None, None] > 0, logits, -1e8)
    mixed = jnp.einsum('rnqk,rknh->rqnh', jax.nn.softmax(logits), self.value(x))
    return self.post(mixed * jax.nn.sigmoid(self.gate(x)))


class TriangleMultiplication(base_layer.BaseLayer):
  """Updates an edge from the other two of all triangles (algorithms 11 and 12).

  Attributes:
    dims: depth of the edges.
    hidden: depth of the products.
    incoming: the two edges end where the updated one does; else they start there.
  """

  dims: int = 0
  hidden: int = 0
  incoming: bool = False

  def setup(self):
    linear = port_proof.linear
    self.create_child('norm', norm(self.dims))
    self.create_child('projection', linear(self.dims, 2 * self.hidden))
    self.create_child('gate', linear(self.dims, 2 * self.hidden, layers.Sigmoid))
    self.create_child('center_norm', norm(self.hidden))
    self.create_child('output', linear(self.hidden, self.dims))
    self.create_child('output_gate', linear(self.dims, self.dims, layers.Sigmoid))

  def __call__(self, x, mask):
    """The update of `[T, T, dims]`, from those where `mask` `[T, T]` is 1."""
    x = self.norm(x)
    left, right = jnp.split(mask[..., None] * self.projection(x) * self.gate(x), 2, -1)
    equation = 'kjc,kic->ijc' if self.incoming else 'ikc,jkc->ijc'
    product = self.center_norm(jnp.einsum(equation, left, right))
    return self.output(product) * self.output_gate(x)


class OuterProductMean(base_layer.BaseLayer):
  """Edges from pairs of columns, averaged over the sequences (algorithm 10).

  Attributes:
    dims: depth of the sequences.
    hidden: depth of the factors.
    pair_dims: depth of the edges.
  """

  dims: int = 0
  hidden: int = 0
  pair_dims: int = 0

  def setup(self):
    self.create_child('norm', norm(self.dims))
    self.create_child('left', port_proof.linear(self.dims, self.hidden))
    self.create_child('right', port_proof.linear(self.dims, self.hidden))
    self.create_child('output', port_proof.linear(self.hidden**2, self.pair_dims))

  def __call__(self, x, mask):
    """The update `[T, T, pair_dims]` of edges, of `x` `[R, T, dims]`."""
    x, seen = self.norm(x), mask[..., None]
    outer = jnp.einsum('ric,rjd->ijcd', seen * self.left(x), seen * self.right(x))
    total = self.output(jnp.reshape(outer, (*outer.shape[:2], -1)))
    return total / (1e-3 + (mask.T @ mask)[..., None])


class Evoformer(base_layer.BaseLayer):
  """One block, https://doi.org/10.1038/s41586-021-03819-2, algorithm 6.

  Attributes:
    msa_dims, pair_dims: depth of the sequences and of the edges.
    msa_heads, pair_heads: heads of the attention over them.
    outer: depth of the factors of outer products.
    triangle: depth of the products of edges.
    expansion: of the transitions.
  """

  msa_dims: int = 0
  pair_dims: int = 0
  msa_heads: int = 0
  pair_heads: int = 0
  outer: int = 0
  triangle: int = 0
  expansion: int = 4

  def setup(self):
    msa, pair = self.msa_dims, self.pair_dims
    row = pax_fiddle.Config(GatedAttention, dims=msa, heads=self.msa_heads)
    edge = pax_fiddle.Config(GatedAttention, dims=pair, heads=self.pair_heads)
    triangle = pax_fiddle.Config(
      TriangleMultiplication, dims=pair, hidden=self.triangle
    )
    transition = pax_fiddle.Config(Transition, expansion=self.expansion)
    outer = pax_fiddle.Config(
      OuterProductMean, dims=msa, hidden=self.outer, pair_dims=pair
    )
    self.create_child('rows', row.clone().set(bias_dims=pair, norm_bias=True))
    self.create_child('columns', row)
    self.create_child('msa_transition', transition.clone().set(dims=msa))
    self.create_child('outer_product', outer)
    self.create_child('outgoing', triangle)
    self.create_child('incoming', triangle.clone().set(incoming=True))
    self.create_child('starting', edge.clone().set(bias_dims=pair))
    self.create_child('ending', edge.clone().set(bias_dims=pair))
    self.create_child('pair_transition', transition.clone().set(dims=pair))

  def __call__(self, msa, pair, msa_mask, pair_mask):
    """Updates sequences `[R, T, msa_dims]` and edges `[T, T, pair_dims]`.

    Returns:
      A dict: msa, pair.
    """
    msa += self.rows(msa, msa_mask, pair)
    msa += _turned(self.columns, msa, msa_mask)
    msa += self.msa_transition(msa)
    pair += self.outer_product(msa, msa_mask)
    pair += self.outgoing(pair, pair_mask)
    pair += self.incoming(pair, pair_mask)
    pair += self.starting(pair, pair_mask)
    pair += _turned(self.ending, pair, pair_mask)
    return {'msa': msa, 'pair': pair + self.pair_transition(pair)}


def _turned(layer, x, mask):
  """What a layer along rows gives along columns."""
  return jnp.swapaxes(layer(jnp.swapaxes(x, 0, 1), mask.T), 0, 1)


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  # The original has another path for more than 16 sequences.
  rows, length = (17, 4) if small else (20, 16)
  rng = np.random.default_rng(0)
  msa = rng.normal(size=(rows, length, sizes['msa_dims']))
  pair = rng.normal(size=(length, length, sizes['pair_dims']))
  masks = np.ones((rows, length)), np.ones((length, length))
  masks[0][-1, -1] = masks[1][-1, 0] = 0
  # Integers, since nobody asks for the gradient of a mask: it would be that of 1e9.
  inputs = (
    *(x.astype(np.float32) for x in (msa, pair)), *(m.astype(np.int32) for m in masks)
  )
  config = pax_fiddle.Config(Evoformer, name='evoformer', **sizes)
  return port_proof.Port(
    lambda train: original(**sizes, train=train), config, inputs, ('train', 'eval')
  )


if __name__ == '__main__':
  port_proof.run(port)
