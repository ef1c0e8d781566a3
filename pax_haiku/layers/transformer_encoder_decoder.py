"""TransformerEncoderDecoder: two stacks of blocks, from sequence to sequence."""

from collections.abc import Sequence

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import (
  attentions,
  embedding_softmax,
  lm_loss,
  normalizations,
  transformer_lm_sharding,
  transformer_templates,
)
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
DecodeStateTransformFn = base_layer.DecodeStateTransformFn


def _no_template():
  return pax_fiddle.template_field(None)


class TransformerEncoderDecoder(base_layer.BaseLayer):
  """Encodes inputs, and predicts targets one after the other, attending to that.

  Shapes: S inputs, T targets.

  Attributes:
    position_emb_tpl: embedding of positions, of both sides.
    encoder_position_emb_tpl, decoder_position_emb_tpl: one for each side, instead.
    encoder_stacked_transformer_tpl, decoder_stacked_transformer_tpl: the stacks,
      required; the decoder's with `use_cross_attention` and `mask_self_attention`.
    encoder_ngrammer_tpl, decoder_ngrammer_tpl: add embeddings of n-grams.
    encoder_post_attention_ngrammer_tpls, decoder_post_attention_ngrammer_tpls: their
      number is checked; as in Pax they have no effect.
    encoder_embedding_tpl: embedding of inputs; None: that of the decoder.
    decoder_embedding_tpl: embedding of targets; None: the softmax.
    model_dims: size D of embeddings and activations.
    softmax_tpl: projection to logits; has its own `num_classes`.
    packed_input: examples are packed, with segment ids.
    encoder_ln_tpl, decoder_ln_tpl: norms of the stacks' outputs.
  """

  position_emb_tpl: LayerTpl | None = pax_fiddle.template_field(
    embedding_softmax.PositionalEmbedding
  )
  encoder_position_emb_tpl: LayerTpl | None = _no_template()
  encoder_stacked_transformer_tpl: LayerTpl | None = _no_template()
  encoder_ngrammer_tpl: LayerTpl | None = _no_template()
  encoder_post_attention_ngrammer_tpls: Sequence[LayerTpl] | None = _no_template()
  encoder_embedding_tpl: LayerTpl | None = _no_template()
  decoder_position_emb_tpl: LayerTpl | None = _no_template()
  decoder_stacked_transformer_tpl: LayerTpl | None = _no_template()
  decoder_ngrammer_tpl: LayerTpl | None = _no_template()
  decoder_post_attention_ngrammer_tpls: Sequence[LayerTpl] | None = _no_template()
  decoder_embedding_tpl: LayerTpl | None = _no_template()
  model_dims: int = 0
  softmax_tpl: LayerTpl = pax_fiddle.template_field(
    embedding_softmax.SharedEmbeddingSoftmax
  )
  packed_input: bool = False
  encoder_ln_tpl: LayerTpl = pax_fiddle.template_field(normalizations.LayerNorm)
  decoder_ln_tpl: LayerTpl = pax_fiddle.template_field(normalizations.LayerNorm)

  @classmethod
  def set_sharding_params_v1(cls, model_p: LayerTpl, **kwargs) -> LayerTpl:
    """Shards a template; see `transformer_lm_sharding.shard_encoder_decoder`."""
    return transformer_lm_sharding.shard_encoder_decoder(model_p, **kwargs)

  # -- Making the parts ---------------------------------------------------------------

  def _clone_layer_params(self, layer_tpl: LayerTpl) -> LayerTpl:
    """A copy of a template, to be overridden."""
    return layer_tpl.clone()

  def _validate_encoder_mask_self_attention(self, mask_self_attention: bool) -> None:
    if mask_self_attention:
      raise ValueError(
        f'{self._pax_describe()}: the encoder reads its whole input: set '
        'mask_self_attention=False in encoder_stacked_transformer_tpl.'
      )

  def _validate_decoder_mask_self_attention(self, mask_self_attention: bool) -> None:
    if not mask_self_attention:
      raise ValueError(
        f'{self._pax_describe()}: the decoder must not see the future: set '
        'mask_self_attention=True in decoder_stacked_transformer_tpl.'
      )

  def setup(self) -> None:
    for side in ('encoder', 'decoder'):
      self._create_side(side)
    if self.position_emb_tpl is not None:
      self.create_child('position_emb', self._positions_of(self.position_emb_tpl))
    self.create_child('softmax', self._sized(self.softmax_tpl))

  def _sized(self, tpl: LayerTpl) -> LayerTpl:
    return transformer_templates.sized(tpl, input_dims=self.model_dims)

  def _positions_of(self, tpl: LayerTpl) -> LayerTpl:
    return self._clone_layer_params(tpl).set(embedding_dims=self.model_dims)

  def _create_side(self, side: str) -> None:
    def field(name: str):
      return getattr(self, f'{side}_{name}')

    position = field('position_emb_tpl')
    if position is not None:
      if self.position_emb_tpl is not None:
        raise ValueError(
          f'{self._pax_describe()}: give position_emb_tpl or {side}_position_emb_tpl, '
          'not both; the first has a default, set it to None.'
        )
      self.create_child(f'{side}_position_emb', self._positions_of(position))
    if field('stacked_transformer_tpl') is None:
      raise ValueError(
        f'{self._pax_describe()}: {side}_stacked_transformer_tpl is required.'
      )
    self.create_child(side, self._stack(side, field('stacked_transformer_tpl')))
    if field('embedding_tpl') is not None:
      self.create_child(f'{side}_embedding_lookup', self._sized(field('embedding_tpl')))
    if field('ngrammer_tpl') is not None:
      self.create_child(f'{side}_ngrammer', field('ngrammer_tpl'))
    self.create_child(f'{side}_ln', field('ln_tpl').clone().set(dim=self.model_dims))

  def _stack(self, side: str, tpl: LayerTpl) -> LayerTpl:
    where = self._pax_describe()
    if not transformer_templates.is_stack(tpl):
      raise ValueError(
        f'{where}: {side}_stacked_transformer_tpl must be a StackedTransformer, a '
        f'StackedTransformerRepeated or a PipelinedTransformer, found {tpl.cls}.'
      )
    tpl = self._clone_layer_params(tpl)
    stack = transformer_templates.innermost_stack(tpl)
    transformer_templates.set_model_dims(where, stack, self.model_dims)
    stack.packed_input = self.packed_input
    check = getattr(self, f'_validate_{side}_mask_self_attention')
    check(stack.mask_self_attention)
    ngrammers = getattr(self, f'{side}_post_attention_ngrammer_tpls')
    transformer_templates.check_ngrammers(where, ngrammers, stack)
    if side == 'encoder':
      blocks = stack.transformer_layer_params_tpl
      for block in blocks if isinstance(blocks, list | tuple) else [blocks]:
        block.tr_atten_tpl.decode_cache = False
    return tpl

  # -- Inputs -------------------------------------------------------------------------

  def _lookup(self, side: str) -> base_layer.BaseLayer:
    if side == 'encoder' and self.encoder_embedding_tpl is not None:
      return self.encoder_embedding_lookup
    if self.decoder_embedding_tpl is not None:
      return self.decoder_embedding_lookup
    return self.softmax

  def _embed(
    self,
    side: str,
    ids: JTensor,
    paddings: JTensor | None,
    segment_pos: JTensor | None,
  ) -> JTensor:
    """Embeds tokens `[B, L]`, n-grams included."""
    x = self._lookup(side).emb_lookup(ids)
    if getattr(self, f'{side}_ngrammer_tpl') is not None:
      ngrammer = getattr(self, f'{side}_ngrammer')
      x = ngrammer(ids, x, paddings=paddings, segment_pos=segment_pos)
    return x

  def _add_positions(self, side: str, x: JTensor, position: JTensor | None) -> JTensor:
    if self.position_emb_tpl is not None:
      embed = self.position_emb
    elif getattr(self, f'{side}_position_emb_tpl') is not None:
      embed = getattr(self, f'{side}_position_emb')
    else:
      return x
    return x + embed(seq_length=x.shape[1], position=position)

  def _mask(self, side: str, structured: StructuredMask, dtype) -> AttentionMask:
    """The mask as it is, or as an array for a stack that may need one."""
    tpl = getattr(self, f'{side}_stacked_transformer_tpl')
    if transformer_templates.passes_structured_masks(tpl):
      return structured
    ids, keys = structured.segment_ids, structured.key_segment_ids
    if structured.causal:
      return attentions.causal_segment_mask(ids, dtype)
    return attentions.segment_mask(ids, keys, dtype)

  # -- Calls --------------------------------------------------------------------------

  def encode(
    self,
    inputs: JTensor,
    input_paddings: JTensor,
    input_segment_ids: JTensor | None = None,
    input_segment_pos: JTensor | None = None,
    input_segment_mask: AttentionMask | None = None,
  ) -> JTensor:
    """Encodes ids `[B, S]` as `[B, S, D]`.

    Args:
      inputs: ids.
      input_paddings: `[B, S]`, 1 at padded ones.
      input_segment_ids, input_segment_pos: `[B, S]`, of packed examples.
      input_segment_mask: `[B, 1, S, S]` or structured, in place of that of the ids.
    """
    batch, length = inputs.shape
    if input_segment_ids is None:
      input_segment_ids = (1 - input_paddings).astype(jnp.int32)
    if input_segment_pos is None:
      input_segment_pos = jnp.tile(jnp.arange(length)[jnp.newaxis], [batch, 1])
    x = self._embed('encoder', inputs, input_paddings, input_segment_pos)
    x = self._add_positions('encoder', x, input_segment_pos)
    if input_segment_mask is None:
      structured = StructuredMask(segment_ids=input_segment_ids)
      input_segment_mask = self._mask('encoder', structured, x.dtype)
    x = self.encoder(
      x, input_paddings, segment_mask=input_segment_mask, segment_pos=input_segment_pos
    )
    return self.encoder_ln(x)

  def fprop_with_encoder_output(
    self,
    encoder_output: JTensor,
    input_paddings: JTensor,
    targets: JTensor,
    target_paddings: JTensor,
    labels: NestedMap | None = None,
    input_segment_ids: JTensor | None = None,
    input_segment_pos: JTensor | None = None,
    target_segment_ids: JTensor | None = None,
    target_segment_pos: JTensor | None = None,
    target_segment_mask: AttentionMask | None = None,
    cross_segment_mask: AttentionMask | None = None,
    start_time_step: int = 0,
  ) -> NestedMap:
    """Predicts targets from what `encode` returned `[B, S, D]`; see `__call__`."""
    x = self._embed('decoder', targets, target_paddings, target_segment_pos)
    x = self._add_positions('decoder', x, target_segment_pos)
    batch, length = targets.shape
    if input_segment_ids is None:
      input_segment_ids = (1 - input_paddings).astype(jnp.int32)
    if target_segment_ids is None:
      target_segment_ids = (1 - target_paddings).astype(jnp.int32)
    if target_segment_pos is None:
      target_segment_pos = jnp.tile(jnp.arange(length)[jnp.newaxis], [batch, 1])
    if cross_segment_mask is None:
      structured = StructuredMask(
        segment_ids=target_segment_ids, key_segment_ids=input_segment_ids
      )
      cross_segment_mask = self._mask('decoder', structured, x.dtype)
    if target_segment_mask is None:
      structured = StructuredMask(causal=True, segment_ids=target_segment_ids)
      target_segment_mask = self._mask('decoder', structured, x.dtype)
    self.update_decode_state('time_step', start_time_step)
    self.update_decode_state('input_paddings', input_paddings)
    x = self.decoder(
      x,
      target_paddings,
      target_segment_mask,
      encoder_output,
      input_paddings,
      cross_segment_mask,
      segment_pos=target_segment_pos,
    )
    return self.compute_loss(self.decoder_ln(x), labels)

  def __call__(
    self,
    inputs: JTensor,
    input_paddings: JTensor,
    targets: JTensor,
    target_paddings: JTensor,
    labels: NestedMap | None = None,
    input_segment_ids: JTensor | None = None,
    input_segment_pos: JTensor | None = None,
    input_segment_mask: AttentionMask | None = None,
    target_segment_ids: JTensor | None = None,
    target_segment_pos: JTensor | None = None,
    target_segment_mask: AttentionMask | None = None,
    cross_segment_mask: AttentionMask | None = None,
    start_time_step: int = 0,
  ) -> NestedMap:
    """Predicts the target that follows each target, and compares with labels.

    Args:
      inputs: ids `[B, S]`.
      input_paddings: `[B, S]`, 1 at padded inputs.
      targets: ids `[B, T]`.
      target_paddings: `[B, T]`.
      labels: see `compute_loss`.
      input_segment_ids, input_segment_pos: `[B, S]`, of packed examples.
      input_segment_mask: `[B, 1, S, S]` or structured.
      target_segment_ids, target_segment_pos: `[B, T]`.
      target_segment_mask: `[B, 1, T, T]` or structured.
      cross_segment_mask: `[B, 1, T, S]` or structured.
      start_time_step: where decoding goes on.

    Returns:
      See `compute_loss`.
    """
    encoded = self.encode(
      inputs, input_paddings, input_segment_ids, input_segment_pos, input_segment_mask
    )
    return self.fprop_with_encoder_output(
      encoded,
      input_paddings,
      targets,
      target_paddings,
      labels,
      input_segment_ids,
      input_segment_pos,
      target_segment_ids,
      target_segment_pos,
      target_segment_mask,
      cross_segment_mask,
      start_time_step,
    )

  def compute_loss(
    self, activations: JTensor, labels: NestedMap | None = None
  ) -> NestedMap:
    """Predictions, and their losses if there are labels.

    Args:
      activations: `[..., D]`.
      labels: `class_weights [B, T]`, and `class_ids [B, T]` or `class_probabilities
        [B, T, V]`, or both; or None.

    Returns:
      Without labels `logits`, `log_probs` and `probs`, `[..., V]`. Else what the
      softmax returns, and `per_token_xent [B, T]`, `per_sequence_xent [B]`,
      `aux_loss`, `aux_loss_weight` and `total_loss`.
    """
    if labels is None:
      return lm_loss.predictions(self, activations, None)
    out = lm_loss.softmax_loss(self, activations, labels, None)
    out.total_loss = out.avg_xent
    lm_loss.add_aux_losses(self, out)
    return out

  # -- Decoding -----------------------------------------------------------------------

  def extend_step(self, targets: JTensor) -> NestedMap:
    """Predicts what follows the next target, and adds that to the caches.

    Args:
      targets: ids `[B]`; or `[B, P]`, of which the last counts and the rest serves the
        n-grams. B may be a multiple of the batch that was encoded.

    Returns:
      `logits`, `log_probs` and `probs`, `[B, V]`.
    """
    ids = targets[:, jnp.newaxis] if targets.ndim == 1 else targets
    time_step = self.get_decode_state('time_step')
    x = self._embed('decoder', ids, None, None)[:, -1:]
    position = jnp.zeros([ids.shape[0], 1]) + time_step
    x = self._add_positions('decoder', x, position)
    x = self.decoder.extend_step(
      x[:, 0],
      time_step=time_step,
      cross_paddings=self.get_decode_state('input_paddings'),
    )
    self.update_decode_state('time_step', time_step + 1)
    return self.compute_loss(self.decoder_ln(x))

  def init_states(self, inputs: JTensor, input_paddings: JTensor, *args, **kwargs):
    """Not implemented, as in Pax: the first call makes the caches."""
    raise NotImplementedError(
      f'{self._pax_describe()}: call the model with the collection decoder_cache '
      'mutable, then pad with transform_decode_state; init_states does not exist.'
    )

  def transform_decode_state(self, transform_fn: DecodeStateTransformFn) -> None:
    """Transforms the caches of the decoder's self-attention."""
    self.decoder.transform_decode_state(transform_fn)
