"""Placeholder until the helpers land."""

from pax_haiku.core.nested_map import NestedMap  # noqa: F401
