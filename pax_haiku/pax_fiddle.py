"""Configuration of Pax layers on Fiddle: the facade that Pax code imports."""

from fiddle import (
  NO_VALUE,
  Buildable,
  Tag,
  TaggedValue,
  add_tag,
  assign,
  cast,
  clear_tags,
  copy_with,
  deepcopy_with,
  get_callable,
  get_tags,
  materialize_defaults,
  ordered_arguments,
  remove_tag,
  set_tagged,
  set_tags,
)

from pax_haiku.core.auto_config import auto_config
from pax_haiku.core.config_build import (
  build,
  empty_flax_module_stack,
  instantiate,
  is_building,
  template_arguments,
)
from pax_haiku.core.config_fields import (
  FieldMetadata,
  expanding_field,
  fdl_field,
  field,
  field_has_tag,
  field_metadata,
  instance_field,
  sub_config_field,
  template_field,
)
from pax_haiku.core.config_traversal import (
  BasicTraversal,
  MemoizedTraversal,
  iterate,
)
from pax_haiku.core.config_types import (
  CloneAndSetMixin,
  PaxArgFactory,
  PaxConfig,
  PaxPartial,
  mesh_shape_of,
  update_callable,
)

Config = PaxConfig
Partial = PaxPartial
ArgFactory = PaxArgFactory


class DoNotBuild(Tag):
  """A tag of older Pax code; it has no effect."""


__all__ = [
  'ArgFactory',
  'BasicTraversal',
  'Buildable',
  'CloneAndSetMixin',
  'Config',
  'DoNotBuild',
  'FieldMetadata',
  'MemoizedTraversal',
  'NO_VALUE',
  'Partial',
  'PaxArgFactory',
  'PaxConfig',
  'PaxPartial',
  'Tag',
  'TaggedValue',
  'add_tag',
  'assign',
  'auto_config',
  'build',
  'cast',
  'clear_tags',
  'copy_with',
  'deepcopy_with',
  'empty_flax_module_stack',
  'expanding_field',
  'fdl_field',
  'field',
  'field_has_tag',
  'field_metadata',
  'get_callable',
  'get_tags',
  'instance_field',
  'instantiate',
  'is_building',
  'iterate',
  'materialize_defaults',
  'mesh_shape_of',
  'ordered_arguments',
  'remove_tag',
  'set_tagged',
  'set_tags',
  'sub_config_field',
  'template_arguments',
  'template_field',
  'update_callable',
]
