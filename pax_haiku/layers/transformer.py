"""One transformer block: self-attention, cross attention, feed-forward layer."""

from collections.abc import Callable

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import attentions, normalizations, stochastics
from pax_haiku.layers import transformer_feedforward as feedforward
from pax_haiku.layers import transformer_parts as parts
from pax_haiku.layers.structured_masks import AttentionMask

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
DecodeStateTransformFn = base_layer.DecodeStateTransformFn


class Transformer(base_layer.BaseLayer):
  """A transformer block (https://arxiv.org/abs/1706.03762).

  With the default norm policy:

      x += dropout(self_attention(norm(x)))
      x += dropout(cross_attention(norm(x), cross_inputs))   # use_cross_attention
      x += feed_forward(norm(x))

  Attributes:
    input_dims: size D of inputs and outputs.
    hidden_dims: size of the feed-forward layer's hidden values.
    num_heads: number of attention heads.
    dim_per_head: size of a head; None: `input_dims / num_heads`.
    dropout_tpl: dropout of what attention adds.
    atten_dropout_prob: dropout of attention probabilities.
    residual_dropout_prob: dropout of what each part adds.
    relu_dropout_prob: dropout of the feed-forward layer's hidden values.
    residual_droppath_prob: leave out what a part adds, for whole examples in training.
    use_cross_attention: attend to `cross_inputs`, too.
    allow_skip_cross_attention: do without if `cross_inputs` are None.
    cross_atten_tpl: the cross attention; None: `tr_atten_tpl`.
    ln_tpl: norms of the attentions. The feed-forward layer has its own template.
    norm_policy: `pre` normalizes what each part reads, `post` what it adds,
      `primer_hybrid` both, `post_skip` the sums.
    tr_atten_tpl: the self-attention.
    packed_input: not used.
    tr_fflayer_tpl: the feed-forward layer.
    ngrammer_tpl: n-grams of the self-attention's output.
  """

  input_dims: int = 0
  hidden_dims: int = 0
  num_heads: int | None = None
  dim_per_head: int | None = None
  dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  atten_dropout_prob: float = 0.0
  residual_dropout_prob: float = 0.0
  relu_dropout_prob: float = 0.0
  residual_droppath_prob: float = 0.0
  use_cross_attention: bool = False
  allow_skip_cross_attention: bool = False
  cross_atten_tpl: LayerTpl | None = pax_fiddle.template_field(None)
  ln_tpl: LayerTpl = pax_fiddle.template_field(normalizations.LayerNorm)
  norm_policy: str = 'pre'
  tr_atten_tpl: LayerTpl = pax_fiddle.template_field(attentions.DotProductAttention)
  packed_input: bool = False
  tr_fflayer_tpl: LayerTpl = pax_fiddle.template_field(
    feedforward.TransformerFeedForward
  )
  ngrammer_tpl: LayerTpl | None = pax_fiddle.template_field(None)

  def setup(self) -> None:
    parts.check_norm_policy(self, self.norm_policy, feedforward.NORM_POLICIES)
    dims, policy = self.input_dims, self.norm_policy
    parts.create_norms(self, self.ln_tpl, dims, policy)
    own = {} if self.ngrammer_tpl is None else {'ngrammer_tpl': self.ngrammer_tpl}
    self.create_child('self_attention', self._attention(self.tr_atten_tpl).set(**own))
    self.create_child(
      'residual_dropout', parts.dropout(self.dropout_tpl, self.residual_dropout_prob)
    )
    if self.use_cross_attention:
      parts.create_norms(self, self.ln_tpl, dims, policy, 'cross_')
      cross_tpl = self.cross_atten_tpl
      cross_tpl = self.tr_atten_tpl if cross_tpl is None else cross_tpl
      self.create_child('cross_attention', self._attention(cross_tpl))
    if self.residual_droppath_prob > 0:
      droppath = parts.droppath(self.residual_droppath_prob)
      self.create_child('residual_droppath', droppath)
    if self.tr_fflayer_tpl is not None:
      self.create_child(
        'ff_layer',
        self.tr_fflayer_tpl.clone().set(
          input_dims=dims,
          hidden_dims=self.hidden_dims,
          relu_dropout_prob=self.relu_dropout_prob,
          residual_dropout_prob=self.residual_dropout_prob,
          residual_droppath_prob=self.residual_droppath_prob,
          norm_policy=policy,
        ),
      )

  def _attention(self, tpl: LayerTpl) -> LayerTpl:
    return tpl.clone().set(
      input_dim=self.input_dims,
      hidden_dim=self.input_dims,
      num_heads=self.num_heads,
      dim_per_head=self.dim_per_head,
      atten_dropout_prob=self.atten_dropout_prob,
    )

  # -- Parts ------------------------------------------------------------------------

  def _norm(self, x: JTensor, prefix: str, infix: str) -> JTensor:
    return getattr(self, f'{prefix}{infix}layer_norm')(x)

  def _attend(
    self,
    x: JTensor,
    attention: Callable[[JTensor], JTensor],
    infix: str,
    add: Callable[[JTensor, JTensor], JTensor],
    summaries: bool = False,
  ) -> JTensor:
    """One attention with norm, dropout and sum.

    Args:
      x: `[B, T, D]` or `[B, D]`.
      attention: `x -> what it adds`.
      infix: `cross_` or nothing, in the names of the norms.
      add: the residual sum.
      summaries: write summaries of what it adds.
    """
    policy, read = self.norm_policy, x
    if policy in ('pre', 'primer_hybrid'):
      read = self._norm(x, 'pre_' if policy == 'primer_hybrid' else '', infix)
    out = attention(read)
    if summaries:
      parts.add_detail(self, 'attention_output_rms', lambda y=out: parts.rms(y))
    if policy in ('post', 'primer_hybrid'):
      out = self._norm(out, 'post_' if policy == 'primer_hybrid' else '', infix)
    if summaries:
      parts.add_detail(self, 'attention_output_norm_rms', lambda y=out: parts.rms(y))
    total = add(x, self.residual_dropout(out))
    if policy == 'post_skip':
      total = self._norm(total, '', infix)
    if summaries:
      parts.add_detail(
        self, 'attention_output_rel_cos', lambda: parts.rel_cos(x, total)
      )
    return total

  def _add(self, x: JTensor, y: JTensor) -> JTensor:
    if self.residual_droppath_prob > 0:
      return self.residual_droppath(x, y)
    return x + y

  def _crosses(self, given: object) -> bool:
    """Whether to run the cross attention, `given` being what it needs or None."""
    if not self.use_cross_attention:
      return False
    if given is None and self.allow_skip_cross_attention:
      return False
    if given is None:
      raise AssertionError(
        f'{self._pax_describe()}: use_cross_attention is set, but cross inputs or '
        'their mask are None. Give both, or set allow_skip_cross_attention.'
      )
    return True

  # -- Calls ------------------------------------------------------------------------

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None,
    attention_mask: AttentionMask,
    cross_inputs: JTensor | None = None,
    cross_attention_mask: AttentionMask | None = None,
    segment_pos: JTensor | None = None,
    segment_ids: JTensor | None = None,
  ) -> tuple[JTensor, NestedMap]:
    """Runs the block.

    Args:
      inputs: `[B, T, D]`.
      paddings: `[B, T]`, 1 at padded steps; None: there are none.
      attention_mask: `[1|B, 1, 1|T, T]` or structured, see `structured_masks`.
      cross_inputs: `[B, S, D]`.
      cross_attention_mask: `[1|B, 1, 1|T, S]` or structured.
      segment_pos: `[B, T]`, positions, for self-attention only.
      segment_ids: not used.

    Returns:
      `[B, T, D]`, and the probabilities: a NestedMap of `self_atten [B, N, T, T]` and,
      with cross attention, `cross_atten [B, N, T, S]`; None from a fused kernel.

    Raises:
      ValueError: the inputs have another depth than `input_dims`.
    """
    if inputs.shape[-1] != self.input_dims:
      raise ValueError(
        f'{self._pax_describe()}: expected inputs [batch, time, {self.input_dims}] '
        f'(input_dims), found shape {inputs.shape}.'
      )
    parts.add_input_summaries(self, inputs, paddings)
    parts.add_detail(self, 'attention_input_rms', lambda: parts.rms(inputs))
    probs = NestedMap()

    def self_attention(x: JTensor) -> JTensor:
      out, probs.self_atten = self.self_attention(
        x,
        x,
        x,
        atten_mask=attention_mask,
        query_segment_pos=segment_pos,
        key_segment_pos=segment_pos,
      )
      return out

    x = self._attend(inputs, self_attention, '', self._add, summaries=True)
    if self._crosses(cross_inputs):
      self._crosses(cross_attention_mask)

      def cross_attention(x: JTensor) -> JTensor:
        out, probs.cross_atten = self.cross_attention(
          x, cross_inputs, cross_inputs, atten_mask=cross_attention_mask
        )
        return out

      x = self._attend(x, cross_attention, 'cross_', self._add)
    return self.ff_layer(x, paddings=paddings), probs

  def _shard_step(self, x: JTensor) -> JTensor:
    mapping = getattr(self.tr_fflayer_tpl, 'activation_split_dims_mapping', None)
    if not hasattr(mapping, 'ffn1'):
      return x
    mapping = parts.step_mapping(mapping.ffn1, mapping.ffn1_extend_step, x.ndim)
    return base_layer.maybe_shard(x, mapping, self.mesh_axis_names)

  def extend_step(
    self,
    inputs: JTensor,
    *,
    time_step: JTensor,
    segment_pos: JTensor | None = None,
    attention_mask: JTensor,
    cross_attention_mask: JTensor | None = None,
  ) -> JTensor:
    """One decoding step, from and to the caches of the attentions.

    Args:
      inputs: `[B, D]`; or `[B, L, D]`, if the attention takes several tokens.
      time_step: place in the cache, a scalar.
      segment_pos: `[B]` or `[B, L]`, positions; None: `time_step`.
      attention_mask: `[1|B, 1, S]` or `[B, 1, L, S]`.
      cross_attention_mask: `[1|B, 1, 1, R]`.

    Returns:
      What the block makes of `inputs`, of the same shape.
    """

    def add(x: JTensor, y: JTensor) -> JTensor:
      return self._shard_step(x + y)

    def self_attention(x: JTensor) -> JTensor:
      return self.self_attention.extend_step(
        x, atten_mask=attention_mask, time_step=time_step, segment_pos=segment_pos
      )

    x = self._attend(self._shard_step(inputs), self_attention, '', add)
    if self._crosses(cross_attention_mask):
      mask = jnp.squeeze(cross_attention_mask, axis=2)

      def cross_attention(x: JTensor) -> JTensor:
        return self.cross_attention.extend_step(
          x,
          atten_mask=mask,
          time_step=time_step,
          segment_pos=segment_pos,
          is_cross_attention=True,
        )

      x = self._attend(x, cross_attention, 'cross_', add)
    return self.ff_layer.extend_step(x, time_step=time_step)

  # -- The cache of self-attention ----------------------------------------------------

  def init_states(self, target_batch_size: int, target_max_length: int) -> None:
    """Not implemented, as in Pax: the first call makes the cache."""
    raise NotImplementedError(
      f'{self._pax_describe()}: call the layer with the collection decoder_cache '
      'mutable, then pad with transform_decode_state; init_states does not exist.'
    )

  def decoding_sequence_length(self) -> int:
    """Length of the cache."""
    return self.self_attention.decoding_state_sequence_length()

  def transform_decode_state(self, transform_fn: DecodeStateTransformFn) -> None:
    """Transforms the cache of self-attention; that of cross attention stays."""
    self.self_attention.transform_decode_state(transform_fn)

  def lazy_broadcast_prefix(self, num_suffix_samples: int, suffix_length: int) -> None:
    """Starts a new cache for samples that share what is cached so far."""
    self.self_attention.lazy_broadcast_prefix(num_suffix_samples, suffix_length)

  def right_align_decode_state_with_prefix(
    self, max_prefix_size: int, right_align_fn: DecodeStateTransformFn
  ) -> None:
    """Joins prefix and cache, right-aligned."""
    self.self_attention.right_align_decode_state_with_prefix(
      max_prefix_size, right_align_fn
    )
