"""Language models by name: their sizes, and how they are best trained."""

import dataclasses

from pax_haiku.training.cli import UserError


@dataclasses.dataclass(frozen=True)
class LmShape:
  """A decoder-only transformer, and the defaults of its training.

  Attributes:
    num_layers: Transformer blocks.
    model_dims: Size D of activations.
    num_heads: Heads of attention; must divide D.
    hidden_dims: Size of the feed-forward layers' hidden values.
    vocab_size: Number V of token ids.
    length: Tokens T of a row.
    batch_size: Rows of an update.
    steps: Updates.
    warm_up: Updates until the peak of the learning rate.
    learning_rate: That peak.
    bfloat16: Compute in bfloat16; weights and the optimizer's state stay float32.
    repeat: Scan over the blocks: a small program, its weights stacked.
    rotary: Rotate queries and keys by their positions (Su et al. 2021, "RoFormer")
      instead of adding sinusoids to the embeddings.
    shared_trace: Trace blocks that are alike once, by `layers.shared_trace`: the same
      program, but sooner.
    loss_chunk: Compute the loss over so many tokens of the batch at a time, by
      `layers.lean_softmax`; None: over all, which holds logits [B, T, V].
  """

  num_layers: int
  model_dims: int
  num_heads: int
  hidden_dims: int
  vocab_size: int = 50304
  length: int = 2048
  batch_size: int = 16
  steps: int = 20000
  warm_up: int = 1000
  learning_rate: float = 6e-4
  bfloat16: bool = True
  repeat: bool = False
  rotary: bool = False
  loss_chunk: int | None = 4096
  shared_trace: bool = True

  def num_weights(self) -> int:
    """The weights in matrix products: blocks and logits, without biases and norms."""
    block = 4 * self.model_dims**2 + 2 * self.model_dims * self.hidden_dims
    return self.num_layers * block + self.model_dims * self.vocab_size

  def flops_per_token(self) -> float:
    """Floating point operations of training on one token.

    6 for each weight, and 12 T D for each block's attention, which counts what a causal
    mask hides too, and nothing that is computed twice. Chowdhery et al. 2022, "PaLM",
    appendix B.
    """
    attention = 12 * self.num_layers * self.length * self.model_dims
    return 6.0 * self.num_weights() + attention


SHAPES = {
  # Two minutes on two cores of a CPU, over bytes.
  'tiny': LmShape(
    num_layers=4,
    model_dims=128,
    num_heads=4,
    hidden_dims=512,
    vocab_size=256,
    length=128,
    batch_size=8,
    steps=800,
    warm_up=50,
    learning_rate=3e-3,
    bfloat16=False,
    rotary=True,
    loss_chunk=None,
  ),
  '126m': LmShape(num_layers=12, model_dims=768, num_heads=12, hidden_dims=3072),
  '1b': LmShape(
    num_layers=24,
    model_dims=2048,
    num_heads=16,
    hidden_dims=8192,
    batch_size=8,
    warm_up=2000,
    learning_rate=2e-4,
    repeat=True,
  ),
}


def shape(name: str, **changes) -> LmShape:
  """Returns the shape of that name with changes; those that are None change nothing.

  Raises:
    UserError: There is no such name, or the heads do not divide the dims.
  """
  if name not in SHAPES:
    raise UserError(f'there is no model {name!r}, only {", ".join(SHAPES)}')
  changes = {key: value for key, value in changes.items() if value is not None}
  result = dataclasses.replace(SHAPES[name], **changes)
  if result.model_dims % result.num_heads:
    raise UserError(
      f'{result.num_heads} heads do not divide {result.model_dims} dims; choose heads '
      'that do'
    )
  return result
