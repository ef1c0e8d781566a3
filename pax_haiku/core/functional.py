"""init, apply and their kin: a layer as pure functions over Pax's collections."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku.core import boxes, constants, errors, interactive, rng
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core import written as written_lib
from pax_haiku.core.metaclass import UNBOUND, LayerMeta

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
  if layer._pax_interactive is not None:  # made by `bind`, and run on other variables
    layer, _ = layer.unbind()
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
  written = written_lib.Written()
  run = run_lib.Run(
    initializing=True,
    rngs=rngs,
    is_mutable=is_mutable,
    written=written,
    metadata=metadata,
  )
  function = as_function(layer, method)
  output = []

  def call(*args, **kwargs):
    output.append(function(_bind_root(layer, run), *args, **kwargs))

  key = _haiku_key(rngs, (constants.PARAMS, constants.RANDOM))
  with run_lib.activate(run), _capture_scope(capture_intermediates):
    params, state = hk.transform_with_state(call).init(key, *args, **kwargs)
  tree = variables_lib.to_pax(written.over(params), state, root=run.root_name)
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
    self,
    rngs,
    *args,
    method=None,
    mutable=_ALL_BUT_INTERMEDIATES,
    capture_intermediates=False,
    **kwargs,
  ):
    """As `init`, but returns (output, variables).

    By default all collections but `intermediates`; variables come as `BoxedParam`s.
    """
    self._pax_require_unbound('init_with_output')
    metadata: dict = {}
    output, variables, _ = run_init(
      self,
      rngs,
      args,
      kwargs,
      method=method,
      mutable=mutable,
      metadata=metadata,
      capture_intermediates=capture_intermediates,
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
      return self.init_with_output(
        rngs,
        *args,
        method=method,
        mutable=mutable,
        capture_intermediates=capture_intermediates,
        **kwargs,
      )
    written = written_lib.Written()
    run = run_lib.Run(
      initializing=False, rngs=rngs, is_mutable=is_mutable, written=written
    )
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
    updated = variables_lib.to_pax(written.over(params), state, root=run.root_name)
    updated = written.box_created(updated, run.root_name)
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
