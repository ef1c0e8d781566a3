"""The errors: one base class, and the builtin that Python code expects."""

import pytest

from pax_haiku.core import errors


def test_all_derive_from_the_base_and_say_when_they_are_raised():
  found = [c for c in vars(errors).values() if isinstance(c, type)]
  assert len(found) >= 9
  for cls in found:
    assert issubclass(cls, errors.PaxError) and cls.__doc__
    with pytest.raises(errors.PaxError, match='some text'):
      raise cls('some text')


def test_not_value_errors():
  assert not issubclass(errors.PaxError, ValueError)
  assert issubclass(errors.SetAttributeFrozenModuleError, AttributeError)
