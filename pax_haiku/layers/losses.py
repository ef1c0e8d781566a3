"""The bi-tempered logistic loss: cross entropy that bears outliers and wrong labels.

Amid, Warmuth, Anil, Koren: Robust Bi-Tempered Logistic Loss Based on Bregman
Divergences, https://arxiv.org/abs/1906.03361.
"""

import functools

import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pytypes
from pax_haiku.layers.describe import describe

__all__ = ['BiTemperedLoss']

JTensor = pytypes.JTensor

_NUM_ITERATIONS = 5


def _log_t(u: JTensor, t: JTensor) -> JTensor:
  """`(u^(1-t) - 1) / (1 - t)`, and `log(u)` for `t = 1`."""
  power = jnp.where(t == 1, 1, 1 - t)
  return jnp.where(t == 1, jnp.log(u), (u**power - 1) / power)


def _exp_t(u: JTensor, t: JTensor) -> JTensor:
  """The inverse: `max(1 + (1-t) u, 0)^(1/(1-t))`, and `exp(u)` for `t = 1`."""
  power = jnp.where(t == 1, 1, 1 - t)
  return jnp.where(t == 1, jnp.exp(u), jnp.maximum(1 + power * u, 0) ** (1 / power))


def _sum(x: JTensor) -> JTensor:
  return jnp.sum(x, axis=-1, keepdims=True)


def _normalize_by_fixed_point(a: JTensor, t: JTensor) -> JTensor:
  """The normalizer for `t > 1`; `a` is at most 0."""
  b = a
  for _ in range(_NUM_ITERATIONS):
    b = a * _sum(_exp_t(b, t)) ** (1 - t)
  return -_log_t(1 / _sum(_exp_t(b, t)), t)


def _normalize_by_bisection(a: JTensor, t: JTensor) -> JTensor:
  """The normalizer for `t < 1`; `a` is at most 0."""
  support = _sum((a > -1 / (1 - t)).astype(a.dtype))
  low, high = jnp.zeros_like(support), -_log_t(1 / support, t)
  for _ in range(_NUM_ITERATIONS):
    middle = (low + high) / 2
    too_small = _sum(_exp_t(a - middle, t)) < 1
    low, high = jnp.where(too_small, low, middle), jnp.where(too_small, middle, high)
  return (low + high) / 2


def _tempered_softmax(logits: JTensor, t: JTensor) -> JTensor:
  """`exp_t(logits - lambda)`, with lambda such that the sum is (close to) 1."""
  largest = jnp.max(logits, axis=-1, keepdims=True)
  a = logits - largest
  branches = (
    _normalize_by_bisection,
    lambda a, t: jnp.log(_sum(jnp.exp(a))),
    _normalize_by_fixed_point,
  )
  which = 1 + jnp.sign(t - 1).astype(jnp.int32)
  return _exp_t(a - jax.lax.switch(which, branches, a, t), t)


@jax.custom_vjp
def _bi_tempered(logits: JTensor, labels: JTensor, t1: JTensor, t2: JTensor) -> JTensor:
  """The loss `[...]` of `logits [..., V]` and `labels [..., V]`; see _forward."""
  return _forward(logits, labels, t1, t2)[0]


def _forward(logits, labels, t1, t2):
  """With `p` the tempered softmax of temperature `t2`, the sum over classes of

      labels (log_t1(labels) - log_t1(p)) - (labels^(2-t1) - p^(2-t1)) / (2 - t1).

  That is cross entropy less the labels' entropy where both temperatures are 1.
  """

  def cross_entropy():
    log_p = jax.nn.log_softmax(logits)
    return labels * (jnp.log(labels + 1e-15) - log_p), jnp.exp(log_p)

  def divergence():
    p = _tempered_softmax(logits, t2)
    terms = labels * (_log_t(labels + 1e-10, t1) - _log_t(p, t1))
    return terms - (labels ** (2 - t1) - p ** (2 - t1)) / (2 - t1), p

  plain = jnp.logical_and(t1 == 1, t2 == 1)
  terms, p = jax.lax.cond(plain, cross_entropy, divergence)
  return jnp.sum(terms, axis=-1), (p, labels, t1, t2)


def _backward(residuals, cotangent):
  """`d f - e sum(d f)`, `d = p - labels`, `f = p^(t2-t1)`, `e = p^t2 / sum(p^t2)`.

  Neither the labels nor the temperatures have a gradient.
  """
  p, labels, t1, t2 = residuals
  df = (p - labels) * p ** (t2 - t1)
  escort = p**t2
  escort /= _sum(escort)
  return cotangent[..., jnp.newaxis] * (df - escort * _sum(df)), None, None, None


_bi_tempered.defvjp(_forward, _backward)


class BiTemperedLoss(base_layer.BaseLayer):
  """Bi-tempered logistic loss; in training its temperatures move from 1 to their goal.

  The non-trainable scalar `count` is the number of calls in training.

  Attributes:
    t1: temperature of the logarithm; below 1 the loss is bounded.
    t2: temperature of the exponential; above 1 the softmax has heavy tails.
    label_smoothing: share of the label's weight that the other classes get.
    start_step: the `count` at which the temperatures start to move.
    end_step: the `count` at which they arrive.
  """

  t1: float = 1.0
  t2: float = 1.0
  label_smoothing: float = 0.0
  start_step: int = 0
  end_step: int = 0

  def setup(self) -> None:
    if self.end_step < self.start_step:
      raise AssertionError(
        f'{describe(self)}: end_step must not be less than start_step, found '
        f'{self.end_step} < {self.start_step}.'
      )
    self.create_variable(
      'count',
      base_layer.WeightHParams(
        shape=[],
        init=base_layer.WeightInit.Constant(0.0),
        dtype=jnp.float32,
        collections=[base_layer.WeightHParamsCollection.REQUIRES_MEAN_SYNC],
      ),
      trainable=False,
    )

  def temperature_schedule(self, count: JTensor) -> JTensor:
    """How much of temperature 1 is left at step `count`, from 1 down to 0.

    Before `start_step` it is 1. At `start_step` it is 1, too, even if `end_step` is the
    same: with both at 0, the first step of training is plain cross entropy.
    """
    span = max(self.end_step - self.start_step, 1)
    return jnp.clip(1.0 - (count - self.start_step) / span, 0.0, 1.0)

  def __call__(self, logits: JTensor, labels: JTensor) -> JTensor:
    """The loss of each example.

    Args:
      logits: `[..., V]`.
      labels: `[..., V]`, probabilities. They get no gradient.

    Returns:
      `[...]`, in float32 at least.

    Raises:
      ValueError: the shapes differ.
    """
    if logits.shape != labels.shape:
      raise ValueError(
        f'{describe(self)}: logits and labels must have the same shape, got '
        f'{logits.shape} and {labels.shape}.'
      )
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if self.do_eval:
      left = jnp.zeros((), jnp.float32)
    else:
      count = self.get_var('count')
      self.update_var('count', count + 1.0)
      left = self.temperature_schedule(count)
    dtype = functools.reduce(
      jnp.promote_types, (logits.dtype, labels.dtype), jnp.float32
    )
    # _backward gives labels no gradient; a derivative of a derivative asks _forward.
    logits, labels = logits.astype(dtype), jax.lax.stop_gradient(labels.astype(dtype))
    if self.label_smoothing > 0:
      others = self.label_smoothing / (logits.shape[-1] - 1)
      labels = (1 - others * logits.shape[-1]) * labels + others
    t1, t2 = (left + t * (1.0 - left) for t in (self.t1, self.t2))
    return _bi_tempered(logits, labels, t1, t2)
