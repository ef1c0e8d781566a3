"""A first Pax layer for a Haiku model: templates, hosted modules, and what is between.

The model is traced once to see its modules. Those with a Pax counterpart become
templates of it; others that can be made again are hosted by HaikuModule; containers are
taken apart. A second trace, in which each of these modules returns a placeholder, shows
what the model computes between them. Where that cannot be written as code, the port
hosts the whole function, which always runs.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from haiku_port import scaffold_glue, scaffold_layers, scaffold_wrap
from haiku_port.scaffold_glue import BATCH, CannotWriteError

_HEAD = '''"""First Pax version of {origin}, by port_haiku. Edit it freely."""

{imports}


class {name}(base_layer.BaseLayer):
  """The port of {origin}."""

'''
_TAIL = '''

def config():
  """The port, to instantiate or to give to `port_haiku`."""
  return pax_fiddle.Config({name}, name={lower!r})
'''


@dataclasses.dataclass
class Scaffold:
  """A port.

  Attributes:
    code: the file.
    layers: how many modules became Pax layers.
    hosted: how many are hosted.
    whole: why the whole function is hosted; '' if it is not.
  """

  code: str
  layers: int
  hosted: int
  whole: str = ''


@dataclasses.dataclass
class _Call:
  """A call of a module that becomes a child."""

  module: str
  child: scaffold_layers.Child
  args: tuple
  kwargs: dict[str, Any]
  out: Any


def scaffold(
  function: Callable,
  origin: str,
  reference: str,
  args,
  name: str = 'Net',
  variables: tuple[Any, Any] | None = None,
) -> Scaffold:
  """Writes the port of `function`.

  Args:
    function: uses Haiku modules.
    origin: for the docstrings, `package.module:function`.
    reference: code that names the function, for hosting; `origin`'s module is imported.
    args: its inputs.
    name: of the class.
    variables: its (params, state), or their shapes; None: from its init.
  """
  wide = _with_batch(args)
  for inputs in (wide, args) if wide is not None else (args,):
    try:
      return _Scaffolder(function, inputs, variables).write(origin, name)
    except CannotWriteError as error:
      reason = str(error)
  return _hosted(origin, reference, name, reason, function, args)


def _with_batch(args):
  """Abstract inputs with a batch size that tells; None if there is no batch."""
  leaves = jax.tree.leaves(args)
  sizes = {x.shape[0] for x in leaves if jnp.ndim(x)}
  if len(sizes) != 1:
    return None
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((BATCH, *x.shape[1:]), x.dtype), args
  )


def _identifier(module: str) -> str:
  parts = [p for p in module.split('/') if p and p != '~']
  return '_'.join(parts)


class _Scaffolder:
  """One attempt, on inputs of one shape."""

  def __init__(self, function, args, variables):
    self.function, self.args = function, args
    self.transformed = hk.transform_with_state(function)
    try:
      if variables is None:
        key = jax.random.PRNGKey(0)
        variables = jax.eval_shape(self.transformed.init, key, *args)
      else:  # only to see that it takes such inputs
        jax.eval_shape(self.transformed.apply, *variables, None, *args)
    except Exception as error:
      raise CannotWriteError(f'it fails with such inputs: {error}') from error
    self.params, self.state = variables
    self.children: dict[str, scaffold_layers.Child] = {}
    self.calls: list[_Call] = []

  # -- Tracing -----------------------------------------------------------------------

  def _choose(self, method, args, kwargs, context):
    """First trace: decides about each outermost module that becomes a child."""
    if context.method_name == '__init__' or self._inside:
      return method(*args, **kwargs)
    module = context.module
    child = self._child(module, method, args, kwargs)
    if context.method_name != '__call__':
      if child is not None and context.method_name[:1] != '_':
        raise CannotWriteError(
          f'{module.module_name}.{context.method_name}, a method other than __call__'
        )
      child = None
    if child is None:
      return method(*args, **kwargs)
    if core.get_opaque_trace_state() != self._trace:
      raise CannotWriteError(f'{module.module_name} runs inside a loop')
    self._inside = True
    try:
      out = method(*args, **kwargs)
    finally:
      self._inside = False
    self.children[module.module_name] = child
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), out)
    self.calls.append(_Call(module.module_name, child, args, kwargs, shapes))
    return out

  def _child(self, module, method, args, kwargs):
    known = self.children.get(module.module_name)
    if known is not None:
      return known
    arrays = [a for a in args if hasattr(a, 'shape')]
    names = _bound(module, args, kwargs)
    child = None
    if arrays:
      child = scaffold_layers.counterpart(module, arrays[0].shape, names)
    if child is None and (
      scaffold_layers.wants_host(module) or not self._has_children(module)
    ):
      child = scaffold_layers.host(module) if self._has_variables(module) else None
    return child

  def _has_children(self, module) -> bool:
    inside = module.module_name + '/'
    return any(m.startswith(inside) for m in {**self.params, **self.state})

  def _has_variables(self, module) -> bool:
    name = module.module_name
    return any(
      m == name or m.startswith(name + '/') for m in {**self.params, **self.state}
    )

  def _run(self, interceptor, params, state, args):
    self._inside = False
    self._trace = core.get_opaque_trace_state()
    with hk.intercept_methods(interceptor):
      out, new = self.transformed.apply(params, state, jax.random.PRNGKey(0), *args)
    return out, new

  def write(self, origin: str, name: str) -> Scaffold:
    jax.make_jaxpr(lambda p, s, a: self._run(self._choose, p, s, a))(
      self.params, self.state, self.args
    )
    outs = [call.out for call in self.calls]
    own = {m: v for m, v in self.params.items() if not self._is_childs(m)}
    if any(not self._is_childs(m) for m in self.state):
      raise CannotWriteError('state outside modules that are layers or hosted')
    rest = {m: v for m, v in self.params.items() if m not in own}

    def glue(own, args, placeholders):
      met: list[list] = []

      def interceptor(method, args, kwargs, context):
        module = context.module
        if context.method_name != '__call__' or (
          module.module_name not in self.children
        ):
          return method(*args, **kwargs)
        i = len(met)
        met.append([x for x in jax.tree.leaves((args, kwargs)) if _is_array(x)])
        return placeholders[i]

      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rest)
      out, _ = self._run(interceptor, {**own, **zeros}, _zeros(self.state), args)
      return met, out

    closed, shapes = jax.make_jaxpr(glue, return_shape=True)(own, self.args, outs)
    self.out_tree = jax.tree.structure(shapes[1])
    return self._code(closed, shapes, own, origin, name)

  def _is_childs(self, module: str) -> bool:
    return any(module == c or module.startswith(c + '/') for c in self.children)

  # -- Writing -----------------------------------------------------------------------

  def _code(self, closed, shapes, own, origin, name) -> Scaffold:
    writer = scaffold_glue.Writer()
    jaxpr = _without_dead_code(closed.jaxpr)
    writer.count(jaxpr)
    arguments = _argument_names(self.function, self.args)
    theta, setup = _variables(own)
    places = {m: _identifier(m) or m for m in self.children}
    outputs = list(jaxpr.outvars)
    groups = []
    for leaves in shapes[0]:
      groups.append([outputs.pop(0) for _ in jax.tree.leaves(leaves)])
    leaves = [leaf for call in self.calls for leaf in jax.tree.leaves(call.out)]
    held = jaxpr.invars[-len(leaves) :] if leaves else []
    env = dict(
      zip(jaxpr.constvars, map(scaffold_glue.constant, closed.consts), strict=True)
    )
    env.update(zip(jaxpr.invars, theta + [a for a, _ in arguments], strict=False))
    eqns, done = list(jaxpr.eqns), 0
    waiting, at = list(zip(self.calls, groups, strict=True)), 0
    while True:
      ready = [
        (c, g)
        for c, g in waiting[:1]
        if all(not isinstance(v, core.Var) or v in env for v in g)
      ]
      if ready:
        call, group = waiting.pop(0)
        count = len(jax.tree.leaves(call.out))
        self._call(writer, env, call, group, places, held[at : at + count])
        at += count
      elif done < len(eqns):
        if all(not isinstance(a, core.Var) or a in env for a in eqns[done].invars):
          writer.equation(eqns[done], env)
          done += 1
        else:
          raise CannotWriteError('modules and operations depend on each other')
      else:
        break
    if waiting:
      raise CannotWriteError('modules depend on each other')
    result = [scaffold_glue.read(v, env) for v in outputs]
    writer.lines.append('return ' + _result(self.out_tree, result))
    return self._assemble(writer, arguments, setup, places, origin, name)

  def _call(self, writer, env, call, group, places, held) -> None:
    codes = iter([scaffold_glue.read(v, env) for v in group])
    if call.child.hosted:
      given = [_argument(a, codes) for a in call.args]
      given += [f'{k}={_argument(a, codes)}' for k, a in sorted(call.kwargs.items())]
    else:
      given = [next(codes)]
    code = f'self.{places[call.module]}({", ".join(given)})'
    leaves = jax.tree.leaves(call.out)
    if jax.tree.structure(call.out) == jax.tree.structure(0):
      once = writer.uses.get(held[0], 0) <= 1 and len(code) < 60
      env[held[0]] = code if once else writer.assign(code)
      return
    y = writer.assign(f'jax.tree.leaves({code})')
    env.update({v: f'{y}[{i}]' for i, v in enumerate(held[: len(leaves)])})

  def _assemble(self, writer, arguments, setup, places, origin, name) -> Scaffold:
    body = list(writer.lines)
    if any(re.search(r'\bbatch\b', line) for line in body):
      first = next(a for a, x in arguments if jnp.ndim(x))
      body.insert(0, f'batch = {first}.shape[0]')
    for module, child in self.children.items():
      if module != places[module] or child.note:
        setup.append(f'# {", ".join(filter(None, (module, child.note)))}')
      setup.append(f'self.create_child({places[module]!r}, {child.code})')
    code = '  def setup(self):\n' + ''.join(
      f'{scaffold_wrap.wrap(s, 4)}\n' for s in setup or ['pass']
    )
    named = ', '.join(['self', *(a for a, _ in arguments)])
    code += f'\n  def __call__({named}):\n' + ''.join(
      f'{scaffold_wrap.wrap(b, 4)}\n' for b in body
    )
    imports = {i for c in self.children.values() for i in c.imports}
    hosted = sum(c.hosted for c in self.children.values())
    text = _file(origin, name, code, imports)
    return Scaffold(text, len(self.children) - hosted, hosted)


def _bound(module, args, kwargs) -> dict[str, Any]:
  """Name -> argument of a call of `module`."""
  try:
    signature = inspect.signature(type(module).__call__)
    return dict(signature.bind(module, *args, **kwargs).arguments)
  except TypeError:
    return dict(kwargs)


def _is_array(x) -> bool:
  return isinstance(x, jax.Array | np.ndarray)


def _zeros(tree):
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def _without_dead_code(jaxpr):
  """The jaxpr without equations that no output needs."""
  live = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
  kept = []
  for eqn in reversed(jaxpr.eqns):
    if any(v in live for v in eqn.outvars):
      kept.append(eqn)
      live.update(a for a in eqn.invars if isinstance(a, core.Var))
  return jaxpr.replace(eqns=kept[::-1])


def _argument_names(function, args) -> list[tuple[str, Any]]:
  """(code, array) of each leaf of the inputs."""
  try:
    parameters = inspect.signature(function).parameters.values()
    names = [
      p.name
      for p in parameters
      if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
  except (TypeError, ValueError):
    names = []
  names += [f'x{i}' for i in range(len(names), len(args))]
  found = []
  for name, arg in zip(names, args, strict=False):
    if not hasattr(arg, 'shape'):
      raise CannotWriteError(f'the input {name} is a tree, not an array')
    found.append((name, arg))
  return found


def _variables(own) -> tuple[list[str], list[str]]:
  """Code that reads, and code that creates, parameters outside the children."""
  reads, creates = [], []
  for module in sorted(own):
    for name in sorted(own[module]):
      place = '_'.join(filter(None, (_identifier(module), name)))
      if not place.isidentifier():
        raise CannotWriteError(f'a parameter named {name!r}')
      value = own[module][name]
      reads.append(f'self.theta.{place}')
      creates.append(f'# {module}/{name}')
      creates.append(
        f'self.create_variable({place!r}, base_layer.WeightHParams('
        f'shape={list(value.shape)}, dtype=jnp.{value.dtype}))'
      )
  return reads, creates


def _argument(arg, codes) -> str:
  """Code of an argument; arrays take theirs from `codes`."""
  if _is_array(arg):
    return next(codes)
  if isinstance(arg, bool | int | float | str | type(None)):
    return repr(arg)
  if (
    isinstance(arg, tuple | list)
    and all(map(_is_array, arg))
    and not hasattr(arg, '_fields')
  ):
    inner = ', '.join(next(codes) for _ in arg)
    return f'[{inner}]' if isinstance(arg, list) else f'({inner},)'
  raise CannotWriteError(f'an argument of type {type(arg).__name__} of a module')


def _result(treedef, codes: list[str]) -> str:
  try:
    tree = jax.tree.unflatten(treedef, [_Name(c) for c in codes])
    text = repr(tree)
  except Exception as error:
    raise CannotWriteError(f'an output of type {treedef}') from error
  if any(c in text for c in '<>') and not any(c in ''.join(codes) for c in '<>'):
    raise CannotWriteError(f'an output of type {treedef}')
  if isinstance(tree, tuple) and hasattr(tree, '_fields'):
    raise CannotWriteError(f'an output of type {type(tree).__name__}')
  return text


class _Name(str):
  """Shown without quotes."""

  def __repr__(self):
    return str(self)


def _file(origin, name, body, imports) -> str:
  text = body + _TAIL
  lines = ['import haiku as hk'] if 'hk.' in body else []
  lines += ['import jax'] if 'jax.' in body.replace('jax.numpy', '') else []
  lines += ['import jax.numpy as jnp'] if 'jnp.' in body else []
  lines += [f'import {i}' for i in sorted(imports)]
  lines += ['', 'from pax_haiku import base_layer, layers, pax_fiddle']
  head = _HEAD.format(origin=origin, name=name, imports='\n'.join(lines).strip())
  return head + body + _TAIL.format(name=name, lower=name.lower()) if text else head


def _hosted(origin, reference, name, reason, function, args) -> Scaffold:
  """A port that hosts the whole function."""
  module = origin.partition(':')[0]
  names = ', '.join(a for a, _ in _argument_names_or_x(function, args))
  body = (
    '  def setup(self):\n'
    f'    # Hosted as a whole, since the code cannot say: {" ".join(reason.split())}\n'
    + scaffold_wrap.wrap(
      "self.create_child('model', pax_fiddle.Config(layers.HaikuModule, "
      f'function={reference}))',
      4,
    )
    + '\n\n'
    f'  def __call__(self, {names}):\n    return self.model({names})\n'
  )
  return Scaffold(
    _file(origin, name, body, {module} if module else set()), 0, 1, reason
  )


def _argument_names_or_x(function, args):
  try:
    return _argument_names(function, args)
  except CannotWriteError:
    return [(f'x{i}', a) for i, a in enumerate(args)]
