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

from pax_haiku import base_layer, layers, pax_fiddle
from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop import mapping_checkpoint, match_model, matching

# Largest difference of outputs and gradients, as a fraction of their largest entry:
# float32 rounding (6e-8) times the length of the sums and the depth of the model.
TOLERANCE = 1e-4
# Some models magnify rounding by more: then so many times what the original's own
# outputs and gradients move if the last bit of all that it gets changes.
MARGIN = 5


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
    rounding: how far the original's outputs and gradients move if the last bit of its
      parameters and inputs changes.
    round_trip: whether variables come back bit for bit, from either side to the other
      and back, with those of before as the base.
  """

  mapping: mapping_lib.Mapping
  parameters: int
  numbers: int
  matched: float
  proved: float
  outputs: float
  gradients: float
  rounding: tuple[float, float]
  round_trip: bool

  @property
  def ok(self) -> bool:
    found = self.outputs, self.gradients
    return self.round_trip and all(
      x <= max(TOLERANCE, MARGIN * bit)
      for x, bit in zip(found, self.rounding, strict=True)
    )

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

  pairs = {mode: models(mode == 'train') for mode in port.modes}
  runs, rounding = {}, [0.0, 0.0]
  for mode, (theirs, _) in pairs.items():
    given = match_model.randomized(theirs.entries, seed)
    run = _runner(theirs)
    runs[mode] = given, *run(given, port.inputs)
    moved = run(*_last_bits((given, port.inputs)))
    rounding = [
      max(x, _difference(a, b))
      for x, a, b in zip(rounding, moved, runs[mode][1:], strict=True)
    ]
  if mapping is None:
    tolerance = max(TOLERANCE, MARGIN * rounding[0])
    mapping = matching.match_models(
      *pairs[port.modes[0]], port.inputs, tolerance=tolerance
    )
  outputs, gradients = [], []
  for mode, (theirs, ours) in pairs.items():
    given, out, grads = runs[mode]
    converted = {**ours.entries, **mapping.forward(given)}
    of_params = {n: x for n, x in grads.items() if _is_param(n)}
    of_inputs = {n: x for n, x in grads.items() if not _is_param(n)}
    expected = mapping.forward(of_params, linear=True, only=_is_param) | of_inputs
    found, found_grads = _runner(ours)(converted, port.inputs)
    outputs.append(_difference(found, out))
    if mode == 'train' and port.steps > 1:
      outputs.append(
        _difference(_outputs(ours, converted, port), _outputs(theirs, given, port))
      )
    gradients.append(_difference(found_grads, expected))
  found = [r for r in mapping.rules if r.way != 'back']
  return Proof(
    mapping,
    len(ours.entries),
    sum(np.size(x) for x in ours.entries.values()),
    len(found) / len(ours.entries),
    mapping.proved,
    max(outputs),
    max(gradients),
    tuple(rounding),
    _comes_back(mapping, given),
  )


def _comes_back(mapping: mapping_lib.Mapping, given) -> bool:
  convert = mapping_checkpoint.convert_entries
  there = convert(mapping, given)
  back = convert(mapping, there, back=True, base=given)
  port = match_model.randomized(there, 1)
  again = convert(mapping, convert(mapping, port, back=True), base=port)
  return all(
    a.keys() == b.keys() and all(_bits(a[n]) == _bits(b[n]) for n in a)
    for a, b in ((given, back), (port, again))
  )


def _bits(x) -> tuple:
  x = np.asarray(x)
  return x.dtype, x.shape, x.tobytes()


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


def _runner(model: match_model.Model):
  """A function of entries and inputs.

  It gives outputs by path, and gradients of their weighted sum by the names of
  parameters and by the numbers of inputs.
  """

  def run(params, floats, fixed, inputs):
    args = [floats.get(f'input {i}', x) for i, x in enumerate(inputs)]
    out, _ = model.run({**fixed, **params}, jax.random.PRNGKey(0), args, {})
    leaves = jax.tree_util.tree_leaves_with_path(out)
    out = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return sum(_weighted(x) for x in out.values() if _is_float(x)), out

  compiled = jax.jit(jax.grad(run, (0, 1), has_aux=True))

  def call(entries, inputs):
    fixed = {k: jnp.asarray(v) for k, v in entries.items() if not _is_param(k)}
    params = {k: v for k, v in entries.items() if _is_param(k)}
    floats = {f'input {i}': x for i, x in enumerate(inputs) if _is_float(x)}
    grads, out = compiled(params, floats, fixed, tuple(inputs))
    return out, {**grads[0], **grads[1]}

  return call


def _last_bits(tree):
  """A tree whose floating-point numbers are the next ones up or down."""
  rng = np.random.default_rng(0)

  def move(x):
    x = np.asarray(x)
    if not _is_float(x):
      return x
    there = np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf)
    return np.nextafter(x, there.astype(x.dtype))

  return jax.tree.map(move, tree)


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
    if not (np.isfinite(here).all() and np.isfinite(there).all()):
      return np.inf
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

