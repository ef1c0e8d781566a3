"""Errors of the layer system; all of them derive from `PaxError`."""


class PaxError(Exception):
  """Base class of the errors that concern layers, their variables and their keys."""


class InvalidRngError(PaxError):
  """A random key is missing, or what was given as keys is not a key or dict of keys."""


class NameInUseError(PaxError):
  """Two variables or children of one layer were given the same name."""


class ScopeParamNotFoundError(PaxError):
  """`apply` asked for a variable that the given variables do not contain."""


class ScopeCollectionNotFound(PaxError):
  """`apply` asked for a variable of a collection that was not given at all."""


class ScopeParamShapeError(PaxError):
  """A given variable has another shape than the one that the layer declares."""


class AssignSubModuleError(PaxError):
  """A child layer was created in a place other than `setup` or a compact method."""


class SetAttributeFrozenModuleError(PaxError, AttributeError):
  """An attribute of a bound layer was assigned outside `setup`."""


class ModifyScopeVariableError(PaxError):
  """A variable of an immutable collection was written."""


class ApplyScopeInvalidVariablesStructureError(PaxError):
  """`apply` got variables whose `params` hold another `params` level."""
