"""Helpers under their Pax names: a facade, plus some small ones of its own."""

import contextlib
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import logging

from pax_haiku import pytypes
from pax_haiku.core import flax_serialization  # noqa: F401 (registers NestedMap)
from pax_haiku.core.array_utils import (
    append_eos,
    apply_mask_to_logits,
    apply_padding,
    combine_inner_and_outer_batches,
    concat_sequences_with_padding,
    flip_sequence,
    get_large_negative_number,
    l2_normalize,
    pad_or_trim_to,
    reshape_with_outer_batch_size,
    reshard,
    sequence_mask,
    sequence_paddings,
    total_num_vars,
    unshard,
)
from pax_haiku.core.device_utils import (
    convert_fully_replicated_array_to_pmap_array,
    convert_host_local_array_to_global_array,
    create_device_mesh,
    get_global_input_shape_dtype,
    get_uneven_sharding_paddings,
    global_mesh_defined,
    is_mock_tpu_backend,
    is_tpu,
    make_array,
    maybe_pad_uneven_sharding,
    maybe_slice_uneven_sharding,
    maybe_unreplicate_for_first_shard,
    maybe_unreplicate_for_fully_replicated,
    put_to_devices,
    set_globally_use_rbg_prng_key,
    sync_global_devices,
    with_sharding_constraint,
)
from pax_haiku.core.nested_map import NestedMap
from pax_haiku.core.tree_utils import (
    Patterns,
    assert_same_shape_and_dtype,
    concat_nested_maps,
    extract_prefixed_keys_from_nested_map,
    filter_by_matching_keys,
    match_variable_names,
    merge_dict,
    select_nodes_by_indices,
    tree_unstack,
    update_matched_variables,
)

JTensor = pytypes.JTensor
Nested = pytypes.Nested
HParams = pytypes.HParams
InstantiableParams = pytypes.InstantiableParams

PROVENANCE_PREFIX = '_seqio_provenance'
INDEX_WITHIN_SHARD_KEY = f'{PROVENANCE_PREFIX}/index_within_shard'
SHARD_INDEX_KEY = f'{PROVENANCE_PREFIX}/shard_index'
NUM_SHARDS_KEY = f'{PROVENANCE_PREFIX}/num_shards'
ENUM_PROVENANCE_KEYS = (INDEX_WITHIN_SHARD_KEY, SHARD_INDEX_KEY, NUM_SHARDS_KEY)


class ThreadLocalStack(threading.local):
  """An object with a list `stack` for each thread."""

  def __init__(self):
    super().__init__()
    self.stack = []


class BpropMaskedNode(NamedTuple):
  """Stands in a tree of gradients for a variable that is not trained; no leaves."""


def is_bprop_masked_node(x: Any) -> bool:
  """Whether `x` is a `BpropMaskedNode`."""
  return isinstance(x, BpropMaskedNode)


def is_optax_masked_node(x: Any) -> bool:
  """Whether `x` is an `optax.MaskedNode`; optax is not imported for it."""
  optax = sys.modules.get('optax')
  return optax is not None and isinstance(x, optax.MaskedNode)


@contextlib.contextmanager
def logging_verbosity_level(level: str) -> Iterator[None]:
  """Sets absl's verbosity, such as 'error', inside a `with` block.

  Raises:
    KeyError: absl knows no such level.
  """
  before = logging.get_verbosity()
  logging.set_verbosity(level)
  try:
    yield
  finally:
    logging.set_verbosity(before)


@dataclasses.dataclass
class RunningPeriod:
  """A period of time in seconds; `end` is None while it lasts."""

  start: float
  end: float | None = None
  min_elapsed: float = 0

  @property
  def elapsed(self) -> float:
    """Seconds between start and end (or now), at least `min_elapsed`."""
    end = time.time() if self.end is None else self.end
    return max(end - self.start, self.min_elapsed)


@contextlib.contextmanager
def timeit(min_elapsed: float = 1e-6) -> Iterator[RunningPeriod]:
  """Measures a `with` block: `with timeit() as t: ...; t.elapsed`."""
  period = RunningPeriod(start=time.time(), min_elapsed=min_elapsed)
  try:
    yield period
  finally:
    period.end = time.time()


def benchmark(prefix: str = '', first_n: int | None = None):
  """A decorator that logs how long each call (or each of the first n) takes."""

  def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    @functools.wraps(fn)
    def timed(*args, **kwargs):
      nonlocal calls
      calls += 1
      if first_n is not None and calls > first_n:
        return fn(*args, **kwargs)
      with timeit() as period:
        result = fn(*args, **kwargs)
      logging.info('%s%s took %.3f s.', prefix, fn.__qualname__, period.elapsed)
      return result

    return timed

  return decorate


def sharded_file_pattern_to_glob(file_pattern: str) -> str:
  """`p@10` -> `p-?????-of-00010`; a pattern without `@` stays as it is.

  Raises:
    ValueError: several patterns, or neither a number nor `*` behind the `@`.
  """
  if ',' in file_pattern:
    raise ValueError(
        'sharded_file_pattern_to_glob does not support multiple file patterns: '
        f'{file_pattern!r}.'
    )
  name, at, shards = file_pattern.partition('@')
  if not at:
    return file_pattern
  if shards != '*':
    shards = f'{int(shards):05d}'
  return f'{name}-?????-of-{shards}'


def get_enumeration_id(example: dict[str, Any], pop: bool = False) -> str | None:
  """A text that names an example of an enumerated data set.

  Args:
    example: has the keys ENUM_PROVENANCE_KEYS, or there is no id.
    pop: removes those keys from `example`.
  """
  if not all(key in example for key in ENUM_PROVENANCE_KEYS):
    return None
  get = example.pop if pop else example.__getitem__
  return '/'.join(f'{key}={int(get(key))}' for key in ENUM_PROVENANCE_KEYS)


__all__ = [
    'BpropMaskedNode',
    'ENUM_PROVENANCE_KEYS',
    'HParams',
    'INDEX_WITHIN_SHARD_KEY',
    'InstantiableParams',
    'JTensor',
    'NUM_SHARDS_KEY',
    'Nested',
    'NestedMap',
    'PROVENANCE_PREFIX',
    'Patterns',
    'RunningPeriod',
    'SHARD_INDEX_KEY',
    'ThreadLocalStack',
    'append_eos',
    'apply_mask_to_logits',
    'apply_padding',
    'assert_same_shape_and_dtype',
    'benchmark',
    'combine_inner_and_outer_batches',
    'concat_nested_maps',
    'concat_sequences_with_padding',
    'convert_fully_replicated_array_to_pmap_array',
    'convert_host_local_array_to_global_array',
    'create_device_mesh',
    'extract_prefixed_keys_from_nested_map',
    'filter_by_matching_keys',
    'flip_sequence',
    'get_enumeration_id',
    'get_global_input_shape_dtype',
    'get_large_negative_number',
    'get_uneven_sharding_paddings',
    'global_mesh_defined',
    'is_bprop_masked_node',
    'is_mock_tpu_backend',
    'is_optax_masked_node',
    'is_tpu',
    'l2_normalize',
    'logging_verbosity_level',
    'make_array',
    'match_variable_names',
    'maybe_pad_uneven_sharding',
    'maybe_slice_uneven_sharding',
    'maybe_unreplicate_for_first_shard',
    'maybe_unreplicate_for_fully_replicated',
    'merge_dict',
    'pad_or_trim_to',
    'put_to_devices',
    'reshape_with_outer_batch_size',
    'reshard',
    'select_nodes_by_indices',
    'sequence_mask',
    'sequence_paddings',
    'set_globally_use_rbg_prng_key',
    'sharded_file_pattern_to_glob',
    'sync_global_devices',
    'timeit',
    'total_num_vars',
    'tree_unstack',
    'unshard',
    'update_matched_variables',
    'with_sharding_constraint',
]
