"""Model: any of the things that can be matched or compared, in one form.

A model is a Haiku pair of `init` and `apply`, a Pax layer or a Pax config, together
with a tree of its variables.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.core import constants
from pax_haiku.interop import mapping as mapping_lib


@dataclasses.dataclass(frozen=True)
class Model:
  """A function with its variables.

  Attributes:
    call: `(tree, rng, args, kwargs) -> (output, tree of updated state)`.
    tree: `{'params': ..., 'state': ...}` of Haiku or Pax's collections.
    form: 'haiku' or 'pax'.
    name: for messages and reports.
  """

  call: Callable[..., Any]
  tree: Any
  form: str
  name: str

  @property
  def entries(self) -> dict[str, Any]:
    """`{entry name: array}`."""
    return mapping_lib.flatten(self.tree)

  def with_entries(self, entries: Mapping[str, Any]) -> Any:
    """The tree with some entries replaced; others stay."""
    named, treedef = mapping_lib.flatten_with_structure(self.tree)
    leaves = [entries.get(n, leaf) if n is not None else leaf for n, leaf in named]
    return jax.tree_util.tree_unflatten(treedef, leaves)

  def run(self, entries: Mapping[str, Any], rng, args, kwargs):
    """`(output, {entry name: updated state})` with some entries replaced."""
    out, state = self.call(self.with_entries(entries), rng, args, kwargs)
    return out, mapping_lib.flatten(state)


def _haiku(transformed, variables, name):
  stateful = isinstance(transformed, hk.TransformedWithState)

  def call(tree, rng, args, kwargs):
    if stateful:
      out, state = transformed.apply(
        tree['params'], tree['state'], rng, *args, **kwargs
      )
      return out, {'state': state}
    return transformed.apply(tree['params'], rng, *args, **kwargs), {}

  if isinstance(variables, tuple):
    params, state = variables
    tree = {'params': params, 'state': state}
  elif isinstance(variables, Mapping) and set(variables) <= {'params', 'state'}:
    tree = {'params': {}, 'state': {}, **variables}
  else:
    tree = {'params': variables, 'state': {}}
  if not stateful:
    tree.pop('state')
  return Model(call, tree, 'haiku', name)


@contextlib.contextmanager
def _context(do_eval):
  if do_eval is None:
    yield
    return
  hparams = base_layer.JaxContext.HParams(do_eval=do_eval)
  with base_layer.JaxContext.new_context(hparams=hparams):
    yield


def _pax(layer, variables, name, do_eval):
  def call(tree, rng, args, kwargs):
    with _context(do_eval):
      out, updated = layer.apply(
        tree,
        *args,
        rngs={'random': rng, 'params': rng},
        mutable=[constants.NON_TRAINABLE],
        **kwargs,
      )
    return out, dict(updated)

  kept = {
    c: variables[c]
    for c in (constants.PARAMS, constants.NON_TRAINABLE)
    if c in variables
  }
  return Model(call, kept, 'pax', name)


def as_model(
  fn: Any,
  variables: Any = None,
  *,
  args=(),
  kwargs=None,
  do_eval: bool | None = None,
  name: str = 'the model',
) -> Model:
  """A `Model` of what users have.

  Args:
    fn: an `hk.TransformedWithState` or `hk.Transformed`, an unbound Pax layer, a Pax
      config, or a function that uses Haiku modules (it is transformed).
    variables: `(params, state)` or `params` of Haiku, collections of Pax, or None to
      initialize by key 0.
    args, kwargs: inputs, for the initialization.
    do_eval: runs a Pax layer in this context; None: in the surrounding one.
    name: for messages and reports.

  Raises:
    TypeError: `fn` is none of these.
  """
  kwargs = kwargs or {}
  key = jax.random.PRNGKey(0)
  if isinstance(fn, Model):
    return fn
  if isinstance(fn, pax_fiddle.Config):
    fn = fn.Instantiate()
  if isinstance(fn, base_layer.BaseLayer):
    if variables is None:
      with _context(do_eval):
        variables = fn.init({'params': key, 'random': key}, *args, **kwargs)
    return _pax(fn, variables, name, do_eval)
  if not isinstance(fn, hk.TransformedWithState | hk.Transformed):
    if not callable(fn):
      raise TypeError(
        f'{name}: expected a Haiku transform, a Pax layer or config, or a function '
        f'that uses Haiku modules, found {type(fn).__name__}'
      )
    fn = hk.transform_with_state(fn)
  with _context(do_eval):
    if variables is None:
      variables = fn.init(key, *args, **kwargs)
  model = _haiku(fn, variables, name)
  if do_eval is None:
    return model

  def call(tree, rng, args, kwargs):
    with _context(do_eval):
      return model.call(tree, rng, args, kwargs)

  return dataclasses.replace(model, call=call)


def randomized(entries: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
  """Entries with other floating-point values of the same size.

  Initial values tell little: biases are zero and scales one. What isn't negative stays
  so (variances, counts); integers stay as they are.
  """
  rng = np.random.default_rng(seed)
  out = {}
  for name, leaf in entries.items():
    old = np.asarray(leaf)
    if not jnp.issubdtype(old.dtype, jnp.floating):
      out[name] = old
      continue
    wide = old.astype(np.float64)
    size = np.sqrt(np.mean(wide**2)) if wide.size else 0.0
    noise = rng.standard_normal(old.shape) * (0.3 * size if size else 0.3)
    new = np.abs(wide + np.abs(noise)) if size and (wide >= 0).all() else wide + noise
    out[name] = new.astype(old.dtype)
  return out


def check_deterministic(model: Model, args, kwargs) -> None:
  """Refuses a function whose output depends on its random key.

  Raises:
    ValueError: it does.
  """
  keys = jax.random.PRNGKey(0), jax.random.PRNGKey(1)
  call = jax.jit(lambda key: model.run({}, key, args, kwargs))
  first, second = (jax.tree.leaves(call(key)) for key in keys)
  if not all(map(np.array_equal, first, second)):
    raise ValueError(
      f'{model.name} is not deterministic: what it computes depends on the random key. '
      'Turn dropout and the like off (is_training=False, do_eval=True).'
    )
