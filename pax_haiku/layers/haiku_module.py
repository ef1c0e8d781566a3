"""HaikuModule: a plain Haiku module, or a function of some, as a Pax layer."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import fiddle as fdl
import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.core.metaclass import BOUND, UNBOUND, LayerMeta

_EXAMPLE = 'pax_fiddle.Config(hk.nets.MLP, [64, 10])'
# The streams that drive a hosted module, the first that is given.
_INIT_STREAMS = (base_layer.PARAMS, base_layer.RANDOM)
_APPLY_STREAMS = (base_layer.NON_PAX_RNG_KEY, base_layer.RANDOM, base_layer.PARAMS)


class HaikuModule(base_layer.BaseLayer):
  """Hosts a Haiku module in a tree of Pax layers.

      pax_fiddle.Config(HaikuModule, name='mlp',
                        module_tpl=pax_fiddle.Config(hk.nets.MLP, [64, 10]))
      pax_fiddle.Config(HaikuModule, name='head',
                        function=lambda x: hk.Linear(10)(jax.nn.relu(x)))

  The hosted module computes what it computes alone: nothing is cast, and its parameters
  and state have the names that they have alone, below this layer's. A module `mlp` in a
  layer `enc` of a model `net` keeps its weights in `net/enc/mlp/~/linear_0`, that is in
  `{'params': {'enc': {'mlp': {'~': {'linear_0': ...}}}}}`; what it keeps as Haiku state
  (moving averages, counters) is `non_trainable`.

  Its methods are methods of this layer: `layer.encode(x)`, or `layer.call_method(
  'encode', x)` where this layer has a member of that name itself. `layer.module` is the
  module, to hand to Haiku code such as `hk.dynamic_unroll`.

  Random keys, for weights and for dropout alike:

  * under `hk.transform_with_state` and `pax_haiku.transform` the module draws from
    Haiku's sequence, as it would in this very place without this layer;
  * in `layer.init(key, ...)` and `layer.apply(..., rngs=key)` of a HaikuModule itself
    it draws what `hk.transform_with_state(module).init(key, ...)` and `.apply(...,
    key, ...)` draw, so that weights and outputs are equal bit for bit;
  * inside another layer's `init` or `apply`, a call of the module draws what it draws
    alone from this layer's next Pax key: for the first call in a layer at path
    `('enc',)`, from `core.rng.fold_in_path(key, ('enc',), 1)`. So other layers don't
    change its weights. The key is that of the stream `params` in `init`, in `apply` of
    `dropout`, `random` or `params`, the first that is given.

  Attributes:
    module_tpl: what makes the module: a Config of its class or of a factory, called
      once, inside the transform.
    function: in place of `module_tpl`, a function that makes and calls Haiku modules.
      Each call makes them anew under the same names, so all calls share variables.
    train_arg: name of an argument of the call that says whether this is training, such
      as `is_training`; it gets `not do_eval` unless the caller gives it.
  """

  module_tpl: pax_fiddle.Config | None = None
  function: Callable[..., Any] | None = None
  train_arg: str | None = None

  def __call__(self, *args, **kwargs):
    """Calls the hosted module or function.

    Raises:
      ValueError: neither or both of `module_tpl` and `function` are given.
      TypeError: `module_tpl` is not a Config, or makes nothing that can be called.
    """
    if self.train_arg is not None and self.train_arg not in kwargs:
      kwargs[self.train_arg] = not self.do_eval
    return self._host('__call__', args, kwargs)

  @hk.name_like('__call__')  # the module has one name, whichever method makes it
  def call_method(self, method_name: str, *args, **kwargs):
    """Calls a method of the hosted module.

    Raises:
      AttributeError: it has no such method.
    """
    return self._host(method_name, args, kwargs)

  @property
  def module(self):
    """The hosted module; made at first use."""
    self._pax_require_bound('module')
    with self._pax_name_scope():
      return self._made()

  def __getattr__(self, name: str):
    tpl = self.__dict__.get('module_tpl')
    if name[0] == '_' or name == 'module' or not isinstance(tpl, fdl.Buildable):
      return super().__getattr__(name)
    made = fdl.get_callable(tpl)
    if inspect.isclass(made) and inspect.isfunction(getattr(made, name, None)):
      return functools.partial(self.call_method, name)
    waits_for_setup = self._pax_phase == BOUND and self._pax_has_setup
    if self._pax_phase == UNBOUND or waits_for_setup:
      return super().__getattr__(name)
    value = getattr(self.module, name)
    is_method = inspect.ismethod(value)
    return functools.partial(self.call_method, name) if is_method else value

  # -- Running the module ----------------------------------------------------------

  @base_layer.nowrap
  def _host(self, method_name: str, args, kwargs):
    self._pax_require_bound(method_name)
    with self._keys():
      target = self._made()
      if method_name != '__call__':
        target = self._method(target, method_name)
      out = target(*args, **kwargs)
    if self._pax_run.metadata is not None:
      self._declare()
    return out

  @base_layer.nowrap
  def _made(self):
    """The hosted module or function; to be called in the scope of `__call__`."""
    made = self.__dict__.get('_pax_made')
    if made is None:
      made = self.__dict__['_pax_made'] = self._make()
    return made

  @base_layer.nowrap
  def _make(self):
    where = self._pax_describe()
    if (self.module_tpl is None) == (self.function is None):
      found = 'none' if self.function is None else 'both'
      raise ValueError(
        f'{where}: give one of module_tpl (a Config such as {_EXAMPLE}) and function '
        f'(which makes and calls Haiku modules), found {found} of them.'
      )
    if self.function is not None:
      if not inspect.isclass(self.function) and callable(self.function):
        return self.function
      raise TypeError(
        f'{where}: function must be a function of the inputs, found {self.function!r}. '
        f'A module class goes into module_tpl, as a Config such as {_EXAMPLE}.'
      )
    if not isinstance(self.module_tpl, fdl.Buildable):
      raise TypeError(
        f'{where}: module_tpl must be a Config of a module class or of a factory, such '
        f'as {_EXAMPLE}, found {self.module_tpl!r}.'
      )
    factory = fdl.get_callable(self.module_tpl)
    if isinstance(factory, LayerMeta):
      raise TypeError(
        f'{where}: module_tpl is a Config of the Pax layer {factory.__name__}, which '
        'needs no host: use create_child.'
      )
    made = pax_fiddle.build(self.module_tpl)
    if not callable(made) and not isinstance(made, hk.Module):
      raise TypeError(
        f'{where}: module_tpl makes a {type(made).__name__}, expected a Haiku module.'
      )
    return made

  @base_layer.nowrap
  def _method(self, module, name: str):
    method = getattr(module, name, None)
    if self.function is None and callable(method):
      return method
    raise AttributeError(
      f'{self._pax_describe()} hosts '
      + ('a function' if self.function else f'a {type(module).__name__}')
      + f', which has no method {name!r}.'
    )

  @base_layer.nowrap
  def _keys(self):
    """The sequence that the module draws its keys from; see the class."""
    run = self._pax_run
    if run.native or not self.path:
      return contextlib.nullcontext()
    streams = _INIT_STREAMS if run.initializing else _APPLY_STREAMS
    given = [s for s in streams if s in run.rngs]
    if not given:
      return contextlib.nullcontext()  # a draw gets Haiku's own error
    return hk.with_rng(run.draw(given[0], self.path))

  # -- What Pax wants to know of the variables ---------------------------------------

  @base_layer.nowrap
  def _declare(self):
    """Declares the variables that the module made, for abstract_init_with_metadata."""
    for collection, name, value, module in self._held():
      if hasattr(value, 'dtype') and hasattr(value, 'shape'):
        path = self._pax_run.path_of(module)
        declared = base_layer.WeightHParams(list(value.shape), dtype=value.dtype)
        if collection == base_layer.NON_TRAINABLE:
          declared.collections.append(
            base_layer.WeightHParamsCollection.NON_TRAINABLE
          )
        self._pax_run.metadata.setdefault((collection, path, name), declared)

  def quantize_weight(self):
    """All variables of the module, as they are."""
    kept = (base_layer.PARAMS, base_layer.NON_TRAINABLE)
    return {c: tree for c, tree in self.variables.items() if c in kept}

  def quantized_partition_specs(self):
    """Replicated partition specs in the structure of `quantize_weight`."""
    return jax.tree.map(
      lambda x: base_layer.BoxedPartitionSpec(
        meta=jax.sharding.PartitionSpec(*[None] * jnp.ndim(x))
      ),
      self.quantize_weight(),
    )

  @base_layer.nowrap
  def _held(self):
    inside = self.module_name + '/'
    for collection, tree in (
      (base_layer.PARAMS, hk.get_params()),
      (base_layer.NON_TRAINABLE, hk.get_current_state()),
    ):
      for module, bundle in tree.items():
        if module == self.module_name or module.startswith(inside):
          for name, value in bundle.items():
            yield collection, name, value, module
