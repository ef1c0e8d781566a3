"""What the ports share: an original, its port, and the proof that they are the same.

A port is two functions of the same inputs. `prove` finds which parameters are the same
(`interop.match`), converts the original's, and compares outputs and gradients.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from pax_haiku import base_layer, interop, layers, pax_fiddle
from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import match_model

# Largest difference of outputs and gradients, as a fraction of their largest entry:
# float32 rounding (6e-8) times the length of the sums and the depth of the model.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Port:
  """A model in Haiku and in Pax.

  Attributes:
    original: `original(train)` is a function of the inputs that uses Haiku modules.
    port: a config of the Pax layer.
    inputs: what both take.
    modes: of 'train' and 'eval', those in which the two are to be equal.
    steps: in training, compare the outputs of so many steps, each from the state that
      the one before left.
  """

  original: Callable[[bool], Callable[..., Any]]
  port: pax_fiddle.Config
  inputs: tuple[Any, ...]
  modes: tuple[str, ...] = ('eval', 'train')
  steps: int = 1


@dataclasses.dataclass(frozen=True)
class Proof:
  """What `prove` found.

  Attributes:
    mapping: from the original's variables to the port's.
    parameters: number of entries of the port's variables.
    numbers: number of numbers in them.
    matched: fraction of them whose partner was found.
    proved: fraction of them whose partner was found and proved.
    outputs: worst difference of the outputs, as a fraction of their largest entry.
    gradients: the same of the gradients, for parameters and floating-point inputs.
  """

  mapping: mapping_lib.Mapping
  parameters: int
  numbers: int
  matched: float
  proved: float
  outputs: float
  gradients: float

  @property
  def ok(self) -> bool:
    return max(self.outputs, self.gradients) <= TOLERANCE

  def as_dict(self) -> dict[str, Any]:
    found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {**found, 'mapping': self.mapping.summary(), 'ok': self.ok}


def prove(
  port: Port, mapping: mapping_lib.Mapping | None = None, seed: int = 0
) -> Proof:
  """Compares the two models with random variables of the original.

  Args:
    port: the models.
    mapping: from the original's variables to the port's; None: what `match` finds in
      the first of the modes.
    seed: of the random variables.

  Raises:
    MappingError: entries are ambiguous or missing; all are listed.
  """
  first = port.modes[0] == 'train'
  # In training: that is when averages are made.
  source, target = (
    jax.jit(hk.transform_with_state(port.original(True)).init),
    jax.jit(_port_init(port.port)),
  )
  key = jax.random.PRNGKey(0)
  source, target = source(key, *port.inputs), target(key, *port.inputs)

  def models(train: bool) -> list[match_model.Model]:
    return [
      match_model.as_model(model, given, args=port.inputs, do_eval=not train)
      for model, given in ((port.original(train), source), (port.port, target))
    ]

  if mapping is None:
    mapping = interop.match(
      port.original(first),
      port.port,
      *port.inputs,
      source_variables=source,
      target_variables=target,
      do_eval=not first,
    )
  outputs, gradients = [], []
  for mode in port.modes:
    train = mode == 'train'
    theirs, ours = models(train)
    given = match_model.randomized(theirs.entries, seed)
    converted = {**ours.entries, **mapping.forward(given)}
    out, grads = _run(theirs, given, port.inputs)
    expected = {**mapping.forward(grads[0], linear=True, only=_is_param), **grads[1]}
    found, found_grads = _run(ours, converted, port.inputs)
    outputs.append(_difference(found, out))
    if train and port.steps > 1:
      outputs.append(
        _difference(
          _outputs(ours, converted, port), _outputs(theirs, given, port)
        )
      )
    gradients.append(_difference({**found_grads[0], **found_grads[1]}, expected))
  found = [r for r in mapping.rules if r.way != 'back']
  return Proof(
    mapping,
    len(ours.entries),
    sum(np.size(x) for x in ours.entries.values()),
    len(found) / len(ours.entries),
    mapping.proved,
    max(outputs),
    max(gradients),
  )


def _port_init(config: pax_fiddle.Config):
  hparams = base_layer.JaxContext.HParams(do_eval=False)

  def init(key, *inputs):
    with base_layer.JaxContext.new_context(hparams=hparams):
      return config.Instantiate().init({'params': key, 'random': key}, *inputs)

  return init


def _is_param(name: str) -> bool:
  return name.startswith('params:')


def _is_float(x) -> bool:
  return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _run(model: match_model.Model, entries, inputs):
  """Outputs by path; gradients of their weighted sum, of entries and of inputs."""
  fixed = {k: jnp.asarray(v) for k, v in entries.items() if not _is_param(k)}
  params = {k: v for k, v in entries.items() if _is_param(k)}
  floats = {f'input {i}': x for i, x in enumerate(inputs) if _is_float(x)}

  def run(params, floats):
    args = [floats.get(f'input {i}', x) for i, x in enumerate(inputs)]
    out, _ = model.run({**fixed, **params}, jax.random.PRNGKey(0), args, {})
    leaves = jax.tree_util.tree_leaves_with_path(out)
    out = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return sum(_weighted(x) for x in out.values() if _is_float(x)), out

  grad = jax.jit(jax.grad(run, (0, 1), has_aux=True))
  grads, out = grad(params, floats)
  return out, grads


def _outputs(model: match_model.Model, entries, port: Port):
  """Outputs of some steps by step and path."""
  step = jax.jit(
    lambda entries: model.run(entries, jax.random.PRNGKey(0), port.inputs, {})
  )
  found, entries = {}, dict(entries)
  for i in range(port.steps):
    out, state = step(entries)
    entries.update(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(out):
      found[f'step {i} {jax.tree_util.keystr(path)}'] = leaf
  return found


def _weighted(x) -> jax.Array:
  """A sum in which every entry has another weight."""
  weights = np.random.default_rng(x.size).normal(size=x.shape)
  return jnp.sum(x * weights.astype(np.float32))


def _difference(found, expected) -> float:
  """The worst of all arrays' largest differences, relative to their largest entry."""
  if set(found) != set(expected):
    odd = sorted(set(found) ^ set(expected))
    raise ValueError(f'Only one of the models has {odd}.')
  # Sums that cancel leave rounding errors of the size of their terms.
  scale = max((np.abs(x).max() for x in expected.values()), default=0.0)
  worst = 0.0
  for name, there in expected.items():
    here, there = (np.asarray(x, np.float64) for x in (found[name], there))
    if here.shape != there.shape:
      raise ValueError(f'{name}: shapes {here.shape} and {there.shape}.')
    size = max(np.abs(there).max(initial=0), 1e-2 * scale)
    if size:
      worst = max(worst, float(np.abs(here - there).max(initial=0) / size))
  return worst


def run(make: Callable[[bool], Port]) -> None:
  """The command line of a port: prove it, and say what was found.

  Args:
    make: makes the port; of a reduced size if its argument is true.
  """
  small = flags.DEFINE_bool('small', False, 'A model of reduced size.')
  save = flags.DEFINE_string('mapping', None, 'Write the mapping of parameters here.')
  as_json = flags.DEFINE_bool('json', False, 'Print one line of JSON.')

  def main(_):
    proof = prove(make(small.value))
    if save.value:
      proof.mapping.save(save.value)
    found = proof.as_dict()
    if as_json.value:
      print(json.dumps(found))
    else:
      for name, value in found.items():
        print(f'{name:10} {value}')
    if not proof.ok:
      raise SystemExit(1)

  app.run(main)


def linear(inputs: int, outputs: int, activation=None, **fields) -> pax_fiddle.Config:
  """A template of FeedForward, without an activation if that is None."""
  return pax_fiddle.Config(
    layers.FeedForward,
    input_dims=inputs,
    output_dims=outputs,
    activation_tpl=pax_fiddle.Config(activation or layers.Identity),
    **fields,
  )

