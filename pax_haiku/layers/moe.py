"""A mixture of experts in the place of a transformer's feed-forward layer."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import (
  activations,
  base_ops,
  moe_gating,
  moe_sentences,
  normalizations,
  stochastics,
)
from pax_haiku.layers import transformer_parts as parts

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
WeightHParams = base_layer.WeightHParams
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]

NORM_POLICIES = ('pre', 'primer_hybrid', 'post')


class TransformerFeedForwardMoe(base_layer.BaseLayer):
  """`TransformerFeedForward` with E pairs of projections, of which a token uses few.

  Tokens are split into groups; each expert has room for so many tokens of each group.
  Letters of the einsums: g group, s token of a group, e expert, c slot of an expert,
  m model dimension, h hidden dimension. https://arxiv.org/abs/2006.16668

  Attributes:
    input_dims: size D of inputs and outputs.
    hidden_dims: size F of an expert's hidden values.
    apply_padding_first: zero padded inputs before anything else.
    ln_tpl: the normalization.
    activation_tpl: the activation.
    relu_dropout_tpl, residual_dropout_tpl: the dropouts; keep_prob is set here.
    relu_dropout_prob: dropout of the hidden values.
    residual_dropout_prob: dropout of the outputs, before the sum.
    add_skip_connection: add the inputs.
    residual_weight: factor of the outputs in the sum; not used with a droppath.
    norm_policy: `pre`, `primer_hybrid` or `post`, as in `TransformerFeedForward`.
    residual_droppath_prob: leave out the outputs of an example in training.
    gating_func: `top2`, `expert_choice`, `expert_choice_v2` (see
      `gshard_utils.compute_gating`), or `dense_top2`: all experts see all tokens, the
      two best are used.
    num_experts: E.
    num_groups: number of groups, which divides the number of tokens.
    min_group_size: make fewer groups if they had less tokens.
    expert_capacity_dim: slots of an expert and group, at least.
    unadjusted_expert_capacity_factor: slots as a multiple of tokens / E.
    expert_weight_shards: must be 1.
    second_expert_policy: `all`, `sampling` or `random`.
    internal_gshard_variance_scaling_fan_in_init: weights start uniform within
      `sqrt(3 / fan_in)`.
    explicit_fan_in_fan_out_axes: fans of experts are D and F, without E.
    moe_load_balance_loss_weight: weight of the load balancing loss, not 0.
    gating_logit_cap: bounds the gates' logits to `c tanh(logits / c)`; 0: unbounded.
    moe_gating_embedding_level: `token`, or `sentence`: tokens of a sentence (segment)
      share a gate, that of their mean.
    use_gated_activation: hidden values are `activation(x wi_gate) * (x wi)`.
    einsum_tpl: does the products.
    einsum_gated_tpl: does both products of a gated activation.
  """

  input_dims: int = 0
  hidden_dims: int = 0
  apply_padding_first: bool = False
  ln_tpl: LayerTpl = pax_fiddle.template_field(normalizations.LayerNorm)
  activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.ReLU)
  )
  relu_dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  relu_dropout_prob: float = 0.0
  residual_dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  residual_dropout_prob: float = 0.0
  add_skip_connection: bool = True
  residual_weight: float = 1.0
  norm_policy: str = 'pre'
  residual_droppath_prob: float = 0.0
  gating_func: str = 'top2'
  num_experts: int = 0
  num_groups: int = 0
  min_group_size: int | None = None
  expert_capacity_dim: int = 0
  unadjusted_expert_capacity_factor: float = 2.0
  expert_weight_shards: int = 1
  second_expert_policy: str = 'all'
  internal_gshard_variance_scaling_fan_in_init: bool = True
  explicit_fan_in_fan_out_axes: bool = False
  moe_load_balance_loss_weight: float = 1.0
  gating_logit_cap: float = 0.0
  moe_gating_embedding_level: str = 'token'
  use_gated_activation: bool = False
  einsum_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumOp)
  einsum_gated_tpl: LayerTpl = pax_fiddle.template_field(base_ops.EinsumGatedOp)

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the weights.

    Attributes:
      me: of the gate [D, E].
      emh: of the first projections [E, D, F].
      ehm: of the second projections [E, F, D].
    """

    me: SplitDimsMapping = None
    emh: SplitDimsMapping = None
    ehm: SplitDimsMapping = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the activations, by the letters of their dimensions."""

    gsm: SplitDimsMapping = None
    gs: SplitDimsMapping = None
    gsec: SplitDimsMapping = None
    gecs: SplitDimsMapping = None
    gec: SplitDimsMapping = None
    egcm: SplitDimsMapping = None
    egch: SplitDimsMapping = None
    gecm: SplitDimsMapping = None

  def setup(self) -> None:
    self._check_fields()
    parts.create_norms(self, self.ln_tpl, self.input_dims, self.norm_policy)
    self.create_child(
      'residual_dropout',
      parts.dropout(self.residual_dropout_tpl, self.residual_dropout_prob),
    )
    self.create_child(
      'relu_dropout', parts.dropout(self.relu_dropout_tpl, self.relu_dropout_prob)
    )
    if self.residual_droppath_prob > 0:
      droppath = parts.droppath(self.residual_droppath_prob)
      self.create_child('residual_droppath', droppath)
    self.create_child('activation', self.activation_tpl)
    self._create_weights()
    for name in ('dispatch_einsum', 'ffn2_einsum', 'combine_einsum'):
      self.create_child(name, self.einsum_tpl)
    if self.use_gated_activation:
      self.create_child('gated_ffn1_einsum', self.einsum_gated_tpl)

  def _create_weights(self) -> None:
    wp = self.weight_split_dims_mapping
    dims, hidden, experts = self.input_dims, self.hidden_dims, self.num_experts

    def create(name: str, shape: list[int], mapping: SplitDimsMapping) -> None:
      hparams = WeightHParams(
        shape=shape, mesh_shape=self.mesh_shape, tensor_split_dims_mapping=mapping
      )
      if self.internal_gshard_variance_scaling_fan_in_init:
        hparams.init = parts.fan_in_uniform(shape[-2])
      if self.explicit_fan_in_fan_out_axes and len(shape) == 3:
        hparams.fan_in_axes, hparams.fan_out_axes = [-2], [-1]
      self.create_variable(name, hparams)

    create('gate', [dims, experts], wp.me)
    if self.use_gated_activation:  # the order decides the keys, as in Praxis
      create('wi_gate_0', [experts, dims, hidden], wp.emh)
    create('wi_0', [experts, dims, hidden], wp.emh)
    create('wo_0', [experts, hidden, dims], wp.ehm)

  def _check_fields(self) -> None:
    def require(condition: bool, what: str) -> None:
      if not condition:
        raise AssertionError(f'{self._pax_describe()}: {what}.')

    parts.check_norm_policy(self, self.norm_policy, NORM_POLICIES)
    for name in ('input_dims', 'hidden_dims', 'num_experts', 'num_groups'):
      value = getattr(self, name)
      require(value > 0, f'{name} must be > 0, found {value}')
    require(
      self.expert_weight_shards == 1,
      f'expert_weight_shards must be 1, found {self.expert_weight_shards}',
    )
    require(
      self.residual_droppath_prob == 0 or self.add_skip_connection,
      f'residual_droppath_prob={self.residual_droppath_prob} needs add_skip_connection',
    )
    require(
      self.gating_func != 'dense_top2' or not self.use_gated_activation,
      "gating_func 'dense_top2' has no gated activation; set "
      'use_gated_activation=False',
    )
    if self.moe_gating_embedding_level not in ('token', 'sentence'):
      raise ValueError(
        f"{self._pax_describe()}: moe_gating_embedding_level must be 'token' or "
        f"'sentence', found {self.moe_gating_embedding_level!r}."
      )

  # -- The frame ------------------------------------------------------------------

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None = None,
    segment_ids: JTensor | None = None,
  ) -> JTensor:
    """Outputs `[B, T, D]` for inputs `[B, T, D]`.

    Args:
      inputs: `[B, T, D]`; or `[B, D]`, in a decoding step.
      paddings: `[B, T]`, 1 at padded steps, which no expert sees.
      segment_ids: `[B, T]`, for gates of sentences.

    Raises:
      ValueError: `num_groups` does not divide the number of tokens.
      AssertionError: `moe_load_balance_loss_weight` is 0.
    """
    if not self.moe_load_balance_loss_weight:
      raise AssertionError(
        f'{self._pax_describe()}: moe_load_balance_loss_weight must not be 0.'
      )
    expanded = None if paddings is None else paddings[..., jnp.newaxis]
    residual = inputs
    if self.apply_padding_first:
      residual = parts.keep_unpadded(inputs, expanded)
    parts.add_detail(self, 'input_rms', lambda: parts.rms(residual))

    x = residual
    if self.norm_policy in ('pre', 'primer_hybrid'):
      pre = self.norm_policy == 'primer_hybrid'
      x = self.pre_layer_norm(x) if pre else self.layer_norm(x)
      parts.add_detail(self, 'input_norm_rms', lambda: parts.rms(x))

    dense = self.gating_func == 'dense_top2'
    out, aux_loss = (
      self._dense(x) if dense else self._dispatch(x, paddings, segment_ids)
    )
    out = parts.keep_unpadded(out, expanded)
    parts.add_detail(self, 'output_rms', lambda y=out: parts.rms(y))
    if self.norm_policy == 'primer_hybrid':
      out = self.post_layer_norm(out)
    elif self.norm_policy == 'post':
      out = self.layer_norm(out)
    if self.norm_policy in ('primer_hybrid', 'post'):
      parts.add_detail(self, 'output_norm_rms', lambda y=out: parts.rms(y))

    out = self.residual_dropout(out)
    if self.add_skip_connection:
      if self.residual_droppath_prob > 0:
        out = self.residual_droppath(residual, out)
      else:
        out = residual + out * self.residual_weight
    parts.add_detail(self, 'output_rel_cos', lambda: parts.rel_cos(residual, out))

    aux_loss = aux_loss.astype(self.fprop_dtype) * self.moe_load_balance_loss_weight
    self.add_summary('aux_moe_load_balance_loss', aux_loss)
    self.add_aux_loss('aux_moe_load_balance_loss', aux_loss)
    return out

  def extend_step(self, inputs: JTensor, *, time_step: JTensor) -> JTensor:
    """Outputs of one decoding step, for inputs `[B, D]`; `time_step` is not used.

    The tokens are the B examples: `num_groups` must divide their number, unless
    `min_group_size` makes fewer groups.
    """
    return self(inputs)

  # -- Experts ----------------------------------------------------------------------

  def _shard(self, x: JTensor, dims: str) -> JTensor:
    mapping = getattr(self.activation_split_dims_mapping, dims)
    return base_layer.maybe_shard(x, mapping, self.mesh_axis_names)

  def _num_groups(self, tokens: int) -> int:
    groups, least = self.num_groups, self.min_group_size
    if least is not None and tokens / groups < least:
      groups = -(-tokens // least)
    if tokens % groups:
      raise ValueError(
        f'{self._pax_describe()}: {tokens} tokens cannot be split into {groups} equal '
        'groups. Set num_groups to a divisor, or min_group_size.'
      )
    return groups

  def _dispatch(
    self, x: JTensor, paddings: JTensor | None, segment_ids: JTensor | None
  ) -> tuple[JTensor, JTensor]:
    """Sends tokens to experts and back: (outputs like `x`, load balancing loss)."""
    tokens = x.size // x.shape[-1]
    groups = self._num_groups(tokens)
    gated_by = x
    if self.moe_gating_embedding_level == 'sentence':
      gated_by = moe_sentences.sentence_embeddings(x, segment_ids, paddings)

    def grouped(y: JTensor) -> JTensor:
      return self._shard(y.reshape(groups, tokens // groups, y.shape[-1]), 'gsm')

    by_group = grouped(x)
    gated_by = by_group if gated_by is x else grouped(gated_by)
    if paddings is not None:
      paddings = paddings.reshape(groups, -1).astype(self.fprop_dtype)
      paddings = self._shard(paddings, 'gs')
    logits = jnp.einsum('gsm,me->gse', gated_by, self.theta.gate)
    draws = self.second_expert_policy != 'all'
    gating = moe_gating.compute_gating(
      paddings,
      logits.astype(jnp.float32),
      self.num_experts,
      self.expert_capacity_dim,
      self.fprop_dtype,
      gating_func=self.gating_func,
      prng_key=self.next_prng_key() if draws else None,
      second_expert_policy=self.second_expert_policy,
      capacity_factor=self.unadjusted_expert_capacity_factor,
      gating_logit_cap=self.gating_logit_cap,
    )
    aux_loss = gating[0]
    if self.gating_func == 'top2':
      self._add_routing_summaries(gating[3], tokens, paddings)
    if self.gating_func == 'expert_choice':
      gate = self._shard(gating[1].astype(self.fprop_dtype), 'gec')
      permutation = self._shard(gating[2].astype(self.fprop_dtype), 'gecs')
      expert_in = self.dispatch_einsum('gecs,gsm->egcm', permutation, by_group)
      dispatch = None
    else:
      combine = self._shard(gating[1], 'gsec')
      dispatch = self._shard(gating[2], 'gsec')
      expert_in = self.dispatch_einsum('gsec,gsm->egcm', dispatch, by_group)
    hidden = self._expert_hidden(self._shard(expert_in, 'egcm'), dispatch)
    hidden = self.relu_dropout(self._shard(hidden, 'egch'))
    expert_out = self.ffn2_einsum('egch,ehm->gecm', hidden, self.theta.wo_0)
    expert_out = self._shard(expert_out, 'gecm')
    if self.gating_func == 'expert_choice':
      out = self.combine_einsum(
        'gecm,gecs,gec->gsm', expert_out, permutation, gate
      )
    else:
      out = self.combine_einsum('gecm,gsec->gsm', expert_out, combine)
    return self._shard(out, 'gsm').reshape(x.shape), aux_loss

  def _expert_hidden(self, expert_in: JTensor, dispatch: JTensor | None) -> JTensor:
    """Hidden values `[E, G, C, F]` for expert inputs `[E, G, C, D]`."""
    if self.use_gated_activation:
      value, before = self.gated_ffn1_einsum(
        'egcm,emh->egch', expert_in, self.theta.wi_0, self.theta.wi_gate_0
      )
      hidden = self.activation(before) * value
    else:
      before = jnp.einsum('egcm,emh->egch', expert_in, self.theta.wi_0)
      hidden = self.activation(before)
    if dispatch is not None:
      name = self.activation_tpl.cls.__name__
      self.add_summary(f'dead_{name}_count', lambda: _dead_units(before, dispatch))
    return hidden

  def _add_routing_summaries(self, numbers, tokens, paddings) -> None:
    over_1, over_2, *sent = numbers
    if paddings is not None:
      tokens = jnp.sum(1.0 - paddings, dtype=jnp.float32)
    self.add_summary('over_capacity_1_ratio', over_1)
    self.add_summary('over_capacity_2_ratio', over_2)
    for n, number in enumerate(sent):
      self.add_summary(f'dispatch_{n}', number / tokens)

  def _dense(self, x: JTensor) -> tuple[JTensor, JTensor]:
    """All experts for all tokens `[B, T, D]`, of which the two best are summed."""
    logits = jnp.einsum('btm,me->bte', x, self.theta.gate)
    gates = jax.nn.softmax(logits.astype(jnp.float32)).astype(self.fprop_dtype)
    best = jnp.max(gates, axis=-1, keepdims=True)
    second = jnp.max(jnp.where(gates < best, gates, 0.0), axis=-1, keepdims=True)
    gates = jnp.where(gates >= second, gates, 0.0)
    gates = gates / (jnp.sum(gates, axis=-1, keepdims=True) + 1e-12)
    hidden = self.activation(jnp.einsum('btm,emh->ebth', x, self.theta.wi_0))
    hidden = self.relu_dropout(hidden)
    out = self.ffn2_einsum('ebth,ehm->btem', hidden, self.theta.wo_0)
    out = self.combine_einsum('btem,bte->btm', out, gates)
    return out, jnp.zeros((), self.fprop_dtype)


def _dead_units(before: JTensor, dispatch: JTensor) -> JTensor:
  """How many hidden units `[E, F]` are negative for all tokens that came.

  Args:
    before: `[E, G, C, F]`, values before the activation.
    dispatch: `[G, S, E, C]`.
  """
  used = jnp.sum(dispatch, axis=(0, 1))
  lowered = before - 10.0 * (1.0 - used)[:, jnp.newaxis, :, jnp.newaxis]
  return jnp.sum((jnp.max(lowered, axis=(1, 2)) < 0.0).astype(jnp.int32))
