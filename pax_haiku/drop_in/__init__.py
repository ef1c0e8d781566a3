"""Runs unmodified Pax code: `praxis` means pax_haiku in this process.

  import pax_haiku.drop_in                 # first, before anything imports praxis
  from praxis import base_layer            # is pax_haiku.base_layer
  from praxis.layers import linears        # is pax_haiku.layers.linears

or, without touching the program, `python -m pax_haiku.drop_in script.py args`.

The modules are the very same objects under two names; Praxis need not be installed, and
where it is, it stays out. There is no mixture of the two: with a module of the real
Praxis in the process, importing `pax_haiku.drop_in`, or anything of `praxis` later,
raises `MixtureError`. What pax_haiku doesn't have raises the usual ImportError or
AttributeError, with a list of what is there.

Flax is not imitated: code that imports it needs it installed. A process that this one
starts has to import `pax_haiku.drop_in` itself.
"""

from pax_haiku.drop_in.finder import MixtureError, install, is_installed, remove

__all__ = ['MixtureError', 'install', 'is_installed', 'remove']

install()
