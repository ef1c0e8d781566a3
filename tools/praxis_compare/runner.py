"""Runs cases on one side and writes what it saw to one file.

The same file runs under both environments:

  python -m praxis_compare.runner --pkg praxis --out praxis.npz linears.Linear/default

Everything is computed op by op, not jitted: two XLA versions fuse differently, and in
bfloat16 a fused intermediate keeps more bits than the Pax program asked for.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from praxis_compare import cases as case_list
from praxis_compare import inputs, spec, store
from praxis_compare import side as side_lib

SEED = 20240
RECORDED = ('non_trainable', 'summaries', 'aux_loss')
HPARAMS = ('shape', 'repeat_prefix', 'tensor_split_dims_mapping',
           'repeat_prefix_split_dims_mapping', 'repeat_optimizer_dims_mapping',
           'fan_in_axes', 'fan_out_axes', 'collections')


def failure(stage: str, error: BaseException) -> dict[str, Any]:
  names = [c.__name__ for c in type(error).__mro__ if c is not object]
  return {'stage': stage, 'types': names, 'message': str(error)[:400]}


def values_for(path: str, leaf: np.ndarray) -> np.ndarray:
  """The value of a variable for `apply`: the same on both sides, whatever `init` gave.

  Trainable: uniform in +-0.5, so that a bias or scale that starts at zero counts.
  Other arrays: in [0.1, 1), which a moving variance can be. Scalars (counters) and
  integers keep their initial value.
  """
  if not side_lib.is_float(leaf) or (leaf.ndim == 0 and not path.startswith('params/')):
    return leaf
  low, high = (-0.5, 0.5) if path.startswith('params/') else (0.1, 1.0)
  return inputs.uniform(path, leaf.shape, low, high).astype(leaf.dtype)


def cotangent(path: str, leaf: Any) -> np.ndarray:
  """Fixed weights of one output leaf in the scalar loss sum(weights * output)."""
  return inputs.uniform(f'loss:{path}', leaf.shape).astype(leaf.dtype)


class Call:
  """One case at one dtype: the layer, its arguments, and how to call it."""

  def __init__(self, side: side_lib.Side, case: spec.Case, dtype: str) -> None:
    self.case, self.side = case, side
    self.layer = side.layer(case.config, dtype)
    built = (side.build(tuple(case.args)), side.build(dict(case.kwargs)))
    self._leaves, self._tree = jax.tree_util.tree_flatten(built)
    if dtype != 'float32' and case.cast_inputs:
      self._leaves = [leaf.astype(jnp.dtype(dtype)) if side_lib.is_float(leaf) else leaf
                      for leaf in self._leaves]
    self._floats = [i for i, leaf in enumerate(self._leaves) if side_lib.is_float(leaf)]
    method = case.method
    if isinstance(method, str):
      method = getattr(type(self.layer), method)
    self.method = {} if method is None else {'method': method}

  @property
  def floats(self) -> list[Any]:
    return [self._leaves[i] for i in self._floats]

  def arguments(self, floats: list[Any] | None = None) -> tuple[Any, Any]:
    leaves = list(self._leaves)
    for i, leaf in zip(self._floats, self.floats if floats is None else floats,
                       strict=True):
      leaves[i] = leaf
    leaves = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in leaves]
    return jax.tree_util.tree_unflatten(self._tree, leaves)

  def init(self) -> dict[str, Any]:
    args, kwargs = self.arguments()
    rngs = {'params': jax.random.PRNGKey(SEED), 'random': jax.random.PRNGKey(SEED + 1)}
    return self.layer.init(rngs, *args, **kwargs, **self.method)

  def metadata(self, do_eval: bool) -> dict[str, Any]:
    """Declared properties of every variable, as plain data."""
    arrays = [x for x in self._leaves if isinstance(x, np.ndarray)]

    def call(layer: Any, *traced: Any) -> Any:  # Python numbers must stay static
      todo = iter(traced)
      leaves = [next(todo) if isinstance(x, np.ndarray) else x for x in self._leaves]
      args, kwargs = jax.tree_util.tree_unflatten(self._tree, leaves)
      return self.method.get('method', type(layer).__call__)(layer, *args, **kwargs)

    meta = self.layer.abstract_init_with_metadata(
        *arrays, do_eval=do_eval, method=call)
    return {path: describe_variable(leaf)
            for path, leaf in side_lib.flatten(meta).items()}

  def apply(self, params: Any, floats: list[Any], state: Any) -> tuple[Any, Any]:
    """(float outputs by path, (other outputs by path, updated collections))."""
    args, kwargs = self.arguments(floats)
    out, updated = self.layer.apply(
        {'params': params, **state} if params else state, *args, **kwargs,
        **self.method, rngs={'random': jax.random.PRNGKey(SEED + 2)},
        mutable=[*RECORDED, *self.case.collections])
    flat = side_lib.flatten(out)
    float_paths = [path for path, leaf in flat.items() if side_lib.is_float(leaf)]
    return {path: flat.pop(path) for path in float_paths}, (flat, updated)


  def prepared(self, variables: dict[str, Any]) -> dict[str, Any]:
    """Collections that the case's `prepare` leaves behind."""
    if self.case.prepare is None:
      return {}
    args, kwargs = self.arguments()
    _, updated = self.layer.apply(
        variables, *args, **kwargs, method=self.case.prepare,
        mutable=list(self.case.collections))
    return dict(updated)


def describe_variable(leaf: Any) -> dict[str, Any]:
  out = {}
  for name in HPARAMS:
    value = getattr(leaf, name, None)
    out[name] = list(value) if isinstance(value, list | tuple) else value
  out['dtype'] = str(jnp.dtype(leaf.dtype)) if leaf.dtype is not None else None
  out['init'] = [leaf.init.method, leaf.init.scale] if leaf.init is not None else None
  return json.loads(json.dumps(out, default=str))


def record(writer: store.Writer, flat: dict[str, Any]) -> dict[str, Any]:
  """References by path; what is no array (None, text) as its repr."""
  out = {}
  for path, leaf in flat.items():
    plain = isinstance(leaf, np.ndarray | np.generic | jax.Array | int | float)
    out[path] = writer.ref(leaf) if plain else {'repr': repr(leaf)[:80]}
  return out


def run_mode(call: Call, variables: dict[str, Any], mode: str,
             writer: store.Writer) -> dict[str, Any]:
  variables = jax.tree_util.tree_map(jnp.asarray, variables)
  state = {k: v for k, v in variables.items() if k != 'params'}
  params = variables.get('params', {})
  with call.side.context(do_eval=mode == 'eval'):
    state.update(call.prepared(variables))
    if call.case.grads:
      out, vjp, (others, updated) = jax.vjp(
          lambda p, x: call.apply(p, x, state), params, call.floats, has_aux=True)
      grads = vjp({path: cotangent(path, leaf) for path, leaf in out.items()})
    else:
      out, (others, updated) = call.apply(params, call.floats, state)
      grads = ({}, [])
  flat_grads = {f'params/{k}': v for k, v in side_lib.flatten(grads[0]).items()
                if k} if params else {}
  flat_grads.update({f'input/{i}': g for i, g in enumerate(grads[1])})
  got = {'outputs': {**out, **others}, 'grads': flat_grads}
  for section, collection in (('state', 'non_trainable'), ('summaries', 'summaries'),
                              ('aux_loss', 'aux_loss')):
    tree = updated.get(collection, {})
    got[section] = side_lib.flatten(tree) if tree else {}
  got['extra'] = {}
  for collection in call.case.collections:
    tree = updated.get(collection, {})
    got['extra'].update(side_lib.flatten(tree, (collection,)) if tree else {})
  return {section: record(writer, flat) for section, flat in got.items()}


def run_dtype(side: side_lib.Side, case: spec.Case, dtype: str,
              writer: store.Writer) -> dict[str, Any]:
  result: dict[str, Any] = {'modes': {}}
  stage = 'build'
  try:
    call = Call(side, case, dtype)
    stage = 'init'
    do_eval = 'train' not in case.modes
    with side.context(do_eval=do_eval):
      flat = side_lib.flatten(jax.device_get(call.init()))
    flat = {k: v for k, v in flat.items() if k}
    result['init'] = record(writer, flat)
    stage = 'apply'
    variables = side_lib.unflatten({k: values_for(k, np.asarray(v))
                                    for k, v in flat.items()})
    for mode in case.modes:
      stage = f'apply {mode}'
      result['modes'][mode] = run_mode(call, variables, mode, writer)
    stage = 'abstract_init_with_metadata'
    if dtype == 'float32' and case.raises is None:
      result['metadata'] = call.metadata(do_eval)
  except Exception as error:  # recorded and compared, never lost
    result['error'] = failure(stage, error)
  return result


def run_case(side: side_lib.Side, case: spec.Case, writer: store.Writer,
             dtypes: Sequence[str] | None = None) -> dict[str, Any]:
  """Results of a case, in all its dtypes or in the given ones."""
  start = time.time()
  out: dict[str, Any] = {'fingerprint': spec.fingerprint(case), 'dtypes': {}}
  for dtype in dtypes or case.dtypes:
    out['dtypes'][dtype] = run_dtype(side, case, dtype, writer)
  out['seconds'] = round(time.time() - start, 3)
  return out


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--pkg', required=True, choices=('praxis', 'pax_haiku'))
  parser.add_argument('--out', required=True)
  parser.add_argument('--names', help='file with one case name per line')
  parser.add_argument('case', nargs='*')
  options = parser.parse_args(argv)
  names = list(options.case)
  if options.names:
    with open(options.names) as file:
      names += file.read().split('\n')
  side = side_lib.Side(options.pkg)
  writer = store.Writer()
  done = {}
  wanted = [n for n in names if n]
  for i, name in enumerate(wanted):
    done[name] = run_case(side, case_list.by_name(name), writer)
    if i % 50 == 49:
      print(f'{options.pkg}: {i + 1}/{len(wanted)} cases', file=sys.stderr, flush=True)
  writer.save(options.out, {'package': options.pkg, 'versions': side.versions(),
                            'cases': done})


if __name__ == '__main__':
  main(sys.argv[1:])
