"""What a model computes between its modules, from a jaxpr to Python.

Every value is an expression; a value that is used several times, or whose expression
is long, gets a line of its own. The batch size is a number that nothing else is
(`BATCH`), so that the code can name it.
"""

from typing import Any

import numpy as np
from jax.extend import core

BATCH = 8191  # a prime
_WIDTH = 60
_INFIX = {
  'add': '+',
  'add_any': '+',
  'sub': '-',
  'mul': '*',
  'div': '/',
  'pow': '**',
  'eq': '==',
  'ne': '!=',
  'lt': '<',
  'le': '<=',
  'gt': '>',
  'ge': '>=',
  'and': '&',
  'or': '|',
  'rem': '%',
}
_CALLS = {
  'max': 'jnp.maximum',
  'min': 'jnp.minimum',
  'exp': 'jnp.exp',
  'log': 'jnp.log',
  'log1p': 'jnp.log1p',
  'expm1': 'jnp.expm1',
  'tanh': 'jnp.tanh',
  'logistic': 'jax.nn.sigmoid',
  'sin': 'jnp.sin',
  'cos': 'jnp.cos',
  'sqrt': 'jnp.sqrt',
  'rsqrt': 'jax.lax.rsqrt',
  'abs': 'jnp.abs',
  'sign': 'jnp.sign',
  'floor': 'jnp.floor',
  'ceil': 'jnp.ceil',
  'erf': 'jax.lax.erf',
  'square': 'jnp.square',
  'not': 'jnp.logical_not',
  'is_finite': 'jnp.isfinite',
  'select_n': 'jax.lax.select_n',
  'stop_gradient': 'jax.lax.stop_gradient',
  'clamp': 'jax.lax.clamp',
}
_REDUCE = {
  'reduce_sum': 'jnp.sum',
  'reduce_max': 'jnp.max',
  'reduce_min': 'jnp.min',
  'reduce_prod': 'jnp.prod',
  'reduce_and': 'jnp.all',
  'reduce_or': 'jnp.any',
}
_NAMED = ('relu', 'relu6', 'silu', 'elu', 'leaky_relu', 'selu', 'celu', 'softplus')
_INLINED = (
  'pjit',
  'jit',
  'closed_call',
  'custom_jvp_call',
  'custom_vjp_call',
  'remat',
  'checkpoint',
  'remat2',
)


class CannotWriteError(Exception):
  """An operation that has no line in the tables above."""


class Writer:
  """Collects lines of code.

  Args:
    uses: variable -> how often it is read.
  """

  def __init__(self):
    self.lines: list[str] = []
    self.uses: dict[Any, int] = {}
    self._count = 0

  def name(self) -> str:
    self._count += 1
    return f'y{self._count}'

  def assign(self, code: str) -> str:
    """A line that gives `code` a name; the name."""
    name = self.name()
    self.lines.append(f'{name} = {code}')
    return name

  def count(self, jaxpr) -> None:
    for eqn in jaxpr.eqns:
      for a in eqn.invars:
        if isinstance(a, core.Var):
          self.uses[a] = self.uses.get(a, 0) + 1
      for key in ('jaxpr', 'call_jaxpr'):
        if key in eqn.params and eqn.primitive.name in _INLINED:
          self.count(_open(eqn.params[key])[0])
    for a in jaxpr.outvars:
      if isinstance(a, core.Var):
        self.uses[a] = self.uses.get(a, 0) + 1

  def write(self, jaxpr, consts, inputs: list[str]) -> dict[Any, str]:
    """Variable -> expression, for an open jaxpr; equations are written in order."""
    env = dict(zip(jaxpr.constvars, [constant(c) for c in consts], strict=True))
    env.update(zip(jaxpr.invars, inputs, strict=True))
    for eqn in jaxpr.eqns:
      self.equation(eqn, env)
    return env

  def equation(self, eqn, env) -> None:
    """Writes one equation into `env`."""
    args = [read(a, env) for a in eqn.invars]
    name = eqn.primitive.name
    body = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
    called = eqn.params.get('name', '')
    if name in ('pjit', 'jit') and called in _NAMED and len(args) == 1:
      codes = [f'jax.nn.{called}({args[0]})']
    elif name in _INLINED and body is not None:
      jaxpr, consts = _open(body)
      inner = self.write(jaxpr, consts, args)
      codes = [read(a, inner) for a in jaxpr.outvars]
    elif name == 'split':
      cuts = np.cumsum(eqn.params['sizes'])[:-1].tolist()
      parts = self.assign(
        f'jnp.split({args[0]}, {shape(cuts, list)}, axis={eqn.params["axis"]})'
      )
      codes = [f'{parts}[{i}]' for i in range(len(eqn.outvars))]
    else:
      codes = [self.expression(name, eqn, args)]
    for var, code in zip(eqn.outvars, codes, strict=True):
      atomic = code.isidentifier() or code.replace('.', '').isidentifier()
      several = self.uses.get(var, 0) > 1
      env[var] = (
        self.assign(code) if not atomic and (several or len(code) > _WIDTH) else code
      )

  def expression(self, name: str, eqn, args: list[str]) -> str:
    """Code of one primitive.

    Raises:
      CannotWriteError: it is not in the tables.
    """
    p = eqn.params
    x = args[0] if args else ''
    out = eqn.outvars[0].aval
    if name in _INFIX:
      return f'{enclosed(args[0])} {_INFIX[name]} {enclosed(args[1])}'
    if name in _CALLS:
      return f'{_CALLS[name]}({", ".join(args)})'
    if name in _REDUCE:
      return f'{_REDUCE[name]}({x}, axis={tuple(p["axes"])})'
    if name == 'neg':
      return f'-{enclosed(x)}'
    if name == 'integer_pow':
      return f'{enclosed(x)} ** {p["y"]}'
    if name == 'convert_element_type':
      same = eqn.invars[0].aval.dtype == out.dtype
      return x if same else f'jnp.asarray({x}, jnp.{out.dtype})'
    if name in ('copy', 'copy_p'):
      return x
    if name == 'reshape':
      return f'jnp.reshape({x}, {shape(out.shape)})'
    if name == 'expand_dims':
      return f'jnp.expand_dims({x}, {tuple(p["dimensions"])})'
    if name == 'squeeze':
      return f'jnp.squeeze({x}, {tuple(p["dimensions"])})'
    if name == 'transpose':
      return f'jnp.transpose({x}, {tuple(p["permutation"])})'
    if name == 'broadcast_in_dim':
      dims = tuple(p['broadcast_dimensions'])
      if not eqn.invars[0].aval.shape:
        return f'jnp.full({shape(out.shape)}, {x})'
      return f'jax.lax.broadcast_in_dim({x}, {shape(out.shape)}, {dims})'
    if name == 'concatenate':
      return f'jnp.concatenate([{", ".join(args)}], axis={p["dimension"]})'
    if name == 'slice':
      strides = f', {tuple(p["strides"])}' if p['strides'] else ''
      return (
        f'jax.lax.slice({x}, {shape(p["start_indices"])}, '
        f'{shape(p["limit_indices"])}{strides})'
      )
    if name == 'dot_general':
      numbers = tuple(
        tuple(tuple(map(int, d)) for d in side) for side in p['dimension_numbers']
      )
      return f'jax.lax.dot_general({args[0]}, {args[1]}, {numbers})'
    if name == 'iota':
      return f'jax.lax.broadcasted_iota(jnp.{out.dtype}, {shape(out.shape)}, ' + (
        f'{p["dimension"]})'
      )
    if name in ('reduce_window_max', 'reduce_window_sum'):
      start, op = ('-jnp.inf', 'max') if name.endswith('max') else ('0.0', 'add')
      return (
        f'jax.lax.reduce_window({x}, {start}, jax.lax.{op}, '
        f'{tuple(p["window_dimensions"])}, {tuple(p["window_strides"])}, '
        f'{tuple(p["padding"])})'
      )
    if name == 'argmax':
      return f'jnp.argmax({x}, axis={p["axes"][0]})'
    raise CannotWriteError(name)


def _open(body):
  if isinstance(body, core.ClosedJaxpr):
    return body.jaxpr, body.consts
  return body, []


def read(atom, env: dict) -> str:
  return constant(atom.val) if isinstance(atom, core.Literal) else env[atom]


def enclosed(code: str) -> str:
  """The code, in parentheses if it is an operation."""
  depth = 0
  for c in code:
    depth += (c in '([') - (c in ')]')
    if c == ' ' and not depth or code.startswith('-'):
      return f'({code})'
  return code


def constant(value) -> str:
  """Code of a constant.

  Raises:
    CannotWriteError: it is a large array.
  """
  array = np.asarray(value)
  if array.size == 1:
    number = array.reshape(()).item()
    if isinstance(number, float) and not np.isfinite(number):
      code = 'jnp.nan' if np.isnan(number) else 'jnp.inf' if number > 0 else '-jnp.inf'
    elif number == BATCH:
      code = 'batch'
    elif isinstance(number, float):
      code = str(array.reshape(()).astype(array.dtype))
    else:
      code = repr(number)
    return code if not array.shape else f'jnp.full({array.shape}, {code})'
  if array.size > 32:
    raise CannotWriteError(f'a constant of shape {array.shape}')
  return f'jnp.array({array.tolist()}, jnp.{array.dtype})'


def shape(dims, kind=tuple) -> str:
  """A shape with the batch size by name."""
  parts = [_size(int(d)) for d in dims]
  inner = ', '.join(parts)
  if kind is list:
    return f'[{inner}]'
  return f'({inner},)' if len(parts) == 1 else f'({inner})'


def _size(n: int) -> str:
  if n == BATCH:
    return 'batch'
  if n and n % BATCH == 0:
    return f'{n // BATCH} * batch'
  if n > BATCH:
    raise CannotWriteError(f'a size of {n} that mixes the batch with something')
  return str(n)
