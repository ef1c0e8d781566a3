"""Checks and the texts of their errors."""

import re
import threading

import pytest

from pax_haiku import asserts
from pax_haiku.core.nested_map import NestedMap

x = 3


class Obj:
  y = 2


o = Obj()


@pytest.mark.parametrize(
    'check, good, bad, text',
    [
        (asserts.eq, (1, 1), (1, 2), 'must be equal to'),
        (asserts.ne, (1, 2), (1, 1), 'must not be equal to'),
        (asserts.gt, (2, 1), (1, 1), 'must be strictly greater than'),
        (asserts.ge, (1, 1), (0, 1), 'must be greater than or equal to'),
        (asserts.lt, (0, 1), (1, 1), 'must be strictly less than'),
        (asserts.le, (1, 1), (2, 1), 'must be less than or equal to'),
    ],
)
def test_comparisons(check, good, bad, text):
  check(*good)
  with pytest.raises(ValueError, match=text):
    check(*bad)
  with pytest.raises(KeyError, match='my text'):
    check(*bad, msg='my text', exception_type=KeyError)
  with pytest.raises(ValueError, match=f'^`A` {text} `B`.$'):
    check(*bad, value_str1='A', value_str2='B')


def message(check):
  with pytest.raises(ValueError) as e:
    check()
  return str(e.value)


def test_expressions_come_from_the_source():
  assert message(lambda: asserts.eq(o.y, x)) == '`o.y=2` must be equal to `x=3`.'
  assert (
      message(lambda: asserts.eq(o.y, 4, value_str1='AA'))
      == '`AA` must be equal to `4=4`.'
  )

  def several_lines():
    asserts.eq(
        o.y,
        x +
        1,
    )

  assert message(several_lines) == '`o.y=2` must be equal to `x + 1=4`.'


def test_expression_without_source():
  namespace = {'asserts': asserts}
  code = compile('def f(v):\n  asserts.eq(v, 1)', '<nowhere>', 'exec')
  exec(code, namespace)
  assert message(lambda: namespace['f'](2)) == '`2` must be equal to `1`.'


@pytest.mark.parametrize(
    'check, text',
    [
        (lambda: asserts.in_set(o.y, [1, 3]), '`o.y=2` must be within `[1, 3]`.'),
        (lambda: asserts.none(o.y), '`o.y=2` must be `None`.'),
        (lambda: asserts.not_none(None), '`None=None` must not be `None`.'),
        (
            lambda: asserts.instance(o.y, str),
            "`o.y=2` must be of type `<class 'str'>`.",
        ),
        (
            lambda: asserts.subclass(int, str),
            "`int=<class 'int'>` must be a subclass of `<class 'str'>`.",
        ),
        (lambda: asserts.between(x, 5, 7), '`x=3` must be in the range `[5, 7]`.'),
        (
            lambda: asserts.between(x, 3, 7, left_strict=True),
            '`x=3` must be in the range `(3, 7]`.',
        ),
        (
            lambda: asserts.between(x, 1, 3, right_strict=True),
            '`x=3` must be in the range `[1, 3)`.',
        ),
        (lambda: asserts.in_set(x, {}), '`x=3` must be within `{}`.'),
    ],
)
def test_texts(check, text):
  assert message(check) == text


def test_what_passes():
  asserts.in_set(1, [1])
  asserts.none(None)
  asserts.not_none(0)
  asserts.instance(1, (str, int))
  asserts.subclass(bool, int)
  asserts.between(3, 3, 3)
  asserts.between(2, 1, 3, left_strict=True, right_strict=True)


def test_same_structure():
  asserts.assert_same_structure(
      NestedMap(a=(1, None), b=[NestedMap(c=2)]),
      {'a': ('x', 2), 'b': [{'c': object()}]},
  )
  for a, b in [
      ({'a': 1}, {'b': 1}),
      ((1, 2), [1, 2]),
      ({'a': None}, {'a': [3]}),
      (NestedMap(a=1), NestedMap(a=NestedMap())),
  ]:
    with pytest.raises(ValueError, match='^Not the same structure'):
      asserts.assert_same_structure(a, b)
  with pytest.raises(ValueError, match='^mine$'):
    asserts.assert_same_structure(1, [1], msg='mine')
  with pytest.raises(TypeError):
    asserts.assert_same_structure(1, [1], exception_type=TypeError)


def test_context_switches_off():
  with asserts.AssertsContext(enabled=False):
    asserts.eq(1, 2)
    asserts.in_set(1, [])
    asserts.between(1, 2, 3)
    asserts.none(1)
    asserts.assert_same_structure(1, [1])
    with asserts.AssertsContext():
      with pytest.raises(ValueError):
        asserts.eq(1, 2)
    asserts.eq(1, 2)
  with pytest.raises(ValueError):
    asserts.eq(1, 2)


def test_context_holds_for_its_thread_only():
  seen = []

  def check():
    try:
      asserts.eq(1, 2)
    except ValueError as e:
      seen.append(str(e))

  with asserts.AssertsContext(enabled=False):
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
  assert len(seen) == 1 and re.match('`1=1` must be equal', seen[0])
