"""Checks of values with messages that name the checked expression.

`asserts.eq(p.dim, 4)` raises ``ValueError: `p.dim=3` must be equal to `4=4`.``. The
expressions are read from the caller's source, only when a check fails.
"""

import ast
import dataclasses
import linecache
import operator
import sys
import threading
from collections.abc import Callable, Container
from typing import Any

import jax

_contexts = threading.local()


@dataclasses.dataclass
class AssertsContext:
  """Inside `with AssertsContext(enabled=False)`, this module's checks pass.

  The innermost context of the thread counts.
  """

  enabled: bool = True

  def __enter__(self):
    if not hasattr(_contexts, 'stack'):
      _contexts.stack = []
    _contexts.stack.append(self)
    return self

  def __exit__(self, *exc_info):
    _contexts.stack.pop()

  @staticmethod
  def assertions_enabled() -> bool:
    """Whether checks are made at present in this thread."""
    stack = getattr(_contexts, 'stack', None)
    return not stack or stack[-1].enabled


def _argument_sources() -> list[str]:
  """Source texts of the arguments of the call into this module, best effort."""
  frame = sys._getframe(1)
  while frame is not None and frame.f_code.co_filename == __file__:
    frame = frame.f_back
  if frame is None:
    return []
  positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
  line, end_line, column, end_column = positions
  if None in positions:
    return []
  lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
  text = ''.join(lines[line - 1 : end_line]).encode()
  end = len(text) - len(lines[end_line - 1].encode()) + end_column if lines else 0
  text = text[column:end].decode()
  try:
    call = ast.parse(text, mode='eval').body
  except SyntaxError:
    return []
  if not isinstance(call, ast.Call):
    return []
  return [
      ' '.join((ast.get_source_segment(text, arg) or '').split()) for arg in call.args
  ]


def _fail(
    values: tuple[Any, ...],
    value_strs: tuple[str | None, ...],
    condition: str,
    msg: str | None,
    exception_type: type[Exception],
) -> None:
  """Raises; `condition` is the text after the first value, `{}` is the second."""
  if msg is None:
    sources = _argument_sources()
    texts = []
    for i, (value, text) in enumerate(zip(values, value_strs, strict=True)):
      source = sources[i] if i < len(sources) else ''
      if text is None:
        text = f'{source}={value}' if source else f'{value}'
      texts.append(f'`{text}`')
    msg = f'{texts[0]} {condition.format(*texts[1:])}.'
  raise exception_type(msg)


def in_set(
    value: Any,
    elements: Container[Any],
    *,
    value_str: str | None = None,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` unless `value in elements`."""
  if AssertsContext.assertions_enabled() and value not in elements:
    text = f'must be within `{_escape(elements)}`'
    _fail((value,), (value_str,), text, msg, exception_type)


def _comparison(name: str, holds: Callable[[Any, Any], bool], relation: str):
  """Makes a check of two values."""

  def check(
      value1: Any,
      value2: Any,
      *,
      value_str1: str | None = None,
      value_str2: str | None = None,
      msg: str | None = None,
      exception_type: type[Exception] = ValueError,
  ) -> None:
    if AssertsContext.assertions_enabled() and not holds(value1, value2):
      strs = value_str1, value_str2
      _fail((value1, value2), strs, f'must {relation} {{}}', msg, exception_type)

  check.__name__ = check.__qualname__ = name
  check.__doc__ = f'Raises `exception_type`: `value1` must {relation} `value2`.'
  return check


eq = _comparison('eq', operator.eq, 'be equal to')
ne = _comparison('ne', operator.ne, 'not be equal to')
gt = _comparison('gt', operator.gt, 'be strictly greater than')
ge = _comparison('ge', operator.ge, 'be greater than or equal to')
lt = _comparison('lt', operator.lt, 'be strictly less than')
le = _comparison('le', operator.le, 'be less than or equal to')


def none(
    value: Any,
    *,
    value_str: str | None = None,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` unless `value is None`."""
  if AssertsContext.assertions_enabled() and value is not None:
    _fail((value,), (value_str,), 'must be `None`', msg, exception_type)


def not_none(
    value: Any,
    *,
    value_str: str | None = None,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` if `value is None`."""
  if AssertsContext.assertions_enabled() and value is None:
    _fail((value,), (value_str,), 'must not be `None`', msg, exception_type)


def instance(
    value: Any,
    instances: Any,
    *,
    value_str: str | None = None,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` unless `isinstance(value, instances)`."""
  if AssertsContext.assertions_enabled() and not isinstance(value, instances):
    text = f'must be of type `{_escape(instances)}`'
    _fail((value,), (value_str,), text, msg, exception_type)


def subclass(
    value: Any,
    subclasses: Any,
    *,
    value_str: str | None = None,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` unless `issubclass(value, subclasses)`."""
  if AssertsContext.assertions_enabled() and not issubclass(value, subclasses):
    text = f'must be a subclass of `{_escape(subclasses)}`'
    _fail((value,), (value_str,), text, msg, exception_type)


def between(
    value: Any,
    min_value: Any,
    max_value: Any,
    *,
    left_strict: bool = False,
    right_strict: bool = False,
    value_str: str | None = None,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` unless `value` is in the range; a strict end is outside."""
  if not AssertsContext.assertions_enabled():
    return
  above = value > min_value if left_strict else value >= min_value
  below = value < max_value if right_strict else value <= max_value
  if above and below:
    return
  left, right = '(' if left_strict else '[', ')' if right_strict else ']'
  text = f'must be in the range `{left}{min_value}, {max_value}{right}`'
  _fail((value,), (value_str,), _escape(text), msg, exception_type)


def assert_same_structure(
    x: Any,
    y: Any,
    msg: str | None = None,
    exception_type: type[Exception] = ValueError,
) -> None:
  """Raises `exception_type` unless two nested structures differ in leaves only.

  Dicts (NestedMaps count as dicts), lists and tuples are structure, all else is leaf.
  """
  if not AssertsContext.assertions_enabled():
    return
  structures = [
      jax.tree.structure(_as_dicts(tree), is_leaf=_is_not_container) for tree in (x, y)
  ]
  if structures[0] != structures[1]:
    raise exception_type(
        msg
        or 'Not the same structure\n'
        f'Entire first structure: `{structures[0]}`\n'
        f'Entire second structure: `{structures[1]}`\n'
    )


def _escape(text: Any) -> str:
  return str(text).replace('{', '{{').replace('}', '}}')


def _is_not_container(x: Any) -> bool:
  return not isinstance(x, dict | list | tuple)


def _as_dicts(tree: Any) -> Any:
  if isinstance(tree, dict):
    return {k: _as_dicts(v) for k, v in tree.items()}
  if isinstance(tree, tuple) and hasattr(tree, '_fields'):
    return type(tree)(*map(_as_dicts, tree))
  if isinstance(tree, list | tuple):
    return type(tree)(map(_as_dicts, tree))
  return tree
