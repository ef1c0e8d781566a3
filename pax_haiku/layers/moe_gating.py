"""Gating of mixtures of experts: which tokens go to which slot of which expert.

Tokens come in groups: `G` groups of `S` tokens, `E` experts with room for `C` tokens of
each group. A gating function returns a combine tensor `[G, S, E, C]`, the weight with
which a token takes part in the output of an expert's slot, and its dispatch mask, 1
where the weight is not zero. https://arxiv.org/abs/2006.16668, section 2.2, and
https://arxiv.org/abs/2202.09368 for the choice by experts.
"""

import jax
import jax.numpy as jnp

from pax_haiku import py_utils, pytypes

JTensor = pytypes.JTensor


def cum_sum(
  elements: JTensor, axis: int = 0, exclusive: bool = False, reverse: bool = False
) -> JTensor:
  """Cumulative sum in the dtype of `elements`.

  Args:
    elements: any array.
    axis: what to sum along.
    exclusive: leave out each position's own element.
    reverse: sum from the end.
  """
  x = jnp.flip(elements, axis) if reverse else elements
  total = jnp.cumsum(x, axis=axis, dtype=x.dtype)
  if exclusive:
    total = total - x
  return jnp.flip(total, axis) if reverse else total


def top_k(x: JTensor, k: int) -> tuple[JTensor, JTensor]:
  """The `k` largest values of the last axis, ascending, and their indices."""
  order = jnp.argsort(x, axis=-1)[..., -k:]
  return jnp.take_along_axis(x, order, axis=-1), order


def remove_dim(dim: int, split_dims_mapping):
  """The sharding of an array without its dimension `dim`."""
  if split_dims_mapping is None:
    return None
  return [m for i, m in enumerate(split_dims_mapping) if i != dim]


def expert_capacity(
  tokens: int, experts: int, expert_capacity_dim: int, capacity_factor: float | None
) -> int:
  """Slots per expert and group.

  `expert_capacity_dim`, unless `tokens * capacity_factor / experts` is more; that is
  then rounded up to a multiple of 4.
  """
  if not capacity_factor and not expert_capacity_dim:
    raise AssertionError(
      'An expert needs room: set capacity_factor (unadjusted_expert_capacity_factor of '
      f'a layer) or expert_capacity_dim, found {capacity_factor} and '
      f'{expert_capacity_dim}.'
    )
  if capacity_factor:
    automatic = int(tokens * capacity_factor / experts)
    if expert_capacity_dim < automatic:
      return -(-automatic // 4) * 4
  return expert_capacity_dim


def _capped(logits: JTensor, cap: float) -> JTensor:
  logits = logits.astype(jnp.float32)
  return cap * jnp.tanh(logits / cap) if cap > 0.0 else logits


def _mask_dtype(mask_dtype, fprop_dtype):
  if mask_dtype is not None:
    return mask_dtype
  if fprop_dtype == jnp.bfloat16:
    raise AssertionError(
      'Masks of gating functions count tokens, which bfloat16 cannot: give an integer '
      'mask_dtype.'
    )
  return fprop_dtype


def _fraction_over(mask: JTensor, position: JTensor, capacity: int) -> JTensor:
  """Fraction of the assigned tokens that find no room."""
  over = jnp.sum((mask * position >= capacity).astype(jnp.float32))
  return over / jnp.maximum(1.0, jnp.sum(mask).astype(jnp.float32))


def _slots(gate: JTensor, mask: JTensor, position: JTensor, capacity: int) -> JTensor:
  """`[G, S, E, C]`: gate `[G, S]` at the expert of `mask` `[G, S, E]` and its slot."""
  taken = jnp.sum(mask, axis=-1)
  slot = jax.nn.one_hot(jnp.sum(mask * position, -1), capacity, dtype=jnp.float32)
  per_expert = (gate * taken)[..., jnp.newaxis] * mask.astype(jnp.float32)
  return per_expert[..., jnp.newaxis] * slot[..., jnp.newaxis, :]


def _cast(combine: JTensor, fprop_dtype) -> tuple[JTensor, JTensor]:
  return combine.astype(fprop_dtype), (combine != 0.0).astype(fprop_dtype)


def _load_balance(mask: JTensor, proxy: JTensor, scale: JTensor | float = 1.0):
  """`E sum_e` of (fraction of tokens at e) times (mean gate of e), mean over groups."""
  density = jnp.mean(mask.astype(jnp.float32), axis=-2) / scale
  density_proxy = jnp.mean(proxy, axis=-2) / scale
  return jnp.mean(density * density_proxy) * (mask.shape[-1] * mask.shape[-1])


def top2_gating_on_logits(
  paddings: JTensor | None,
  logits: JTensor,
  experts_dim: int,
  expert_capacity_dim: int,
  fprop_dtype,
  prng_key: JTensor | None = None,
  second_expert_policy: str = 'all',
  second_expert_threshold: float = 0.0,
  legacy_mtf_behavior: bool = True,
  capacity_factor: float | None = None,
  importance: JTensor | None = None,
  mask_dtype=jnp.int32,
  gating_logit_cap: float = 0.0,
):
  """Sends each token to its two best experts, as far as they have room.

  Args:
    paddings: `[G, S]`, 1 at tokens that are sent nowhere; or None.
    logits: `[G, S, E]`.
    experts_dim: E.
    expert_capacity_dim: C, see `expert_capacity`.
    fprop_dtype: dtype of the results.
    prng_key: for the policies that draw.
    second_expert_policy: `all`; `sampling` draws the second expert by its gate;
      `random` sends to the second expert with probability gate / threshold.
    second_expert_threshold: of `random`.
    legacy_mtf_behavior: let the two gates sum to 1 before tokens are left out for want
      of room, not after.
    capacity_factor: see `expert_capacity`.
    importance: `[G, S]`; only tokens of importance 1 have a first expert, those of
      importance > 0 a second.
    mask_dtype: dtype of the masks that are counted.
    gating_logit_cap: bounds the logits to `c tanh(logits / c)`; 0: unbounded.

  Returns:
    (load balancing loss, combine `[G, S, E, C]`, dispatch `[G, S, E, C]`,
    (fraction of the first, of the second choices without room, number of tokens sent
    to 0, 1, 2 experts)).
  """
  tokens = logits.shape[1]
  capacity = expert_capacity(tokens, experts_dim, expert_capacity_dim, capacity_factor)
  dtype = _mask_dtype(mask_dtype, fprop_dtype)
  logits = _capped(logits, gating_logit_cap)
  gates = jax.nn.softmax(logits)
  nonpadding = None if paddings is None else 1.0 - paddings.astype(jnp.float32)

  index_1 = jnp.argmax(gates, axis=-1)
  mask_1 = jax.nn.one_hot(index_1, experts_dim, dtype=dtype)
  proxy = gates
  counted = nonpadding
  if importance is not None:
    counted = (importance == 1.0).astype(jnp.float32)
  if counted is not None:
    mask_1 = mask_1 * counted[..., jnp.newaxis].astype(dtype)
    proxy = proxy * counted[..., jnp.newaxis]
  gate_1 = jnp.sum(gates * mask_1.astype(jnp.float32), axis=-1)

  rest = gates * (1.0 - mask_1.astype(jnp.float32))
  if second_expert_policy == 'sampling':
    _, key = jax.random.split(prng_key)
    noise = jax.random.uniform(key, logits.shape)
    gumbel = -jnp.log(-jnp.log(noise))
    lowest = py_utils.get_large_negative_number(jnp.float32)
    others = jnp.where(mask_1 > 0, lowest, logits)
    index_2 = jnp.argmax(others + gumbel, axis=-1)
  else:
    index_2 = jnp.argmax(rest, axis=-1)
  mask_2 = jax.nn.one_hot(index_2, experts_dim, dtype=dtype)
  if paddings is not None:
    weight = nonpadding if importance is None else importance
    mask_2 = mask_2 * (weight > 0.0)[..., jnp.newaxis].astype(dtype)
  gate_2 = jnp.sum(rest * mask_2.astype(jnp.float32), axis=-1)

  scale = 1.0
  if legacy_mtf_behavior:
    total = gate_1 + gate_2 + 1e-9
    gate_1, gate_2 = gate_1 / total, gate_2 / total
  else:
    weight = nonpadding if importance is None else importance
    if weight is not None:
      scale = jnp.mean(weight, axis=1)[..., jnp.newaxis] + 1e-6
    else:
      scale = 1.0 + 1e-6
  aux_loss = _load_balance(mask_1, proxy, scale)

  position_1 = cum_sum(mask_1, axis=-2, exclusive=True)
  over_1 = _fraction_over(mask_1, position_1, capacity)
  mask_1 = mask_1 * (position_1 < capacity).astype(dtype)
  count_1 = jnp.sum(mask_1, axis=-2, keepdims=True)

  if second_expert_policy == 'random':
    _, key = jax.random.split(prng_key)
    sampled = jax.random.uniform(key, gate_2.shape)
    kept = sampled < gate_2 / max(second_expert_threshold, 1e-9)
    gate_2 = gate_2 * kept.astype(gate_2.dtype)
    mask_2 = mask_2 * kept[..., jnp.newaxis].astype(dtype)
  position_2 = cum_sum(mask_2, axis=-2, exclusive=True) + count_1
  over_2 = _fraction_over(mask_2, position_2, capacity)
  mask_2 = mask_2 * (position_2 < capacity).astype(dtype)

  if not legacy_mtf_behavior:
    gate_1 = gate_1 * jnp.sum(mask_1, axis=-1)
    gate_2 = gate_2 * jnp.sum(mask_2, axis=-1)
    total = gate_1 + gate_2
    total = jnp.where(total > 0, total, 1.0)
    gate_1, gate_2 = gate_1 / total, gate_2 / total

  combine = _slots(gate_1, mask_1, position_1, capacity)
  combine = combine + _slots(gate_2, mask_2, position_2, capacity)
  sent = jnp.sum((combine != 0.0).astype(jnp.int32), axis=(-2, -1))
  numbers = [jnp.sum((sent == n).astype(jnp.int32)) for n in range(3)]
  if paddings is not None:
    numbers[0] = numbers[0] - jnp.sum(paddings)
  combine, dispatch = _cast(combine, fprop_dtype)
  return aux_loss, combine, dispatch, (over_1, over_2, *numbers)


def topk_gating_on_logits(
  paddings: JTensor | None,
  logits: JTensor,
  experts_dim: int,
  expert_capacity_dim: int,
  fprop_dtype,
  capacity_factor: float | None = None,
  mask_dtype=jnp.int32,
  k: int = 2,
  gating_logit_cap: float = 0.0,
):
  """Sends each token to its `k` best experts, as far as they have room.

  Gates of the chosen experts sum to 1 before tokens are left out, unless `k` is 1.
  Arguments are those of `top2_gating_on_logits`.

  Returns:
    (load balancing loss of the first choices, combine, dispatch, list of the fractions
    of each choice without room).
  """
  tokens = logits.shape[1]
  capacity = expert_capacity(tokens, experts_dim, expert_capacity_dim, capacity_factor)
  dtype = _mask_dtype(mask_dtype, fprop_dtype)
  gates = jax.nn.softmax(_capped(logits, gating_logit_cap))
  proxy = rest = gates
  masks, chosen = [], []
  for _ in range(k):
    mask = jax.nn.one_hot(jnp.argmax(rest, axis=-1), experts_dim, dtype=dtype)
    if paddings is not None:
      mask = mask * (1.0 - paddings)[..., jnp.newaxis].astype(dtype)
    masks.append(mask)
    chosen.append(jnp.sum(gates * mask.astype(jnp.float32), axis=-1))
    rest = rest * (1.0 - mask.astype(jnp.float32))
  if paddings is not None:
    proxy = proxy * (1.0 - paddings.astype(jnp.float32))[..., jnp.newaxis]
  aux_loss = _load_balance(masks[0], proxy)
  if k > 1:
    total = sum(chosen) + 1e-9
    chosen = [gate / total for gate in chosen]

  taken = jnp.zeros((logits.shape[0], 1, experts_dim), dtype)
  combine, over = 0.0, []
  for gate, mask in zip(chosen, masks, strict=True):
    position = cum_sum(mask, axis=-2, exclusive=True) + taken
    over.append(_fraction_over(mask, position, capacity))
    mask = mask * (position < capacity).astype(dtype)
    taken = taken + jnp.sum(mask, axis=-2, keepdims=True)
    combine = combine + _slots(gate, mask, position, capacity)
  return aux_loss, *_cast(combine, fprop_dtype), over


def expert_choice_gating_on_logits(
  logits: JTensor,
  experts_dim: int,
  expert_capacity_dim: int,
  fprop_dtype,
  capacity_factor: float | None = None,
  mask_dtype=jnp.int32,
):
  """Each expert takes the tokens that like it most, padded ones too.

  Args:
    logits: `[G, S, E]`.
    experts_dim: E.
    expert_capacity_dim: not used.
    fprop_dtype: dtype of the gates.
    capacity_factor: an expert takes `B = int(S // E * capacity_factor)` tokens.
    mask_dtype: dtype of the permutation.

  Returns:
    (0, gates `[G, E, B]`, permutation `[G, E, B, S]`: 1 at the token in each slot).
  """
  tokens = logits.shape[1]
  bucket = int(tokens // experts_dim * capacity_factor)
  gates = jnp.swapaxes(jax.nn.softmax(logits.astype(jnp.float32)), -1, -2)
  gate, index = top_k(gates, bucket)
  permutation = jax.nn.one_hot(index, tokens, dtype=mask_dtype)
  return jnp.zeros((), fprop_dtype), gate.astype(fprop_dtype), permutation


def expert_choice_gating_on_logits_v2(
  paddings: JTensor | None,
  logits: JTensor,
  experts_dim: int,
  expert_capacity_dim: int,
  fprop_dtype,
  capacity_factor: float | None = None,
  mask_dtype=jnp.int32,
  gating_logit_cap: float = 0.0,
):
  """Each expert takes the `C` tokens that like it most, in the order of the tokens.

  Padded tokens are chosen last, and then left out. Arguments are those of
  `top2_gating_on_logits`.

  Returns:
    (0, combine `[G, S, E, C]`, dispatch `[G, S, E, C]`).
  """
  tokens = logits.shape[1]
  capacity = expert_capacity(tokens, experts_dim, expert_capacity_dim, capacity_factor)
  dtype = _mask_dtype(mask_dtype, fprop_dtype)
  gates = jax.nn.softmax(_capped(logits, gating_logit_cap))
  if paddings is not None:
    gates = gates * (1.0 - paddings.astype(jnp.float32))[..., jnp.newaxis]
  _, index = top_k(jnp.swapaxes(gates, -1, -2), capacity)
  mask = jnp.sum(jax.nn.one_hot(index, tokens, dtype=dtype), axis=-2)
  mask = jnp.swapaxes(mask, -1, -2)  # [G, S, E]
  if paddings is not None:
    mask = mask * (1.0 - paddings)[..., jnp.newaxis].astype(dtype)
  position = cum_sum(mask, axis=-2, exclusive=True)
  slot = jax.nn.one_hot(position, capacity, dtype=jnp.float32)
  combine = (gates * mask.astype(jnp.float32))[..., jnp.newaxis] * slot
  return jnp.zeros((), fprop_dtype), *_cast(combine, fprop_dtype)


def compute_gating(
  paddings: JTensor | None,
  logits: JTensor,
  experts_dim: int,
  expert_capacity_dim: int,
  fprop_dtype,
  gating_func: str = 'top2',
  prng_key: JTensor | None = None,
  second_expert_policy: str = 'all',
  second_expert_threshold: float = 0.0,
  legacy_mtf_behavior: bool = True,
  capacity_factor: float | None = None,
  mask_dtype=jnp.int32,
  gating_logit_cap: float = 0.0,
):
  """Calls the gating function that `gating_func` names.

  Args:
    gating_func: `top2`, `expert_choice` or `expert_choice_v2`.
    others: see `top2_gating_on_logits`. `gating_logit_cap` is for `top2` only.

  Raises:
    ValueError: another name.
  """
  sizes = (experts_dim, expert_capacity_dim, fprop_dtype)
  options = {'capacity_factor': capacity_factor, 'mask_dtype': mask_dtype}
  if gating_func == 'top2':
    return top2_gating_on_logits(
      paddings,
      logits,
      *sizes,
      prng_key=prng_key,
      second_expert_policy=second_expert_policy,
      second_expert_threshold=second_expert_threshold,
      legacy_mtf_behavior=legacy_mtf_behavior,
      gating_logit_cap=gating_logit_cap,
      **options,
    )
  if gating_func == 'expert_choice':
    return expert_choice_gating_on_logits(logits, *sizes, **options)
  if gating_func == 'expert_choice_v2':
    return expert_choice_gating_on_logits_v2(paddings, logits, *sizes, **options)
  raise ValueError(
    f"Unknown gating_func {gating_func!r}, expected 'top2', 'expert_choice' or "
    "'expert_choice_v2'."
  )
