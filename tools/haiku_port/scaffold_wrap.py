"""Long lines of code, broken at the commas of the outermost brackets."""

_WIDTH = 88
_OPEN, _CLOSE = '([{', ')]}'


def wrap(code: str, indent: int) -> str:
  """The statement, indented, over as many lines as it needs."""
  line = ' ' * indent + code
  if len(line) <= _WIDTH or code.startswith('#'):
    return line
  found = _last_group(code)
  if found is None:
    return line
  head, parts, tail = found
  inner = '\n'.join(wrap(part, indent + 2) + ',' for part in parts)
  return f'{" " * indent}{head}\n{inner}\n{" " * indent}{tail}'


def _last_group(code: str) -> tuple[str, list[str], str] | None:
  """`(up to the last outermost bracket, its parts, from its end)`."""
  depth, start, quote, groups = 0, 0, '', []
  for i, c in enumerate(code):
    if quote:
      quote = '' if c == quote else quote
    elif c in '\'"':
      quote = c
    elif c in _OPEN:
      depth += 1
      start = i if depth == 1 else start
    elif c in _CLOSE:
      depth -= 1
      if not depth:
        groups.append((start, i))
  if not groups:
    return None
  start, end = max(groups, key=lambda g: g[1] - g[0])
  parts = _parts(code[start + 1 : end])
  if not parts or any(' for ' in p for p in parts):
    return None
  if len(parts) == 1 and code[start] == '(' and not code[start - 1 : start].isalnum():
    return None  # parentheses around an operation
  return code[: start + 1], parts, code[end:]


def _parts(inner: str) -> list[str]:
  """`inner` split at its outermost commas."""
  parts, depth, quote, last = [], 0, '', 0
  for i, c in enumerate(inner):
    if quote:
      quote = '' if c == quote else quote
    elif c in '\'"':
      quote = c
    elif c in _OPEN or c in _CLOSE:
      depth += 1 if c in _OPEN else -1
    elif c == ',' and not depth:
      parts.append(inner[last:i].strip())
      last = i + 1
  parts.append(inner[last:].strip())
  return [p for p in parts if p]
