"""Small functions that the layers of a transformer share."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, pytypes
from pax_haiku.core import context
from pax_haiku.layers import stats, stochastics

JTensor = pytypes.JTensor
SplitDimsMapping = pytypes.SplitDimsMapping
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]

DETAIL = 4  # verbosity of summaries that are off unless asked for


def rms(x: JTensor) -> JTensor:
  """Root of the mean square of all entries, float32."""
  return jnp.sqrt(jnp.mean(jnp.square(x)).astype(jnp.float32))


def rel_cos(x: JTensor, y: JTensor) -> JTensor:
  """Mean over tokens of the cosine between `x` and `y` `[..., D]`; zeros count as 0."""

  def norm(v: JTensor) -> JTensor:
    squared = jnp.sum(jnp.square(v), axis=-1)
    return jnp.sqrt(jnp.where(squared == 0.0, 1.0, squared))

  return jnp.mean(jnp.sum(x * y, axis=-1) / (norm(x) * norm(y)))


def add_detail(
  layer: base_layer.BaseLayer, name: str, function: Callable[[], JTensor]
) -> None:
  """Adds the scalar that `function` computes, if the context wants that much."""
  layer.add_summary(name, function, verbosity=DETAIL)


def step_mapping(
  mapping: SplitDimsMapping, step: SplitDimsMapping, rank: int
) -> SplitDimsMapping:
  """Sharding of `[B, T, D]`, or of `[B, D]` in one decoding step (rank 2)."""
  if rank != 2:
    return mapping
  if step is not None and len(step) == 2:
    return step
  if mapping is not None and len(mapping) == 3:
    return [mapping[0], mapping[2]]
  return mapping


def dropout(tpl: LayerTpl, prob: float) -> LayerTpl:
  """`tpl` that drops with `prob`."""
  return tpl.clone().set(keep_prob=1.0 - prob)


def droppath(prob: float) -> LayerTpl:
  """A residual sum whose branch is left out with `prob`."""
  return pax_fiddle.Config(stochastics.StochasticResidual, survival_prob=1.0 - prob)


def create_norms(
  layer: base_layer.BaseLayer, tpl: LayerTpl, dims: int, policy: str, infix: str = ''
) -> None:
  """Creates `<infix>layer_norm`, or the two norms of `primer_hybrid`.

  The names are those of the variables: `layer_norm`, `cross_layer_norm`,
  `pre_layer_norm`, `post_cross_layer_norm`, ...
  """
  tpl = tpl.clone().set(dim=dims)
  prefixes = ('pre_', 'post_') if policy == 'primer_hybrid' else ('',)
  for prefix in prefixes:
    layer.create_child(f'{prefix}{infix}layer_norm', tpl)


def check_norm_policy(
  layer: base_layer.BaseLayer, policy: str, known: tuple[str, ...]
) -> None:
  """Raises ValueError for a policy that the layer does not know."""
  if policy not in known:
    raise ValueError(
      f'{layer._pax_describe()}: unknown norm_policy {policy!r}, expected one of '
      f'{list(known)}.'
    )


def keep_unpadded(x: JTensor, paddings: JTensor | None) -> JTensor:
  """`x [B, T, D]` with zeros where `paddings [B, T, 1]` is 1."""
  return x if paddings is None else x * (1.0 - paddings)


def wants_summaries(layer: base_layer.BaseLayer, verbosity: int) -> bool:
  """Whether a summary of that verbosity would be kept."""
  top = context.JaxContext.top()
  if top is not None and verbosity > top.summary_verbosity:
    return False
  return layer.is_mutable_collection(base_layer.SUMMARIES)


def add_input_summaries(
  layer: base_layer.BaseLayer, x: JTensor, paddings: JTensor | None
) -> None:
  """Mean, deviation and largest magnitude of a block's input, without the padding."""
  if not wants_summaries(layer, 3):
    return
  found = stats.compute_stats(x, None if paddings is None else paddings[..., None])
  layer.add_summary('xformer_input_mean', found.mean_v, verbosity=3)
  layer.add_summary('xformer_input_std', found.std_v, verbosity=3)
  layer.add_summary('xformer_input_abs_max', found.max_v, verbosity=3)


def fan_in_uniform(fan_in: int) -> base_layer.WeightInit:
  """Uniform numbers of variance `1 / fan_in`."""
  # As a product, so that the bits of the scale are Praxis's.
  return base_layer.WeightInit.Uniform(math.sqrt(3.0) * math.sqrt(1.0 / fan_in))
