"""Repeat: one sublayer template run many times, each time with its own variables.

The sublayer is traced once, inside `jax.lax.scan`; its variables are stacked along a
new leading axis. Compile time and program size are flat in the number of repeats.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.core import lifted
from pax_haiku.layers import checkpoint_policy as checkpoint_policy_lib

AutodiffCheckpointType = checkpoint_policy_lib.AutodiffCheckpointType
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
NestedMap = base_layer.NestedMap
NestedJTensor = base_layer.NestedJTensor

_CACHES = (base_layer.DECODE_CACHE, base_layer.PREFIX_DECODE_CACHE)


class Repeat(base_layer.BaseLayer):
  """Runs `x_times` copies of a sublayer one after the other, in a scan.

      carry = inputs
      for i in range(x_times): carry = sub_i(carry, *args, **kwargs)

  Variables (trainable or not) of all copies are stacked on axis 0 below one child
  named `sublayer_name`; each copy is initialised with its own key, by the unstacked
  shape. Summaries are stacked as well; auxiliary losses are summed to scalars.

  Attributes:
    sub_tpl: the sublayer. Required.
    x_times: number of copies, > 0.
    unpack_summaries: store each summary as a list of `x_times` arrays [1, ...].
    checkpoint_policy: what the backward pass may keep of each copy's intermediates.
    unroll_in_decode: decode with a Python loop over the copies; their caches are
      separate, under `layer<i>`.
    sublayer_name: attribute and tree key of the sublayer.
    optimizer_dims_mapping: sharding of the stacked axis in optimizer states.
    collect_intermediate_outputs: sow the outputs of all copies, stacked, as
      `repeat_intermediates`.
    return_intermediate_outputs: return them in place of the last.
    nd_prefix_shape: stack variables on several axes; their product is `x_times`.
    positional_args_as_scan_carry: pass the positional arguments through the loop.
  """

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the stacked axis.

    Attributes:
      sub: None, or a list of one entry.
    """

    sub: Any = None

  sub_tpl: LayerTpl | None = None
  x_times: int = 0
  unpack_summaries: bool = False
  checkpoint_policy: AutodiffCheckpointType = AutodiffCheckpointType.SAVE_NOTHING
  unroll_in_decode: bool = False
  sublayer_name: str = 'sub'
  optimizer_dims_mapping: Any = None
  collect_intermediate_outputs: bool = False
  return_intermediate_outputs: bool = False
  nd_prefix_shape: Sequence[int] | None = None
  positional_args_as_scan_carry: bool = False

  def setup(self):
    self._check_fields()
    self.create_child(self.sublayer_name, self.sub_tpl)

  def _check_fields(self):
    def require(condition: bool, what: str):
      if not condition:
        raise AssertionError(f'{self._pax_describe()}: {what}.')

    require(self.sub_tpl is not None, 'sub_tpl is required, found None')
    require(self.x_times > 0, f'x_times must be > 0, found {self.x_times}')
    sub = self.weight_split_dims_mapping.sub
    for name, mapping in (
      ('weight_split_dims_mapping.sub', sub),
      ('optimizer_dims_mapping', self.optimizer_dims_mapping),
    ):
      require(
        mapping is None or (isinstance(mapping, list | tuple) and len(mapping) == 1),
        f'{name} must be None or a list of one entry, found {mapping!r}',
      )
    if self.nd_prefix_shape is not None:
      shape = tuple(self.nd_prefix_shape)
      require(
        len(shape) >= 1 and math.prod(shape) == self.x_times,
        f'the product of nd_prefix_shape {shape} must be x_times ({self.x_times})',
      )
      require(
        len(shape) == 1 or (sub is None and self.optimizer_dims_mapping is None),
        'weight_split_dims_mapping.sub and optimizer_dims_mapping must be None '
        'with an nd_prefix_shape of several dims',
      )

  @property
  def sublayer(self) -> base_layer.BaseLayer:
    """The child that is repeated."""
    return getattr(self, self.sublayer_name)

  def _stacking(self) -> lifted.Stacking:
    def as_tuple(mapping):
      return None if mapping is None else tuple(mapping)

    return lifted.Stacking(
      length=self.x_times,
      prefix=tuple(self.nd_prefix_shape or (self.x_times,)),
      split_dims_mapping=as_tuple(self.weight_split_dims_mapping.sub),
      optimizer_dims_mapping=as_tuple(self.optimizer_dims_mapping),
      unpack_summaries=self.unpack_summaries,
    )

  # -- Forward ------------------------------------------------------------------

  def __call__(
    self,
    inputs: NestedJTensor,
    *args,
    method_name: str | None = None,
    per_layer_kwargs: dict[str, Any] | None = None,
    reversed_per_layer_kwargs: dict[str, Any] | None = None,
    **kwargs,
  ):
    """Runs the sublayers.

    Args:
      inputs: first carry: any structure, kept by each sublayer in structure, shapes
        and dtypes.
      *args: given to each sublayer, or carried (positional_args_as_scan_carry).
      method_name: the sublayers' method; `__call__` if None.
      per_layer_kwargs: {name: array [x_times, ...]}; copy i gets row i.
      reversed_per_layer_kwargs: the same in reversed order.
      **kwargs: given to each sublayer.

    Returns:
      The last carry; all of them, stacked on axis 0, with
      return_intermediate_outputs.

    Raises:
      ValueError: a sublayer changes the structure of its input.
    """
    return self.call_with_custom_method(
      inputs,
      *args,
      method_factory=lambda sub: getattr(sub, method_name or '__call__'),
      per_layer_kwargs=per_layer_kwargs,
      reversed_per_layer_kwargs=reversed_per_layer_kwargs,
      **kwargs,
    )

  def call_with_custom_method(
    self,
    inputs: NestedJTensor,
    *args,
    method_factory: Callable[[base_layer.BaseLayer], Callable[..., Any]],
    per_layer_kwargs: dict[str, Any] | None = None,
    reversed_per_layer_kwargs: dict[str, Any] | None = None,
    **kwargs,
  ):
    """As `__call__`, with `method_factory(sublayer)` as the function to run."""
    carried = self.positional_args_as_scan_carry
    extra = {
      **(per_layer_kwargs or {}),
      **jax.tree.map(lambda x: x[::-1], reversed_per_layer_kwargs or {}),
    }
    keep_all = self.return_intermediate_outputs or self.collect_intermediate_outputs

    def body(sub, carry, extra):
      call_args = carry if carried else (carry, *args)
      out = method_factory(sub)(*call_args, **kwargs, **extra)
      if carried and not isinstance(out, tuple):
        out = (out,)
      self._check_structure(carry, out)
      return out, (out if keep_all else None)

    policy = checkpoint_policy_lib.custom_policy(self.checkpoint_policy)
    out, stacked = self._scan(
      body,
      (inputs, *args) if carried else inputs,
      extra,
      checkpoint=functools.partial(jax.checkpoint, policy=policy, prevent_cse=False),
      write=self._write_unrolled if self.unroll_in_decode else None,
      ignore=_CACHES if self.unroll_in_decode else (),
    )
    if self.return_intermediate_outputs:
      return stacked
    if self.collect_intermediate_outputs:
      self.sow(base_layer.INTERMEDIATES, 'repeat_intermediates', stacked)
    return out

  def _check_structure(self, before, after):
    have, want = jax.tree.structure(after), jax.tree.structure(before)
    if have != want:
      raise ValueError(
        f'{self._pax_describe()}: a repeated sublayer must return the structure of its '
        f'input. Input: {want}. Output: {have}.'
      )

  def _scan(self, body, carry, xs=None, **options):
    return lifted.scan(
      self, self.sublayer, body, carry, xs, self._stacking(), **options
    )

  # -- Decoding -----------------------------------------------------------------

  def _decode(self, body, carry=None):
    """Runs `body(sub, carry) -> carry` over the copies, with their decode caches."""
    if self.is_initializing():
      raise AssertionError(
        f'{self._pax_describe()}: decoding needs initialized variables; run init with '
        '`__call__` first.'
      )
    if not self.unroll_in_decode:
      return self._scan(lambda sub, c, x: (body(sub, c), None), carry)[0]
    child = lifted.Lifted(self, self.sublayer)
    params, state = child.read()
    stacking = self._stacking()
    params = stacking.flatten(params)
    caches = _take_caches(state, self.sublayer_name, self.x_times)
    variables = lifted.map_variables(
      stacking.flatten, lifted.without_buckets(state, _all_buckets(state))
    )
    scanned, shared = lifted.Streams.split(self._pax_run, self.x_times, False)
    for i in range(self.x_times):
      at_i = functools.partial(jax.tree.map, lambda x, i=i: x[i])
      here = at_i(variables)
      for module, bundle in caches[i].items():
        here.setdefault(module, {}).update(bundle)
      carry, changed = child.apply(
        at_i(params), here, shared.merged(at_i(scanned)), body, carry
      )
      child.write(_layer_caches(changed, self.sublayer_name, i))
    return carry

  def _write_unrolled(self, state):
    """Writes what the scan left, its stacked decode caches as one per copy."""
    child = lifted.Lifted(self, self.sublayer)
    child.write(lifted.without_buckets(state, _CACHES))
    caches = {m: {k: v for k, v in b.items() if k in _CACHES} for m, b in state.items()}
    for i in range(self.x_times):
      at_i = jax.tree.map(lambda x, i=i: x[i], caches)
      child.write(_layer_caches(at_i, self.sublayer_name, i))

  def init_states(self, *args, **kwargs) -> None:
    """Calls `init_states` of each sublayer, which fills its decode cache."""

    def body(sub, carry):
      sub.init_states(*args, **kwargs)
      return carry

    self._decode(body)

  def extend_step(self, step_inputs: NestedJTensor, *args, **kwargs):
    """One decoding step through all sublayers' `extend_step`; the final carry."""

    def body(sub, carry):
      out = sub.extend_step(carry, *args, **kwargs)
      self._check_structure(carry, out)
      return out

    return self._decode(body, step_inputs)

  def transform_decode_state(self, transform_fn) -> None:
    """Applies `transform_fn` to the decode caches of all sublayers."""

    def body(sub, carry):
      sub.transform_decode_state(transform_fn)
      return carry

    self._decode(body)

  def lazy_broadcast_prefix(self, num_suffix_samples: int, suffix_length: int) -> None:
    """Calls `lazy_broadcast_prefix` of each sublayer."""

    def body(sub, carry):
      sub.lazy_broadcast_prefix(num_suffix_samples, suffix_length)
      return carry

    self._decode(body)

  def right_align_decode_state_with_prefix(
    self, max_prefix_size, right_align_fn
  ) -> None:
    """Calls `right_align_decode_state_with_prefix` of each sublayer."""

    def body(sub, carry):
      sub.right_align_decode_state_with_prefix(max_prefix_size, right_align_fn)
      return carry

    self._decode(body)

  # -- Quantization ---------------------------------------------------------------

  def quantize_weight(self) -> NestedJTensor:
    """The sublayers' quantized weights, stacked: {collection: {sublayer_name: ...}}."""
    _, stacked = self._scan(lambda sub, c, x: (c, sub.quantize_weight()), None)
    return {c: {self.sublayer_name: tree} for c, tree in stacked.items()}

  def quantized_partition_specs(self) -> Any:
    """Partition specs in that structure; the stacked axis is replicated."""
    found: list = []

    def body(sub, carry, x):
      found.append(sub.quantized_partition_specs())
      return carry, None

    self._scan(body, None)

    def stacked(box):
      return base_layer.BoxedPartitionSpec(
        meta=jax.sharding.PartitionSpec(None, *box.meta)
      )

    specs = jax.tree.map(
      stacked, found[-1], is_leaf=lambda x: isinstance(x, base_layer.BoxedPartitionSpec)
    )
    return {c: {self.sublayer_name: tree} for c, tree in specs.items()}


# -- Decode caches of unrolled copies: module 'sub/x' of copy i is 'sub/layer<i>/x' ----


def _all_buckets(state) -> list[str]:
  return [k for b in state.values() for k, v in b.items() if isinstance(v, dict)]


def _take_caches(state, name: str, num: int) -> list[lifted.Flat]:
  """For each copy its caches, under the module names that the copy knows."""
  out: list[lifted.Flat] = [{} for _ in range(num)]
  for i in range(num):
    inside = f'{name}/layer{i}'
    for module, bundle in state.items():
      if module == inside or module.startswith(inside + '/'):
        out[i][name + module[len(inside) :]] = dict(bundle)
  return out


def _layer_caches(state, name: str, i: int) -> lifted.Flat:
  """The decode caches in `state`, renamed to those of copy i."""
  out = {}
  for module, bundle in state.items():
    caches = {k: v for k, v in bundle.items() if k in _CACHES}
    if caches:
      out[f'{name}/layer{i}{module[len(name) :]}'] = caches
  return out
