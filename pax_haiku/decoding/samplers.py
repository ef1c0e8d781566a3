"""What chooses the next token from logits."""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pax_haiku import base_hyperparams, base_layer, pax_fiddle
from pax_haiku.decoding import checks, top_k_top_p
from pax_haiku.decoding.top_k_top_p import is_array
from pax_haiku.decoding.types import DUMMY_PRNG_KEY, JTensor, NestedMap


def take_chosen(chosen: JTensor, items: JTensor) -> JTensor:
  """`items [B, K]` at `chosen [B]`."""
  return jnp.take_along_axis(items, chosen[..., None], axis=-1)[..., 0]


def batch_gumbel(keys: JTensor, shape: Sequence[int]) -> JTensor:
  """Gumbel noise, from one key or from one key for each row."""
  is_typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  rank = keys.ndim + 1 if is_typed else keys.ndim
  if rank == 1:
    return jax.random.gumbel(keys, shape)
  if rank != 2 or keys.shape[0] != shape[0]:
    raise ValueError(
      'Sampling takes one random key, or one for each row, [batch, key size]; found '
      f'keys of shape {keys.shape} for logits of shape {tuple(shape)}.'
    )
  return jax.vmap(lambda key: jax.random.gumbel(key, shape[1:]))(keys)


class BaseLogitsSampler(
  base_hyperparams.FiddleBaseParameterizable, metaclass=abc.ABCMeta
):
  """Chooses an entry of each row of logits."""

  @abc.abstractmethod
  def __call__(
    self,
    prng_key: JTensor,
    logits: JTensor,
    ids: JTensor | None,
    temperature: float | JTensor,
    decode_loop_state: NestedMap,
  ) -> tuple[JTensor, NestedMap]:
    """Chooses.

    Args:
      prng_key: one key, or one for each row.
      logits: `[Bn, K]`.
      ids: `[Bn, K]`, the tokens that the logits are of; None if all, in order.
      temperature: a number, or `[Bn, 1]`.
      decode_loop_state: state of the loop.

    Returns:
      indices `[Bn]` into K, and entries of the loop's state to update.
    """


class DefaultCategoricalLogitsSampler(BaseLogitsSampler):
  """argmax(logits + temperature * gumbel): a draw from softmax(logits / temperature).

  Temperature 0 (or None) is greedy.
  """

  def __call__(
    self,
    prng_key: JTensor,
    logits: JTensor,
    ids: JTensor | None,
    temperature: float | JTensor,
    decode_loop_state: NestedMap,
  ) -> tuple[JTensor, NestedMap]:
    """See the base class."""
    del ids, decode_loop_state
    temperature = 0.0 if temperature is None else temperature
    noise = batch_gumbel(prng_key, logits.shape).astype(logits.dtype)
    return jnp.argmax(logits + noise * temperature, axis=-1), NestedMap()


def sample_from_top_p_given_top_k(
  top_k_logits: JTensor,
  top_k_indices: JTensor,
  prng_key: JTensor,
  temperature: JTensor | float,
  top_p: float | JTensor | None = None,
  topk_is_sorted: bool = True,
  logits_sum: JTensor | None = None,
  logits_sampler: BaseLogitsSampler | None = None,
  decode_loop_state: NestedMap | None = None,
) -> tuple[JTensor, JTensor]:
  """Samples from the top k, of which those outside `top_p` are excluded.

  Args:
    top_k_logits, top_k_indices: `[Bn, K]`.
    prng_key: one key, or one for each row.
    temperature: a number, or `[Bn, 1]`.
    top_p: a number, or `[Bn, 1]`.
    topk_is_sorted: the logits descend.
    logits_sum: as in `top_p_mask_logits`.
    logits_sampler: what chooses.
    decode_loop_state: given to it.

  Returns:
    ids `[Bn]` and their log-probabilities within the top k `[Bn]`.
  """
  masked = top_k_top_p.mask_top_p(top_k_logits, top_p, topk_is_sorted, logits_sum)
  sampler = logits_sampler or DefaultCategoricalLogitsSampler()
  chosen, _ = sampler(prng_key, masked, top_k_indices, temperature, decode_loop_state)
  logprobs = jax.nn.log_softmax(top_k_logits.astype(jnp.float32))
  return take_chosen(chosen, top_k_indices), take_chosen(chosen, logprobs)


def sample_from_top_k_and_top_p(
  logits: JTensor,
  prng_key: JTensor,
  temperature: JTensor | float,
  top_k: int,
  top_p: float | JTensor | None = None,
  per_example_top_k: JTensor | None = None,
  global_normalize: bool = False,
  top_k_recall_target: float = 1.0,
  logits_sampler: BaseLogitsSampler | None = None,
  decode_loop_state: NestedMap | None = None,
) -> tuple[JTensor, JTensor]:
  """Samples from logits `[Bn, V]`: top k first, then top p.

  Args:
    logits: `[Bn, V]`.
    prng_key: one key, or one for each row.
    temperature: a number, or `[Bn, 1]`.
    top_k, top_p, per_example_top_k, global_normalize, top_k_recall_target: as in
      `top_k_top_p.top_k_and_top_p`.
    logits_sampler: what chooses.
    decode_loop_state: given to it.

  Returns:
    ids `[Bn]` and their log-probabilities within the top k `[Bn]`.
  """
  masked, logprobs, indices = top_k_top_p.top_k_and_top_p(
    logits, top_k, top_p, per_example_top_k, global_normalize, top_k_recall_target
  )
  sampler = logits_sampler or DefaultCategoricalLogitsSampler()
  chosen, _ = sampler(prng_key, masked, indices, temperature, decode_loop_state)
  return take_chosen(chosen, indices), take_chosen(chosen, logprobs)


class BaseNextTokenSampler(
  base_hyperparams.FiddleBaseParameterizable, metaclass=abc.ABCMeta
):
  """Chooses the next token of each row, with a state of its own if it wants one."""

  @abc.abstractmethod
  def __call__(
    self,
    model: base_layer.BaseLayerApi,
    logits: JTensor,
    temperature: float | JTensor,
    decode_loop_state: NestedMap,
  ) -> NestedMap:
    """Chooses.

    Args:
      model: the layer that the loop runs; random keys are its own.
      logits: `[Bn, V]`.
      temperature: a number, or `[Bn, 1]`.
      decode_loop_state: state of the loop.

    Returns:
      NestedMap with `new_ids [Bn]` int32, `logits [Bn, V]` and, optionally,
      `logprobs_at_new_ids [Bn]`. Other entries that the loop's state has update it.
    """

  def init_decode_loop_state(
    self,
    decode_loop_state: NestedMap,
    model: base_layer.BaseLayerApi | None = None,
    batch_size: int | None = None,
    eos_id: int | Sequence[int] | JTensor | None = None,
  ) -> NestedMap:
    """Adds what the sampler keeps in the loop's state; returns the state."""
    del model, batch_size, eos_id
    return decode_loop_state

  def post_process_decode_loop_state(self, decode_loop_state: NestedMap) -> NestedMap:
    """Removes what the sampler kept; returns the state."""
    return decode_loop_state

  @classmethod
  def get_extra_kwargs(cls, inputs: NestedMap, num_samples: int) -> dict[str, Any]:
    """Further arguments of the sampler that it finds in a batch."""
    del inputs, num_samples
    return {}

  def _get_prng_key(
    self, model: base_layer.BaseLayerApi, prng_key: JTensor | None = None
  ) -> JTensor:
    """The model's next key, or the keys given for the rows unless these are dummies."""
    own = model.next_prng_key()
    if prng_key is None:
      return own
    split = jax.random.split(own, prng_key.shape[0])
    if jnp.issubdtype(split.dtype, jax.dtypes.prng_key):
      split = jax.random.key_data(split)
    return jnp.where(jnp.all(prng_key == DUMMY_PRNG_KEY), split, prng_key)


class DefaultNextTokenSampler(BaseNextTokenSampler):
  """Greedy, or sampling from the top k, top p, or all tokens.

  Attributes:
    top_k: 0: sample from all; 1: greedy; else sample from the k likeliest.
    top_p: in [0, 1]: sample from the likeliest tokens that have this probability.
    epsilon_p: > 0: exclude tokens of a smaller probability.
    global_normalize: with top_k and top_p: relate logits to the sum of all.
    top_k_recall_target: < 1.0: approximate top k.
    use_top_k_for_logprobs: return log-probabilities within the top k.
    logits_sampler: what chooses among the logits left.
  """

  top_k: int = 40
  top_p: float | Any | None = None
  epsilon_p: float = 0.0
  global_normalize: bool = False
  top_k_recall_target: float = 1.0
  use_top_k_for_logprobs: bool = False
  logits_sampler: BaseLogitsSampler = pax_fiddle.instance_field(
    DefaultCategoricalLogitsSampler
  )

  def __call__(
    self,
    model: base_layer.BaseLayerApi,
    logits: JTensor,
    temperature: float | JTensor,
    decode_loop_state: NestedMap,
    per_example_top_p: JTensor | None = None,
    per_example_top_k: JTensor | None = None,
    gumbel_prng_key: JTensor | None = None,
  ) -> NestedMap:
    """Chooses the next tokens.

    Args:
      model: whose random keys are used.
      logits: `[Bn, V]`.
      temperature: a number >= 0, or `[Bn, 1]`.
      decode_loop_state: state of the loop.
      per_example_top_p: `[Bn, 1]`, in place of `top_p`.
      per_example_top_k: `[Bn]`, at most `top_k`.
      gumbel_prng_key: `[Bn, key size]`, in place of the model's keys.

    Returns:
      NestedMap with `new_ids [Bn]`, `logits` as given, and `logprobs_at_new_ids [Bn]`
      with `use_top_k_for_logprobs` and top_k > 1.

    Raises:
      ValueError: top_k < 0 or beyond the vocabulary, top_p outside [0, 1], a negative
        temperature.
    """
    top_p = self.top_p if per_example_top_p is None else per_example_top_p
    checks.check_top_k(self.top_k, logits.shape[-1])
    checks.check_top_p(top_p)
    checks.check_temperature(temperature)
    out = NestedMap(logits=logits)
    logits = top_k_top_p.epsilon_mask_logits(logits, self.epsilon_p)

    def choose(logits, ids):
      key = self._get_prng_key(model, gumbel_prng_key)
      return self.logits_sampler(key, logits, ids, temperature, decode_loop_state)

    if self.top_k > 1:
      masked, logprobs, indices = top_k_top_p.top_k_and_top_p(
        logits,
        self.top_k,
        top_p,
        per_example_top_k,
        self.global_normalize,
        self.top_k_recall_target,
      )
      chosen, updates = choose(masked, indices)
      new_ids = take_chosen(chosen, indices)
      if self.use_top_k_for_logprobs:
        out.logprobs_at_new_ids = take_chosen(chosen, logprobs)
    elif self.top_k == 0 and (is_array(temperature) or temperature > 0.0):
      if top_p is not None:
        logits = top_k_top_p.top_p_mask_logits(logits, top_p)
      new_ids, updates = choose(logits, None)
    else:
      new_ids, updates = jnp.argmax(logits, axis=1), {}
    out.update(updates, new_ids=new_ids.astype(jnp.int32))
    return out
