"""Abstract init: what a layer declares, by tracing `init` and computing nothing."""

from collections.abc import Mapping

import fiddle as fdl
import jax
import jax.numpy as jnp

from pax_haiku.core import constants, context, functional, weights
from pax_haiku.core import variables as variables_lib
from pax_haiku.core.metaclass import READY, LayerMeta


class AbstractInitMixin:
  """The declarations of variables, and the configs of the layers that are set up."""

  def _pax_abstract_init(
    self, args, kwargs, do_eval, method, extra_mutable_list, capture_intermediates
  ):
    """Shapes and declarations of all variables, without computing anything."""
    if self.fprop_dtype == jnp.bfloat16:
      args, kwargs = jax.tree.map(_as_bfloat16, (args, kwargs))
    mutable = [*constants.DEFAULT_INIT_MUTABLE_LIST, *(extra_mutable_list or ())]
    metadata: dict = {}
    runs = []

    def init(args, kwargs):
      key = jax.random.PRNGKey(0)
      _, variables, run = functional.run_init(
        self,
        {constants.PARAMS: key, constants.RANDOM: key},
        args,
        kwargs,
        method=method,
        mutable=mutable,
        metadata=metadata,
        capture_intermediates=capture_intermediates,
      )
      runs.append(run)
      return variables

    hparams = context.JaxContext.HParams(do_eval=do_eval)
    with context.JaxContext.new_context(hparams=hparams):
      shapes = jax.eval_shape(init, args, kwargs)
    return shapes, metadata, runs[0]

  def abstract_init_with_metadata(
    self,
    *args,
    do_eval: bool = False,
    method=None,
    extra_mutable_list=None,
    capture_intermediates=False,
    **kwargs,
  ):
    """The declarations of all variables, by tracing `init` abstractly.

    Args:
      *args: arrays or `jax.ShapeDtypeStruct`s; float32 ones are taken as bfloat16 if
        the layer computes in it.
      do_eval: trace in eval mode.
      method: as in `init`.
      extra_mutable_list: collections to show besides params and non_trainable.
      capture_intermediates: as in `apply`.
      **kwargs: as args.

    Returns:
      {collection: nested dict of WeightHParams}; shapes exclude `repeat_prefix`.
    """
    shapes, metadata, _ = self._pax_abstract_init(
      args, kwargs, do_eval, method, extra_mutable_list, capture_intermediates
    )
    out: dict = {}
    for collection, tree in shapes.items():
      if collection == 'params_axes':
        continue
      for path, name, leaf in variables_lib.walk(tree):
        declared = metadata.get((collection, path, name))
        if declared is None:
          declared = jax.tree.map(
            lambda x: weights.WeightHParams(list(x.shape), dtype=x.dtype), leaf
          )
        variables_lib.insert(out.setdefault(collection, {}), path, name, declared)
    return out

  def abstract_init_with_mdl_config(
    self,
    *args,
    do_eval: bool = False,
    method=None,
    extra_mutable_list=None,
    capture_intermediates=False,
    **kwargs,
  ):
    """Configs of the layers that are set up, nested as the layers are.

    Returns:
      A nested dict; each layer's entry `_hparams` is a Config of its class in which
      fields that hold layers or templates of layers are None.
    """
    _, _, run = self._pax_abstract_init(
      args, kwargs, do_eval, method, extra_mutable_list, capture_intermediates
    )
    out: dict = {}
    for path, layer in run.set_up.items():
      if layer._pax_phase == READY:
        variables_lib.insert(out, path, '_hparams', _without_sublayers(layer))
    return out


def _as_bfloat16(x):
  if getattr(x, 'dtype', None) == jnp.float32:
    return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
  return x


def is_sublayer_template_or_instance(value) -> bool:
  """Whether a field's value is a layer, a Config of one, or a container of them."""
  if isinstance(value, fdl.Buildable):
    return isinstance(fdl.get_callable(value), LayerMeta)
  if isinstance(type(value), LayerMeta):
    return True
  if isinstance(value, Mapping):
    return bool(value) and all(
      isinstance(k, str) and is_sublayer_template_or_instance(v)
      for k, v in value.items()
    )
  if isinstance(value, list | tuple):
    items = [v for v in value if v is not None]
    return bool(items) and all(map(is_sublayer_template_or_instance, items))
  return False


def _without_sublayers(layer):
  cfg = layer.hparams.clone()
  for name in layer._pax_field_names:
    if name != 'parent' and is_sublayer_template_or_instance(getattr(layer, name)):
      setattr(cfg, name, None)
  return cfg
