"""What the tasks do alike with the settings of decoding, and with what comes out."""

from typing import Any

import jax.numpy as jnp

from pax_haiku import base_layer, decoder_hparams, py_utils

NestedMap = py_utils.NestedMap
DecoderHParams = decoder_hparams.DecoderHParams


def check(task: base_layer.BaseLayer, params: DecoderHParams) -> None:
  """Raises a ValueError for settings that no task takes."""
  if not isinstance(params, DecoderHParams):
    raise ValueError(
      f'{task._pax_describe()}: the settings of decoding must be a DecoderHParams, '
      f'found {type(params).__name__}.'
    )
  if params.seqlen <= 0 and not params.fprop_for_prefix:
    raise ValueError(
      f'{task._pax_describe()}: seqlen of the settings of decoding must be > 0, found '
      f'{params.seqlen}.'
    )
  if params.fprop_for_prefix and not params.max_decode_steps:
    raise ValueError(
      f'{task._pax_describe()}: fprop_for_prefix needs max_decode_steps.'
    )
  if params.lazy_prefix_broadcast and not params.fprop_for_prefix:
    raise ValueError(
      f'{task._pax_describe()}: lazy_prefix_broadcast needs fprop_for_prefix.'
    )


def check_vanilla(
  task: base_layer.BaseLayer, params: decoder_hparams.SampleDecoderHParams
) -> None:
  """Raises a ValueError for settings that the vanilla loop does not read."""
  if not params.fprop_for_prefix:
    raise ValueError(
      f'{task._pax_describe()}: vanilla_sample_decode needs fprop_for_prefix.'
    )
  unread = {
    'num_samples': 1,
    'optimize_eos': False,
    'controlled_decoding': None,
    'sample_constraint': None,
    'lazy_prefix_broadcast': False,
    'early_exit': True,
  }
  check_unread(task, params, unread, 'vanilla_sample_decode')


def check_unread(
  task: base_layer.BaseLayer, params: DecoderHParams, fields: dict[str, Any], what: str
) -> None:
  """Raises a ValueError for settings that would be ignored, though they matter.

  Args:
    task: whose settings they are.
    params: the settings.
    fields: {name: value that leaves it out} of what is not read.
    what: what does not read them.
  """
  found = {name: getattr(params, name) for name in fields}
  wrong = {name: value for name, value in found.items() if value != fields[name]}
  if wrong:
    given = ', '.join(f'{name}={value!r}' for name, value in wrong.items())
    way_out = ', '.join(f'{name}={fields[name]!r}' for name in wrong)
    raise ValueError(
      f'{task._pax_describe()}: {what} does not read {given} of '
      f'{type(params).__name__}; set {way_out}.'
    )


def no_loop(task: base_layer.BaseLayer, params: DecoderHParams) -> Exception:
  """The error for settings that name no way of decoding."""
  return NotImplementedError(
    f'{task._pax_describe()}: there is no decoding loop for {type(params).__name__}.'
  )


def steps_range(params: DecoderHParams) -> tuple[int, int]:
  """(fewest, most) steps after the prefix."""
  steps = params.max_decode_steps
  steps = [steps] if isinstance(steps, int) else list(steps)
  return min(steps), max(steps)


def sampler(
  params: decoder_hparams.SampleDecoderHParams,
  batch: NestedMap | None = None,
  override: bool | None = None,
) -> Any:
  """The token sampler of the settings.

  Args:
    params: settings of sampling.
    batch: where the sampler's class finds further arguments; None: nowhere.
    override: set the sampler's fields from those here; None: as the settings say.
  """
  tpl = params.next_token_sampler_tpl.clone()
  if params.override_next_token_sampler_params if override is None else override:
    for field, value in (
      ('top_k', params.k),
      ('top_p', params.p),
      ('global_normalize', params.global_normalize),
      ('top_k_recall_target', params.top_k_recall_target),
      ('use_top_k_for_logprobs', params.use_top_k_for_logprobs),
    ):
      if hasattr(tpl, field):
        setattr(tpl, field, value)
  extra = {}
  if batch is not None:
    extra = tpl.cls.get_extra_kwargs(batch, params.num_samples)
  return base_layer.instantiate(tpl, **extra)


def finish(result: NestedMap, batch: NestedMap, count: int):
  """(metrics, results with all of the batch, {})."""
  result.update(batch)
  if 'eval_sample_weights' in batch:
    number = jnp.sum(batch.eval_sample_weights)
  else:
    number = jnp.array(count, jnp.float32)
  one = jnp.array(1.0, jnp.float32)
  return NestedMap(num_decoded=(number, one)), result, NestedMap()
