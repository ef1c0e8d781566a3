"""Another mesh during the decoding loop than before it."""

import haiku as hk
import jax

from pax_haiku import base_layer
from pax_haiku.core import sharding, variables
from pax_haiku.decoding.types import TransformStateFn


def maybe_decode_mesh_transpose(
  model: base_layer.BaseLayer, mesh_transpose: dict[str, str] | None
) -> base_layer.JaxContext:
  """A copy of the active JaxContext in which mesh axes are renamed.

  Args:
    model: nothing is renamed while it initializes.
    mesh_transpose: {new: old} names of mesh axes; None: none.
  """
  top = base_layer.JaxContext.top()
  hparams = base_layer.JaxContext.HParams() if top is None else top.hparams.clone()
  if mesh_transpose is not None and not model.is_initializing():
    hparams.mesh_axes_transpose = mesh_transpose
  return base_layer.JaxContext.new_context(hparams=hparams)


def maybe_reshard_mdl_for_decode(
  model: base_layer.BaseLayer,
  mesh_transpose: dict[str, str] | None,
  model_var_pspecs: base_layer.NestedPartitionSpec | None,
  transform_decode_state_fn: TransformStateFn,
) -> base_layer.BaseLayer:
  """Moves variables and decode caches from the model's sharding to the renamed one.

  Args:
    model: the bound layer that the loop runs.
    mesh_transpose: {new: old} names of mesh axes; None: nothing is done.
    model_var_pspecs: {collection: tree of PartitionSpec} of the model's variables.
    transform_decode_state_fn: through which the layers constrain their caches.

  Returns:
    `model`. Under a user's own Haiku transform parameters cannot be replaced; there
    only non-trainable variables and caches move. Random keys stay those of the model;
    Praxis binds the model anew and draws others.

  Raises:
    ValueError: `model_var_pspecs` is missing.
  """
  if mesh_transpose is None or model.is_initializing():
    return model
  if model_var_pspecs is None:
    raise ValueError(
      f'{model._pax_describe()}: decode_loop_mesh_axes_transpose needs '
      'model_var_pspecs, the PartitionSpecs of the variables: {"params": ..., ...}.'
    )

  def annotate():
    held = model.variables
    for collection in (base_layer.PARAMS, base_layer.NON_TRAINABLE):
      specs = model_var_pspecs.get(collection)
      if specs is not None:
        _constrain(model, collection, held.get(collection, {}), specs)
    transform_decode_state_fn(model, lambda x, batch_dim, time_dim: x)

  annotate()
  with maybe_decode_mesh_transpose(model, mesh_transpose):
    annotate()
  return model


def _constrain(model, collection: str, tree, specs) -> None:
  run = model._pax_run
  names = model.mesh_axis_names
  shard = lambda x, spec: sharding.maybe_shard(x, list(spec), names)  # noqa: E731
  for path, name, value in variables.walk(jax.tree.map(shard, tree, specs)):
    module = '/'.join((model.module_name, *path))
    if collection == base_layer.NON_TRAINABLE:
      with run.scope(module):
        hk.set_state(name, value)
    elif run.written is not None:
      run.written.put(module, name, value)
