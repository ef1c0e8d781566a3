"""Random changes of the inputs: masked tokens, shifted sequences."""

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

__all__ = ['MaskedLmDataAugmenter', 'TemporalShifting']

JTensor = pytypes.JTensor


class MaskedLmDataAugmenter(base_layer.BaseLayer):
  """Replaces tokens for masked language modelling, https://arxiv.org/abs/1810.04805.

  Of all unpadded tokens, a share of `mask_prob` becomes `mask_token_id`, `random_prob`
  becomes some token, and `same_prob` is chosen but keeps its token. Draws four keys
  from the stream `random`, in evaluation, too.

  Attributes:
    vocab_size: ids of random tokens are in `[0, vocab_size)`.
    mask_prob, random_prob, same_prob: shares of the tokens; their sum is in (0, 1).
    mask_token_id: what masked tokens become.
  """

  vocab_size: int = 0
  mask_prob: float = 0.12
  random_prob: float = 0.015
  same_prob: float = 0.015
  mask_token_id: int = -1

  def setup(self) -> None:
    if self.vocab_size <= 0 or self.mask_token_id < 0:
      raise AssertionError(
        f'{describe(self)}: expected vocab_size > 0 and mask_token_id >= 0, found '
        f'{self.vocab_size} and {self.mask_token_id}.'
      )
    kept_or_random = self.random_prob + self.same_prob
    if not (kept_or_random > 0 and 0 < self.mask_prob + kept_or_random < 1):
      raise AssertionError(
        f'{describe(self)}: expected random_prob + same_prob > 0 and mask_prob + '
        f'random_prob + same_prob between 0 and 1, found mask_prob={self.mask_prob}, '
        f'random_prob={self.random_prob}, same_prob={self.same_prob}.'
      )

  def __call__(self, inputs: JTensor, paddings: JTensor) -> tuple[JTensor, JTensor]:
    """Replaces tokens.

    Args:
      inputs: ids, integers `[B, T]`.
      paddings: `[B, T]`, 1 where there is no token.

    Returns:
      `(ids [B, T], mask [B, T])`. The mask, in `fprop_dtype`, is 1 for all tokens that
      were chosen, including those that kept their id.
    """

    inputs = jnp.asarray(inputs)

    def chance(probability):
      return jax.random.uniform(self.next_prng_key(), inputs.shape) < probability

    total = self.mask_prob + self.random_prob + self.same_prob
    tokens = 1 - jnp.asarray(paddings).astype(self.fprop_dtype)
    replace = tokens * chance(total).astype(self.fprop_dtype)
    chosen = replace > 0
    masked = chosen & chance(self.mask_prob / total)
    others = chosen & ~masked
    randomized = others & chance(self.random_prob / (total - self.mask_prob))
    random_ids = jax.random.randint(
      self.next_prng_key(), inputs.shape, 0, self.vocab_size, inputs.dtype
    )
    outputs = jnp.where(randomized, random_ids, inputs)
    outputs = jnp.where(masked, jnp.asarray(self.mask_token_id, inputs.dtype), outputs)
    return outputs, replace


class TemporalShifting(base_layer.BaseLayer):
  """Shifts each example in time by a random number of steps, in training.

  `outputs[t] = inputs[t + shift]`, with the shift uniform on the integers `[-r, r]`,
  `r = round(sample_rate shift_range_ms / 1000)`. Steps from outside are 0 and padding.

  Attributes:
    shift_range_ms: largest shift in milliseconds.
    sample_rate: steps per second.
    axis: the axis of time, at least 1.
  """

  shift_range_ms: float = 0.0
  sample_rate: float = 16000.0
  axis: int = 1

  def setup(self) -> None:
    if self.shift_range_ms < 0:
      raise AssertionError(
        f'{describe(self)}: shift_range_ms must not be negative, found '
        f'{self.shift_range_ms}.'
      )
    if self.axis < 1:
      raise AssertionError(
        f'{describe(self)}: axis must be at least 1 (0 is the batch), found '
        f'{self.axis}.'
      )

  def _shift(self, x: JTensor, shifts: JTensor, reach: int, fill: float) -> JTensor:
    """Shifts example `b` of `x` by `shifts[b]`, which is in `[-reach, reach]`."""
    length = x.shape[self.axis]
    pad = [(0, 0)] * x.ndim
    pad[self.axis] = (reach, reach)
    padded = jnp.pad(x, pad, constant_values=fill)

    def window(example, shift):
      start = shift + reach
      return jax.lax.dynamic_slice_in_dim(example, start, length, self.axis - 1)

    return jax.vmap(window)(padded, shifts)

  def __call__(
    self, features: JTensor, paddings: JTensor | None = None
  ) -> tuple[JTensor, JTensor | None]:
    """Shifts features and paddings.

    Args:
      features: `[B, ...]`, with time at `axis`.
      paddings: `[B, ...]`, with time at `axis`; 1 marks padded steps.

    Returns:
      Both, shifted by the same numbers of steps; unchanged in evaluation.

    Raises:
      ValueError: the shifts may be as long as the features, or an argument has no such
        axis.
    """
    if self.do_eval or self.shift_range_ms == 0:
      return features, paddings
    for name, x in ('features', features), ('paddings', paddings):
      if x is not None and x.ndim <= self.axis:
        raise ValueError(
          f'{describe(self)}: {name} of shape {x.shape} have no axis {self.axis}.'
        )
    reach = round(self.sample_rate * self.shift_range_ms / 1000)
    if reach >= features.shape[self.axis]:
      raise ValueError(
        f'{describe(self)}: shift_range_ms={self.shift_range_ms} is {reach} steps, '
        f'which can blank out all of the {features.shape[self.axis]} steps of the '
        'features. Reduce it, or check sample_rate and axis.'
      )
    shifts = jax.random.randint(
      self.next_prng_key(), features.shape[:1], -reach, reach + 1
    )
    features = self._shift(features, shifts, reach, 0)
    if paddings is not None:
      paddings = self._shift(paddings, shifts, reach, 1)
    return features, paddings
