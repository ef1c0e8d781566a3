"""The feed-forward half of a transformer block."""

from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.layers import (
  activations,
  linears,
  normalizations,
  stochastics,
)
from pax_haiku.layers import transformer_parts as parts

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]

NORM_POLICIES = ('pre', 'primer_hybrid', 'post', 'post_skip')


class TransformerFeedForward(base_layer.BaseLayer):
  """`x + dropout(ffn2(dropout(activation(ffn1(norm(x))))))`.

  With `use_gated_activation` the hidden values are
  `activation(ffn1_gate(x)) * ffn1(x)`, https://arxiv.org/abs/2002.05202.

  Attributes:
    input_dims: size D of the inputs.
    output_dims: size of the outputs; 0: `input_dims`.
    hidden_dims: size F of the hidden values.
    has_bias: the projections have biases.
    apply_padding_first: zero padded inputs, instead of hidden values and outputs.
    activation_tpl: the activation.
    use_gated_activation: multiply the hidden values with a gate, which then has the
      activation.
    fflayer_tpl: the projections.
    ln_tpl: the normalization.
    residual_dropout_prob: dropout of the outputs, before the sum.
    relu_dropout_tpl, residual_dropout_tpl: the dropouts; their keep_prob is set here.
    relu_dropout_prob: dropout of the hidden values.
    add_skip_connection: add the inputs.
    residual_weight: factor of the outputs in the sum; 1 with a droppath.
    residual_droppath_prob: leave out the outputs of an example in training.
    norm_policy: `pre` normalizes the inputs, `post` the outputs before the sum,
      `primer_hybrid` both, `post_skip` the sum.
    internal_gshard_variance_scaling_fan_in_init: weights start uniform within
      `sqrt(3 / fan_in)`.
  """

  input_dims: int = 0
  output_dims: int = 0
  hidden_dims: int = 0
  has_bias: bool = True
  apply_padding_first: bool = False
  activation_tpl: pax_fiddle.Config[activations.BaseActivation] = (
    pax_fiddle.template_field(activations.ReLU)
  )
  use_gated_activation: bool = False
  fflayer_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)
  ln_tpl: LayerTpl = pax_fiddle.template_field(normalizations.LayerNorm)
  residual_dropout_prob: float = 0.0
  relu_dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  relu_dropout_prob: float = 0.0
  residual_dropout_tpl: LayerTpl = pax_fiddle.template_field(stochastics.Dropout)
  add_skip_connection: bool = True
  residual_weight: float = 1.0
  residual_droppath_prob: float = 0.0
  norm_policy: str = 'pre'
  internal_gshard_variance_scaling_fan_in_init: bool = False

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the projections.

    Attributes:
      ffn0: of the weights [D, F].
      ffn1: of the weights [F, D].
    """

    ffn0: SplitDimsMapping = None
    ffn1: SplitDimsMapping = None

  class ActivationSharding(base_layer.BaseLayer.ActivationSharding):
    """Sharding of the activations.

    Attributes:
      ffn0, ffn0_extend_step: of hidden values [B, T, F] and [B, F].
      ffn1, ffn1_extend_step: of outputs [B, T, D] and [B, D].
    """

    ffn0: SplitDimsMapping = None
    ffn0_extend_step: SplitDimsMapping = None
    ffn1: SplitDimsMapping = None
    ffn1_extend_step: SplitDimsMapping = None

  def setup(self) -> None:
    self._check_fields()
    parts.create_norms(self, self.ln_tpl, self.input_dims, self.norm_policy)
    wp = self.weight_split_dims_mapping
    ap = self.activation_split_dims_mapping
    output_dims = self.output_dims or self.input_dims

    def projection(i: int, input_dims: int, output_dims: int, activation: LayerTpl):
      tpl = self.fflayer_tpl.clone().set(
        input_dims=input_dims,
        output_dims=output_dims,
        has_bias=self.has_bias,
        activation_tpl=activation.clone(),
      )
      tpl.weight_split_dims_mapping.wt = getattr(wp, f'ffn{i}')
      tpl.activation_split_dims_mapping.out = getattr(ap, f'ffn{i}')
      tpl.activation_split_dims_mapping.extend_step_out = getattr(
        ap, f'ffn{i}_extend_step'
      )
      if self.internal_gshard_variance_scaling_fan_in_init:
        tpl.linear_tpl.params_init = parts.fan_in_uniform(input_dims)
      return tpl

    identity = pax_fiddle.Config(activations.Identity)
    first = identity if self.use_gated_activation else self.activation_tpl
    ffn1 = projection(0, self.input_dims, self.hidden_dims, first)
    self.create_child('ffn_layer1', ffn1.set(checkpoint_str='ffn1'))
    if self.use_gated_activation:
      gate = ffn1.clone().set(activation_tpl=self.activation_tpl.clone())
      self.create_child('ffn_layer1_gate', gate.set(checkpoint_str='ffn1_gate'))
    ffn2 = projection(1, self.hidden_dims, output_dims, identity)
    self.create_child('ffn_layer2', ffn2)
    self.create_child(
      'relu_dropout', parts.dropout(self.relu_dropout_tpl, self.relu_dropout_prob)
    )
    self.create_child(
      'residual_dropout',
      parts.dropout(self.residual_dropout_tpl, self.residual_dropout_prob),
    )
    if self.residual_droppath_prob > 0:
      droppath = parts.droppath(self.residual_droppath_prob)
      self.create_child('residual_droppath', droppath)

  def _check_fields(self) -> None:
    parts.check_norm_policy(self, self.norm_policy, NORM_POLICIES)
    output_dims = self.output_dims or self.input_dims
    if self.add_skip_connection and output_dims != self.input_dims:
      raise ValueError(
        f'{self._pax_describe()}: add_skip_connection adds the inputs to the outputs, '
        f'so input_dims ({self.input_dims}) and output_dims ({output_dims}) must be '
        'equal. Set add_skip_connection=False or equal dims.'
      )
    if self.residual_droppath_prob > 0 and not self.add_skip_connection:
      raise AssertionError(
        f'{self._pax_describe()}: residual_droppath_prob='
        f'{self.residual_droppath_prob} needs add_skip_connection.'
      )

  def _hidden(self, x: JTensor) -> JTensor:
    if self.use_gated_activation:
      hidden = self.ffn_layer1_gate(x) * self.ffn_layer1(x)
    else:
      hidden = self.ffn_layer1(x)
    ap = self.activation_split_dims_mapping
    mapping = parts.step_mapping(ap.ffn0, ap.ffn0_extend_step, hidden.ndim)
    return base_layer.maybe_shard(hidden, mapping, self.mesh_axis_names)

  def __call__(
    self,
    inputs: JTensor,
    paddings: JTensor | None = None,
    segment_ids: JTensor | None = None,
  ) -> JTensor:
    """Outputs `[B, T, output_dims]` for inputs `[B, T, input_dims]`.

    Args:
      inputs: `[B, T, D]`, or `[B, D]` in a decoding step.
      paddings: `[B, T]`, 1 at padded steps.
      segment_ids: not used.
    """
    paddings = None if paddings is None else paddings[..., None]
    residual = inputs
    late = paddings
    if self.apply_padding_first:
      residual, late = parts.keep_unpadded(inputs, paddings), None
    parts.add_detail(self, 'input_rms', lambda: parts.rms(residual))

    x = residual
    if self.norm_policy in ('pre', 'primer_hybrid'):
      pre = self.norm_policy == 'primer_hybrid'
      x = self.pre_layer_norm(x) if pre else self.layer_norm(x)
      parts.add_detail(self, 'input_norm_rms', lambda: parts.rms(x))

    hidden = parts.keep_unpadded(self._hidden(x), late)
    parts.add_detail(self, 'activation_rms', lambda: parts.rms(hidden))
    out = self.ffn_layer2(self.relu_dropout(hidden))
    out = parts.keep_unpadded(checkpoint_name(out, 'ffn2'), late)
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
    if self.norm_policy == 'post_skip':
      out = self.layer_norm(out)
    if self.input_dims == self.output_dims:
      parts.add_detail(self, 'output_rel_cos', lambda: parts.rel_cos(residual, out))
    return out

  def extend_step(self, inputs: JTensor, *, time_step: JTensor) -> JTensor:
    """Outputs of one decoding step, for inputs `[B, D]`; `time_step` is not used."""
    return self(inputs)
