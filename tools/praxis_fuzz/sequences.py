"""Hypothesis strategies for layers over sequences: attention, transformers, cells."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Tree = dict[str, Any]
KINDS = ('attend', 'padded_feed_forward', 'mixture', 'block', 'stack', 'recurrent',
         'light_conv')
NORMS = ('LayerNorm', 'RmsNorm')


class Sequences:
  """Draws layers [B, T, dims] -> [B, T, dims]; a field's value may be 'unset'.

  Args:
    draw: of hypothesis.
    node: makes a tree's node of a layer's name and its fields.
    optional: (draw, *values) -> one of the values, or 'unset'.
  """

  def __init__(self, draw: Any, node: Callable[..., Tree],
               optional: Callable[..., Any]) -> None:
    self._draw, self._node = draw, node
    self._optional = lambda *values: optional(draw, *values)

  def make(self, kind: str, dims: int) -> Tree:
    return getattr(self, f'_{kind}')(dims)

  def _norm(self) -> Any:
    return self._optional(*[self._node(f'normalizations.{n}') for n in NORMS])

  def _attention(self, **fields: Any) -> Tree:
    option = self._optional
    bias = self._node('attentions.RelativeBias', relative_attention_num_buckets=option(
        8))
    name = self._draw(st.sampled_from(('attentions.DotProductAttention',) * 3 + (
        'multi_query_attention.MultiQueryDotProductAttention',)))
    if name.startswith('attentions'):
      fields.update(combine_qkv=option(True), dconv_qkv=option(True),
                    attention_extra_logit=option(0.0, 1.0),
                    relative_bias_tpl=option(bias))
    return self._node(
        name, use_bias=option(False), atten_logit_cap=option(2.0),
        atten_dropout_prob=option(0.25), internal_enable_per_dim_scale=option(False),
        scale_logits_by_head_dims=option(True),
        use_rotary_position_emb=option(True), zero_fully_masked=option(True), **fields)

  def _attend(self, dims: int) -> Tree:
    heads = self._draw(st.sampled_from((1, 2)))
    attention = self._attention(
        input_dim=dims, hidden_dim=4 * heads, num_heads=heads,
        dim_per_head=self._optional(2))
    return self._node('fuzz.Attend', atten_tpl=attention,
                      is_causal=self._draw(st.booleans()))

  def _feed_forward(self, name: str = 'TransformerFeedForward', **fields: Any) -> Tree:
    option = self._optional
    return self._node(
        f'transformers.{name}', residual_weight=option(0.5),
        norm_policy=option('primer_hybrid', 'post'),
        residual_dropout_prob=option(0.25), relu_dropout_prob=option(0.25),
        use_gated_activation=option(True), apply_padding_first=option(True),
        ln_tpl=self._norm(), **fields)

  def _padded_feed_forward(self, dims: int) -> Tree:
    return self._node('fuzz.Padded', body_tpl=self._feed_forward(
        input_dims=dims, hidden_dims=3, has_bias=self._optional(False),
        residual_droppath_prob=self._optional(0.25)))

  def _mixture(self, dims: int) -> Tree:
    return self._node('fuzz.Padded', body_tpl=self._feed_forward(
        'TransformerFeedForwardMoe', input_dims=dims, hidden_dims=3, num_experts=2,
        num_groups=self._draw(st.sampled_from((1, 2))),
        expert_capacity_dim=self._optional(2),
        gating_func=self._optional('dense_top2', 'expert_choice')))

  def _blocks(self, dims: int) -> dict[str, Any]:
    option = self._optional
    return dict(
        hidden_dims=3, num_heads=self._draw(st.sampled_from((1, 2))),
        dim_per_head=2, dropout_prob=option(0.25), tr_atten_tpl=option(
            self._attention()), norm_policy=option('primer_hybrid', 'post',
                                                   'post_skip'))

  def _block(self, dims: int) -> Tree:
    fields = self._blocks(dims)
    dropout = fields.pop('dropout_prob')
    return self._node('fuzz.Block', body_tpl=self._node(
        'transformers.Transformer', input_dims=dims, residual_dropout_prob=dropout,
        ln_tpl=self._norm(), tr_fflayer_tpl=self._optional(self._feed_forward()),
        **fields))

  def _stack(self, dims: int) -> Tree:
    fields = self._blocks(dims)
    block = self._node('transformers.Transformer', **{
        name: fields.pop(name) for name in ('norm_policy', 'tr_atten_tpl')})
    stack = self._node(
        'transformers.StackedTransformer', model_dims=dims,
        num_layers=self._draw(st.sampled_from((1, 2))),
        mask_self_attention=self._optional(True), transformer_layer_params_tpl=block,
        input_dropout_prob=self._optional(0.25),
        residual_droppath_prob=self._optional(0.25), **fields)
    if self._draw(st.booleans()):
      stack = self._node('transformers.StackedTransformerRepeated', block=stack,
                         x_times=2)
    return self._node('fuzz.Padded', body_tpl=stack)

  def _recurrent(self, dims: int) -> Tree:
    option = self._optional
    name = self._draw(st.sampled_from(
        ('LstmCellSimple', 'CifgLstmCellSimple', 'LayerNormalizedLstmCellSimple')))
    cell = self._node(
        f'rnn_cell.{name}', num_input_nodes=dims, num_output_nodes=dims,
        forget_gate_bias=option(1.0), cell_value_cap=option(0.5),
        zo_prob=option(0.25) if name != 'LayerNormalizedLstmCellSimple' else 'unset')
    return self._node('fuzz.Recurrent', cell_tpl=cell, reverse=option(True))

  def _light_conv(self, dims: int) -> Tree:
    return self._node('fuzz.Padded', body_tpl=self._node(
        'convolutions.LightConv1D', input_dims=dims, kernel_size=2,
        is_causal=self._optional(True), dropout_prob=self._optional(0.25)))
