"""Variables of a layer: create_variable, theta, get_var, update_var, random keys.

Trainable variables are Haiku parameters, non-trainable ones Haiku state.
"""

import dataclasses
import dis
import functools
import sys
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku.core import (
  constants,
  errors,
  init_var,
  weights,
)
from pax_haiku.core import run as run_lib
from pax_haiku.core import variables as variables_lib
from pax_haiku.core.metaclass import IN_SETUP
from pax_haiku.core.weights import WeightHParams, WeightHParamsCollection

_POP_TOP = dis.opmap['POP_TOP']
_CALLS = frozenset(dis.opmap[n] for n in ('CALL', 'CALL_KW') if n in dis.opmap)


class Theta:
  """Trainable variables of one layer, by attribute or by item."""

  __slots__ = ('_layer',)

  def __init__(self, layer):
    self._layer = layer

  def __getattr__(self, name: str):
    return self._layer._pax_read_theta(name)

  __getitem__ = __getattr__


def _is_dropped(frame) -> bool:
  """Whether the code that runs in `frame` drops the result of its present call.

  `create_variable` returns a value that nearly no code looks at, and reading it costs
  every layer a second `hk.get_parameter`, custom getters and casts included. The
  instruction after the call tells: POP_TOP, with cache entries (0) in between. A call
  of less than two arguments is another's, as in `found.extend(map(create, ...))`.
  """
  code, at = frame.f_code.co_code, frame.f_lasti
  while code[at] == 0:
    at -= 2
  if code[at] not in _CALLS or code[at + 1] < 2:
    return False
  at += 2
  while at < len(code) and code[at] == 0:
    at += 2
  return at < len(code) and code[at] == _POP_TOP


class Declared(NamedTuple):
  """A variable as the layer declared it: names and numbers, never arrays."""

  name: str
  hparams: WeightHParams
  shape: tuple[int, ...]
  collection: str
  keeps_dtype: bool  # exempt from the cast to bfloat16


class VariablesMixin:
  """Creation and access of variables, summaries, losses and random keys."""

  # -- Creation ---------------------------------------------------------------

  def create_variable(
    self, name: str, var_hparams: WeightHParams, trainable: bool = True
  ):
    """Declares a variable of this layer; allowed in setup and compact methods.

    Args:
      name: new among the layer's fields, children and attributes.
      var_hparams: shape, and optionally dtype, initializer, sharding and labels. The
        layer's `dtype` and `params_init` stand in for what is None. Not modified.
      trainable: a parameter (`params`) or a state (`non_trainable`).

    Returns:
      The value, cast to `fprop_dtype` if trainable.

    Raises:
      ValueError: called elsewhere, or `name` is reserved.
      AttributeError: the layer has an attribute of that name.
      NameInUseError: there is such a variable already.
    """
    self._pax_require_bound('create_variable')
    if self._pax_phase != IN_SETUP and not self._pax_compact_depth:
      raise ValueError(
        f'{self._pax_describe()}: create_variable({name!r}) is allowed in setup or in '
        'a compact method only.'
      )
    table = self._pax_weights if trainable else self._pax_non_trainables
    self._pax_check_variable_name(name, trainable, table)
    hparams = self._pax_complete(var_hparams, trainable)
    keeps = weights.var_disallow_bfloat16_conversion(hparams)
    collection = constants.PARAMS if trainable else constants.NON_TRAINABLE
    declared = Declared(name, hparams, tuple(hparams.shape), collection, keeps)
    table[name] = declared
    if self._pax_compact_depth:
      self._pax_compact_names.variables.add(name)
    run = self._pax_run
    if run.initializing:
      if run.metadata is not None:
        run.metadata[(collection, self.path, name)] = hparams
      self._pax_get(declared)
    elif _is_dropped(sys._getframe(1)):
      return None
    return self._pax_read_theta(name) if trainable else self.get_var(name)

  def _pax_get(self, declared: Declared):
    """The variable as Haiku holds it, which makes it if it may."""
    trainable = declared.collection == constants.PARAMS
    return self._pax_scoped(
      hk.get_parameter if trainable else hk.get_state,
      declared.name,
      declared.shape,
      declared.hparams.dtype,
      functools.partial(VariablesMixin._pax_initial_value, self, declared),
    )

  def _pax_check_variable_name(self, name: str, trainable: bool, table):
    if name in self.__dict__ or hasattr(type(self), name):
      raise AttributeError(
        f'{self._pax_describe()}: can not create a new variable named {name!r}, the '
        f'layer already has a field, method, child or attribute of that name.'
      )
    made = self._pax_compact_names if self._pax_compact_depth else None
    if name in self._pax_children or (
      name in table
      if made is None
      else name in table and (name in made.of_setup or name in made.variables)
    ):
      raise errors.NameInUseError(
        f'{self._pax_describe()}: the name {name!r} is in use already, by a '
        f'{"child" if name in self._pax_children else "variable"}.'
      )
    if not trainable and (name in run_lib.BUCKETS or name.startswith('@')):
      raise ValueError(
        f'{self._pax_describe()}: {name!r} is reserved and cannot be the name of a '
        'non-trainable variable.'
      )

  def _pax_complete(self, var_hparams: WeightHParams, trainable: bool) -> WeightHParams:
    """A private copy of the declaration with the layer's defaults filled in."""
    hparams = object.__new__(type(var_hparams))  # copy.copy is ten times slower
    hparams.__dict__.update(var_hparams.__dict__)
    if hparams.init is None:
      hparams.init = self.params_init
    if hparams.dtype is None:
      hparams.dtype = self.dtype
    if not isinstance(hparams.collections, list):
      raise TypeError(
        f'{self._pax_describe()}: WeightHParams.collections must be a list, got '
        f'{hparams.collections!r}.'
      )
    labels = hparams.collections = list(hparams.collections)
    if self.ici_mesh_shape is not None:
      mapping = hparams.tensor_split_dims_mapping
      if mapping is not None and len(mapping) != len(hparams.shape):
        raise AssertionError(
          f'{self._pax_describe()}: the sharding {mapping} does not fit the shape '
          f'{list(hparams.shape)}.'
        )
    if (
      self.skip_lp_regularization
      and WeightHParamsCollection.SKIP_LP_REGULARIZATION not in labels
    ):
      labels.append(WeightHParamsCollection.SKIP_LP_REGULARIZATION)
    if not trainable and WeightHParamsCollection.NON_TRAINABLE not in labels:
      labels.append(WeightHParamsCollection.NON_TRAINABLE)
    return hparams

  def _pax_initial_value(self, declared: Declared, shape, dtype):
    """Initializer given to Haiku; draws this layer's next `params` key."""
    name, hparams, _, collection, _ = declared
    run = self._pax_run
    creates = run.initializing or (
      not run.native
      and run.is_mutable(collection)
      and (
        collection == constants.NON_TRAINABLE
        or (run.written is not None and constants.PARAMS in run.rngs)
      )
    )
    if not creates:
      self._pax_refuse_missing(name, collection)
    if tuple(shape) != tuple(hparams.shape) or dtype != hparams.dtype:
      hparams = dataclasses.replace(
        hparams, shape=tuple(shape), dtype=dtype, tensor_split_dims_mapping=None
      )
    if not run.native:
      key = run.draw(constants.PARAMS, self.path)
    elif hparams.init.method == 'constant':
      key = None
    else:
      key = self.next_prng_key(constants.PARAMS)
    value = init_var.init_var(hparams, key, f'{self.module_name}/{name}')
    if not run.initializing and run.written is not None:
      run.written.created[(collection, self.module_name, name)] = hparams
      if collection == constants.PARAMS:
        run.written.put(self.module_name, name, value)
    return value

  def _pax_refuse_missing(self, name: str, collection: str):
    held = hk.get_params() if collection == constants.PARAMS else hk.get_current_state()
    held = {
      m: [n for n in b if not variables_lib.is_bucket(n)] for m, b in held.items()
    }
    error = (
      errors.ScopeParamNotFoundError
      if any(held.values())
      else errors.ScopeCollectionNotFound
    )
    found = sorted(held.get(self.module_name, ()))
    raise error(
      f'{self._pax_describe()}: no variable {name!r} in collection {collection!r} of '
      f'the variables given; for this layer they hold {found}. Were they made by init '
      'of the same model, with the same method?'
    )

  def create_quantized_variable(
    self,
    name: str,
    weight_hparams: WeightHParams,
    scale_shape=(),
    dtype=jnp.int8,
    use_symmetric: bool = True,
    scale_hparams: WeightHParams | None = None,
  ):
    """Declares an integer weight with its scale and, if asymmetric, its zero point.

    Args:
      name: the weight's name. `name_quantized_scale` and `name_quantized_zp` go with
        it.
      weight_hparams: shape and sharding of the weight.
      scale_shape: shape of scale and zero point, of the layer's default init.
      dtype: dtype of the weight, which starts at 0.
      use_symmetric: no zero point.
      scale_hparams: declaration of the scale, in place of `scale_shape`.

    Raises:
      ValueError: both `scale_shape` and `scale_hparams` are given.
    """
    if scale_hparams is not None and list(scale_shape):
      raise ValueError(
        f'{self._pax_describe()}: give scale_shape or scale_hparams of {name!r}, not '
        f'both; got {scale_shape} and {scale_hparams}.'
      )
    weight = dataclasses.replace(
      weight_hparams, dtype=dtype, init=weights.WeightInit.Constant(0)
    )
    self.create_variable(name, weight)
    scale = scale_hparams or WeightHParams(shape=scale_shape)
    self.create_variable(name + constants.QUANTIZED_SCALE_NAME_POSTFIX, scale)
    if not use_symmetric:
      self.create_variable(name + constants.QUANTIZED_ZP_NAME_POSTFIX, scale)

  def get_quantized_weight(self, name: str, use_symmetric: bool = True):
    """(weight, scale, zero point or None) of a quantized variable."""
    zero_point = None
    if not use_symmetric:
      zero_point = self.theta[name + constants.QUANTIZED_ZP_NAME_POSTFIX]
    scale = self.theta[name + constants.QUANTIZED_SCALE_NAME_POSTFIX]
    return self.theta[name], scale, zero_point

  def create_sparse_variable(self, name: str, weight_hparams: WeightHParams):
    """Declares a weight and its non-trainable mask `name_sparsity_mask`, all False."""
    self.create_variable(name, weight_hparams)
    mask = dataclasses.replace(
      weight_hparams,
      init=weights.WeightInit.Constant(False),
      dtype=jnp.bool_,
      collections=None,
    )
    self.create_variable(name + constants.SPARSITY_NAME_POSTFIX, mask, trainable=False)

  def get_sparse_weight(self, name: str):
    """(weight, mask) of a sparse variable."""
    return self.theta[name], self.get_var(name + constants.SPARSITY_NAME_POSTFIX)

  # -- Access -----------------------------------------------------------------

  @property
  def theta(self) -> Theta:
    """The trainable variables: `self.theta.w` or `self.theta['w']`."""
    if self._pax_interactive is not None:
      return self._pax_interactive.attribute('theta')
    self._pax_require_setup('theta')
    return Theta(self)

  def _pax_read_theta(self, name: str):
    declared = self._pax_weights.get(name)
    if declared is None:
      raise ValueError(
        f'{self._pax_describe()} has no trainable variable {name!r} in theta; it has '
        f'{sorted(self._pax_weights)}.'
        + (
          f' {name!r} is not trainable: use get_var.'
          if name in self._pax_non_trainables
          else ''
        )
      )
    hparams = declared.hparams
    value = None
    written = self._pax_run.written
    if written is not None and written.params:
      value = written.find(self.module_name, name)
    try:
      if value is None:
        value = self._pax_get(declared)
    except ValueError:
      if written is not None:  # created just now, which Haiku refuses in apply
        value = written.find(self.module_name, name)
      if value is None:
        self._pax_explain_shape(name, declared)
        raise
    dtype = self.fprop_dtype
    if (
      value.dtype != dtype
      and jnp.issubdtype(value.dtype, jnp.floating)
      and not (declared.keeps_dtype and dtype == jnp.bfloat16)
      and not self._pax_was_cast(name, value.dtype, hparams.dtype)
    ):
      value = value.astype(dtype)
    return value

  def _pax_was_cast(self, name: str, dtype, declared_dtype) -> bool:
    """Whether a custom getter or a precision policy chose the dtype of a value."""
    if dtype == declared_dtype:
      return False
    stored = hk.get_params().get(self.module_name, {}).get(name)
    return stored is not None and stored.dtype != dtype

  def _pax_explain_shape(self, name: str, declared: Declared):
    given = hk.get_params().get(self.module_name, {}).get(name)
    if given is not None and given.shape != declared.shape:
      raise errors.ScopeParamShapeError(
        f'{self._pax_describe()}: variable {name!r} is declared with shape '
        f'{declared.shape}, but the value given has shape {given.shape}.'
      ) from None

  def get_var(self, name: str):
    """The value of a non-trainable variable, never cast.

    Raises:
      AssertionError: there is no such variable.
    """
    self._pax_require_declared('get_var')
    declared = self._pax_non_trainables.get(name)
    if declared is None:
      raise AssertionError(
        f'{self._pax_describe()} has no non-trainable variable {name!r}; it has '
        f'{sorted(self._pax_non_trainables)}.'
        + (
          f' {name!r} is trainable: use theta.{name}.'
          if name in self._pax_weights
          else ''
        )
      )
    return self._pax_get(declared)

  def _pax_require_declared(self, what: str):
    # As in Praxis, a child that was not used yet has no variables in init, but in
    # apply the values given can be read before.
    self._pax_require_bound(what)
    if not self._pax_run.initializing:
      self._pax_require_setup(what)

  def update_var(self, name: str, value):
    """Writes a non-trainable variable; no effect in init or if it is immutable.

    Raises:
      ValueError: another shape than the variable's, or a trainable variable.
      AssertionError: there is no such variable.
    """
    self._pax_require_declared('update_var')
    if name in self._pax_weights and name not in self._pax_non_trainables:
      raise ValueError(
        f'{self._pax_describe()}: {name!r} is trainable; update_var writes '
        'non-trainable variables only. Trainable ones change through their gradients.'
      )
    run = self._pax_run
    if run.initializing or not run.is_mutable(constants.NON_TRAINABLE):
      return
    shape = jnp.shape(self.get_var(name))
    if jnp.shape(value) != shape:
      raise ValueError(
        f'{self._pax_describe()}: update_var({name!r}) got shape {jnp.shape(value)}, '
        f'but the variable has shape {shape}.'
      )
    self._pax_scoped(hk.set_state, name, jnp.asarray(value))

  # -- Randomness and casts -----------------------------------------------------

  def next_prng_key(self, name: str = constants.RANDOM) -> jax.Array:
    """The next random key of this layer from the stream `name`.

    Under `layer.init/apply` the key follows from the stream's root key, the layer's
    path and the number of earlier draws, as in Praxis. Under the user's own
    `hk.transform*` it comes from Haiku's sequence and `name` plays no role.

    Raises:
      InvalidRngError: no key was given.
    """
    self._pax_require_bound('next_prng_key')
    run = self._pax_run
    if run.given_draws is not None:
      return run.given_draws(name, self.path)
    if not run.native:
      return run.draw(name, self.path)
    key = hk.maybe_next_rng_key()
    if key is None:
      raise errors.InvalidRngError(
        f'{self._pax_describe()} needs a random key ({name!r}), but the transformed '
        'function was called with rng=None. Pass a jax.random key to init/apply.'
      )
    return key

  def _cast_to_fprop_dtype(self, tree):
    """Floating leaves cast to `fprop_dtype`; integers, bools and None as they are."""
    dtype = self.fprop_dtype

    def cast(x):
      x = x if hasattr(x, 'dtype') else jnp.asarray(x)
      if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != dtype:
        return x.astype(dtype)
      return x

    return jax.tree.map(cast, tree)
