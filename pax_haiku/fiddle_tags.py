"""Fiddle tags that configs may put on arguments; no field of BaseLayer carries one."""

from pax_haiku import pax_fiddle


class BaseDType(pax_fiddle.Tag):
  """A dtype; set all dtypes of a config with `pax_fiddle.set_tagged`."""


class ParamsDType(BaseDType):
  """The dtype of variables."""


class ActivationDType(BaseDType):
  """The dtype of activations."""


class WeightInit(pax_fiddle.Tag):
  """How weights are initialized."""


class ParamsSplitDimsMapping(pax_fiddle.Tag):
  """The sharding of variables."""


class ActivationSplitDimsMapping(pax_fiddle.Tag):
  """The sharding of activations."""


class DropoutRate(pax_fiddle.Tag):
  """The probability to drop a value."""
