"""Placeholder until the older HParams convention lands."""


def absorb(name, bases, namespace):
  """Nothing yet."""


def attach(cls):
  """Nothing yet."""
