"""Hypothesis strategies for layer trees: plain data, see build.py.

Trees are mostly valid, since a tree that both sides refuse tells little, and now and
then wrong on purpose. Dimensions come from a handful, because each new shape compiles
anew on both sides.
"""

from typing import Any

from hypothesis import strategies as st

from praxis_fuzz import scripts, sequences

Tree = dict[str, Any]
ACTIVATIONS = ('ReLU', 'SineReLU', 'ReLU6', 'LeakyReLU', 'ELU', 'Sigmoid', 'Tanh',
               'GELU', 'SiLU', 'Swish', 'Softplus', 'Identity')
DIMS = (2, 2, 2, 3, 1)
LEAVES = ('linear', 'bias', 'feed_forward', 'mlp', 'einsum', 'activation', 'layer_norm',
          'rms_norm', 'batch_norm', 'group_norm', 'other_norm', 'dropout', 'conv',
          'position', 'sequence', 'sequence')
INNER = ('script', 'script', 'script', 'sequential', 'repeat', 'repeat', 'branch')
BFLOAT16 = {'dtype': 'bfloat16'}
FLOAT32 = {'dtype': 'float32'}


def node(layer: str, **fields: Any) -> Tree:
  return {'layer': layer, 'fields': {k: v for k, v in fields.items() if v != 'unset'}}


def rarely(draw: Any, percent: int) -> bool:
  """True in about `percent` of 100; shrinks to False."""
  return draw(st.integers(0, 99)) >= 100 - percent


def optional(draw: Any, *values: Any) -> Any:
  """'unset', or one of `values`."""
  return draw(st.sampled_from(('unset', *values)))


def base_fields(draw: Any) -> Tree:
  """Fields that every layer has, mostly unset."""
  out: Tree = {}
  if rarely(draw, 6):
    out['dtype'] = draw(st.sampled_from((BFLOAT16, FLOAT32)))
  if rarely(draw, 6):
    out['fprop_dtype'] = draw(st.sampled_from((BFLOAT16, FLOAT32)))
  if rarely(draw, 12):
    out['params_init'] = {'init': draw(st.sampled_from(scripts.INITS))}
  if rarely(draw, 4):
    out['skip_lp_regularization'] = draw(st.booleans())
  if rarely(draw, 5):
    out['shared_weight_layer_id'] = draw(st.sampled_from(('s0', 's1')))
  if rarely(draw, 3):
    out['name'] = 'given'
  if rarely(draw, 3):
    out.update(ici_mesh_shape=[1, 1], mesh_axis_names=['d', 'm'])
  return out


def activation(draw: Any) -> Tree:
  name = draw(st.sampled_from(ACTIVATIONS))
  slope = optional(draw, 0.25) if name == 'LeakyReLU' else 'unset'
  exact = optional(draw, False) if name == 'GELU' else 'unset'
  return node(f'activations.{name}', negative_slope=slope, approximate=exact)


def linear_fields(draw: Any, dims: int, out: int) -> Tree:
  weight_init = {'init': draw(st.sampled_from(scripts.INITS))}
  return dict(input_dims=dims, output_dims=out,
              weight_init=optional(draw, weight_init))


def feed_forward(draw: Any, dims: int, out: int) -> Tree:
  return node('linears.FeedForward', **linear_fields(draw, dims, out),
              has_bias=optional(draw, False), bias_init=optional(draw, 0.5),
              activation_tpl=optional(draw, activation(draw)),
              checkpoint_str=optional(draw, 'mark'))


def leaf(draw: Any, kind: str, dims: int, out: int) -> Tree:
  """A library layer [B, T, dims] -> [B, T, out]; most need out == dims."""
  if kind == 'linear':
    return node('linears.Linear', **linear_fields(draw, dims, out))
  if kind == 'bias':
    return node('linears.Bias', dims=dims, bias_init=optional(draw, 0.25))
  if kind == 'feed_forward':
    return feed_forward(draw, dims, out)
  if kind == 'mlp':
    return node('linears.MLPBlock', num_layers=draw(st.integers(1, 3)),
                hidden_dims=draw(st.sampled_from(DIMS)),
                activate_final=optional(draw, False),
                ff_tpl=feed_forward(draw, dims, out))
  if kind == 'einsum':
    equation = draw(st.sampled_from(('BTD,DE->BTE', '...D,DE->...E', 'BTD,ED->BTE')))
    shape = [out, dims] if ',ED' in equation else [dims, out]
    return node('einsum.Einsum', eqn=equation, w_shape=shape,
                use_bias=optional(draw, True))
  if kind == 'activation':
    return activation(draw)
  if kind == 'layer_norm':
    return node('normalizations.LayerNorm', dim=dims,
                direct_scale=optional(draw, True), epsilon=optional(draw, 0.1),
                use_scale=optional(draw, False), use_bias=optional(draw, False),
                reductions_in_fp32=optional(draw, True))
  if kind == 'rms_norm':
    return node('normalizations.RmsNorm', dim=dims, epsilon=optional(draw, 0.1),
                direct_scale=optional(draw, False),
                intermediate_dtype=optional(draw, FLOAT32))
  if kind == 'batch_norm':
    return node('normalizations.BatchNorm', dim=dims, decay=optional(draw, 0.5, 0.9),
                use_moving_avg_in_training=optional(draw, True),
                force_eval_mode=optional(draw, True),
                gamma_init=optional(draw, {'init': ['Constant', 0.5]}))
  if kind == 'group_norm':
    return node('normalizations.GroupNorm', dim=dims, input_rank=3,
                num_groups=draw(st.sampled_from((1, 2, 32))),
                use_scale=optional(draw, False), use_bias=optional(draw, False))
  if kind == 'other_norm':
    name = draw(st.sampled_from(('IdentityNorm', 'RmsNormNoScale', 'WeightNormL2')))
    return node(f'normalizations.{name}', dim=dims)
  if kind == 'dropout':
    return node('stochastics.Dropout', keep_prob=draw(st.sampled_from((0.5, 0.75, 1.))),
                noise_shape_broadcast_dims=optional(draw, [1], [-1, 0]),
                dropout_at_eval=optional(draw, True))
  if kind == 'sequence':
    make = sequences.Sequences(draw, node, optional).make
    return make(draw(st.sampled_from(sequences.KINDS)), dims)
  if kind == 'conv':
    return node('convolutions.DepthwiseConv1D', filter_shape=[2, dims, 1],
                bias=optional(draw, True), is_causal=optional(draw, True),
                use_2d_conv_weight_shape=optional(draw, True))
  trainable = draw(st.booleans())
  name = 'TrainablePositionalEmbedding' if trainable else 'PositionalEmbedding'
  fields = {'embedding_dims': dims}
  if trainable:
    fields.update(max_seq_length=draw(st.sampled_from((3, 5))),
                  lookup_style=draw(st.sampled_from(('index', 'matmul'))))
  return node('fuzz.AddPosition', position_tpl=node(f'embedding_softmax.{name}',
                                                    **fields))


def sequential(draw: Any, dims: int, out: int, depth: int) -> Tree:
  sizes = [dims] + draw(st.lists(st.sampled_from(DIMS), max_size=2)) + [out]
  return node('sequential.Sequential', layers=[
      layer(draw, a, b, depth - 1)
      for a, b in zip(sizes[:-1], sizes[1:], strict=True)])


def repeat(draw: Any, dims: int, depth: int) -> Tree:
  times, prefix = draw(st.sampled_from(
      ((1, 'unset'), (2, 'unset'), (3, 'unset'), (4, [2, 2]), (2, [2]), (2, [1, 2]))))
  policy = 'checkpoint_policy.AutodiffCheckpointType.'
  return node(
      'repeats.Repeat', sub_tpl=layer(draw, dims, dims, depth - 1), x_times=times,
      nd_prefix_shape=prefix, unpack_summaries=optional(draw, True),
      sublayer_name=optional(draw, 'block'),
      checkpoint_policy=optional(draw, {'name': f'{policy}SAVE_EVERYTHING'},
                                 {'name': f'{policy}SAVE_DOT_ONLY'}),
      unroll_in_decode=optional(draw, True))


def layer(draw: Any, dims: int, out: int, depth: int, root: bool = False) -> Tree:
  """A random layer [B, T, dims] -> [B, T, out] with `depth` levels below it at most."""
  kinds = ('linear', 'feed_forward', 'mlp', 'einsum') if out != dims else LEAVES
  if depth > 0:
    inner = ('sequential',) if out != dims else INNER
    # The likelier the deeper: a large tree of large trees would take minutes.
    kinds = inner * 8 + kinds if root else kinds + inner * depth
  kind = draw(st.sampled_from(kinds))
  if kind == 'script':
    made = scripts.script(draw, dims, lambda: layer(draw, dims, dims, depth - 1))
  elif kind == 'sequential':
    made = sequential(draw, dims, out, depth)
  elif kind == 'repeat':
    made = repeat(draw, dims, depth)
  elif kind == 'branch':
    residual = node('stochastics.StochasticResidual',
                    survival_prob=optional(draw, 0.5),
                    residual_weight=optional(draw, 0.5))
    made = node('fuzz.StochasticBranch', residual_tpl=residual,
                branch_tpl=layer(draw, dims, dims, depth - 1))
  else:
    made = leaf(draw, kind, dims, out)
  made['fields'].update(base_fields(draw))
  return made


def tokens(draw: Any, dims: int, depth: int) -> Tree:
  """A little language model: tied or own embedding, bigrams, body, softmax."""
  fields = dict(
      input_dims=dims, num_classes=5, soft_cap_logits=optional(draw, 3.0),
      z_loss_weight=optional(draw, 0.01), label_smoothing_prob=optional(draw, 0.1),
      scale_before_logits=optional(draw, True))
  own = draw(st.booleans())
  if own:
    fields.update(embedding_tpl=node(
        'embedding_softmax.Embedding', num_classes=5, input_dims=dims,
        lookup_style=optional(draw, 'matmul'), scale_sqrt_depth=optional(draw, True)))
  embedding = fields.pop('embedding_tpl', 'unset')
  if not own:
    fields.update(lookup_style=optional(draw, 'matmul'),
                  scale_sqrt_depth=optional(draw, True))
    del fields['scale_before_logits']
  name = 'FullSoftmax' if own else 'SharedEmbeddingSoftmax'
  bigrams = 'unset'
  if dims > 2:  # normalized, two features are 1 and -1, with gradients of noise
    bigrams = optional(draw, node(
        'ngrammer.Ngrammer', ngram_vocab_size=11, unigram_vocab_size=5,
        ngram_emb_dim=dims, num_heads=1, dim_per_head=dims,
        concat_ngrams=optional(draw, False)))
  made = node('fuzz.Tokens', embedding_tpl=embedding, ngrammer_tpl=bigrams,
              softmax_tpl=node(f'embedding_softmax.{name}', **fields),
              body_tpl=layer(draw, dims, dims, depth - 1))
  made['fields'].update(base_fields(draw))
  return made


@st.composite
def trees(draw: Any, depth: int = 2) -> Tree:
  """Trees up to `depth` levels deep, with the input they are called on."""
  dims = draw(st.sampled_from(DIMS))
  if rarely(draw, 8):
    config = tokens(draw, dims, depth)
  else:
    out = dims if not rarely(draw, 20) else draw(st.sampled_from(DIMS))
    config = layer(draw, dims, out, depth, root=True)
  if rarely(draw, 15):
    config['fields']['fprop_dtype'] = BFLOAT16
  first = config['layer'].partition('.')[0]
  return {
      'config': config, 'shape': [2, 3, dims],
      'input_dtype': 'bfloat16' if rarely(draw, 15) else 'float32',
      'paddings': first == 'normalizations' and draw(st.booleans())}
