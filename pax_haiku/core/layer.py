"""BaseLayer: a Pax layer that is a Haiku module.

A layer is *unbound* when it is built outside a transform: a plain dataclass with
`init`, `apply` and `bind`. Built inside `hk.transform_with_state`, or created by
another layer, it is *bound*: an `hk.Module` with a module name. A bound layer runs
`setup` once, at its first use, and is frozen afterwards.

What a layer can do lies in the mixins: variables (variables_api.py), collections such
as summaries (collections_api.py), children and
inheritance (children.py), init/apply/bind (functional.py), quantization
(quantization.py).
"""

import contextlib
import functools
import math
import re
from typing import Any

import haiku as hk
import jax.numpy as jnp

from pax_haiku import pax_fiddle
from pax_haiku.core import (
  abstract_init,
  children,
  collections_api,
  config_types,
  constants,
  context,
  errors,
  functional,
  quantization,
  variables_api,
  weights,
)
from pax_haiku.core import compact as compact_lib
from pax_haiku.core import run as run_lib
from pax_haiku.core.metaclass import (
  BOUND,
  IN_SETUP,
  READY,
  UNBOUND,
  LayerMeta,
  bind_in_new_run,
)

_is_identifier = functools.cache(re.compile(r'[A-Za-z_][A-Za-z0-9_]*').fullmatch)
_IMMUTABLE = (str, int, float, bool, type(None))


class _Binder(hk.Module):
  """Gives an existing layer its module name, as constructing it would."""

  AUTO_REPR = False

  def __new__(cls, layer, name):
    return layer

  def __init__(self, layer, name):
    hk.Module.__init__(layer, name)


class _SetUp(hk.Module):
  """Runs a layer's `setup` in its module's scope, under the name of `__call__`.

  Haiku and its interceptors see a constructor, not a method call.
  """

  AUTO_REPR = False

  def __new__(cls, layer):
    return layer

  @hk.name_like('__call__')
  def __init__(self, layer):
    layer.setup()


class BaseLayer(
  variables_api.VariablesMixin,
  collections_api.CollectionsMixin,
  children.ChildrenMixin,
  functional.FunctionalMixin,
  abstract_init.AbstractInitMixin,
  quantization.QuantizationMixin,
  hk.Module,
  metaclass=LayerMeta,
):
  """Base class of all layers. Subclasses declare fields, `setup` and `__call__`.

  Attributes:
    dtype: dtype of the variables.
    fprop_dtype: dtype of the computation; trainable variables are cast to it when
      read. `dtype` if not given.
    params_init: initializer of variables that name none.
    skip_lp_regularization: marks all variables as not to be regularized.
    ici_mesh_shape, dcn_mesh_shape: logical mesh within and between slices.
    contiguous_submeshes: hint for the construction of the device mesh.
    mesh_axis_names: one name per mesh dimension.
    shared_weight_layer_id: layers of one id share their variables.
    weight_split_dims_mapping, activation_split_dims_mapping: sharding, templates of
      the class's `WeightSharding` and `ActivationSharding`.
    name: the layer's name; becomes the module's name when bound.
  """

  AUTO_REPR = False  # Haiku's automatic repr costs trace time
  _pax_is_base_layer = True

  class WeightSharding(pax_fiddle.CloneAndSetMixin):
    """Sharding of the weights: one mesh axis (or None) per dimension."""

    wt: Any = None

  class ActivationSharding(pax_fiddle.CloneAndSetMixin):
    """Sharding of the activations: one mesh axis (or None) per dimension."""

    out: Any = None

  dtype: Any = jnp.float32
  fprop_dtype: Any = None
  params_init: weights.WeightInit = pax_fiddle.instance_field(
    weights.default_param_init
  )
  skip_lp_regularization: bool | None = None
  ici_mesh_shape: Any = None
  dcn_mesh_shape: Any = None
  contiguous_submeshes: bool | None = None
  mesh_axis_names: Any = None
  shared_weight_layer_id: str | None = None
  weight_split_dims_mapping: pax_fiddle.Config = None
  activation_split_dims_mapping: pax_fiddle.Config = None
  parent: Any = pax_fiddle.field(default=None, kw_only=True, repr=False)
  name: str | None = pax_fiddle.field(default=None, kw_only=True)

  # Life cycle. These are not fields: they carry no annotation.
  _pax_phase = UNBOUND
  _pax_run = None
  _pax_interactive = None
  _pax_compact_depth = 0

  def __post_init__(self):
    # A parent-to-be still has a say, see _pax_adopt_layer and _pax_bind_inline.
    if self.fprop_dtype is None and not (
      run_lib.in_setup() or (compact_lib.owner() and not pax_fiddle.is_building())
    ):
      self.__dict__['fprop_dtype'] = self.dtype

  def __pax_built__(self):
    """Called when this layer has been built: binds it if inside a transform."""
    if run_lib.inside_transform() and not run_lib.in_setup():
      return bind_in_new_run(self)
    return self

  def setup(self):
    """Creates the layer's variables and children. Override this."""

  # -- Fields -----------------------------------------------------------------

  @classmethod
  def config(cls, **kwargs) -> pax_fiddle.Config:
    """`pax_fiddle.Config(cls, **kwargs)`."""
    return pax_fiddle.Config(cls, **kwargs)

  @property
  def mesh_shape(self):
    """Elementwise product of the ici and dcn mesh shapes; None without a mesh."""
    return config_types.mesh_shape_of(self)

  def get_shard_count_on_dim(self, sharding) -> int:
    """Number of shards of a dimension sharded over the mesh axes `sharding`."""
    if sharding is None or self.mesh_axis_names is None:
      return 1
    axes = (sharding,) if isinstance(sharding, str | int) else sharding
    names = list(self.mesh_axis_names)
    where = [a if isinstance(a, int) else names.index(a) for a in axes]
    shapes = [s for s in (self.ici_mesh_shape, self.dcn_mesh_shape) if s is not None]
    return math.prod(shape[i] for shape in shapes for i in where)

  @property
  def jax_context(self) -> context.JaxContext:
    """The innermost JaxContext; AssertionError if there is none."""
    return context.cur_jax_context()

  @property
  def do_eval(self) -> bool | None:
    """True in evaluation; False without a JaxContext."""
    top = context.JaxContext.top()
    return False if top is None else top.do_eval

  @property
  def path(self) -> tuple[str, ...]:
    """Names from the root layer to this one; () for the root."""
    self._pax_require_bound('path')
    return self._pax_run.path_of(self.module_name)

  def _pax_describe(self) -> str:
    """How error messages name this layer."""
    where = self.__dict__.get('module_name') or self.name
    if self._pax_run is not None:
      where = self._pax_run.outside + where
    return f'{type(self).__name__} {where!r}' if where else type(self).__name__

  def __repr__(self):
    fields = ', '.join(
      f'{name}={self.__dict__.get(name)!r}'
      for name in self._pax_field_order
      if name != 'parent' and not self._pax_is_default(name)
    )
    return f'{type(self).__name__}({fields})'

  def _pax_is_default(self, name: str) -> bool:
    value = self.__dict__.get(name)
    if name in (
      'weight_split_dims_mapping',
      'activation_split_dims_mapping',
      'params_init',
    ):
      return True
    if name == 'fprop_dtype':
      return value == self.dtype
    if name in self._pax_default_factories:
      return value is None or _equal(value, self._pax_default_factories[name]())
    default = self._pax_plain_defaults.get(name)
    return value is None or value is default

  def __eq__(self, other):
    if self is other:
      return True
    if type(self) is not type(other) or self._pax_phase or other._pax_phase:
      return NotImplemented
    return all(getattr(self, f) == getattr(other, f) for f in self._pax_field_order)

  __hash__ = object.__hash__

  # -- Life cycle -------------------------------------------------------------

  def _pax_unbound_copy(self, **updates) -> 'BaseLayer':
    """A copy that holds the field values only, and what a __post_init__ derives."""
    twin = object.__new__(type(self))
    own = self.__dict__
    twin.__dict__.update((f, own[f]) for f in self._pax_field_names if f in own)
    twin.__dict__.update(own.get('_pax_given', {}))
    twin.__dict__.update(updates)
    if type(self).__post_init__ is not BaseLayer.__post_init__:
      twin.__post_init__()
    return twin

  def _pax_bind(
    self, run: run_lib.Run, name: str | None, module_name: str | None = None
  ):
    """Makes this layer an `hk.Module`, as root or as a user's own construction.

    Args:
      run: what the bound tree shares.
      name: the layer's name; None lets Haiku derive it from the class.
      module_name: the full module name, taken as it is. None: below the current
        module, made unique by Haiku.
    """
    self._pax_check_name(name)
    values = self.__dict__
    own = frozenset(values)
    _Binder(self, hk.force_name(module_name) if module_name else name)
    # What Haiku keeps on a module: children get the same, see _pax_bind_below.
    run.module_attributes = [
      (k, v)
      for k, v in values.items()
      if k not in own and k not in ('module_name', 'name')
    ]
    self._pax_enter_run(run)
    if run.root_name is None:
      run.start(self.module_name)
    self._pax_freeze_fields()

  def _pax_bind_below(self, parent: 'BaseLayer', name: str, module_name: str):
    """Makes this layer an `hk.Module` with an exact name, as part of `parent`'s tree.

    Equivalent to `_pax_bind`, without the bookkeeping that finds a unique name: layers
    check their children's names themselves, and this is called for every child in
    every trace.
    """
    self._pax_check_name(name)
    run = parent._pax_run
    if module_name in run.names:
      raise errors.NameInUseError(
        f'{parent._pax_describe()}: there is a layer {module_name!r} already, so a '
        f'layer named {name!r} cannot be created here (a shared_weight_layer_id is the '
        'name of a layer below the root).'
      )
    values = self.__dict__
    for key, value in run.module_attributes:
      values[key] = value if isinstance(value, _IMMUTABLE) else type(value)()
    values['module_name'] = module_name
    values['name'] = name
    self._pax_enter_run(run)
    self._pax_freeze_fields()

  def _pax_check_name(self, name: str | None):
    if name is not None and not _is_identifier(name):
      raise ValueError(
        f'{type(self).__name__} cannot be named {name!r}: names of layers become '
        'Haiku module names and must be Python identifiers (letters, digits, _).'
      )

  def _pax_enter_run(self, run: run_lib.Run):
    values = self.__dict__
    values['_pax_run'] = run
    values['_pax_phase'] = BOUND
    values['_pax_weights'] = {}
    values['_pax_non_trainables'] = {}
    values['_pax_children'] = {}
    if self.fprop_dtype is None:
      values['fprop_dtype'] = self.dtype
    if run.initializing:
      run.names[self.module_name] = self

  def _pax_run_setup(self, in_scope: bool = False):
    """Runs `setup` in this module's name scope, once.

    Args:
      in_scope: the caller is in that scope already, in `__call__`.
    """
    values = self.__dict__
    values['_pax_phase'] = IN_SETUP
    try:
      if type(self)._pax_has_setup:
        with run_lib.setup_scope():
          self.setup() if in_scope else _SetUp(self)
    except BaseException:
      values['_pax_phase'] = BOUND
      for table in ('_pax_weights', '_pax_non_trainables', '_pax_children'):
        values[table].clear()
      raise
    values['_pax_phase'] = READY
    run = self._pax_run
    if run.initializing:
      run.set_up[self.path] = self
    if run.stale and run.is_stale(self.module_name, constants.SUMMARIES):
      run.stale[self.module_name].discard(constants.SUMMARIES)
      self._pax_scoped(hk.set_state, constants.SUMMARIES, {})

  def _pax_name_scope(self):
    """Enters this module's scope, wherever the caller is."""
    return self._pax_run.scope(self.module_name)

  def _pax_scoped(self, function, *args, **kwargs):
    """Calls a Haiku function in this module's scope."""
    if hk.current_name() == self.module_name:
      return function(*args, **kwargs)
    with self._pax_name_scope():
      return function(*args, **kwargs)

  def _pax_require_bound(self, what: str):
    """Refuses an unbound layer; runs `setup` if that has not happened yet."""
    if self._pax_phase == UNBOUND:
      raise ValueError(
        f'{self._pax_describe()} is unbound, so {what!r} is not available. Build the '
        'layer inside the function given to hk.transform_with_state, create it '
        "with create_child in another layer's setup, or use layer.init/apply/bind."
      )

  def _pax_require_setup(self, what: str):
    self._pax_require_bound(what)
    if self._pax_phase == BOUND:
      self._pax_run_setup()

  def _pax_call_slowly(self, in_scope, is_compact: bool, args, kwargs):
    """A method call that has something to do first; see metaclass.py."""
    if self._pax_phase == BOUND:
      self._pax_run_setup()
    run = self._pax_run
    if not (run.initializing or is_compact or run_lib.in_setup()):
      return in_scope(self, *args, **kwargs)
    with contextlib.ExitStack() as stack:
      if run.initializing and run not in run_lib.guarded():
        stack.enter_context(_guard_names(run))
      if is_compact:
        stack.enter_context(compact_lib.running(self))
      if self._pax_phase == READY:
        stack.enter_context(run_lib.outside_setup())
      return in_scope(self, *args, **kwargs)

  def __setattr__(self, name: str, value: Any):
    phase = self._pax_phase
    if phase == UNBOUND:
      object.__setattr__(self, name, value)
      return
    if phase != IN_SETUP:
      raise errors.SetAttributeFrozenModuleError(
        f'{self._pax_describe()} is frozen: cannot set attribute {name!r}. Bound '
        'layers may be changed only in setup; keep values that change in a '
        'non-trainable variable (create_variable(..., trainable=False), update_var).'
      )
    if name in self._pax_field_names:
      raise errors.SetAttributeFrozenModuleError(
        f'{self._pax_describe()}: setup cannot assign the field {name!r}. Use another '
        'attribute name, or set the field on the config.'
      )
    if isinstance(value, hk.Module) and not isinstance(value, BaseLayer):
      self._pax_check_hosted(value)
    object.__setattr__(self, name, self._pax_adopt(value, name))

  def _pax_check_hosted(self, module: hk.Module):
    """Refuses a plain Haiku module that has the module name of a child."""
    for child in self._pax_children.values():
      if child.module_name == module.module_name:
        raise errors.NameInUseError(
          f'{self._pax_describe()}: {type(module).__name__} and a child both have the '
          f'module name {module.module_name!r} and would share parameters. Give the '
          'Haiku module another name: name=...'
        )

  def __getattr__(self, name: str):
    # Only called when `name` is not found: setup may still have to create it.
    if name in self._pax_default_factories:
      leaves = children.leaf_templates(type(self))
      if name in leaves:  # build_child left it out
        value = self.__dict__[name] = leaves[name].clone()
        return value
    if not name.startswith('__'):
      if self._pax_interactive is not None:
        return self._pax_interactive.attribute(name)
      if self._pax_phase == BOUND and self._pax_has_setup:
        self._pax_run_setup()
        return getattr(self, name)
    hint = ''
    if self._pax_phase == UNBOUND and not name.startswith('_'):
      hint = ' The layer is unbound: what setup creates exists on bound layers only.'
    raise AttributeError(f'{self._pax_describe()} has no attribute {name!r}.{hint}')


def _equal(a, b) -> bool:
  try:
    return bool(a == b)
  except (TypeError, ValueError):  # arrays, for instance
    return False


@contextlib.contextmanager
def _guard_names(run: run_lib.Run):
  """While initializing, refuses Haiku modules that take a layer's module name."""

  def guard(next_function, args, kwargs, context):
    out = next_function(*args, **kwargs)
    module = context.module
    if (
      context.method_name != '__init__'
      or run.entering
      or run_lib.guarded()[-1] is not run
      or '/' not in module.module_name
      or isinstance(module, BaseLayer)
    ):
      return out
    taken = run.names.get(module.module_name)
    if run_lib.in_setup():
      run.names.setdefault(module.module_name, module)
    if taken is not None and taken is not module:
      raise errors.NameInUseError(
        f'{type(module).__name__} got the module name {module.module_name!r}, which '
        f'{type(taken).__name__} created in setup already has: the two would share '
        'their parameters. Give one of them another name.'
      )
    return out

  run_lib.guarded().append(run)
  try:
    with hk.intercept_methods(guard):
      yield
  finally:
    run_lib.guarded().pop()
