"""The text of a mapping: one rule a line, read and written.

# comment
source haiku
target pax
params:fc/w = params:mlp/~/linear_0/w                    # proved
params:qkv/w = concat(params:q/w, params:k/w, 1, [8,8])  # by values
back state:bn/~/mean_ema/counter = full(1000000000, [], int32)
? params:a/b = params:x/b | params:y/b                   # ambiguous
"""

import re
from typing import Any

from pax_haiku.interop import mapping_expr as ex

_TOKEN = re.compile(
  r'\s*(?:"(?P<quoted>[^"]*)"|(?P<punct>[(),\[\]])|(?P<word>[^\s,()\[\]"#|]+))'
)
_FUNCTIONS = (
  'transpose',
  'reshape',
  'add',
  'slice',
  'index',
  'stack',
  'concat',
  'full',
)


class _Quoted(str):
  """A token that was in quotes, hence a name."""


def _tokens(text: str) -> list[str]:
  found, at = [], 0
  text = text.rstrip()
  while at < len(text):
    match = _TOKEN.match(text, at)
    if not match:
      raise ex.MappingError(f'cannot read {text[at:]!r}')
    at = match.end()
    quoted = match.group('quoted')
    found.append(
      _Quoted(quoted) if quoted is not None else match.group(match.lastgroup)
    )
  return found


class _Parser:
  """Recursive descent over the tokens of one expression."""

  def __init__(self, text: str):
    self.tokens = _tokens(text)
    self.at = 0

  def peek(self) -> str:
    return self.tokens[self.at] if self.at < len(self.tokens) else ''

  def next(self, expected: str | None = None) -> str:
    token = self.peek()
    if not token or (expected is not None and token != expected):
      raise ex.MappingError(
        f'expected {expected or "more"!r}, found {token or "the end"!r}'
      )
    self.at += 1
    return token

  def value(self) -> Any:
    """An expression, a list of numbers, a number or a word."""
    token = self.next()
    if isinstance(token, _Quoted):
      return ex.Ref(str(token))
    if token == '[':
      numbers = []
      while self.peek() != ']':
        numbers.append(self.number(self.next(), int))
        if self.peek() == ',':
          self.next()
      self.next(']')
      return tuple(numbers)
    if self.peek() == '(' and token in _FUNCTIONS:
      return self.call(token)
    return token

  def number(self, token, kind=float):
    try:
      return kind(token)
    except (TypeError, ValueError):
      raise ex.MappingError(f'expected a number, found {str(token)!r}') from None

  def call(self, function: str):
    self.next('(')
    args = []
    while self.peek() != ')':
      args.append(self.value())
      if self.peek() != ')':
        self.next(',')
    self.next(')')
    try:
      return self.build(function, args)
    except ex.MappingError:
      raise
    except (IndexError, TypeError, ValueError, AttributeError):
      raise ex.MappingError(f'{function} has the wrong arguments') from None

  def build(self, function: str, args: list) -> ex.Expr:
    if function == 'full':
      value, dims, dtype = args
      return ex.Full(self.number(value), dims, str(dtype))
    if function == 'concat':
      *xs, axis, sizes = args
      parts = tuple(as_expr(x) for x in xs)
      if len(sizes) != len(parts):
        raise ex.MappingError(f'concat of {len(parts)} parts with sizes {sizes}')
      return ex.Concat(parts, self.number(axis, int), sizes)
    if function == 'stack':
      return ex.Stack(tuple(as_expr(x) for x in args))
    x, *rest = args
    x = as_expr(x)
    if function == 'transpose':
      (perm,) = rest
      if sorted(perm) != list(range(len(perm))):
        raise ex.MappingError(f'{list(perm)} is no order of axes')
      return ex.Transpose(x, perm)
    if function == 'reshape':
      old, new = rest
      return ex.Reshape(x, tuple(old), tuple(new))
    if function == 'add':
      (value,) = rest
      return ex.Add(x, self.number(value))
    numbers = [self.number(r, int) for r in rest]
    return (ex.Slice if function == 'slice' else ex.Index)(x, *numbers)


def as_expr(value) -> ex.Expr:
  if isinstance(value, ex.Expr):
    return value
  if isinstance(value, str) and value not in '(),[]':
    return ex.Ref(value)
  raise ex.MappingError(f'expected the name of an entry, found {value!r}')


def parse_expr(text: str) -> ex.Expr:
  """Reads an expression.

  Raises:
    MappingError: it cannot be read.
  """
  parser = _Parser(text)
  result = as_expr(parser.value())
  if parser.at != len(parser.tokens):
    raise ex.MappingError(f'unexpected {parser.peek()!r}')
  return result


def parse_name(text: str) -> str:
  tokens = _tokens(text)
  if len(tokens) != 1 or tokens[0] in '(),[]':
    raise ex.MappingError(f'expected the name of one entry, found {text.strip()!r}')
  return str(tokens[0])


def split_outside_quotes(text: str, mark: str) -> list[str]:
  """`text` split at each `mark` that is not in quotes."""
  parts, quoted = [''], False
  for c in text:
    quoted ^= c == '"'
    if c == mark and not quoted:
      parts.append('')
    else:
      parts[-1] += c
  return parts
