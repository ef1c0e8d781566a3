"""FullSoftmax: projection to logits, softmax and cross entropy."""

import haiku as hk
import jax
import jax.numpy as jnp

from pax_haiku import base_layer, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import chunk, cross_entropy, linears

JTensor = pytypes.JTensor
LayerTpl = pax_fiddle.Config[base_layer.BaseLayer]
NestedMap = py_utils.NestedMap


class FullSoftmax(base_layer.BaseLayer):
  """Logits `inputs W + b` of all classes, and their softmax cross entropy.

  Attributes:
    input_dims: size of the last axis of the inputs.
    num_classes: number of classes V.
    soft_cap_logits: bounds the logits to `c tanh(logits / c)`; 0 or None: unbounded.
    bi_tempered_loss_tpl: replaces the cross entropy, such as `BiTemperedLoss`.
    label_smoothing_prob: a target given as an id becomes `1 - p` for the id and
      `p / (V - 1)` for each other class.
    label_smoothing_apply_for_eval: smooth in eval too.
    z_loss_weight: weight of the mean of `(log sum exp logits)^2`, an auxiliary loss.
    bias_init: initial bias.
    feed_forward_tpl: projects to logits; None: the inputs are the logits.
    scale_before_logits: divide the inputs by `sqrt(input_dims)`.
    chunk_size: compute the loss in chunks of so many steps, to save memory; see
      `__call__`. The projection then runs in a scan, so that it can't write summaries
      or auxiliary losses.
  """

  input_dims: int = 0
  num_classes: int = 0
  soft_cap_logits: float | None = 0.0
  bi_tempered_loss_tpl: LayerTpl | None = pax_fiddle.template_field(None)
  label_smoothing_prob: float = 0.0
  label_smoothing_apply_for_eval: bool = True
  z_loss_weight: float = 0.0
  bias_init: float | None = 0.0
  feed_forward_tpl: LayerTpl = pax_fiddle.template_field(linears.FeedForward)
  scale_before_logits: bool = False
  chunk_size: int | None = None

  def setup(self) -> None:
    if self.feed_forward_tpl is not None:
      self.create_child('logits_ffn', cross_entropy.logits_ffn_config(self))
    if self.bi_tempered_loss_tpl is not None:
      self.create_child('bi_tempered_loss', self.bi_tempered_loss_tpl.clone())

  def get_logits(self, inputs: JTensor, input_ids: JTensor | None = None) -> JTensor:
    """Logits `[..., num_classes]` of `inputs [..., input_dims]`.

    `input_ids` is not used; subclasses may.
    """
    if self.scale_before_logits:
      inputs = inputs * self.input_dims**-0.5
    logits = inputs if self.feed_forward_tpl is None else self.logits_ffn(inputs)
    return cross_entropy.soft_cap(logits, self.soft_cap_logits)

  def logits_to_logp(self, logits: JTensor) -> JTensor:
    """Log probabilities of `logits [..., num_classes]`."""
    return jax.nn.log_softmax(logits)

  def _smoothed_targets(self, class_ids: JTensor | None) -> JTensor:
    targets = cross_entropy.one_hot_targets(self, class_ids, self.num_classes)
    on, off = self._target_values()
    if off:
      targets = on * targets + off * (1.0 - targets)
    return jax.lax.stop_gradient(targets)

  def _target_values(self) -> tuple[float, float]:
    """Targets of the class that an id names, and of each other class."""
    smoothing = self.label_smoothing_prob
    if smoothing > 0 and (self.label_smoothing_apply_for_eval or not self.do_eval):
      return 1.0 - smoothing, smoothing / (self.num_classes - 1)
    return 1.0, 0.0

  def _losses(
    self,
    inputs: JTensor,
    class_ids: JTensor | None,
    class_probabilities: JTensor | None = None,
  ) -> tuple[JTensor, JTensor, JTensor, JTensor]:
    """Float32 logits, log probabilities, and loss and argmax of each example."""
    logits = self.get_logits(inputs).astype(jnp.float32)
    log_probs = self.logits_to_logp(logits)
    if class_probabilities is None:
      targets = self._smoothed_targets(class_ids)
    else:
      targets = class_probabilities
    if self.bi_tempered_loss_tpl is None:
      xent = -jnp.sum(log_probs * targets, axis=-1, dtype=jnp.float32)
    else:
      xent = self.bi_tempered_loss(logits, targets)
    argmax = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1))
    return logits, log_probs, xent, argmax

  def _in_chunks(
    self,
    inputs: JTensor,
    class_ids: JTensor | None,
    class_probabilities: JTensor | None,
  ) -> bool:
    """Whether the loss is computed in chunks, see `__call__`."""
    counts_calls = self.bi_tempered_loss_tpl is not None and not self.do_eval
    return bool(
      self.chunk_size
      and not counts_calls
      and class_ids is not None
      and class_probabilities is None
      and inputs.ndim == 3
      and inputs.shape[1] >= self.chunk_size
      and not self.z_loss_weight
      # A scan can't create the variables of the projection.
      and not self.is_initializing()
    )

  def _losses_in_chunks(
    self, inputs: JTensor, class_ids: JTensor
  ) -> tuple[JTensor, JTensor, JTensor | None]:
    """Loss, argmax, and log partition (None: it is not needed) of each example.

    The logits of one chunk of time at a time are in memory.
    """

    def body(carry, inputs_and_ids):
      _, _, xent, argmax = self._losses(*inputs_and_ids)
      return carry, (xent, argmax)

    chunks = (
      chunk.chunk(inputs, chunk_size=self.chunk_size, axis=1),
      chunk.chunk(class_ids, chunk_size=self.chunk_size, axis=1),
    )
    # Inside a scan XLA has nothing to merge with the rematerialized part.
    body = hk.remat(body, prevent_cse=False)
    _, per_chunk = hk.scan(body, (), chunks)
    xent, argmax = (
      chunk.unchunk(x, axis=1, seqlen=inputs.shape[1]) for x in per_chunk
    )
    return xent, argmax, None

  def __call__(
    self,
    inputs: JTensor,
    class_weights: JTensor,
    class_ids: JTensor | None = None,
    class_probabilities: JTensor | None = None,
    input_ids: JTensor | None = None,
  ) -> NestedMap:
    """Cross entropy against ids or probabilities.

    Args:
      inputs: `[..., input_dims]`, rank 2 or more.
      class_weights: `[..., 1]`, weight of each example.
      class_ids: `[..., 1]`.
      class_probabilities: `[..., num_classes]`. Used as they are, and in place of
        `class_ids`, which then serve the accuracy only.
      input_ids: not used.

    Returns:
      A NestedMap with `logits` and `log_probs` `[..., num_classes]` in the inputs'
      dtype, `per_example_argmax [...]`, `per_example_xent [...]`, and the scalars
      `total_xent`, `total_weight`, `avg_xent` (`total_xent / (total_weight + 1e-6)`),
      `accuracy` (given `class_ids`) and `z_loss` (if it has a weight).

      `logits` and `log_probs` are None if the loss is computed in chunks. This is so if
      `chunk_size` is set, inputs are `[B, T, D]` with T of `chunk_size` or more, there
      are no `class_probabilities`, there is no z loss, and no bi-tempered loss in
      training, whose schedule counts calls.

    Raises:
      ValueError: no targets, or ids of the wrong shape.
    """
    in_chunks = self._in_chunks(inputs, class_ids, class_probabilities)
    if in_chunks:
      logits = log_probs = None
      xent, argmax, log_z = self._losses_in_chunks(inputs, class_ids)
    else:
      logits, log_probs, xent, argmax = self._losses(
        inputs, class_ids, class_probabilities
      )
    total_xent = cross_entropy.weighted_sum(xent, class_weights)
    total_weight = jnp.sum(class_weights, dtype=jnp.float32)
    outputs = NestedMap(
      logits=logits if in_chunks else logits.astype(inputs.dtype),
      log_probs=log_probs if in_chunks else log_probs.astype(inputs.dtype),
      per_example_argmax=argmax.astype(jnp.int32),
      per_example_xent=xent.astype(jnp.float32),
      total_xent=total_xent,
      total_weight=total_weight,
      avg_xent=(total_xent / (total_weight + 1e-6)).astype(jnp.float32),
    )
    if class_ids is not None:
      hits = (argmax == jnp.squeeze(class_ids, -1)).astype(jnp.float32)
      outputs.accuracy = cross_entropy.weighted_sum(hits, class_weights) / total_weight
    if self.z_loss_weight > 0.0:
      if in_chunks:
        squared = jnp.square(log_z)[..., jnp.newaxis]
      else:
        squared = cross_entropy.squared_log_partition(logits)
      z_term = squared * class_weights
      z_loss = self.z_loss_weight * (jnp.sum(z_term) / total_weight)
      self.add_summary('aux_z_loss', z_loss)
      self.add_aux_loss('aux_z_loss', z_loss)
      outputs.z_loss = z_loss
    return outputs
