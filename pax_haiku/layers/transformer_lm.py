"""TransformerLm: token embedding, a stack of transformer blocks, softmax."""

import enum
from collections.abc import Sequence

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import (
  attentions,
  embedding_softmax,
  fused_attention,
  id_checks,
  lm_loss,
  normalizations,
  stacked_transformer,
  transformer_lm_sharding,
  transformer_templates,
)
from pax_haiku.layers.structured_masks import AttentionMask, StructuredMask

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
DecodeStateTransformFn = base_layer.DecodeStateTransformFn


class LanguageModelType(str, enum.Enum):  # noqa: UP042, as in Pax: str() differs
  """What a token may attend to."""

  CAUSAL = 'causal'  # what comes before
  PREFIX = 'prefix'  # that, and all of a prefix
  BIDIRECTIONAL = 'bidirectional'  # everything


class TransformerLm(base_layer.BaseLayer):
  """A language model made of transformer blocks.

  Attributes:
    position_emb_tpl: embedding of positions, added to that of tokens; None: none.
    model_dims: size D of embeddings and activations.
    stacked_transformer_tpl: the blocks: a `StackedTransformer`, repeated or pipelined.
      Masking, packing and dims of the innermost stack are set here.
    softmax_tpl: projection to logits, and embedding without a separate one.
    vocab_size: number V of tokens.
    packed_input: examples are packed, with segment ids.
    model_type: what a token may attend to.
    ngrammer_tpl: adds embeddings of n-grams to those of tokens.
    post_attention_ngrammer_tpls: one for each block, or None.
    separate_embedding_tpl: embedding of tokens with weights of its own.
    final_ln_tpl: norm of the last block's output; None: none.
    skip_compute_loss: return that output.
    skip_aux_loss: leave auxiliary losses out of the total loss.
    record_activations_in_xent_output: add them to what the call returns.
    record_logits_in_xent_output: add the logits as the softmax gives them, also if its
      loss is computed in chunks.
    entropy_loss_weight: weight of the mean negative entropy of predictions.
  """

  position_emb_tpl: LayerTpl = pax_fiddle.template_field(
    embedding_softmax.PositionalEmbedding
  )
  model_dims: int = 0
  stacked_transformer_tpl: LayerTpl = pax_fiddle.template_field(
    stacked_transformer.StackedTransformer
  )
  softmax_tpl: LayerTpl = pax_fiddle.template_field(
    embedding_softmax.SharedEmbeddingSoftmax
  )
  vocab_size: int = 0
  packed_input: bool = False
  model_type: LanguageModelType = LanguageModelType.CAUSAL
  ngrammer_tpl: LayerTpl | None = pax_fiddle.template_field(None)
  post_attention_ngrammer_tpls: Sequence[LayerTpl] | None = pax_fiddle.template_field(
    None
  )
  separate_embedding_tpl: LayerTpl | None = pax_fiddle.template_field(None)
  final_ln_tpl: LayerTpl = pax_fiddle.template_field(normalizations.LayerNorm)
  skip_compute_loss: bool = False
  skip_aux_loss: bool = False
  record_activations_in_xent_output: bool = False
  record_logits_in_xent_output: bool = False
  entropy_loss_weight: float | None = None

  @classmethod
  def set_custom_sharding_params(cls, lm_p: LayerTpl, **kwargs) -> LayerTpl:
    """Shards a template; see `transformer_lm_sharding.set_custom_sharding_params`."""
    return transformer_lm_sharding.set_custom_sharding_params(lm_p, **kwargs)

  @classmethod
  def set_sharding_params_v1(cls, lm_p: LayerTpl, **kwargs) -> LayerTpl:
    """Shards a template; see `transformer_lm_sharding.set_sharding_params_v1`."""
    return transformer_lm_sharding.set_sharding_params_v1(lm_p, **kwargs)

  @classmethod
  def set_sharding_params_with_expert_parallelism(
    cls, lm_p: LayerTpl, **kwargs
  ) -> LayerTpl:
    """Shards a template, experts over a mesh axis of their own."""
    return transformer_lm_sharding.set_sharding_params_with_expert_parallelism(
      lm_p, **kwargs
    )

  def setup(self) -> None:
    if self.position_emb_tpl is not None:
      self.create_child(
        'position_emb',
        self.position_emb_tpl.clone().set(embedding_dims=self.model_dims),
      )
    sizes = {'input_dims': self.model_dims, 'num_classes': self.vocab_size}
    if self.separate_embedding_tpl is not None:
      tpl = transformer_templates.sized(self.separate_embedding_tpl, **sizes)
      self.create_child('embedding_lookup', tpl)
    if self.ngrammer_tpl is not None:
      self.create_child('ngrammer', self.ngrammer_tpl)
    self.create_child('transformer', self._stack())
    if self.final_ln_tpl is not None:
      self.create_child('final_ln', self.final_ln_tpl.clone().set(dim=self.model_dims))
    self.create_child(
      'softmax', transformer_templates.sized(self.softmax_tpl, **sizes)
    )

  def _stack(self) -> LayerTpl:
    where = self._pax_describe()
    tpl = self.stacked_transformer_tpl.clone()
    stack = transformer_templates.innermost_stack(tpl)
    transformer_templates.set_model_dims(where, stack, self.model_dims)
    stack.mask_self_attention = self.model_type == LanguageModelType.CAUSAL
    stack.packed_input = self.packed_input
    stack.fold_padding_with_segment_mask = True
    ngrammers = self.post_attention_ngrammer_tpls
    transformer_templates.check_ngrammers(where, ngrammers, stack)
    if ngrammers is not None:
      stack.ngrammer_tpls = ngrammers
    return tpl

  # -- Inputs -----------------------------------------------------------------------

  def _embed(self, ids: JTensor) -> JTensor:
    if self.separate_embedding_tpl is not None:
      return self.embedding_lookup.emb_lookup(ids)
    return self.softmax.emb_lookup(ids)

  def _embedding_table(self) -> JTensor:
    """The weights `[V, D]` of the embedding."""
    if self.separate_embedding_tpl is not None:
      return self.embedding_lookup.theta.emb_var
    if hasattr(self.softmax, 'logits_ffn'):
      return jnp.transpose(self.softmax.logits_ffn.linear.theta.w)
    return self.softmax.theta.w

  def _prepare_input(
    self,
    inputs: JTensor,
    paddings: JTensor | None,
    segment_pos: JTensor | None = None,
    **input_kwargs,
  ) -> JTensor:
    """What the first block reads, `[B, T, D]`, for ids `[B, T]`."""
    x = self._embed(inputs)
    if self.ngrammer_tpl is not None:
      x = self.ngrammer(
        input_ids=inputs,
        input_embs=x,
        paddings=paddings,
        segment_pos=segment_pos,
        emb_var=self._embedding_table(),
      )
    if self.position_emb_tpl is not None:
      x = x + self.position_emb(seq_length=inputs.shape[1], position=segment_pos)
    return x

  def _segment_mask(
    self,
    segment_ids: JTensor | None,
    causal_attention_mask: JTensor | None,
    dtype,
    right_padded: bool = False,
  ) -> AttentionMask:
    """What hides other segments, padding, and the future: structured if possible."""
    masked = self.model_type != LanguageModelType.BIDIRECTIONAL
    if transformer_templates.passes_structured_masks(self.stacked_transformer_tpl):
      prefix = causal_attention_mask if masked else None
      return StructuredMask(
        causal=masked,
        segment_ids=segment_ids,
        causal_attention_mask=prefix,
        right_padded=right_padded,
      )
    if not masked:
      return attentions.segment_mask(segment_ids, segment_ids, dtype)
    return attentions.causal_segment_mask(segment_ids, dtype, causal_attention_mask)

  def _count_tokens(self, inputs: JTensor, paddings: JTensor | None) -> None:
    if paddings is None:
      unpadded = jnp.asarray(inputs.size, jnp.float32)
    else:
      unpadded = jnp.sum(1.0 - paddings.astype(jnp.float32))
    self.add_summary('num_unpadded_tokens', unpadded)
    if inputs.size:
      self.add_summary('ratio_unpadded_tokens', unpadded / inputs.size)

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None,
    labels: NestedMap | None = None,
    segment_ids: JTensor | None = None,
    segment_pos: JTensor | None = None,
    causal_attention_mask: JTensor | None = None,
    segment_mask: AttentionMask | None = None,
    start_time_step: int = 0,
    **input_kwargs,
  ) -> NestedMap | JTensor:
    """Predicts the next tokens, and compares them with labels.

    Padded tokens are a segment of their own, unless there are segment ids.

    Args:
      inputs: ids `[B, T]`; see `id_checks.checked_ids`.
      paddings: `[B, T]`, 1 at padded tokens. None: there are none, which makes the mask
        of a causal model all causal; with a stack of this library only. See
        `attentions.right_padding` for paddings at the end of rows.
      labels: see `compute_loss`.
      segment_ids: `[B, T]`, of packed examples.
      segment_pos: `[B, T]`, positions in the segments; given with `segment_ids`.
      causal_attention_mask: `[B, T]`, 0 at the prefix; for `PREFIX`.
      segment_mask: `[B, 1, T, T]` or structured, in place of that of `segment_ids`.
      start_time_step: where decoding goes on.
      **input_kwargs: for subclasses.

    Returns:
      See `compute_loss`; the activations `[B, T, D]` with `skip_compute_loss`.
    """
    self._count_tokens(inputs, paddings)
    id_checks.check(self, 'inputs', inputs, self.vocab_size)
    batch, length = inputs.shape
    right_padded = segment_ids is None and fused_attention.is_right_padding()
    if segment_ids is None:
      if segment_pos is not None:
        raise AssertionError(
          f'{self._pax_describe()}: segment_pos is given without segment_ids.'
        )
      if paddings is not None:
        segment_ids = (1 - paddings).astype(jnp.int32)
      segment_pos = jnp.tile(jnp.arange(length)[jnp.newaxis], [batch, 1])
    x = self._prepare_input(inputs, paddings, segment_pos=segment_pos, **input_kwargs)
    if self.ngrammer_tpl is not None:
      self.update_decode_state('ngrammer_prefix', jnp.zeros([batch, 1], jnp.int32))
      self.update_decode_state('ngrammer_prefix_emb', jnp.zeros_like(x[:, :1]))
      self.update_decode_state('ngrammer_prefix_segment_pos', segment_pos[:, :1] * 0)
    if segment_mask is None:
      segment_mask = self._segment_mask(
        segment_ids, causal_attention_mask, x.dtype, right_padded
      )
    self.update_decode_state('time_step', start_time_step)
    x = self.transformer(
      x, paddings, segment_mask=segment_mask, segment_pos=segment_pos
    )
    if self.final_ln_tpl is not None:
      x = self.final_ln(x)
    if self.skip_compute_loss:
      return x
    return self.compute_loss(x, labels, inputs)

  def compute_loss(
    self,
    activations: JTensor,
    labels: NestedMap | None = None,
    input_ids: JTensor | None = None,
  ) -> NestedMap:
    """Predictions, and their losses if there are labels.

    Args:
      activations: `[..., D]`.
      labels: `class_weights [B, T]`, and `class_ids [B, T]` or `class_probabilities
        [B, T, V]`, or both; or None.
      input_ids: ids of the inputs, for softmaxes that use them.

    Returns:
      Without labels `logits`, `log_probs` and `probs`, `[..., V]`. Else what the
      softmax returns (see `FullSoftmax`) and `per_token_xent [B, T]`,
      `per_sequence_xent [B]`,
      `total_loss`, and, as the fields say, `avg_entropy_loss`, `aux_loss`,
      `aux_loss_weight`, `activations`.
    """
    if labels is None:
      out = lm_loss.predictions(self, activations, input_ids)
    else:
      if 'class_ids' in labels:
        ids, weights = labels.class_ids, labels.class_weights
        id_checks.check(self, 'labels', ids, self.vocab_size, weights)
      out = lm_loss.softmax_loss(self, activations, labels, input_ids)
      out.total_loss = out.avg_xent
      if self.record_logits_in_xent_output or (
        self.entropy_loss_weight is not None and out.logits is None
      ):
        out.logits = self.softmax.get_logits(inputs=activations)
      if self.entropy_loss_weight is not None:
        out.avg_entropy_loss = lm_loss.negative_entropy(
          self, out.logits, labels.class_weights
        )
        out.total_loss += self.entropy_loss_weight * out.avg_entropy_loss
      if not self.skip_aux_loss:
        lm_loss.add_aux_losses(self, out)
    if self.record_activations_in_xent_output:
      out.activations = activations
    return out

  # -- Decoding ---------------------------------------------------------------------

  def _ngram_step(self, ids: JTensor, x: JTensor, segment_pos: JTensor | None):
    """N-grams of tokens `[B, L]` and the one before them, which the cache holds."""
    before = self.get_decode_state('ngrammer_prefix')
    before_emb = self.get_decode_state('ngrammer_prefix_emb')
    before_pos = self.get_decode_state('ngrammer_prefix_segment_pos')
    pos = None
    if segment_pos is not None:
      pos = jnp.concatenate([before_pos, segment_pos], axis=1)
    all_ids = jnp.concatenate([before, ids], axis=1)
    all_embs = jnp.concatenate([before_emb, x], axis=1)
    out = self.ngrammer(
      input_ids=all_ids,
      input_embs=all_embs,
      paddings=None,
      segment_pos=pos,
      emb_var=self._embedding_table(),
      check_time_step_zero=True,
    )
    self.update_decode_state('ngrammer_prefix', all_ids[:, -1:])
    self.update_decode_state('ngrammer_prefix_emb', all_embs[:, -1:])
    if pos is not None:
      self.update_decode_state('ngrammer_prefix_segment_pos', pos[:, -1:])
    return out[:, 1:]

  def extend_step(
    self,
    inputs: JTensor,
    segment_pos: JTensor | None = None,
    atten_mask: JTensor | None = None,
  ) -> NestedMap:
    """Predicts what follows the next token, and adds that token to the caches.

    Args:
      inputs: ids `[B]`, or `[B, L]` if the attention takes several tokens.
      segment_pos: positions in their segments, of the shape of `inputs`; None: the
        time step.
      atten_mask: `[B, 1, S]` or `[B, 1, L, S]`, see `StackedTransformer`.

    Returns:
      `logits`, `log_probs` and `probs`, `[B, V]` or `[B, L, V]`.

    Raises:
      AssertionError: the model is bidirectional.
    """
    if self.model_type == LanguageModelType.BIDIRECTIONAL:
      raise AssertionError(
        f'{self._pax_describe()}: a bidirectional model cannot decode step by step.'
      )
    id_checks.check(self, 'inputs', inputs, self.vocab_size)
    single = inputs.ndim == 1
    ids = inputs[:, jnp.newaxis] if single else inputs
    positions = segment_pos
    if segment_pos is not None and single:
      positions = segment_pos[:, jnp.newaxis]
    time_step = self.get_decode_state('time_step')
    x = self._embed(ids)
    if self.ngrammer_tpl is not None:
      x = self._ngram_step(ids, x, positions)
    if self.position_emb_tpl is not None:
      if positions is None:
        positions = jnp.asarray(time_step + jnp.arange(ids.shape[1]))[jnp.newaxis]
        positions = jnp.broadcast_to(positions, ids.shape)
      x = x + self.position_emb(position=positions)
    x = self.transformer.extend_step(
      x[:, 0] if single else x,
      time_step=time_step,
      segment_pos=segment_pos,
      atten_mask=atten_mask,
    )
    self.update_decode_state('time_step', time_step + ids.shape[1])
    if self.final_ln_tpl is not None:
      x = self.final_ln(x)
    return self.compute_loss(x)

  def init_states(self, *args, **kwargs) -> None:
    """Not implemented, as in Pax: the first call makes the caches."""
    raise NotImplementedError(
      f'{self._pax_describe()}: call the model with the collection decoder_cache '
      'mutable, then pad with transform_decode_state; init_states does not exist.'
    )

  def _ngram_states(self) -> list[str]:
    cache = self._pax_bucket(base_layer.DECODE_CACHE)
    return [name for name in cache if name.startswith('ngrammer')]

  def transform_decode_state(self, transform_fn: DecodeStateTransformFn) -> None:
    """Transforms the caches of the blocks' self-attention; not `time_step`."""
    for name in self._ngram_states():
      state = transform_fn(self.get_decode_state(name), 0, -1)
      self.update_decode_state(name, state)
    self.transformer.transform_decode_state(transform_fn)

  def lazy_broadcast_prefix(self, num_suffix_samples: int, suffix_length: int) -> None:
    """Starts new caches for samples that share what is cached so far."""
    for name in self._ngram_states():
      state = self.get_decode_state(name)
      state = jnp.tile(state, [num_suffix_samples] + [1] * (state.ndim - 1))
      self.update_decode_state(name, state)
    self.transformer.lazy_broadcast_prefix(num_suffix_samples, suffix_length)

  def right_align_decode_state_with_prefix(
    self, max_prefix_size: int, right_align_fn: DecodeStateTransformFn
  ) -> None:
    """Joins prefixes and caches, right-aligned."""
    self.transformer.right_align_decode_state_with_prefix(
      max_prefix_size, right_align_fn
    )
