"""Collections of a layer: what it stores besides its declared variables.

Summaries, auxiliary losses and decode caches are one reserved state entry (a *bucket*,
a dict) per module, so they cannot collide with variables.
"""

from typing import Any

import haiku as hk
import jax.numpy as jnp

from pax_haiku.core import boxes, constants, context, errors, summaries
from pax_haiku.core import variables as variables_lib
from pax_haiku.core import written as written_lib

_MISSING = object()


class CollectionsMixin:
  """Access to collections by name; summaries, auxiliary losses, decode states."""

  @property
  def variables(self) -> dict[str, Any]:
    """All collections, restricted to this layer and what lies below it."""
    if self._pax_interactive is not None:
      return self._pax_interactive.attribute('variables')
    self._pax_require_bound('variables')
    inside = self.module_name + '/'
    trees = []
    for held in (written_lib.params_of(self._pax_run), hk.get_current_state()):
      trees.append(
        {
          m: {k: v for k, v in b.items() if not self._pax_run.is_stale(m, k)}
          for m, b in held.items()
          if m == self.module_name or m.startswith(inside)
        }
      )
    return variables_lib.to_pax(*trees, root=self.module_name)

  def is_initializing(self) -> bool:
    """True while variables are being created."""
    return self._pax_phase != 0 and self._pax_run.initializing

  def is_mutable_collection(self, collection: str) -> bool:
    """Whether this run may write the collection.

    Under a user's own `hk.transform_with_state` everything may be written, but decode
    caches only if the given state holds some for this layer or one below it (see
    `update_decode_state`): another layer's, such as a model's time step, must not make
    this one add caches to the state.
    """
    self._pax_require_bound('is_mutable_collection')
    run = self._pax_run
    if run.native and collection in (
      constants.DECODE_CACHE,
      constants.PREFIX_DECODE_CACHE,
      constants.INTERMEDIATES,
      constants.PARAMS,
    ):
      inside = self.module_name + '/'
      return any(
        entry == collection and (m == self.module_name or m.startswith(inside))
        for m, entry in run.present
      )
    return run.is_mutable(collection)

  def has_variable(self, collection: str, name: str) -> bool:
    """Whether this layer holds a value of that name in the collection.

    Of a child's name: whether the child has variables there.
    """
    return self.get_variable(collection, name, _MISSING) is not _MISSING

  def get_variable(self, collection: str, name: str, default=None):
    """The stored value, or `default`; `params` are not cast.

    Of a child's name: the nested dict of the child's variables.
    """
    self._pax_require_bound('get_variable')
    if name in self._pax_children:
      return self.variables.get(collection, {}).get(name, default)
    if collection == constants.PARAMS:
      entries = written_lib.params_of(self._pax_run).get(self.module_name, {})
    elif collection == constants.NON_TRAINABLE:
      entries = hk.get_current_state().get(self.module_name, {})
    else:
      entries = self._pax_bucket(collection)
    return entries.get(name, default)

  def put_variable(self, collection: str, name: str, value):
    """Stores a value in one of this layer's collections.

    Raises:
      ModifyScopeVariableError: the collection is immutable; `params` is so inside a
        loop and in a Haiku run.
    """
    self._pax_require_bound('put_variable')
    run = self._pax_run
    is_closed = collection == constants.PARAMS and run.written is None
    if is_closed or not run.is_mutable(collection):
      way_out = (
        'Parameters can be written neither inside a loop nor under a Haiku transform.'
        if is_closed
        else 'Pass mutable=[...] to init or apply.'
      )
      raise errors.ModifyScopeVariableError(
        f'{self._pax_describe()}: cannot write {name!r}, the collection {collection!r} '
        f'is immutable in this run. {way_out}'
      )
    if collection == constants.PARAMS:
      run.written.put(self.module_name, name, jnp.asarray(value))
    elif collection == constants.NON_TRAINABLE:
      self._pax_scoped(hk.set_state, name, value)
    else:
      self._pax_put(collection, name, value)

  def sow(self, collection: str, name: str, value) -> bool:
    """Appends a value to the tuple `name` of a collection, if that is mutable."""
    if not self.is_mutable_collection(collection):
      return False
    self._pax_put(
      collection, name, (*self._pax_bucket(collection).get(name, ()), value)
    )
    return True

  # -- Buckets ----------------------------------------------------------------

  def _pax_bucket(self, collection: str) -> dict:
    """This layer's bucket of a collection as it stands; {} if there is none."""
    key = variables_lib.bucket_key(collection)
    if self._pax_run.is_stale(self.module_name, key):
      return {}
    if (
      (self.module_name, key) not in self._pax_run.opened
      and (self.module_name, key) not in self._pax_run.present
    ):
      return {}
    return self._pax_scoped(hk.get_state, key)

  def _pax_put(self, collection: str, name: str, value):
    """Adds an entry to this layer's bucket of a collection."""
    key = variables_lib.bucket_key(collection)
    bucket = self._pax_bucket(collection)
    if self._pax_run.initializing and bucket:
      # init returns the first value set of each state entry: add to that very dict,
      # so that the tree is the same after init and after apply.
      bucket[name] = value
    else:
      self._pax_scoped(hk.set_state, key, {**bucket, name: value})
      self._pax_run.opened.add((self.module_name, key))
      self._pax_run.stale.get(self.module_name, set()).discard(key)

  def add_summary(
    self,
    name: str,
    tensor,
    summary_type=summaries.SummaryType.SCALAR,
    verbosity: int = 2,
  ):
    """Records a summary; one of the same name and type in this layer is replaced.

    Args:
      name: the key is `name` with the type's suffix.
      tensor: an array, or a function of no arguments that is called only if the
        summary is kept. Images are [h, w, c] or [b, h, w, c], audio is [t, c] or
        [b, t, c].
      summary_type: what a writer makes of it.
      verbosity: dropped if higher than the JaxContext's `summary_verbosity`.
    """
    self._pax_require_bound('add_summary')
    top = context.JaxContext.top()
    if top is not None and verbosity > top.summary_verbosity:
      return
    kept = self._pax_run.is_mutable(constants.SUMMARIES)
    if callable(tensor):
      if not kept:
        return
      tensor = tensor()
    if isinstance(tensor, bool | int | float):
      tensor = jnp.asarray(tensor)  # so that init and apply leave the same state
    tensor = summaries.layer_summary_value(tensor, summary_type)
    if kept:
      key = name + summaries.get_summary_type_suffix(summary_type)
      self._pax_put(constants.SUMMARIES, key, tensor)

  def add_aux_loss(self, name: str, value, weight=None):
    """Records an auxiliary loss; values and weights of one name add up.

    Args:
      name: key within this layer.
      value: the loss.
      weight: its weight, as in WeightedScalars; ones like `value` if None.
    """
    self._pax_require_bound('add_aux_loss')
    if not self._pax_run.is_mutable(constants.AUX_LOSS):
      return
    value = jnp.asarray(value)
    weight = jnp.ones_like(value) if weight is None else jnp.asarray(weight)
    before = self._pax_bucket(constants.AUX_LOSS).get(name)
    if before is not None:
      value, weight = value + before.value, weight + before.weight
    self._pax_put(constants.AUX_LOSS, name, boxes.AuxLossStruct(value, weight))

  def get_decode_state(self, name: str):
    """A value of this layer's decode cache; AssertionError if it is not there."""
    self._pax_require_bound('get_decode_state')
    bucket = self._pax_bucket(constants.DECODE_CACHE)
    if name not in bucket:
      raise AssertionError(
        f'{self._pax_describe()} has no decode state {name!r}; it has {sorted(bucket)}.'
        ' Was init_states called, with the decode cache mutable?'
      )
    return bucket[name]

  def update_decode_state(self, name: str, value):
    """Writes (or creates) a value of the decode cache; no-op if that is immutable."""
    self._pax_require_bound('update_decode_state')
    if self._pax_run.is_mutable(constants.DECODE_CACHE):
      self._pax_put(constants.DECODE_CACHE, name, value)
