"""What Pax code imports from `praxis.base_layer`, under the same names.

A facade: the layer system itself lives in pax_haiku/core, one idea a file.
"""
# ruff: noqa: F401

from pax_haiku.base_hyperparams import instantiate
from pax_haiku.core.abstract_init import is_sublayer_template_or_instance
from pax_haiku.core.boxes import (
    AuxLossStruct,
    BoxedParam,
    BoxedPartitionSpec,
    WrappedHParams,
    maybe_unbox_value,
    unbox_meta,
)
from pax_haiku.core.children import compatible_hparams
from pax_haiku.core.compact import compact, nowrap
from pax_haiku.core.constants import (
    AUX_LOSS,
    DECODE_CACHE,
    DEFAULT_INIT_MUTABLE_LIST,
    HYPER_PARAMS,
    INTERMEDIATES,
    NON_PAX_RNG_KEY,
    NON_PAX_VAR_COLLECTION,
    NON_TRAINABLE,
    PARAMS,
    PMAP_PARALLEL_AXIS_NAME,
    PREFIX_DECODE_CACHE,
    QUANTIZED_SCALE_NAME_POSTFIX,
    QUANTIZED_ZP_NAME_POSTFIX,
    RANDOM,
    SPARSITY_NAME_POSTFIX,
    SUMMARIES,
    DecodeStateTransformFn,
)
from pax_haiku.core.context import JaxContext, cur_jax_context
from pax_haiku.core.errors import (
    ApplyScopeInvalidVariablesStructureError,
    AssignSubModuleError,
    InvalidRngError,
    ModifyScopeVariableError,
    NameInUseError,
    PaxError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
    SetAttributeFrozenModuleError,
)
from pax_haiku.core.frozen import FrozenDict
from pax_haiku.core.functional import DenyList
from pax_haiku.core.init_var import init_var
from pax_haiku.core.layer import BaseLayer
from pax_haiku.core.module_helpers import (
    assert_has_shape,
    get_template_fields,
    instantiate_layer,
    is_running_under_pmap,
)
from pax_haiku.core.sharding import (
    maybe_shard,
    maybe_transpose_mesh_axes,
    to_partition_spec,
    transpose_one_axis,
    var_partition_specs,
)
from pax_haiku.core.summaries import (
    SummaryType,
    add_global_summary,
    all_global_summaries,
    clear_global_summary,
    get_summary_base_type,
    get_summary_type_from_key,
    get_summary_type_suffix,
    trim_summary_type_from_key,
)
from pax_haiku.core.weights import (
    WeightHParams,
    WeightHParamsCollection,
    WeightInit,
    default_param_init,
    get_fan_in_fan_out,
    is_default_param_init,
    var_disallow_bfloat16_conversion,
    var_init_scale,
    var_not_trainable,
    var_overwrite_with_gradient,
    var_requires_mean_sync,
    var_requires_sum_sync,
    var_skip_lp_regularization,
)
from pax_haiku.pax_fiddle import instance_field, sub_config_field, template_field
from pax_haiku.pytypes import (
    JTensor,
    JTensorOrPartitionSpec,
    Nested,
    NestedBool,
    NestedHParams,
    NestedJTensor,
    NestedJTensorOrPartitionSpec,
    NestedMap,
    NestedPartitionSpec,
    NpTensor,
    PRNGKey,
    SplitDimsMapping,
    SummaryDict,
)

BaseLayerApi = BaseLayer
BaseLayerT = BaseLayer
AxisMetadata = BoxedParam
TAxisMetadata = BoxedParam
ParamsT = dict
NestedWeightHParams = Nested[WeightHParams]

__all__ = [name for name in dir() if not name.startswith('_')]
