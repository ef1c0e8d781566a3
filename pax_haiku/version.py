"""The version of this package; free of imports, so that a build can read it."""

__version__ = '0.1.0'
