"""A stack of transformer blocks."""

import functools
from collections.abc import Callable, Sequence

import haiku as hk
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import (
  checkpoint_policy,
  dot_product_attention,
  grouped_query_attention,
  moe,
  multi_query_attention,
  stochastics,
  structured_masks,
  transformer,
  transformer_masks,
)
from pax_haiku.layers.structured_masks import AttentionMask

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
AutodiffCheckpointType = checkpoint_policy.AutodiffCheckpointType
DecodeStateTransformFn = base_layer.DecodeStateTransformFn


def _call_block(block, *args):
  """A block's output; not its attention probabilities."""
  return block(*args[:-1], segment_pos=args[-1])[0]


def _extend_block(block, x, time_step, segment_pos, mask, cross_mask):
  """A block's output for one more step."""
  return block.extend_step(
    x,
    time_step=time_step,
    segment_pos=segment_pos,
    attention_mask=mask,
    cross_attention_mask=cross_mask,
  )


class StackedTransformer(base_layer.BaseLayer):
  """`num_layers` transformer blocks, one after the other, each with its own weights.

  Attributes:
    use_cross_attention: blocks attend to `cross_inputs`, too.
    mask_self_attention: hide the future.
    num_layers, model_dims, hidden_dims, num_heads: must be > 0.
    dim_per_head: size of a head; None: `model_dims / num_heads`.
    dropout_prob: default of the three probabilities below (also where they are 0).
    atten_dropout_prob: dropout of attention probabilities.
    residual_dropout_prob: dropout of what each part of a block adds.
    relu_dropout_prob: dropout of hidden values.
    residual_droppath_prob: block i of n leaves out what it adds with `i / n` of this.
    input_dropout_prob: dropout of the inputs of the stack.
    gating_func: of mixtures of experts.
    unadjusted_expert_capacity_factor: not used; set that of `moe_layer_tpl`.
    transformer_layer_params_tpl: the blocks; or a sequence of templates, each for
      equally many blocks in turn.
    packed_input: examples are packed: segment masks must be given.
    fold_padding_with_segment_mask: segment masks hide the padding, too.
    moe_layer_tpl: the mixture of experts of `moe_layers`.
    num_experts, num_groups, min_group_size: of these mixtures.
    moe_layers: indices of blocks with a mixture in place of the feed-forward layer.
    ngrammer_tpls: one for each block, or None.
    remat: compute blocks again for their gradients, but for what the policy keeps.
    checkpoint_policy: that policy.
    local_window_size: (left, right) context of all blocks' attention, or one pair (or
      None) for each; for attentions with such a field.
  """

  use_cross_attention: bool = False
  mask_self_attention: bool = False
  num_layers: int = 0
  model_dims: int = 0
  hidden_dims: int = 0
  num_heads: int = 0
  dim_per_head: int | None = None
  dropout_prob: float = 0.0
  atten_dropout_prob: float | None = None
  residual_dropout_prob: float | None = None
  relu_dropout_prob: float | None = None
  residual_droppath_prob: float = 0.0
  input_dropout_prob: float = 0.0
  gating_func: str = 'top2'
  unadjusted_expert_capacity_factor: float = 2.0
  transformer_layer_params_tpl: LayerTpl | Sequence[LayerTpl] = (
    pax_fiddle.template_field(transformer.Transformer)
  )
  packed_input: bool = False
  fold_padding_with_segment_mask: bool = False
  moe_layer_tpl: LayerTpl | None = pax_fiddle.template_field(
    moe.TransformerFeedForwardMoe
  )
  num_experts: int = 0
  num_groups: int = 1
  min_group_size: int | None = None
  moe_layers: Sequence[int] | None = ()
  ngrammer_tpls: Sequence[LayerTpl] | None = pax_fiddle.template_field(None)
  remat: bool = False
  checkpoint_policy: AutodiffCheckpointType = (
    AutodiffCheckpointType.SAVE_DOT_EXCEPT_LOGITS_FFN1
  )
  local_window_size: tuple[int, int] | Sequence[tuple[int, int] | None] | None = None

  # -- Making the blocks --------------------------------------------------------------

  def _clone_layer_params(self, layer_tpl: LayerTpl) -> LayerTpl:
    """A copy of a block's template, to be overridden."""
    return layer_tpl.clone()

  def setup(self) -> None:
    self._check_fields()
    self.create_children('x_layers', [self._block(i) for i in range(self.num_layers)])
    if self.input_dropout_prob > 0.0:
      self.create_child(
        'input_dropout',
        pax_fiddle.Config(
          stochastics.Dropout, keep_prob=1.0 - self.input_dropout_prob
        ),
      )

  def _check_fields(self) -> None:
    def require(condition: bool, what: str) -> None:
      if not condition:
        raise AssertionError(f'{self._pax_describe()}: {what}.')

    for name in ('num_layers', 'model_dims', 'hidden_dims', 'num_heads'):
      value = getattr(self, name)
      require(value > 0, f'{name} must be > 0, found {value}')
    for name in ('dropout_prob', 'input_dropout_prob'):
      value = getattr(self, name)
      require(0.0 <= value < 1.0, f'{name} must be in [0, 1), found {value}')
    if self.moe_layers:
      require(
        self.num_experts > 0,
        f'num_experts must be > 0 with moe_layers {list(self.moe_layers)}, found '
        f'{self.num_experts}',
      )
    window = self.local_window_size
    if window and isinstance(window[0], list | tuple):
      require(
        len(window) == self.num_layers,
        f'local_window_size needs a pair for each of {self.num_layers} layers, found '
        f'{len(window)}',
      )

  def _template(self, i: int) -> LayerTpl:
    tpls = self.transformer_layer_params_tpl
    if not isinstance(tpls, list | tuple):
      return tpls
    if self.num_layers % len(tpls):
      raise ValueError(
        f'{self._pax_describe()}: {len(tpls)} templates in '
        f'transformer_layer_params_tpl do not divide num_layers ({self.num_layers}).'
      )
    return tpls[i // (self.num_layers // len(tpls))]

  def _block(self, i: int) -> LayerTpl:
    tpl = self._clone_layer_params(self._template(i)).set(
      name=f'layer_{i}',
      use_cross_attention=self.use_cross_attention,
      num_heads=self.num_heads,
      dim_per_head=self.dim_per_head,
      input_dims=self.model_dims,
      packed_input=self.packed_input,
      atten_dropout_prob=self.atten_dropout_prob or self.dropout_prob,
      residual_dropout_prob=self.residual_dropout_prob or self.dropout_prob,
      relu_dropout_prob=self.relu_dropout_prob or self.dropout_prob,
      hidden_dims=self.hidden_dims,
    )
    window = self.local_window_size
    if window is not None:
      own = window[i] if window[0] is None or not isinstance(window[0], int) else window
      tpl.tr_atten_tpl.local_window_size = own
    if self.residual_droppath_prob > 0.0:
      tpl.residual_droppath_prob = self.residual_droppath_prob * i / self.num_layers
    if self.moe_layers and i in self.moe_layers:
      experts = self.moe_layer_tpl.clone().set(
        num_experts=self.num_experts,
        num_groups=self.num_groups,
        min_group_size=self.min_group_size,
        gating_func=self.gating_func,
      )
      if experts.hidden_dims:
        tpl.hidden_dims = experts.hidden_dims
      tpl.tr_fflayer_tpl = experts
    if self.ngrammer_tpls is not None and self.ngrammer_tpls[i] is not None:
      tpl.ngrammer_tpl = self.ngrammer_tpls[i]
    return tpl

  # -- Whole sequences --------------------------------------------------------------

  def _takes_structured_masks(self) -> bool:
    """Whether all blocks are known to pass a structured mask to who understands it."""

    def knows(tpl: LayerTpl) -> bool:
      return any(
        issubclass(tpl.cls, known) and tpl.cls.__call__ is known.__call__
        for known in (
          dot_product_attention.DotProductAttention,
          grouped_query_attention.GroupedQueryAttention,
          multi_query_attention.MultiQueryDotProductAttention,
        )
      )

    def passes(block: base_layer.BaseLayer) -> bool:
      if type(block).__call__ is not transformer.Transformer.__call__:
        return False
      cross = block.cross_atten_tpl if self.use_cross_attention else None
      return knows(block.tr_atten_tpl) and (cross is None or knows(cross))

    return all(map(passes, self.x_layers))

  def _masks(
    self,
    inputs: JTensor,
    paddings: JTensor | None,
    segment_mask: AttentionMask | None,
    cross_inputs: JTensor | None,
    cross_paddings: JTensor | None,
    cross_segment_mask: AttentionMask | None,
  ) -> tuple[AttentionMask, AttentionMask | None]:
    causal, fold = self.mask_self_attention, self.fold_padding_with_segment_mask
    if (
      transformer_masks.is_structured(segment_mask)
      and transformer_masks.is_structured(cross_segment_mask)
      and self._takes_structured_masks()
    ):
      return transformer_masks.structured_masks(
        paddings,
        causal,
        segment_mask,
        cross_inputs,
        cross_paddings,
        cross_segment_mask,
        fold,
      )
    length = inputs.shape[1]
    if segment_mask is not None:
      segment_mask = structured_masks.as_array(
        segment_mask, length, length, inputs.dtype
      )
    if cross_segment_mask is not None:
      cross_segment_mask = structured_masks.as_array(
        cross_segment_mask, length, cross_inputs.shape[1], inputs.dtype
      )
    if paddings is None and not fold:
      paddings = jnp.zeros(inputs.shape[:2], inputs.dtype)
    return transformer_masks.compute_attention_masks_for_fprop(
      inputs,
      paddings,
      causal_attention=causal,
      segment_mask=segment_mask,
      cross_inputs=cross_inputs,
      cross_paddings=cross_paddings,
      cross_segment_mask=cross_segment_mask,
      fold_padding_with_segment_mask=fold,
    )

  def _require(self, **values) -> None:
    for name, value in values.items():
      if value is None:
        raise AssertionError(
          f'{self._pax_describe()}: {name} must be given (packed_input='
          f'{self.packed_input}, use_cross_attention={self.use_cross_attention}).'
        )

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None,
    segment_mask: AttentionMask | None = None,
    cross_inputs: JTensor | None = None,
    cross_paddings: JTensor | None = None,
    cross_segment_mask: AttentionMask | None = None,
    segment_pos: JTensor | None = None,
  ) -> JTensor:
    """Runs the stack.

    Args:
      inputs: `[B, T, D]`.
      paddings: `[B, T]`, 1 at padded steps; None: there are none.
      segment_mask: `[B, 1, T, T]`, or structured, see `structured_masks`. Structured
        or None, no mask of `T^2` entries is made unless an attention needs it.
      cross_inputs: `[B, S, D]`.
      cross_paddings: `[B, S]`.
      cross_segment_mask: `[B, 1, T, S]`, or structured.
      segment_pos: `[B, T]`, positions.

    Returns:
      `[B, T, D]`.
    """
    if self.packed_input:
      self._require(segment_mask=segment_mask)
    if self.use_cross_attention:
      self._require(cross_inputs=cross_inputs, cross_paddings=cross_paddings)
      if self.packed_input:
        self._require(cross_segment_mask=cross_segment_mask)
    mask, cross_mask = self._masks(
      inputs, paddings, segment_mask, cross_inputs, cross_paddings, cross_segment_mask
    )
    x = inputs
    if self.input_dropout_prob > 0.0:
      x = self.input_dropout(x)
    checkpoint = None
    if self.remat:
      policy = checkpoint_policy.custom_policy(self.checkpoint_policy)
      checkpoint = {'policy': policy}
    call = self._caller(_call_block, checkpoint)
    for block in self.x_layers:
      x = call(block, x, paddings, mask, cross_inputs, cross_mask, segment_pos)
      x = checkpoint_name(x, 'transformer_layer_out')
    return x

  def _caller(
    self, body: Callable[..., JTensor], checkpoint: dict | None = None
  ) -> Callable[..., JTensor]:
    """Returns `(block, *args) -> body(block, *args)`, maybe rematerialised."""

    def call(block, *args):
      run = functools.partial(body, block)
      return (hk.remat(run, **checkpoint) if checkpoint else run)(*args)

    return call

  # -- Decoding ---------------------------------------------------------------------

  def extend_step(
    self,
    inputs: JTensor,
    *,
    time_step: JTensor,
    segment_pos: JTensor | None = None,
    atten_mask: JTensor | None = None,
    cross_paddings: JTensor | None = None,
    cross_segment_mask: JTensor | None = None,
  ) -> JTensor:
    """One decoding step, from and to the caches of the blocks.

    Args:
      inputs: `[B, D]`; or `[B, L, D]`, if the attention takes several tokens.
      time_step: place in the cache, a scalar.
      segment_pos: `[B]`, positions in the segment; what lies before it is hidden. With
        an `atten_mask`, `[B, L]` is possible, too, and positions are nothing more.
      atten_mask: `[B, 1, S]` or `[B, 1, L, S]`, used as it is. None: hide later steps
        and earlier segments.
      cross_paddings: `[b, R]`.
      cross_segment_mask: `[b, 1, R]`.

    Returns:
      Outputs of the shape of `inputs`.
    """
    if self.use_cross_attention:
      self._require(cross_paddings=cross_paddings)
    length = self.x_layers[0].decoding_sequence_length()
    segment_mask = None
    if atten_mask is None and segment_pos is not None:
      if segment_pos.ndim != 1:
        raise AssertionError(
          f'{self._pax_describe()}: segment_pos must have shape [batch] without an '
          f'atten_mask, found {segment_pos.shape}.'
        )
      segment_mask = transformer_masks.segment_mask_for_extend_step(
        time_step, segment_pos, length
      )
    step_mask, cross_mask = transformer_masks.compute_attention_masks_for_extend_step(
      time_step, length, segment_mask, cross_paddings, cross_segment_mask
    )
    mask = step_mask if atten_mask is None else atten_mask
    x = inputs
    call = self._caller(_extend_block)
    for block in self.x_layers:
      x = call(block, x, time_step, segment_pos, mask, cross_mask)
    return x

  def init_states(self, *args, **kwargs) -> None:
    """Not implemented, as in Pax: the first call makes the caches."""
    raise NotImplementedError(
      f'{self._pax_describe()}: call the layer with the collection decoder_cache '
      'mutable, then pad with transform_decode_state; init_states does not exist.'
    )

  def transform_decode_state(self, transform_fn: DecodeStateTransformFn) -> None:
    """Transforms the caches of all blocks' self-attention."""
    for block in self.x_layers:
      block.transform_decode_state(transform_fn)

  def lazy_broadcast_prefix(self, num_suffix_samples: int, suffix_length: int) -> None:
    """Starts new caches for samples that share what is cached so far."""
    for block in self.x_layers:
      block.lazy_broadcast_prefix(num_suffix_samples, suffix_length)

  def right_align_decode_state_with_prefix(
    self, max_prefix_size: int, right_align_fn: DecodeStateTransformFn
  ) -> None:
    """Joins prefixes and caches, right-aligned."""
    for block in self.x_layers:
      block.right_align_decode_state_with_prefix(max_prefix_size, right_align_fn)
