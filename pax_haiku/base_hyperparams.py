"""The older ways to configure: HParams dataclasses, and classes that take them.

New code uses `pax_fiddle.Config`. `BaseHyperParams` are mutable dataclasses that
refuse unknown names; `BaseParameterizable` classes are built from one;
`FiddleBaseParameterizable` classes are keyword-only dataclasses, built from configs.
"""

from typing import Any

import fiddle as fdl

from pax_haiku import pax_fiddle
from pax_haiku.core.config_fields import (
    OverrideSubConfigFieldProtocol,
    SubConfigFactory,
    sub_config_field,
)
from pax_haiku.core.config_text import (
    StrOverride,
    nested_struct_to_text,
    visit_nested_struct,
)
from pax_haiku.core.fiddle_parameterizable import FiddleBaseParameterizable
from pax_haiku.core.hyperparams import (
    BaseHyperParams,
    BaseHyperParamsSelf,
    InstantiableHyperParams,
    check_overrides,
)
from pax_haiku.core.parameterizable import BaseParameterizable

__all__ = [
    'BaseHyperParams',
    'BaseHyperParamsSelf',
    'BaseParameterizable',
    'FiddleBaseParameterizable',
    'HParams',
    'InstantiableHyperParams',
    'OverrideSubConfigFieldProtocol',
    'StrOverride',
    'SubConfigFactory',
    'check_overrides',
    'instantiate',
    'nested_struct_to_text',
    'sub_config_field',
    'visit_nested_struct',
]

HParams = BaseHyperParams


def instantiate(config: Any, **kwargs) -> Any:
  """Builds the object that a config, or HParams with a `cls`, describe.

  Args:
    config: a Fiddle config or instantiable HParams.
    **kwargs: for a config: arguments to override; for HParams: further constructor
      arguments.

  Raises:
    ValueError: `config` is neither.
  """
  if isinstance(config, fdl.Buildable):
    return pax_fiddle.instantiate(config, **kwargs)
  if isinstance(config, InstantiableHyperParams):
    return config.Instantiate(**kwargs)
  raise ValueError(
      f'Unknown configuration type: {type(config)}. (Full config: {config})'
  )
