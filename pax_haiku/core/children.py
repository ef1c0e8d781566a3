"""Children of a layer: creation from templates, adoption, inheritance, sharing."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fiddle as fdl
import jax.numpy as jnp

from pax_haiku import pax_fiddle
from pax_haiku.core import config_build, config_clone, context, errors, weights
from pax_haiku.core.frozen import FrozenDict
from pax_haiku.core.metaclass import IN_SETUP, UNBOUND, LayerMeta, construct

# Fields that a child takes from its parent if its own value is None.
_INHERITED_IF_NONE = (
  'fprop_dtype',
  'skip_lp_regularization',
  'ici_mesh_shape',
  'dcn_mesh_shape',
  'contiguous_submeshes',
  'mesh_axis_names',
)
_MISSING = object()
# Types of which no instance holds a config, a layer or a container.
_PLAIN = config_clone.ATOMIC_TYPES | {type(jnp.float32), weights.WeightInit}
_NOTHING_TO_FREEZE = _PLAIN | {pax_fiddle.Config}


def inherited(source, target_value: Callable[[str], Any]) -> dict[str, Any]:
  """The base fields that a child takes over, with their values.

  Args:
    source: the parent, a layer or a Config of one.
    target_value: gives the child's present value of a field; None for unset.

  Returns:
    {field: value} for the fields that the child left at their defaults.
  """
  out = {}
  dtype = target_value('dtype')
  if dtype is None or dtype == jnp.float32:
    out['dtype'] = source.dtype
  for name in _INHERITED_IF_NONE:
    if target_value(name) is None:
      value = getattr(source, name)
      if value is not None:
        out[name] = list(value) if isinstance(value, list) else value
  init = target_value('params_init')
  if init is not None and type(init) is not weights.WeightInit:
    arguments = init.__arguments__  # reading a config's attributes is slow
    init = weights.WeightInit(arguments.get('method'), arguments.get('scale', 1.0))
  if init is None or weights.is_default_param_init(init):
    out['params_init'] = source.params_init
  return out


def _is_layer_config(value) -> bool:
  return isinstance(value, fdl.Buildable) and isinstance(
    fdl.get_callable(value), LayerMeta
  )


def _holds_buildable(value) -> bool:
  if isinstance(value, fdl.Buildable):
    return True
  if isinstance(value, list | tuple):
    return any(map(_holds_buildable, value))
  if isinstance(value, Mapping):
    return any(map(_holds_buildable, value.values()))
  return False


@functools.cache
def leaf_templates(cls: LayerMeta) -> dict[str, pax_fiddle.Config]:
  """Defaults of template fields that have no arguments, such as the shardings.

  Most layers never read these, so a layer made by `build_child` gets its own copy only
  when it does: fewer objects per trace.
  """
  out = {}
  for name in config_build.template_arguments(cls):
    factory = cls._pax_default_factories.get(name)
    value = factory() if factory is not None else None
    if type(value) is pax_fiddle.Config and config_clone.is_like_new(value, value):
      out[name] = value
  return out


def build_child(cfg: pax_fiddle.Config, parent, name: str, skip_clone: bool):
  """An unbound layer from a template, with the parent's base fields handed down.

  The usual case, a layer whose other fields hold no configs to be built, is
  constructed straight from the config's arguments; that keeps tracing fast.
  """
  cls = fdl.get_callable(cfg)
  if not isinstance(cls, LayerMeta):
    raise ValueError(
      f'{parent._pax_describe()}.create_child({name!r}): expected a config of a layer, '
      f'got one of {cls!r}.'
    )
  arguments = dict(cfg.__arguments__)
  arguments.update(
    inherited(
      parent,
      arguments.get
      if not cls._pax_base_overrides
      else lambda f: arguments.get(f, cls._pax_base_overrides.get(f)),
    )
  )
  arguments['name'] = name
  templates = config_build.template_arguments(cls)
  leaves = leaf_templates(cls)
  for field, value in list(arguments.items()):
    kind = type(value)
    if kind in _PLAIN:
      continue
    if field in templates:
      if field in leaves and config_clone.is_like_new(value, leaves[field]):
        del arguments[field]  # made when it is first read
      elif not skip_clone:
        arguments[field] = config_clone.clone_value(value)
    elif field == 'params_init' and config_clone.is_config_type(kind):
      arguments[field] = pax_fiddle.build(value)
    elif _holds_buildable(value):
      whole = cfg if skip_clone else cfg.clone()
      ChildrenMixin.copy_base_hparams(parent, whole)
      whole.name = name
      with pax_fiddle.empty_flax_module_stack():  # the caller binds it
        return pax_fiddle.build(whole)
  return construct(cls, arguments, lazy=leaves)


def compatible_hparams(a, b) -> bool:
  """Equality of two layer configs, their top-level `name` aside.

  Raises:
    ValueError: one is a Config and the other is not.
  """
  if isinstance(a, fdl.Buildable) != isinstance(b, fdl.Buildable):
    raise ValueError(f'Cannot compare {type(a).__name__} with {type(b).__name__}.')
  a, b = copy.copy(a), copy.copy(b)
  a.name = b.name = ''
  return a == b


class ChildrenMixin:
  """create_child, create_children, adoption of layers held in fields."""

  @staticmethod
  def copy_base_hparams(source, target):
    """Hands the base fields that `target` left at their defaults down to it.

    Args:
      source: the parent: a layer, or a Config of one.
      target: the child: a layer, or a Config of one; changed in place.

    Raises:
      AssertionError: another type on either side.
    """
    for side in (source, target):
      if not (_is_layer_config(side) or isinstance(type(side), LayerMeta)):
        raise AssertionError(
          f'copy_base_hparams takes layers or configs of layers, got {side!r}.'
        )
    for name, value in inherited(source, lambda f: getattr(target, f)).items():
      setattr(target, name, copy.deepcopy(value))

  def create_child(
    self, name: str, params: pax_fiddle.Config, *, skip_clone: bool = False
  ):
    """Creates a child layer from a template, as attribute `name` in setup.

    The template is cloned, inherits the base fields that it left at their defaults,
    and takes `name` as its name.

    Raises:
      AttributeError: `name` is a field of this layer.
      ValueError: `params` is not a Config, or there is a child of that name.
      AssignSubModuleError: called outside setup and outside a compact method.
    """
    self._pax_check_new_child(name, params)
    child = self._pax_create(name, params, skip_clone)
    if self._pax_phase == IN_SETUP:
      object.__setattr__(self, name, child)
    return child

  def create_children(
    self, name: str, params: Sequence[pax_fiddle.Config], *, skip_clone: bool = False
  ) -> list:
    """Creates children `name_0`, `name_1`, ...; `self.name` is a tuple of them.

    Raises:
      AssertionError: `params` is not a sequence of Configs.
      Otherwise as create_child.
    """
    if (
      isinstance(params, str)
      or not isinstance(params, Sequence)
      or not all(isinstance(p, fdl.Buildable) for p in params)
    ):
      raise AssertionError(
        f'{self._pax_describe()}.create_children({name!r}): expected a sequence of '
        f'Configs, got {params!r}.'
      )
    if self._pax_phase != IN_SETUP and not self._pax_compact_depth:
      self._pax_refuse_child(name)
    if name in self._pax_field_names:
      raise AttributeError(
        f'{self._pax_describe()}: can not create a new child named {name!r}, it is '
        'already a field of the layer.'
      )
    children = []
    for i, tpl in enumerate(params):
      self._pax_check_new_child(f'{name}_{i}', tpl)
      children.append(self._pax_create(f'{name}_{i}', tpl, skip_clone))
    if self._pax_phase == IN_SETUP:
      object.__setattr__(self, name, tuple(children))
    return children

  def _pax_refuse_child(self, name: str):
    raise errors.AssignSubModuleError(
      f'{self._pax_describe()}: child {name!r} can only be created in setup or in a '
      'compact method.'
    )

  def _pax_check_new_child(self, name: str, params):
    self._pax_require_bound('create_child')
    if self._pax_phase != IN_SETUP and not self._pax_compact_depth:
      self._pax_refuse_child(name)
    if name in self._pax_field_names:
      raise AttributeError(
        f'{self._pax_describe()}: can not create a new child named {name!r}, it is '
        'already a field of the layer.'
      )
    if not config_clone.is_config_type(type(params)):
      hint = ''
      if isinstance(type(params), LayerMeta):
        hint = (
          ', a built layer. This may be caused by an incorrect type annotation on a '
          'field that contains a Fiddle Config: it should be pax_fiddle.Config[...].'
        )
      raise ValueError(
        f'{self._pax_describe()}, child {name!r}: Expected templates for '
        f'`create_child` to be Fiddle Configs; got {type(params)}{hint or "."}'
      )
    if name in self._pax_children:
      raise ValueError(f'{self._pax_describe()}: Child `{name}` already exists.')
    if name in self._pax_weights or name in self._pax_non_trainables:
      raise errors.NameInUseError(
        f'{self._pax_describe()}: {name!r} is the name of a variable already.'
      )

  def _pax_create(self, name: str, params, skip_clone: bool):
    shared_id = params.__arguments__.get('shared_weight_layer_id')
    if shared_id is not None:
      child = self._pax_create_shared(shared_id, params, skip_clone)
    else:
      child = build_child(params, self, name, skip_clone)
      child._pax_bind_below(self, name, f'{self.module_name}/{name}')
    self._pax_children[name] = child
    return child

  def _pax_create_shared(self, shared_id: str, params, skip_clone: bool):
    """The one layer of this id below the root; created by the first who asks."""
    run = self._pax_run
    jax_context = context.cur_jax_context()
    key = (id(jax_context), shared_id)
    child = build_child(params, self, shared_id, skip_clone)
    hparams = child.hparams
    if key in run.shared:
      known, known_hparams, _ = run.shared[key]
      if not compatible_hparams(known_hparams, hparams):
        raise AssertionError(
          f'{self._pax_describe()}: layers that share the weights {shared_id!r} have '
          f'different configs:\n{known_hparams}\nand\n{hparams}'
        )
      return known
    module_name = f'{run.root_name}/{shared_id}'
    child._pax_bind_below(self, shared_id, module_name)
    run.shared[key] = (child, hparams, jax_context)  # which keeps the id taken
    return child

  # -- Layers that are held, not created ---------------------------------------

  def _pax_freeze_fields(self):
    """Containers in fields become immutable; unbound layers in them get bound."""
    values = self.__dict__
    for name in self._pax_field_order:
      value = values.get(name)
      if type(value) in _NOTHING_TO_FREEZE or name == 'parent':
        continue
      adopted = self._pax_adopt(value, name)
      if adopted is not value:
        values.setdefault('_pax_given', {})[name] = value  # for copies of this layer
        values[name] = adopted

  def _pax_adopt(self, value, name: str):
    """`value` with its containers frozen and its unbound layers bound as children."""
    if isinstance(type(value), LayerMeta):
      return self._pax_adopt_layer(value, name)
    if isinstance(value, tuple) and hasattr(value, '_fields'):
      return type(value)(
        *(
          self._pax_adopt(v, f'{name}_{f}')
          for f, v in zip(value._fields, value, strict=True)
        )
      )
    if isinstance(value, list | tuple):
      return tuple(self._pax_adopt(v, f'{name}_{i}') for i, v in enumerate(value))
    if isinstance(value, dict):
      return FrozenDict(
        {k: self._pax_adopt(v, f'{name}_{k}') for k, v in value.items()}
      )
    return value

  def _pax_adopt_layer(self, layer, name: str):
    if layer._pax_phase != UNBOUND:
      return layer
    run = self._pax_run
    known = run.adopted.get(id(layer))
    if known is not None:
      return known[1]
    if layer.__dict__.get('_pax_keeps_name'):
      name = layer.name
    twin = layer._pax_unbound_copy()
    own = twin.__dict__
    own.update(inherited(self, own.get))
    own['name'] = name
    twin._pax_bind_below(self, name, f'{self.module_name}/{name}')
    run.adopted[id(layer)] = (layer, twin)
    self._pax_children[name] = twin
    return twin

  # -- Layers that are constructed in a compact method ---------------------------

  def _pax_bind_inline(self, layer):
    """Makes a layer that was constructed in a compact method of this one its child."""
    made = self._pax_compact_names
    name = made.auto(type(layer).__name__) if layer.name is None else layer.name
    if name in self._pax_children or name in made.variables | made.of_setup:
      raise errors.NameInUseError(
        f'{self._pax_describe()}: the name {name!r} of a {type(layer).__name__} is in '
        'use already. Give each layer in a compact method a name of its own, or none.'
      )
    own = layer.__dict__
    own.update(inherited(self, own.get))
    layer._pax_bind_below(self, name, f'{self.module_name}/{name}')
    self._pax_children[name] = layer
    made.children.append(name)

  def _pax_forget_inline_children(self):
    """Lets the next call of a compact method make its layers under the same names."""
    names = self._pax_run.names
    for name in self._pax_compact_names.children:
      module = self._pax_children.pop(name).module_name
      for taken in [n for n in names if n == module or n.startswith(module + '/')]:
        del names[taken]

  @property
  def hparams(self) -> pax_fiddle.Config:
    """A Config of this layer's class with every field set to its present value."""
    cached = self.__dict__.get('_pax_hparams', _MISSING)
    if cached is not _MISSING:
      return cached
    cfg = pax_fiddle.Config(type(self))
    given = self.__dict__.get('_pax_given', {})
    for name in (*self._pax_plain_defaults, *self._pax_default_factories):
      if name == 'parent':
        continue
      value = given[name] if name in given else getattr(self, name)
      setattr(cfg, name, value.hparams if isinstance(type(value), LayerMeta) else value)
    if self._pax_phase != UNBOUND:
      self.__dict__['_pax_hparams'] = cfg
    return cfg
