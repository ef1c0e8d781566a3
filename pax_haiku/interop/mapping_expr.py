"""Expressions of mapping rules: how one array is made of others, and back.

An expression is a tree of references and layout operations. `forward` computes it;
`backward` takes its value apart and hands the pieces to the references, so that one
rule converts a checkpoint in both directions.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class MappingError(ValueError):
  """A mapping that cannot be read or applied; the message lists every reason."""


class Parts:
  """Arrays that are put together from pieces; `finish` reports what is missing."""

  def __init__(self):
    self.arrays: dict[str, np.ndarray] = {}
    self._filled: dict[str, np.ndarray] = {}
    self._torn: dict[str, np.ndarray] = {}  # where rules give different values
    self.problems: list[str] = []

  def put(self, name: str, index: tuple, shape: tuple[int, ...], value) -> None:
    """Sets `name[index]`, where the whole array has `shape`."""
    value = np.asarray(value)
    if name not in self.arrays:
      self.arrays[name] = np.zeros(shape, value.dtype)
      self._filled[name] = np.zeros(shape, bool)
      self._torn[name] = np.zeros(shape, bool)
    array, filled = self.arrays[name], self._filled[name]
    if array.shape != shape or array[index].shape != value.shape:
      self.problems.append(
        f'{name}: rules disagree about its shape, {array.shape} and {shape}'
      )
      return
    self._torn[name][index] |= filled[index] & (array[index] != value)
    array[index] = value
    filled[index] = True

  def finish(self, kept: Mapping[str, np.ndarray] | None = None):
    """The arrays, `{name: array}`.

    Args:
      kept: elements that will be replaced, by name; rules may differ there.

    Raises:
      MappingError: some are incomplete or contradictory.
    """
    for name, filled in self._filled.items():
      if not filled.all():
        self.problems.append(
          f'{name}: {int((~filled).sum())} of {filled.size} elements have no rule'
        )
      torn = self._torn[name]
      if kept is not None and name in kept:
        torn = torn & ~kept[name]
      if torn.any():
        self.problems.append(f'{name}: set by several rules that give different values')
    if self.problems:
      raise MappingError('; '.join(self.problems))
    return self.arrays


@dataclasses.dataclass(frozen=True)
class Expr:
  """Base class. `shape` is None where it is not known without the arrays."""

  def names(self) -> list[str]:
    """The arrays that this refers to, in order."""
    return [name for part in self.parts() for name in part.names()]

  def parts(self) -> Sequence['Expr']:
    return ()

  def forward(self, get: Callable[[str], Any], linear: bool = False):
    """The value; with `linear`, constants are not added (for gradients, moments)."""
    raise NotImplementedError

  def backward(self, value, put: Callable, linear: bool = False) -> None:
    """Calls `put(name, index, shape, value)` for each reference."""
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Ref(Expr):
  """An entry by name."""

  name: str

  def names(self):
    return [self.name]

  def forward(self, get, linear=False):
    return get(self.name)

  def backward(self, value, put, linear=False):
    put(self.name, (), value.shape, value)

  def __str__(self):
    return quote(self.name)


@dataclasses.dataclass(frozen=True)
class Transpose(Expr):
  """Axes in another order, as `np.transpose`."""

  x: Expr
  perm: tuple[int, ...]

  def parts(self):
    return (self.x,)

  def forward(self, get, linear=False):
    return np.transpose(self.x.forward(get, linear), self.perm)

  def backward(self, value, put, linear=False):
    self.x.backward(np.transpose(value, np.argsort(self.perm)), put, linear)

  def __str__(self):
    return f'transpose({self.x}, {_list(self.perm)})'


@dataclasses.dataclass(frozen=True)
class Reshape(Expr):
  """The same elements in another shape; both shapes are named, for the way back."""

  x: Expr
  old: tuple[int, ...]
  new: tuple[int, ...]

  def parts(self):
    return (self.x,)

  def forward(self, get, linear=False):
    value = self.x.forward(get, linear)
    if value.shape != self.old:
      raise MappingError(f'{self}: expected shape {self.old}, found {value.shape}')
    return value.reshape(self.new)

  def backward(self, value, put, linear=False):
    if value.shape != self.new:
      raise MappingError(f'{self}: expected shape {self.new}, found {value.shape}')
    self.x.backward(value.reshape(self.old), put, linear)

  def __str__(self):
    return f'reshape({self.x}, {_list(self.old)}, {_list(self.new)})'


@dataclasses.dataclass(frozen=True)
class Add(Expr):
  """A constant added to each element: Pax's scales are `1 + w`, Haiku's `w`."""

  x: Expr
  value: float

  def parts(self):
    return (self.x,)

  def forward(self, get, linear=False):
    x = self.x.forward(get, linear)
    return x if linear else (x + np.asarray(self.value, x.dtype)).astype(x.dtype)

  def backward(self, value, put, linear=False):
    if not linear:
      value = (value - np.asarray(self.value, value.dtype)).astype(value.dtype)
    self.x.backward(value, put, linear)

  def __str__(self):
    return f'add({self.x}, {_number(self.value)})'


@dataclasses.dataclass(frozen=True)
class Slice(Expr):
  """Elements `start` to `stop` of an axis that is `size` long."""

  x: Expr
  axis: int
  start: int
  stop: int
  size: int

  def parts(self):
    return (self.x,)

  def _index(self) -> tuple:
    return (slice(None),) * self.axis + (slice(self.start, self.stop),)

  def forward(self, get, linear=False):
    value = self.x.forward(get, linear)
    if value.ndim <= self.axis or value.shape[self.axis] != self.size:
      raise MappingError(
        f'{self}: expected axis {self.axis} of length {self.size}, found shape '
        f'{value.shape}'
      )
    return value[self._index()]

  def backward(self, value, put, linear=False):
    shape = list(value.shape)
    shape[self.axis] = self.size
    _put_part(self.x, tuple(shape), self._index(), value, put, linear)

  def __str__(self):
    return f'slice({self.x}, {self.axis}, {self.start}, {self.stop}, {self.size})'


@dataclasses.dataclass(frozen=True)
class Index(Expr):
  """Element `i` of the leading axis, which is `size` long."""

  x: Expr
  i: int
  size: int

  def parts(self):
    return (self.x,)

  def forward(self, get, linear=False):
    value = self.x.forward(get, linear)
    if not value.ndim or value.shape[0] != self.size:
      raise MappingError(
        f'{self}: expected a leading axis of {self.size}, found shape {value.shape}'
      )
    return value[self.i]

  def backward(self, value, put, linear=False):
    _put_part(self.x, (self.size, *value.shape), (self.i,), value, put, linear)

  def __str__(self):
    return f'index({self.x}, {self.i}, {self.size})'


@dataclasses.dataclass(frozen=True)
class Stack(Expr):
  """Several of one shape on a new leading axis."""

  xs: tuple[Expr, ...]

  def parts(self):
    return self.xs

  def forward(self, get, linear=False):
    return np.stack([x.forward(get, linear) for x in self.xs])

  def backward(self, value, put, linear=False):
    if not value.ndim or value.shape[0] != len(self.xs):
      raise MappingError(
        f'{self}: expected a leading axis of {len(self.xs)}, found {value.shape}'
      )
    for x, part in zip(self.xs, value, strict=True):
      x.backward(np.asarray(part), put, linear)

  def __str__(self):
    return f'stack({", ".join(map(str, self.xs))})'


@dataclasses.dataclass(frozen=True)
class Concat(Expr):
  """Several one after the other on an axis, with their lengths there."""

  xs: tuple[Expr, ...]
  axis: int
  sizes: tuple[int, ...]

  def parts(self):
    return self.xs

  def forward(self, get, linear=False):
    return np.concatenate([x.forward(get, linear) for x in self.xs], self.axis)

  def backward(self, value, put, linear=False):
    if value.ndim <= self.axis or value.shape[self.axis] != sum(self.sizes):
      raise MappingError(
        f'{self}: expected axis {self.axis} of length {sum(self.sizes)}, found shape '
        f'{value.shape}'
      )
    cuts = np.cumsum(self.sizes)[:-1]
    for x, part in zip(self.xs, np.split(value, cuts, self.axis), strict=True):
      x.backward(part, put, linear)

  def __str__(self):
    inner = ', '.join(map(str, self.xs))
    return f'concat({inner}, {self.axis}, {_list(self.sizes)})'


@dataclasses.dataclass(frozen=True)
class Full(Expr):
  """A constant, for entries that have no counterpart."""

  value: float
  dims: tuple[int, ...]
  dtype: str

  def forward(self, get, linear=False):
    return np.full(self.dims, 0 if linear else self.value, np.dtype(self.dtype))

  def backward(self, value, put, linear=False):
    pass

  def __str__(self):
    return f'full({_number(self.value)}, {_list(self.dims)}, {self.dtype})'


def _put_part(x, shape, index, value, put, linear):
  """Hands a part of `x`'s value on to the one reference below it.

  Layout operations between move the element numbers along, so that they say where in
  the reference the part belongs.
  """
  names = x.names()
  if len(names) != 1:
    raise MappingError(f'{x}: only a part of one entry can be inverted')
  numbers = np.arange(math.prod(shape)).reshape(shape)
  where: dict[str, np.ndarray] = {}

  def put_numbers(name, place, whole, part):
    where[name] = np.full(whole, -1)
    where[name][place] = part

  x.backward(numbers, put_numbers, True)
  order = where[names[0]]  # element number of x's value at each place of the reference
  chosen = np.isin(order, numbers[index])
  offset = _total_offset(x)
  if offset and not linear:
    value = (value - np.asarray(offset, value.dtype)).astype(value.dtype)
  flat = dict(zip(numbers[index].ravel().tolist(), np.ravel(value), strict=True))
  part = np.array([flat[i] for i in order[chosen].tolist()], value.dtype)
  put(names[0], np.nonzero(chosen), order.shape, part)


def _total_offset(x) -> float:
  total = 0.0
  while not isinstance(x, Ref):
    total += x.value if isinstance(x, Add) else 0.0
    (x,) = x.parts()
  return total


def _list(numbers) -> str:
  return '[' + ','.join(map(str, numbers)) + ']'


def _number(value: float) -> str:
  return str(int(value)) if float(value).is_integer() else repr(float(value))


def quote(name: str) -> str:
  """A name as it stands in a mapping file; in quotes if it has special characters."""
  plain = name and not any(c in ' \t,()=[]#|"?' for c in name)
  return name if plain else '"' + name + '"'


# -- Constructors that simplify --------------------------------------------------------


def transpose(x: Expr, perm: Sequence[int]) -> Expr:
  perm = tuple(int(p) for p in perm)
  if isinstance(x, Transpose):
    return transpose(x.x, [x.perm[p] for p in perm])
  return x if perm == tuple(range(len(perm))) else Transpose(x, perm)


def reshape(x: Expr, old: Sequence[int], new: Sequence[int]) -> Expr:
  old, new = tuple(map(int, old)), tuple(map(int, new))
  if isinstance(x, Reshape):
    return reshape(x.x, x.old, new)
  return x if old == new else Reshape(x, old, new)


def add(x: Expr, value: float) -> Expr:
  if isinstance(x, Add):
    return add(x.x, x.value + value)
  return Add(x, float(value)) if value else x


def stack(xs: Sequence[Expr]) -> Expr:
  """Stack; one entry's elements in their order are the entry itself."""
  if all(isinstance(x, Index) for x in xs):
    first = xs[0]
    if len(xs) == first.size and all(
      x.x == first.x and x.i == i and x.size == first.size for i, x in enumerate(xs)
    ):
      return first.x
  return Stack(tuple(xs))


def concat(xs: Sequence[Expr], axis: int, sizes: Sequence[int]) -> Expr:
  """Concat; one entry's slices in their order are the entry itself."""
  if len(xs) == 1:
    return xs[0]
  if all(isinstance(x, Slice) and x.axis == axis for x in xs):
    first, at = xs[0], 0
    for x in xs:
      if x.x != first.x or x.start != at:
        break
      at = x.stop
    else:
      if at == first.size:
        return first.x
  return Concat(tuple(xs), axis, tuple(map(int, sizes)))
