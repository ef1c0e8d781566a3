"""Models that classify: ClassificationModel, and a small one of perceptrons."""

import jax.numpy as jnp

from pax_haiku import base_model, pax_fiddle, py_utils, pytypes
from pax_haiku.layers import embedding_softmax, linears, resnets

JTensor = pytypes.JTensor
NestedMap = py_utils.NestedMap
LayerTpl = pax_fiddle.Config[base_model.BaseModel]


def top_k_accuracy(
  k: int, logits: JTensor, label_probs: JTensor, weights: JTensor
) -> JTensor:
  """Weighted fraction of examples whose label is among the `k` largest logits.

  Args:
    k: at least 1.
    logits: `[B, V]`; a label's logit that equals the k-th largest counts.
    label_probs: `[B, V]`, the label is the most probable class.
    weights: `[B]`; their dtype is that of the result.
  """
  label = jnp.argmax(label_probs, axis=-1)
  own = jnp.take_along_axis(logits, label[:, jnp.newaxis], axis=-1)[:, 0]
  least = jnp.sort(logits, axis=-1)[:, -k]
  return jnp.sum((own >= least) * weights) / jnp.maximum(1.0, jnp.sum(weights))


class ClassificationModel(base_model.BaseModel):
  """Features by a network, classes by a softmax.

  A batch is a NestedMap of the inputs, probabilities of classes `[B, V]`, and maybe
  `weight [B]` of examples.

  Attributes:
    network_tpl: from inputs to features `[B, D]`.
    softmax_tpl: from features to classes.
    input_field: name of the inputs in the batch.
    label_field: name of the probabilities of classes.
  """

  network_tpl: LayerTpl = pax_fiddle.template_field(resnets.ResNet)
  softmax_tpl: LayerTpl = pax_fiddle.template_field(embedding_softmax.FullSoftmax)
  input_field: str = 'image'
  label_field: str = 'label_probs'

  def setup(self) -> None:
    self.create_child('network', self.network_tpl)
    self.create_child('softmax', self.softmax_tpl)

  def compute_predictions(self, input_batch: NestedMap) -> NestedMap:
    """`features`, `softmax_output` (see `FullSoftmax`) and `example_weights`.

    Raises:
      ValueError: `weight` has not the shape [batch].
    """
    inputs = input_batch.get(self.input_field)
    features = self.network(inputs)
    batch = inputs.shape[0]
    if 'weight' in input_batch:
      weights = input_batch.weight
      if weights.shape != (batch,):
        raise ValueError(
          f'{self._pax_describe()}: weight of a batch of {batch} examples must have '
          f'shape [{batch}], found {weights.shape}.'
        )
    else:
      weights = jnp.ones([batch])
    out = self.softmax(
      inputs=features,
      class_weights=weights[:, jnp.newaxis],
      class_probabilities=input_batch.get(self.label_field),
    )
    return NestedMap(features=features, softmax_output=out, example_weights=weights)

  def compute_loss(self, predictions: NestedMap, input_batch: NestedMap):
    """Metrics, and by example `labels` and `scores` (the logits).

    Metrics are `avg_xent`, `accuracy`, `error`, `num_predictions`, and with more than
    5 classes `acc5` and `error5`.
    """
    out, labels = predictions.softmax_output, input_batch.get(self.label_field)
    weight = out.total_weight

    def accuracy(k: int) -> JTensor:
      return top_k_accuracy(k, out.logits, labels, predictions.example_weights)

    first = accuracy(1)
    metrics = NestedMap(
      avg_xent=(out.avg_xent, weight),
      accuracy=(first, weight),
      error=(1.0 - first, weight),
      num_predictions=(weight, jnp.array(1.0, weight.dtype)),
    )
    self.add_summary('acc1', first)
    if labels.shape[-1] > 5:
      fifth = accuracy(5)
      metrics.acc5 = (fifth, weight)
      metrics.error5 = (1.0 - fifth, weight)
      self.add_summary('acc5', fifth)
    return metrics, NestedMap(labels=labels, scores=out.logits)

  def predict(self, input_batch: NestedMap) -> NestedMap:
    """`logits` and `logp` `[B, V]`."""
    features = self.network(input_batch.get(self.input_field))
    logits = self.softmax.get_logits(inputs=features)
    return NestedMap(logits=logits, logp=self.softmax.logits_to_logp(logits))

  def decode(self, input_batch: NestedMap):
    """Evaluates a batch: (metrics, {}, {}).

    Pax adds an accuracy object of the library clu in third place, which is not needed
    here: the metrics hold `accuracy` and its weight.
    """
    metrics, _ = self(input_batch)
    return metrics, NestedMap(), NestedMap()

  def process_decode_out(self, input_obj, decode_out: NestedMap):
    """There is nothing to process."""
    return NestedMap(), [], NestedMap()


class ClassificationMLPModel(base_model.BaseModel):
  """Embeds ids, maps them by perceptrons, and classifies; a test of small parts.

  A batch is a NestedMap of `[B, T]`: `ids`, `labels`, `weights`.

  Attributes:
    mlp_tpl: the perceptrons.
    softmax_tpl: embedding and softmax.
  """

  mlp_tpl: LayerTpl = pax_fiddle.template_field(linears.MLPBlock)
  softmax_tpl: LayerTpl = pax_fiddle.template_field(
    embedding_softmax.SharedEmbeddingSoftmax
  )

  def setup(self) -> None:
    self.create_children('mlp_layers', [self.mlp_tpl.clone()])
    self.create_child('softmax', self.softmax_tpl.clone())

  def compute_predictions(self, input_batch: NestedMap) -> NestedMap:
    """What the softmax returns for the ids as their own classes."""
    x = self.softmax.emb_lookup(input_batch.ids)
    for layer in self.mlp_layers:
      x = layer(x)
    return self.softmax(
      inputs=x,
      class_weights=input_batch.weights[..., jnp.newaxis],
      class_ids=input_batch.ids[..., jnp.newaxis],
    )

  def compute_loss(self, predictions: NestedMap, input_batch: NestedMap):
    """`total_loss`, which is the accuracy against `labels`, as in Pax."""
    hits = input_batch.labels == predictions.per_example_argmax
    number = jnp.maximum(jnp.sum(input_batch.weights), 1)
    accuracy = jnp.sum(hits * input_batch.weights) / number
    return NestedMap(total_loss=(accuracy, accuracy)), NestedMap()
