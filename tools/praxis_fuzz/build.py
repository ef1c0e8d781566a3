"""From plain data to a comparison case, and from a case to what one side computes.

The same file runs on both sides. A *tree* is JSON:

  {'config': node, 'shape': [2, 3, 4], 'input_dtype': 'float32', 'paddings': false}

and a *node* is one of

  {'layer': 'linears.Linear', 'fields': {...}}     a config; fuzz.X: script_layers
  {'init': ['Gaussian', 0.5]}                      WeightInit.Gaussian(0.5)
  {'dtype': 'bfloat16'}                            jax.numpy.bfloat16
  {'name': 'checkpoint_policy.X.Y'}                an object below `layers`
  a number, text, None, or a list of such
"""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
from praxis_compare import inputs, runner, spec, store
from praxis_compare import side as side_lib

from praxis_fuzz import script_layers

KEYS = {'layer', 'init', 'dtype', 'name'}


def to_spec(value: Any) -> Any:
  """A node as the comparison tool's own declaration."""
  if isinstance(value, list):
    return [to_spec(v) for v in value]
  if not isinstance(value, dict):
    return value
  kind, = KEYS & set(value)
  if kind == 'layer':
    fields = {k: to_spec(v) for k, v in value.get('fields', {}).items()}
    return spec.Cfg(value['layer'], fields)
  if kind == 'init':
    method, *args = value['init']
    return spec.Init(method, tuple(args))
  return {'dtype': spec.Dtype, 'name': spec.Name}[kind](value[kind])


def precision(tree: dict[str, Any]) -> str:
  """'bfloat16' if that dtype occurs anywhere: the tolerance follows from it."""
  return 'bfloat16' if 'bfloat16' in json.dumps(tree) else 'float32'


def case(tree: dict[str, Any]) -> spec.Case:
  """The comparison case of a tree; its only dtype is the tree's `precision`."""
  shape = tuple(tree['shape'])
  x = inputs.floats(*shape).astype(jnp.dtype(tree.get('input_dtype', 'float32')))
  args: tuple[np.ndarray, ...] = (x,)
  if tree.get('paddings'):
    args += (inputs.paddings(*shape[:2]).astype(x.dtype),)
  return spec.Case('fuzz/tree', to_spec(tree['config']), args,
                   dtypes=(precision(tree),), cast_inputs=False)


class Side(side_lib.Side):
  """A side that knows the fuzzer's test layers and leaves all dtypes to the tree."""

  def lookup(self, path: str) -> Any:
    if path.startswith('fuzz.'):
      return script_layers.define(self.pkg)[path.removeprefix('fuzz.')]
    return super().lookup(path)

  def layer(self, config: spec.Cfg, dtype: str) -> Any:
    built = self.build(config)
    built.name = 'layer'
    return built.Instantiate()


def run(side: Side, tree: dict[str, Any]) -> store.Results:
  """Everything that `side` computes for a tree, under the case's one name."""
  writer = store.Writer()
  one = case(tree)
  done = {one.name: runner.run_case(side, one, writer)}
  return store.from_writer(writer, {'cases': done})
