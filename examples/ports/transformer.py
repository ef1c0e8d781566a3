"""A decoder-only transformer in plain Haiku as Pax's layers.

    python examples/ports/transformer.py --small
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import port_proof

from pax_haiku import base_layer, layers, pax_fiddle

FULL = dict(vocab=256, dims=128, heads=4, blocks=4, length=64)
SMALL = dict(vocab=11, dims=8, heads=2, blocks=2, length=5)


# -- The original ----------------------------------------------------------------------


def original(vocab, dims, heads, blocks, length):
  def norm(x):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)

  def run(ids):
    init = hk.initializers.VarianceScaling(2.0 / blocks)
    positions = hk.get_parameter(
      'positions', [length, dims], init=hk.initializers.TruncatedNormal(0.02)
    )
    x = hk.Embed(vocab, dims)(ids) + positions[: ids.shape[1]]
    causal = jnp.tril(jnp.ones([1, 1, ids.shape[1], ids.shape[1]]))
    for _ in range(blocks):
      h = norm(x)
      attention = hk.MultiHeadAttention(heads, dims // heads, w_init=init)
      x += attention(h, h, h, mask=causal)
      h = hk.Linear(4 * dims, w_init=init)(norm(x))
      x += hk.Linear(dims, w_init=init)(jax.nn.relu(h))
    return hk.Linear(vocab)(norm(x))

  return run


# -- The port --------------------------------------------------------------------------


class Transformer(base_layer.BaseLayer):
  """Token and position embeddings, a stack of blocks, a normalization, logits.

  Attributes:
    vocab: number of tokens.
    dims: width of the model.
    heads: attention heads.
    blocks: number of blocks.
    length: largest number of tokens in a row.
  """

  vocab: int = 0
  dims: int = 0
  heads: int = 0
  blocks: int = 0
  length: int = 0

  def setup(self):
    norm = pax_fiddle.Config(layers.LayerNorm, epsilon=1e-5, direct_scale=True)
    self.create_child(
      'embedding',
      pax_fiddle.Config(layers.Embedding, num_classes=self.vocab, input_dims=self.dims),
    )
    self.create_child(
      'positions',
      pax_fiddle.Config(
        layers.TrainablePositionalEmbedding,
        embedding_dims=self.dims,
        max_seq_length=self.length,
      ),
    )
    block = pax_fiddle.Config(layers.Transformer, ln_tpl=norm.clone())
    block.tr_fflayer_tpl.ln_tpl = norm.clone()
    block.tr_atten_tpl.set(
      internal_enable_per_dim_scale=False, scale_query_by_dim_per_head=True
    )
    self.create_child(
      'stack',
      pax_fiddle.Config(
        layers.StackedTransformer,
        mask_self_attention=True,
        num_layers=self.blocks,
        model_dims=self.dims,
        hidden_dims=4 * self.dims,
        num_heads=self.heads,
        transformer_layer_params_tpl=block,
      ),
    )
    self.create_child('norm', norm.clone().set(dim=self.dims))
    self.create_child('logits', port_proof.linear(self.dims, self.vocab))

  def __call__(self, ids):
    """Logits `[B, T, vocab]` of the next tokens, of ids `[B, T]`."""
    x = self.embedding(ids) + self.positions(seq_length=ids.shape[1])
    x = self.stack(x, jnp.zeros(ids.shape))
    return self.logits(self.norm(x))


def port(small: bool) -> port_proof.Port:
  sizes = SMALL if small else FULL
  ids = np.random.default_rng(0).integers(sizes['vocab'], size=(2, sizes['length']))
  config = pax_fiddle.Config(Transformer, name='transformer', **sizes)
  return port_proof.Port(
    lambda train: original(**sizes), config, (ids.astype(np.int32),), ('eval',)
  )


if __name__ == '__main__':
  port_proof.run(port)
