"""Sharding of the templates of transformer models, by mesh axes.

Letters: v vocabulary, d model, f hidden of the feed-forward layer, n heads, h dims of a
head, e experts, c their slots, m model (of experts), b batch, l length, g groups.
"""

from collections.abc import Sequence

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import embedding_softmax, moe, transformer_templates

LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
Mapping = Sequence


def _set_mesh(tpl: LayerTpl, ici_mesh_shape, dcn_mesh_shape, mesh_axis_names) -> None:
  tpl.ici_mesh_shape = ici_mesh_shape
  tpl.dcn_mesh_shape = dcn_mesh_shape
  tpl.mesh_axis_names = mesh_axis_names


def shard_embedding(tpl: LayerTpl, w_vd: Mapping, a_bld, a_blv, a_bv) -> None:
  """Shards an embedding or a softmax.

  Raises:
    NotImplementedError: the class is none of those known here.
  """
  cls = tpl.cls
  softmaxes = embedding_softmax
  if issubclass(cls, softmaxes.GShardSharedEmbeddingSoftmax):
    tpl.weight_split_dims_mapping.wt = w_vd
  elif issubclass(cls, softmaxes.SharedEmbeddingSoftmax | softmaxes.Embedding):
    tpl.weight_split_dims_mapping.wt = [w_vd[1], w_vd[0]]
    tpl.lookup_style = 'matmul'
  elif issubclass(cls, softmaxes.FullSoftmax):
    tpl.weight_split_dims_mapping.wt = [w_vd[1], w_vd[0]]
  else:
    raise NotImplementedError(
      f'Sharding of {cls.__name__} is not known here: set its '
      'weight_split_dims_mapping yourself.'
    )
  ap = tpl.activation_split_dims_mapping
  ap.out = a_blv
  if hasattr(ap, 'emb_out_split_dims_mapping'):
    ap.emb_out_split_dims_mapping = a_bld
  if hasattr(ap, 'extend_step_out'):
    ap.extend_step_out = a_bv


def _shard_attention(tpl: LayerTpl, w_dnh, a_blnh, a_blh, a_bld, a_bd) -> None:
  wp, ap = tpl.weight_split_dims_mapping, tpl.activation_split_dims_mapping
  wp.proj = w_dnh
  w_dn = None if w_dnh is None else [w_dnh[1], None]
  wp.dconv = w_dn
  ap.blnh, ap.bld = a_blnh, a_bld
  if hasattr(ap, 'bd'):
    ap.bd = a_bd
  if hasattr(wp, 'proj_headless'):
    wp.proj_headless = None if w_dnh is None else [w_dnh[0], w_dnh[2]]
    if a_blh is None and a_blnh is not None:
      a_blh = [a_blnh[0], a_blnh[1], a_blnh[3]]
    ap.blh = a_blh


def _shard_experts(tpl: LayerTpl, w_emh, a_egch, a_egcm, experts_apart: bool) -> None:
  wp, ap = tpl.weight_split_dims_mapping, tpl.activation_split_dims_mapping
  wp.me = [None, None]
  wp.emh = w_emh
  wp.ehm = None if w_emh is None else [w_emh[0], w_emh[2], w_emh[1]]
  if a_egch is not None:
    first = a_egch[0]
    if experts_apart:
      first = ('replica', 'data', 'data_expert')
    ap.gs = [first, None]
    ap.gsec = ap.gecs = [first, None, None, None]
    ap.gec = [first, None, None]
  ap.egch = a_egch
  if a_egcm is not None:
    first = ('replica', 'data', 'data_expert') if experts_apart else a_egcm[0]
    ap.gsm = [first, None, a_egcm[3]]
    ap.gecm = a_egcm
    if experts_apart:
      ap.gecm = [a_egcm[1], a_egcm[0], a_egcm[2], a_egcm[3]]
  ap.egcm = a_egcm


def shard_stack(
  stack: LayerTpl,
  *,
  w_df,
  w_dnh,
  w_emh,
  a_bld,
  a_blf,
  a_blnh,
  a_egch,
  a_egcm,
  a_blh=None,
  a_bd=None,
  a_bf=None,
  experts_apart: bool = False,
) -> None:
  """Shards the template of a `StackedTransformer`, and those of all its parts."""
  tpls = stack.transformer_layer_params_tpl
  for block in tpls if isinstance(tpls, list | tuple) else [tpls]:
    for attention in (block.tr_atten_tpl, block.cross_atten_tpl):
      if attention is not None:
        _shard_attention(attention, w_dnh, a_blnh, a_blh, a_bld, a_bd)
    feed = block.tr_fflayer_tpl
    if feed is None:
      continue
    if issubclass(feed.cls, moe.TransformerFeedForwardMoe):
      _shard_experts(feed, w_emh, a_egch, a_egcm, experts_apart)
      continue
    feed.weight_split_dims_mapping.ffn0 = w_df
    feed.weight_split_dims_mapping.ffn1 = None if w_df is None else [w_df[1], w_df[0]]
    ap = feed.activation_split_dims_mapping
    ap.ffn0, ap.ffn1 = a_blf, a_bld
    ap.ffn0_extend_step, ap.ffn1_extend_step = a_bf, a_bd
  if stack.moe_layer_tpl is not None:
    _shard_experts(stack.moe_layer_tpl, w_emh, a_egch, a_egcm, experts_apart)


def set_custom_sharding_params(
  lm_p: LayerTpl,
  *,
  ici_mesh_shape,
  dcn_mesh_shape=None,
  mesh_axis_names,
  w_df=None,
  w_dnh=None,
  w_emh=None,
  w_vd=None,
  a_bld=None,
  a_blf=None,
  a_blh=None,
  a_blnh=None,
  a_blv=None,
  a_egch=None,
  a_egcm=None,
  a_bd=None,
  a_bf=None,
  a_bv=None,
) -> LayerTpl:
  """Shards a `TransformerLm` template, weights `w_` and activations `a_` by letters.

  Args:
    lm_p: the template; changed and returned.
    ici_mesh_shape, dcn_mesh_shape, mesh_axis_names: the mesh.
    w_df, ...: one mesh axis, tuple of axes, or None for each letter.

  Raises:
    NotImplementedError: the softmax or embedding is of an unknown class.
  """
  mesh = (ici_mesh_shape, dcn_mesh_shape, mesh_axis_names)
  _set_mesh(lm_p, *mesh)
  position = lm_p.position_emb_tpl
  trainable = embedding_softmax.TrainablePositionalEmbedding
  if position is not None and issubclass(position.cls, trainable):
    position.weight_split_dims_mapping.wt = w_df
    position.activation_split_dims_mapping.emb_out_split_dims_mapping = a_bld
  if lm_p.ngrammer_tpl is not None:
    lm_p.ngrammer_tpl.weight_split_dims_mapping.wt = w_vd
  for tpl in (lm_p.softmax_tpl, lm_p.separate_embedding_tpl):
    if tpl is not None:
      _set_mesh(tpl, *mesh)
      if w_vd is not None:
        shard_embedding(tpl, w_vd, a_bld, a_blv, a_bv)
  shard_stack(
    transformer_templates.innermost_stack(lm_p.stacked_transformer_tpl),
    w_df=w_df,
    w_dnh=w_dnh,
    w_emh=w_emh,
    a_bld=a_bld,
    a_blf=a_blf,
    a_blnh=a_blnh,
    a_blh=a_blh,
    a_egch=a_egch,
    a_egcm=a_egcm,
    a_bd=a_bd,
    a_bf=a_bf,
    experts_apart='data_expert' in (mesh_axis_names or ()),
  )
  return lm_p


def set_sharding_params_v1(
  lm_p: LayerTpl,
  *,
  replica_axis,
  data_axis,
  mdl_axis,
  ici_mesh_shape,
  dcn_mesh_shape=None,
  batch_axes=None,
  mesh_axis_names,
  seq_axis=None,
  training_optimized,
) -> LayerTpl:
  """Shards a `TransformerLm` template over replica, data and model axes.

  Args:
    lm_p: the template; changed and returned.
    replica_axis, data_axis: the batch goes over both, weights over `data_axis`.
    mdl_axis: heads, hidden dims and vocabulary.
    ici_mesh_shape, dcn_mesh_shape, mesh_axis_names: the mesh.
    batch_axes: of the batch, in place of the two.
    seq_axis: of the length, and of weights.
    training_optimized: shard the model dim of activations, too.
  """
  batch = (replica_axis, data_axis) if batch_axes is None else batch_axes
  weights = data_axis if seq_axis is None else (data_axis, seq_axis)
  wide = [batch, seq_axis, mdl_axis]
  return set_custom_sharding_params(
    lm_p,
    ici_mesh_shape=ici_mesh_shape,
    dcn_mesh_shape=dcn_mesh_shape,
    mesh_axis_names=mesh_axis_names,
    w_df=[weights, mdl_axis],
    w_dnh=[weights, mdl_axis, None],
    w_emh=[data_axis, None, mdl_axis],
    w_vd=[mdl_axis, weights],
    a_bld=wide if training_optimized else [batch, None, None],
    a_blf=wide,
    a_blnh=[batch, seq_axis, mdl_axis, None],
    a_blv=wide,
    a_egch=[data_axis, None, None, mdl_axis],
    a_egcm=(
      [data_axis, None, None, mdl_axis]
      if training_optimized
      else [batch, None, None, None]
    ),
  )


def set_sharding_params_with_expert_parallelism(
  lm_p: LayerTpl,
  *,
  replica_axis,
  data_axis,
  data_expert_axis,
  mdl_axis,
  ici_mesh_shape,
  dcn_mesh_shape=None,
  mesh_axis_names,
  seq_axis=None,
  training_optimized,
) -> LayerTpl:
  """As `set_sharding_params_v1`, with experts over a mesh axis of their own.

  That axis, `data_expert_axis`, serves the batch outside of experts.
  """
  batch = (replica_axis, data_axis, data_expert_axis)
  weights = (data_axis, data_expert_axis)
  if seq_axis is not None:
    weights = (*weights, seq_axis)
  wide = [batch, seq_axis, mdl_axis]
  return set_custom_sharding_params(
    lm_p,
    ici_mesh_shape=ici_mesh_shape,
    dcn_mesh_shape=dcn_mesh_shape,
    mesh_axis_names=mesh_axis_names,
    w_df=[weights, mdl_axis],
    w_dnh=[weights, mdl_axis, None],
    w_emh=[data_expert_axis, data_axis, mdl_axis],
    w_vd=[mdl_axis, weights],
    a_bld=wide if training_optimized else [batch, None, None],
    a_blf=wide,
    a_blnh=[batch, seq_axis, mdl_axis, None],
    a_blv=wide,
    a_egch=[data_expert_axis, data_axis, None, mdl_axis],
    a_egcm=(
      [data_expert_axis, (replica_axis, data_axis), None, mdl_axis]
      if training_optimized
      else [batch, None, None, None]
    ),
  )


def shard_encoder_decoder(
  model_p: LayerTpl,
  *,
  replica_axis,
  data_axis,
  mdl_axis,
  ici_mesh_shape,
  dcn_mesh_shape=None,
  mesh_axis_names,
  training_optimized,
) -> LayerTpl:
  """As `set_sharding_params_v1`, for a `TransformerEncoderDecoder` template."""
  mesh = (ici_mesh_shape, dcn_mesh_shape, mesh_axis_names)
  _set_mesh(model_p, *mesh)
  batch = (replica_axis, data_axis)
  wide = [batch, None, mdl_axis]
  a_bld = wide if training_optimized else [batch, None, None]
  w_vd = [mdl_axis, data_axis]
  trainable = embedding_softmax.TrainablePositionalEmbedding
  for tpl in (
    model_p.position_emb_tpl,
    model_p.encoder_position_emb_tpl,
    model_p.decoder_position_emb_tpl,
  ):
    if tpl is not None and issubclass(tpl.cls, trainable):
      tpl.weight_split_dims_mapping.wt = [data_axis, mdl_axis]
      tpl.activation_split_dims_mapping.emb_out_split_dims_mapping = a_bld
  for tpl in (model_p.encoder_ngrammer_tpl, model_p.decoder_ngrammer_tpl):
    if tpl is not None:
      tpl.weight_split_dims_mapping.wt = w_vd
  for tpl in (
    model_p.softmax_tpl,
    model_p.encoder_embedding_tpl,
    model_p.decoder_embedding_tpl,
  ):
    if tpl is not None:
      _set_mesh(tpl, *mesh)
      shard_embedding(tpl, w_vd, a_bld, wide, None)
  for tpl in (
    model_p.encoder_stacked_transformer_tpl,
    model_p.decoder_stacked_transformer_tpl,
  ):
    shard_stack(
      transformer_templates.innermost_stack(tpl),
      w_df=[data_axis, mdl_axis],
      w_dnh=[data_axis, mdl_axis, None],
      w_emh=[data_axis, None, mdl_axis],
      a_bld=a_bld,
      a_blf=wide,
      a_blnh=[batch, None, mdl_axis, None],
      a_egch=[data_axis, None, None, mdl_axis],
      a_egcm=(
        [data_axis, None, None, mdl_axis]
        if training_optimized
        else [batch, None, None, None]
      ),
    )
  return model_p
