"""Softmax layers that never hold the logits of all tokens: a choice, not Pax's own.

`LeanSharedEmbeddingSoftmax` in place of `SharedEmbeddingSoftmax` (the other names
alike) computes the same losses and gradients from the same variables, see
`chunked_xent`. What it returns has no `logits` and `log_probs` (both None):

    lm.softmax_tpl = pax_fiddle.Config(
      lean_softmax.LeanSharedEmbeddingSoftmax, tokens_per_chunk=4096
    )

A `TransformerLm` with `record_logits_in_xent_output` or an entropy loss computes logits
for these anew, all at once.
"""

import jax.numpy as jnp

from pax_haiku import pytypes
from pax_haiku.layers import base_ops, chunked_xent, linears, shared_softmax, softmax
from pax_haiku.layers.describe import describe

JTensor = pytypes.JTensor


class LeanFullSoftmax(softmax.FullSoftmax):
  """`FullSoftmax`, its loss computed from the logits of a few tokens at a time.

  Unlike that class's own `chunk_size`, chunks are of tokens and not of time, the
  gradient of the weights adds up in float32 over chunks, and there may be a z loss.
  Here `chunk_size` has no effect.

  The projection is part of the loss: the layer `logits_ffn` holds the weights and is
  not called, so it writes no summaries, and its `activation_split_dims_mapping` and
  `checkpoint_str` do nothing in the loss. `get_logits` calls it as ever.

  All logits are computed at once, as by `FullSoftmax`, where there are
  `class_probabilities` (which are as large), a bi-tempered loss, or no projection.

  Attributes:
    tokens_per_chunk: the most tokens whose logits are held at once.
  """

  tokens_per_chunk: int = 4096

  def setup(self) -> None:
    if self.tokens_per_chunk < 1:
      raise ValueError(
        f'{describe(self)}: tokens_per_chunk must be 1 or more, found '
        f'{self.tokens_per_chunk}.'
      )
    super().setup()

  def _weights(self) -> dict[str, JTensor]:
    """The weights of the projection, `w` and maybe `b`."""
    ffn = self.logits_ffn
    plain = (
      type(ffn) is linears.FeedForward
      and type(ffn.linear) is linears.Linear
      and type(ffn.linear.einsum) is base_ops.EinsumOp
      and (not ffn.has_bias or type(ffn.bias) is linears.Bias)
    )
    if not plain:
      raise ValueError(
        f'{describe(self)}: computes logits itself, as inputs W + b, and so needs a '
        'feed_forward_tpl of FeedForward with Linear, EinsumOp and Bias. Use '
        f"{type(self).__name__.removeprefix('Lean')} for another projection."
      )
    weights = {'w': ffn.linear.theta.w}
    if ffn.has_bias:
      weights['b'] = ffn.bias.theta.b
    return weights

  def _formula(self) -> chunked_xent.Formula:
    on, off = self._target_values()
    return chunked_xent.Formula(
      on=on,
      off=off,
      scale=self.input_dims**-0.5 if self.scale_before_logits else None,
      cap=self.soft_cap_logits,
    )

  def _in_chunks(
    self,
    inputs: JTensor,
    class_ids: JTensor | None,
    class_probabilities: JTensor | None,
  ) -> bool:
    return (
      class_ids is not None
      and class_probabilities is None
      and self.bi_tempered_loss_tpl is None
      and self.feed_forward_tpl is not None
    )

  def _losses_in_chunks(
    self, inputs: JTensor, class_ids: JTensor
  ) -> tuple[JTensor, JTensor, JTensor]:
    if class_ids.shape != (*inputs.shape[:-1], 1):
      raise ValueError(
        f'{describe(self)}: expected class_ids {[*inputs.shape[:-1], 1]}, found shape '
        f'{class_ids.shape}.'
      )
    if inputs.shape[-1] != self.input_dims:
      raise ValueError(
        f'{describe(self)}: expected inputs [..., {self.input_dims}] (input_dims), '
        f'found shape {inputs.shape}.'
      )
    found = chunked_xent.losses(
      self._formula(),
      self.tokens_per_chunk,
      self._weights(),
      jnp.reshape(inputs, (-1, inputs.shape[-1])),
      jnp.reshape(class_ids, (-1,)),
    )
    xent, log_z, argmax = (jnp.reshape(x, inputs.shape[:-1]) for x in found)
    return xent, argmax, log_z


class LeanSharedEmbeddingSoftmax(
  shared_softmax.SharedEmbeddingSoftmax, LeanFullSoftmax
):
  """`SharedEmbeddingSoftmax` with the loss of `LeanFullSoftmax`."""
