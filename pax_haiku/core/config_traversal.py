"""Fiddle's traversals, made to enter HParams dataclasses too.

`pax_fiddle.build` does not use them: what HParams hold is not built.
"""

import dataclasses
import functools

from fiddle import daglish

_registry = daglish.NodeTraverserRegistry(use_fallback=True)


def register_hparams(cls: type) -> None:
  """Lets the traversals of this module enter a dataclass; for HParams classes."""
  names = tuple(f.name for f in dataclasses.fields(cls))

  def flatten(value):
    return tuple(getattr(value, name) for name in names), vars(value)

  def unflatten(values, attributes):
    result = object.__new__(cls)
    result.__dict__.update(attributes, **dict(zip(names, values, strict=True)))
    return result

  _registry.register_node_traverser(
      cls,
      flatten_fn=flatten,
      unflatten_fn=unflatten,
      path_elements_fn=lambda value: tuple(daglish.Attr(name) for name in names),
  )


@dataclasses.dataclass
class BasicTraversal(daglish.BasicTraversal):
  """Fiddle's `BasicTraversal` that also enters HParams."""

  registry: daglish.NodeTraverserRegistry = _registry


@dataclasses.dataclass
class MemoizedTraversal(daglish.MemoizedTraversal):
  """Fiddle's `MemoizedTraversal` that also enters HParams."""

  registry: daglish.NodeTraverserRegistry = _registry


iterate = functools.partial(daglish.iterate, registry=_registry)
