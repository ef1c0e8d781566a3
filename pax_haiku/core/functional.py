"""init, apply and their kin: a layer as pure functions over Pax's collections."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku.core import boxes, constants, context, errors, interactive, rng, weights
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core.metaclass import READY, UNBOUND, LayerMeta

_VARIABLE_ERRORS = (
  errors.ScopeParamNotFoundError,
  errors.ScopeCollectionNotFound,
  errors.ScopeParamShapeError,
)


class DenyList:
  """For `mutable=`: every collection but those named."""

  def __init__(self, deny):
    self.deny = deny


_ALL_BUT_INTERMEDIATES = DenyList(constants.INTERMEDIATES)


def mutable_filter(mutable) -> Callable[[str], bool]:
  """A predicate on collection names from what Pax accepts as `mutable`.

  Args:
    mutable: False, True, a name, a list of names, or a DenyList of any of these.
  """
  if isinstance(mutable, bool) or mutable is None:
    return lambda collection: bool(mutable)
  if isinstance(mutable, str):
    return lambda collection: collection == mutable
  if hasattr(mutable, 'deny'):
    denied = mutable_filter(mutable.deny)
    return lambda collection: not denied(collection)
  names = frozenset(mutable)
  return names.__contains__


def as_function(layer, method) -> Callable[..., Any]:
  """`method` (None, a name, a method, any function) as a function of the layer."""
  if method is None:
    method = '__call__'
  if isinstance(method, str):
    found = getattr(type(layer), method, None)
    if found is None:
      raise AttributeError(f'{layer._pax_describe()} has no method {method!r} to run.')
    return found
  return getattr(method, '__func__', method)


def root_name(layer) -> str:
  return layer.name or type(layer).__name__.lower()


def _bind_root(layer, run: run_lib.Run):
  root = layer._pax_unbound_copy()
  root._pax_bind(run, root_name(layer))
  return root


def _haiku_key(rngs: Mapping[str, jax.Array], streams):
  """The key that plain Haiku modules below the layer draw from."""
  return next((rngs[s] for s in streams if s in rngs), None)


@contextlib.contextmanager
def _capture(predicate):
  """Sows the outputs of layers' methods under `intermediates`."""

  def interceptor(next_function, args, kwargs, ctx):
    out = next_function(*args, **kwargs)
    layer = ctx.module
    if isinstance(type(layer), LayerMeta) and predicate(layer, ctx.method_name):
      bucket = layer._pax_bucket(constants.INTERMEDIATES)
      layer._pax_put(
        constants.INTERMEDIATES,
        ctx.method_name,
        (*bucket.get(ctx.method_name, ()), out),
      )
    return out

  with hk.intercept_methods(interceptor):
    yield


def _capture_scope(capture_intermediates):
  if not capture_intermediates:
    return contextlib.nullcontext()
  if capture_intermediates is True:
    return _capture(lambda module, method_name: method_name == '__call__')
  return _capture(capture_intermediates)


def run_init(
  layer,
  rngs,
  args,
  kwargs,
  *,
  method=None,
  mutable=None,
  metadata=None,
  capture_intermediates=False,
):
  """Runs a layer while creating its variables.

  Returns:
    (output, {collection: nested dict} of the mutable collections, the run).
  """
  rngs = rng.check_rngs(rngs)
  is_mutable = mutable_filter(mutable or constants.DEFAULT_INIT_MUTABLE_LIST)
  run = run_lib.Run(
    initializing=True, rngs=rngs, is_mutable=is_mutable, metadata=metadata
  )
  function = as_function(layer, method)
  output = []

  def call(*args, **kwargs):
    output.append(function(_bind_root(layer, run), *args, **kwargs))

  key = _haiku_key(rngs, (constants.PARAMS, constants.RANDOM))
  with run_lib.activate(run), _capture_scope(capture_intermediates):
    params, state = hk.transform_with_state(call).init(key, *args, **kwargs)
  tree = variables_lib.to_pax(params, state, root=run.root_name)
  return output[0], {c: t for c, t in tree.items() if is_mutable(c)}, run


def _check_structure(layer, variables):
  if not isinstance(variables, Mapping):
    raise TypeError(
      f'{layer._pax_describe()}.apply: expected variables as a dict '
      f'{{collection: ...}}, got {type(variables).__name__}.'
    )
  inner = variables.get(constants.PARAMS)
  if isinstance(inner, Mapping) and isinstance(inner.get(constants.PARAMS), Mapping):
    raise errors.ApplyScopeInvalidVariablesStructureError(
      f"{layer._pax_describe()}.apply: got {{'params': {{'params': ...}}}}, one level "
      'too deep. Pass the variables as init returned them.'
    )


def _mismatches(layer, variables, args, kwargs, method) -> str:
  """Every missing, extra or wrongly shaped entry of `variables`, one a line."""
  expected = layer.abstract_init_with_metadata(
    *args, do_eval=layer.do_eval, method=method, **kwargs
  )
  lines = []
  for collection in (constants.PARAMS, constants.NON_TRAINABLE):
    want = {
      '/'.join((*p, n)): tuple(v.full_shape)
      for p, n, v in variables_lib.walk(expected.get(collection, {}))
    }
    have = {
      '/'.join((*p, n)): jnp.shape(v)
      for p, n, v in variables_lib.walk(variables.get(collection, {}))
    }
    lines += [f'  missing {collection}/{k} {want[k]}' for k in want if k not in have]
    lines += [f'  extra   {collection}/{k} {have[k]}' for k in have if k not in want]
    lines += [
      f'  shape   {collection}/{k}: expected {want[k]}, found {have[k]}'
      for k in want
      if k in have and want[k] != have[k]
    ]
  return '\n'.join(lines)


class FunctionalMixin:
  """A layer outside a transform: init, apply, bind and abstract init."""

  def init(self, rngs, *args, method=None, mutable=None, **kwargs) -> dict[str, Any]:
    """Creates the variables by running a method once.

    Args:
      rngs: a key, or {stream: key} with streams `params` and `random`.
      *args: given to the method.
      method: what to run; `__call__` if None. A name, a method, or any function that
        takes the layer first.
      mutable: the collections to return, in place of params and non_trainable.
      **kwargs: given to the method.

    Returns:
      {collection: nested dict of arrays}; the method's output is dropped.

    Raises:
      InvalidRngError: `rngs` is neither a key nor a dict of keys.
    """
    return self._pax_init(rngs, args, kwargs, method=method, mutable=mutable)[1]

  def _pax_init(self, rngs, args, kwargs, **options):
    self._pax_require_unbound('init')
    return run_init(self, rngs, args, kwargs, **options)

  def init_with_output(
    self, rngs, *args, method=None, mutable=_ALL_BUT_INTERMEDIATES, **kwargs
  ):
    """As `init`, but returns (output, variables).

    By default all collections but `intermediates`; variables come as `BoxedParam`s.
    """
    self._pax_require_unbound('init_with_output')
    metadata: dict = {}
    output, variables, _ = run_init(
      self, rngs, args, kwargs, method=method, mutable=mutable, metadata=metadata
    )
    boxed: dict = {}
    for collection, tree in variables.items():
      for path, name, value in variables_lib.walk(tree):
        declared = metadata.get((collection, path, name))
        if declared is not None:
          value = boxes.BoxedParam(value, declared)
        variables_lib.insert(boxed.setdefault(collection, {}), path, name, value)
    return output, boxed

  def apply(
    self,
    variables: Mapping[str, Any],
    *args,
    rngs=None,
    method=None,
    mutable=False,
    capture_intermediates=False,
    **kwargs,
  ):
    """Runs a method with the given variables.

    Args:
      variables: {collection: nested dict}, as from `init`. Unknown entries are
        ignored.
      *args: given to the method.
      rngs: a key, or {stream: key}. Dropout and the like draw from `random`.
      method: as in `init`.
      mutable: collections that may be written and are returned: False, True, a name,
        a list of names or a DenyList.
      capture_intermediates: True stores the outputs of all layers' `__call__` in the
        collection `intermediates`; a predicate (layer, method name) selects.
      **kwargs: given to the method.

    Returns:
      The method's output; with `mutable` or `capture_intermediates` (output, updated),
      where updated holds the mutable collections in full.

    Raises:
      ScopeParamNotFoundError, ScopeCollectionNotFound, ScopeParamShapeError: the
        variables do not fit the layer; all misfits are listed.
      InvalidRngError: a random stream is needed but not given.
    """
    self._pax_require_unbound('apply')
    _check_structure(self, variables)
    is_mutable = mutable_filter(mutable)
    if capture_intermediates:
      asked = is_mutable
      is_mutable = lambda c: c == constants.INTERMEDIATES or asked(c)  # noqa: E731
    rngs = {} if rngs is None else rng.check_rngs(rngs)
    if is_mutable(constants.PARAMS) and not any(variables.values()):
      output, updated, _ = run_init(
        self,
        rngs,
        args,
        kwargs,
        method=method,
        mutable=mutable,
        capture_intermediates=capture_intermediates,
      )
      return output, updated
    run = run_lib.Run(initializing=False, rngs=rngs, is_mutable=is_mutable)
    function = as_function(self, method)

    def call(*args, **kwargs):
      return function(_bind_root(self, run), *args, **kwargs)

    params, state = variables_lib.to_haiku(variables, root=root_name(self))
    key = _haiku_key(
      rngs, (constants.NON_PAX_RNG_KEY, constants.RANDOM, constants.PARAMS)
    )
    try:
      with run_lib.activate(run), _capture_scope(capture_intermediates):
        output, state = hk.transform_with_state(call).apply(
          params, state, key, *args, **kwargs
        )
    except _VARIABLE_ERRORS as e:
      try:
        listing = _mismatches(self, variables, args, kwargs, method)
      except Exception:  # the listing is a courtesy; the first error counts
        raise e from None
      raise type(e)(
        f'{e}\nCompared with the variables that init makes:\n{listing}'
      ) from None
    if mutable is False and not capture_intermediates:
      return output
    updated = variables_lib.to_pax(params, state, root=run.root_name)
    return output, {c: t for c, t in updated.items() if is_mutable(c)}

  def bind(self, variables: Mapping[str, Any], rngs=None, mutable=False):
    """A bound copy to work with interactively: `b(x)`, `b.theta.w`, `b.ffn(x)`.

    What it writes to mutable collections and how often it drew from a stream persists
    on the copy; `b.variables` shows the variables as they stand.
    """
    self._pax_require_unbound('bind')
    _check_structure(self, variables)
    return interactive.bind(
      self,
      variables,
      {} if rngs is None else rng.check_rngs(rngs),
      mutable_filter(mutable),
    )

  def unbind(self):
    """(unbound layer, variables) of a layer made by `bind`."""
    if self._pax_interactive is None:
      raise ValueError(
        f'{self._pax_describe()}.unbind: the layer was not made by bind.'
      )
    return self._pax_interactive.unbind()

  def clone(self, **updates):
    """An unbound copy with some fields changed."""
    unknown = sorted(set(updates) - self._pax_field_names)
    if unknown:
      raise TypeError(
        f'{self._pax_describe()}.clone: {unknown} are not fields of the layer.'
      )
    return self._pax_unbound_copy(**updates)

  copy = clone

  def _pax_require_unbound(self, what: str):
    if self._pax_phase != UNBOUND:
      raise ValueError(
        f'{self._pax_describe()}.{what}: the layer is bound, it lives inside a '
        f'transform already. Call it directly, or build a layer outside and '
        f'use its {what}.'
      )

  # -- Abstract init ------------------------------------------------------------

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
      _, variables, run = run_init(
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
  import fiddle as fdl

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
