"""Pipelines: one stage template, with the variables of all stages stacked.

The batch is split into microbatches. In iteration t, stage s works on microbatch t - s;
all stages of an iteration run as one (by `jax.vmap` over the stacked variables), so a
compiler can put each stage on its own devices. https://arxiv.org/abs/1811.06965
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.core import lifted
from pax_haiku.layers import checkpoint_policy as checkpoint_policy_lib
from pax_haiku.layers import pipeline_schedule as schedule

LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
AutodiffCheckpointType = checkpoint_policy_lib.AutodiffCheckpointType
NestedJTensor = base_layer.NestedJTensor
SplitDimsMapping = base_layer.SplitDimsMapping

_BUCKETS = (
  base_layer.SUMMARIES,
  base_layer.AUX_LOSS,
  base_layer.DECODE_CACHE,
  base_layer.PREFIX_DECODE_CACHE,
  base_layer.INTERMEDIATES,
)


class LayerwiseShardablePipelined(base_layer.BaseLayer):
  """`num_stages` copies of a stage, one after the other, as a pipeline.

  The result is `stage_{L-1}(... stage_0(x))`, computed by microbatches. Variables of
  all stages are stacked on axis 0 below the child `body`.

  Attributes:
    num_stages: L.
    single_stage_body: a stage; keeps its input's structure, shapes and dtypes.
    num_microbatches: M; or
    microbatch_size: of one of them. Neither: inputs have a leading axis M already.
    unpack_summaries: store the summaries of stages apart, as `<name>.stage<i>`.
    stream_io: split the batch into L contiguous parts, and these into microbatches.
    polluting_bubbles_with_nan: feed NaN where a stage has no microbatch; for tests.
    pipeline_broadcast_inputs: pass broadcast inputs from stage to stage. Makes no
      difference to values.
    checkpoint_policy: what the backward pass may keep of an iteration.
    optimizer_dims_mapping: sharding of the stacked axis in optimizer states.
    collect_intermediate_outputs: keep what stages sow, as [L, batch, ...].
    bf16_accum_in_fp32: add up gradients of bfloat16 variables in float32.
    enable_bubble_grad_skipping: no gradient where a stage has no microbatch.
  """

  class WeightSharding(base_layer.BaseLayer.WeightSharding):
    """Sharding of the stacked axis.

    Attributes:
      stages: a sequence of one entry.
    """

    stages: SplitDimsMapping = (None,)

  num_stages: int = 1
  single_stage_body: LayerTpl | None = pax_fiddle.template_field(None)
  num_microbatches: int | None = None
  microbatch_size: int | None = None
  unpack_summaries: bool = True
  stream_io: bool = False
  polluting_bubbles_with_nan: bool = False
  pipeline_broadcast_inputs: bool = False
  checkpoint_policy: AutodiffCheckpointType = (
    AutodiffCheckpointType.SAVE_ITERATION_INPUT
  )
  optimizer_dims_mapping: Sequence[Any] | None = None
  collect_intermediate_outputs: bool = False
  bf16_accum_in_fp32: bool = False
  enable_bubble_grad_skipping: bool = True

  def setup(self) -> None:
    self._check_fields()
    self.create_child('body', self.single_stage_body)

  def _check_fields(self) -> None:
    def require(condition: bool, what: str) -> None:
      if not condition:
        raise AssertionError(f'{self._pax_describe()}: {what}.')

    require(self.single_stage_body is not None, 'single_stage_body is required')
    require(self.num_stages > 0, f'num_stages must be > 0, found {self.num_stages}')
    require(
      self.num_microbatches is None or self.microbatch_size is None,
      f'give num_microbatches ({self.num_microbatches}) or microbatch_size '
      f'({self.microbatch_size}), not both',
    )

  # -- Layout ---------------------------------------------------------------------

  @property
  def _rounds(self) -> int:
    """How often a microbatch passes all stages."""
    return 1

  @property
  def _prefix(self) -> tuple[int, ...]:
    """Leading dims of stored variables."""
    return (self.num_stages,)

  def num_valid_iterations(self, num_microbatches: int) -> int:
    """In how many iterations a stage has work."""
    return num_microbatches * self._rounds

  def num_total_iterations(self, num_microbatches: int) -> int:
    """Number of iterations of the loop."""
    return self.num_valid_iterations(num_microbatches) + self.num_stages - 1

  def _schedule(self, inputs: NestedJTensor) -> schedule.Schedule:
    leading = {x.shape[0] for x in jax.tree.leaves(inputs)}
    if len(leading) != 1:
      raise ValueError(
        f'{self._pax_describe()}: inputs must agree in their leading axis, found '
        f'{sorted(leading)}.'
      )
    (batch,) = leading
    if self.num_microbatches is None and self.microbatch_size is None:
      microbatches, split = batch, False
    else:
      microbatches, split = self.num_microbatches, True
      if microbatches is None:
        microbatches = max(batch // self.microbatch_size, 1)
        if microbatches * self.microbatch_size != batch:
          raise AssertionError(
            f'{self._pax_describe()}: microbatch_size {self.microbatch_size} does not '
            f'divide the batch of {batch}.'
          )
      if batch % microbatches:
        raise AssertionError(
          f'{self._pax_describe()}: {microbatches} microbatches do not divide the '
          f'batch of {batch}.'
        )
    if self.stream_io and microbatches % self.num_stages:
      raise AssertionError(
        f'{self._pax_describe()}: stream_io needs a number of microbatches that '
        f'{self.num_stages} stages divide, found {microbatches}.'
      )
    self._check_microbatches(microbatches)
    streams = self.num_stages if self.stream_io else 1
    return schedule.Schedule(
      self.num_stages, microbatches, self._rounds, batch, streams, split
    )

  def _check_microbatches(self, num_microbatches: int) -> None:
    """Refuses a number of microbatches that the schedule cannot do."""

  # -- The loop ---------------------------------------------------------------------

  def __call__(
    self, inputs: NestedJTensor, *broadcast_inputs, **broadcast_kwargs
  ) -> NestedJTensor:
    """Runs the pipeline.

    Args:
      inputs: arrays `[batch, ...]`, for the first stage.
      *broadcast_inputs: arrays `[batch, ...]` or None, for every stage.
      **broadcast_kwargs: the same, by keyword.

    Returns:
      What the last stage returns, like `inputs`.

    Raises:
      AssertionError: the batch cannot be split.
      ValueError: inputs do not agree in their leading axis.
      TypeError: a stage changes structure, shape or dtype of its input.
    """
    plan = self._schedule(inputs)
    shared = (broadcast_inputs, broadcast_kwargs)
    self._check_broadcast(shared, plan)
    micro, shared = plan.split(inputs), plan.split(shared)
    lift = lifted.Lifted(self, self.body)
    run = self._pax_run
    zeros = jax.tree.map(
      lambda x: jnp.zeros((plan.stages, *x.shape[1:]), x.dtype), micro
    )
    if run.initializing and not lift.exists():
      self._create(lift, plan, micro, shared, zeros)
      lift.mark()
      return inputs
    out = self._loop(lift, plan, micro, shared, zeros)
    lift.mark()
    return plan.join(out)

  def _check_broadcast(self, shared, plan: schedule.Schedule) -> None:
    for x in jax.tree.leaves(shared):
      if not jnp.ndim(x) or x.shape[0] != plan.batch:
        raise ValueError(
          f'{self._pax_describe()}: broadcast inputs are split like inputs and need '
          f'the whole batch of {plan.batch} as leading axis, found shape '
          f'{jnp.shape(x)}.'
        )

  def _stage(self, sub, x, shared):
    args, kwargs = shared
    out = sub(x, *args, **kwargs)
    have, want = (
      jax.tree.map(lambda v: (v.shape, v.dtype), tree) for tree in (out, x)
    )
    if have != want:
      raise TypeError(
        f'{self._pax_describe()}: a stage must return arrays like its input. Input: '
        f'{want}. Output: {have}.'
      )
    return out

  def _create(self, lift, plan, micro, shared, zeros) -> None:
    """Makes the variables, by one iteration."""
    run = self._pax_run
    metadata: dict | None = None if run.metadata is None else {}
    x = plan.shift(zeros, jax.tree.map(lambda v: v[0], micro))
    given = jax.tree.map(lambda v: v[plan.works(0).micro], shared)

    def make(streams, common, x, given):
      _, params, state = lift.init(
        common.merged(streams), self._stage, x, given, metadata=metadata
      )
      return params, state

    def over_stages(streams, common):
      scanned, rest = schedule.split_streams(streams, plan.stages, True)
      return jax.vmap(lambda s, x, g: make(s, common.merged(rest), x, g))(
        scanned, x, given
      )

    root = schedule.root_streams(run)
    nothing = lifted.Streams(None if root.pax is None else {}, None)
    if len(self._prefix) == 2:
      scanned, rest = schedule.split_streams(root, self._prefix[0], True)
      params, state = jax.vmap(lambda s: over_stages(s, rest))(scanned)
    else:
      params, state = over_stages(root, nothing)
    mapping = tuple(self.weight_split_dims_mapping.stages or (None,))
    mapping = (None,) * (len(self._prefix) - 1) + mapping
    for key, hparams in (metadata or {}).items():
      run.metadata[key] = lifted.stacked_metadata(
        hparams,
        self._prefix,
        mapping,
        None
        if self.optimizer_dims_mapping is None
        else tuple(self.optimizer_dims_mapping),
      )
    state = lifted.without_buckets(state, _BUCKETS)
    lift.register(params, {m: b for m, b in state.items() if b})

  def _slice(self, tree, works):
    """The variables of each stage's present round: [L, ...]."""
    if len(self._prefix) == 1:
      return tree
    return jax.tree.map(lambda v: v[works.rounds, works.stages], tree)

  def _loop(self, lift, plan, micro, shared, zeros) -> NestedJTensor:
    run = self._pax_run
    params, before = lift.read()
    variables = lifted.without_buckets(before, _BUCKETS)
    wide = params
    if self.bf16_accum_in_fp32:
      wide = jax.tree.map(
        lambda v: v.astype(jnp.float32) if v.dtype == jnp.bfloat16 else v, params
      )
    dtypes = jax.tree.map(lambda v: v.dtype, params)
    root = schedule.root_streams(run)
    scanned, common = schedule.split_streams(root, plan.iterations, False)
    outer = jax.tree.map(
      lambda v: jnp.zeros((plan.microbatches if plan.rounds > 1 else 0, *v.shape[1:]),
                          v.dtype), micro
    )

    def one_stage(params, variables, streams, common, valid, x, given):
      if self.enable_bubble_grad_skipping:
        params = jax.tree.map(
          lambda v: jnp.where(valid, v, jax.lax.stop_gradient(v)), params
        )
      if self.polluting_bubbles_with_nan:
        x = jax.tree.map(lambda v: _nan_unless(valid, v), x)
      out, changed = lift.apply(
        params, variables, common.merged(streams), self._stage, x, given
      )
      kept = lifted.without_buckets(changed, _BUCKETS)
      written = {
        m: {k: v for k, v in b.items() if k in _BUCKETS} for m, b in changed.items()
      }
      old = {m: {k: variables[m][k] for k in b} for m, b in kept.items()}
      kept = jax.tree.map(lambda a, b: jnp.where(valid, a, b), kept, old)
      return out, kept, {m: b for m, b in written.items() if b}

    def iteration(carry, step):
      variables, buffer, waiting = carry
      t, streams = step
      works = plan.works(t)
      first = plan.first_input(micro, waiting, t)
      x = checkpoint_name_all(plan.shift(buffer, first))
      given = jax.tree.map(lambda v: v[works.micro], shared)
      own = jax.tree.map(lambda v, d: v.astype(d), wide, dtypes)
      per_stage, rest = schedule.split_streams(streams, plan.stages, False)
      out, kept, written = jax.vmap(
        one_stage, in_axes=(0, 0, 0, None, 0, 0, 0)
      )(
        self._slice(own, works),
        self._slice(variables, works),
        per_stage,
        common.merged(rest),
        works.valid,
        x,
        given,
      )
      variables = self._merge(variables, kept, works)
      last = jax.tree.map(lambda v: v[-1], out)
      waiting = plan.keep_waiting(waiting, last, t)
      return (variables, out, waiting), (last, written)

    steps = (jnp.arange(plan.iterations), scanned)
    carry = (variables, zeros, outer)
    if run.rngs:  # Pax traces the body of a scan twice, which decides the keys
      jax.eval_shape(iteration, carry, jax.tree.map(lambda v: v[0], steps))
    counts = dict(run.counters)
    policy = checkpoint_policy_lib.custom_policy(self.checkpoint_policy)
    body = jax.checkpoint(iteration, policy=policy, prevent_cse=False)

    def step(carry, x):
      run.counters.clear()  # lax.scan may trace its body more than once
      run.counters.update(counts)
      return body(carry, x)

    (variables, _, _), (outs, written) = jax.lax.scan(step, carry, steps)
    self._write(lift, plan, before, variables, written)
    return jax.tree.map(lambda v: v[-plan.microbatches :], outs)

  def _merge(self, variables, kept, works):
    """The non-trainable variables with what the stages changed."""
    out = {m: dict(b) for m, b in variables.items()}
    for module, bundle in kept.items():
      for name, value in bundle.items():
        if len(self._prefix) == 2:
          old = variables[module][name]
          value = old.at[works.rounds, works.stages].set(value)
        out[module][name] = value
    return out

  # -- What stages wrote --------------------------------------------------------------

  def _write(self, lift, plan, before, variables, written) -> None:
    valid = plan.works(jnp.arange(plan.iterations)[:, jnp.newaxis]).valid

    def masked(x):
      return jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, 0)

    state = {m: dict(b) for m, b in variables.items()}
    for module, bundle in written.items():
      target = state.setdefault(module, {})
      for name, value in bundle.items():
        value = jax.tree.map(masked, value)
        if name == base_layer.AUX_LOSS:
          target[name] = jax.tree.map(lambda x: x / plan.microbatches, value)
        elif name == base_layer.SUMMARIES:
          target[name] = self._summaries(value, plan)
        elif name == base_layer.INTERMEDIATES:
          target[name] = self._intermediates(value, plan)
    state = lifted.collect(state, before, lift.exists())
    stale = lift.clear_stale()
    for module, bundle in state.items():
      stale.setdefault(module, {}).update(bundle)
    lift.write(stale)

  def _intermediates(self, bucket: Any, plan) -> Any:
    """`[L, batch, ...]`, or without collecting them `[iterations, L, ...]`."""
    if not self.collect_intermediate_outputs:
      return bucket
    if self.stream_io:
      raise AssertionError(
        f'{self._pax_describe()}: collect_intermediate_outputs does not work with '
        'stream_io.'
      )
    return jax.tree.map(plan.by_stage, bucket)

  def _summaries(self, bucket: dict[str, Any], plan) -> dict[str, Any]:
    """Means over microbatches of each stage, from `[iterations, L, ...]`.

    Rounds that share their variables are added up in a packed summary `[L, ...]`, and
    averaged in those of single stages, as in Pax.
    """
    share, out = len(self._prefix) == 1, {}
    for key, value in bucket.items():
      by_round = jax.tree.map(plan.mean_by_round, value)
      if not self.unpack_summaries:
        out[key] = jax.tree.map(lambda x: x.sum(0) if share else x, by_round)
        continue
      if share:
        by_round = jax.tree.map(lambda x: x.mean(0, keepdims=True), by_round)
      name = base_layer.trim_summary_type_from_key(key)
      suffix = key[len(name) :]
      for index in range(math.prod(self._prefix)):
        r, s = divmod(index, self.num_stages)
        where = f'.circular_layer{r}' if len(self._prefix) == 2 else ''
        out[f'{name}{where}.stage{s}{suffix}'] = jax.tree.map(
          lambda x, r=r, s=s: x[r, s], by_round
        )
    return out


def _nan_unless(valid, x):
  """`x`, or NaN where `valid` is False and `x` is of floats."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  return jnp.where(valid, x, jnp.nan)


def checkpoint_name_all(tree):
  """Names all arrays `iteration_input`, for rematerialization policies."""
  return jax.tree.map(lambda x: checkpoint_name(x, 'iteration_input'), tree)


class CircularLayerwiseShardablePipelined(LayerwiseShardablePipelined):
  """A pipeline that each microbatch passes `circular_repeat` times.

  Stage s of round r has its own variables, `[r, s]`; layers run in the order of
  r L + s. Needs at least as many microbatches as stages.

  Attributes:
    circular_repeat: number R of rounds.
    share_weights: all rounds use the same variables `[s]`.
    enable_async_circular_transfer: as in Pax; makes no difference to values here.
  """

  circular_repeat: int = 1
  share_weights: bool = False
  enable_async_circular_transfer: bool = True

  @property
  def _rounds(self) -> int:
    return self.circular_repeat

  @property
  def _prefix(self) -> tuple[int, ...]:
    if self.share_weights:
      return (self.num_stages,)
    return (self.circular_repeat, self.num_stages)

  def _check_fields(self) -> None:
    super()._check_fields()
    if self.collect_intermediate_outputs:
      raise AssertionError(
        f'{self._pax_describe()}: a circular pipeline cannot collect intermediate '
        'outputs; leave collect_intermediate_outputs False.'
      )

  def _check_microbatches(self, num_microbatches: int) -> None:
    if num_microbatches < self.num_stages:
      raise NotImplementedError(
        f'{self._pax_describe()}: a circular pipeline of {self.num_stages} stages '
        f'needs as many microbatches at least, found {num_microbatches}.'
      )
