"""How often JAX traces a function: once is as often as a step may be compiled."""

import jax


def jit_and_count(function, **options):
  """`jax.jit(function, **options)`, and a list that gets an item with each trace.

  The size of a compiled function's cache would not do: JAX drops entries of one when a
  process has compiled thousands of others, as the test suite does.
  """
  traces = []

  def counted(*args):
    traces.append(len(args))
    return function(*args)

  return jax.jit(counted, **options), traces
