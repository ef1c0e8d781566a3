"""Placeholder until the older HParams convention lands."""

from pax_haiku.pax_fiddle import instantiate  # noqa: F401
