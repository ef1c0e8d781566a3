"""Pipelines against the stages one after the other; batches, errors."""

import jax
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.layers import activations, linears, pipeline, pipeline_schedule
from tests.layers import harness

X = harness.noise(4, 3, 4)
BODY = pax_fiddle.Config(
  linears.FeedForward,
  input_dims=4,
  output_dims=4,
  activation_tpl=pax_fiddle.Config(activations.Tanh),
)
Pipelined = pipeline.LayerwiseShardablePipelined
Circular = pipeline.CircularLayerwiseShardablePipelined


def build(cls=Pipelined, **fields):
  fields = {
    'single_stage_body': BODY, 'num_stages': 2, 'num_microbatches': 4, **fields
  }
  return harness.build(cls, **fields)


@pytest.mark.parametrize(
  'cls, fields, order',
  [
    (Pipelined, {}, [0, 1]),
    (Pipelined, {'stream_io': True, 'bf16_accum_in_fp32': True}, [0, 1]),
    (Pipelined, {'polluting_bubbles_with_nan': True}, [0, 1]),
    (Circular, {'circular_repeat': 2}, [(0, 0), (0, 1), (1, 0), (1, 1)]),
    (Circular, {'circular_repeat': 2, 'share_weights': True}, [0, 1, 0, 1]),
  ],
)
def test_equals_the_stages_in_order(cls, fields, order):
  layer = build(cls, **fields)
  variables = harness.randomize(harness.init(layer, X))

  def stages(params, x):
    body = params['body']
    for index in order:
      x = jax.numpy.tanh(
        x @ body['linear']['w'][index] + body['bias']['b'][index]
      )
    return x

  params = variables['params']
  out = layer.apply(variables, X)
  # The same products, in another order of batches.
  np.testing.assert_allclose(out, stages(params, X), atol=2e-6)

  def loss(run):
    return jax.grad(lambda p: (run(p) * X).sum())(params)

  expected = loss(lambda p: stages(p, X))
  for got, want in zip(
    jax.tree.leaves(loss(lambda p: layer.apply({'params': p}, X))),
    jax.tree.leaves(expected),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, atol=5e-6)


def test_batches_are_dealt_out_and_joined_again():
  plan = pipeline_schedule.Schedule(2, 4, 1, 8, 1, True)
  x = np.arange(8)
  assert plan.split(x).tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
  streams = pipeline_schedule.Schedule(2, 4, 1, 8, 2, True)
  assert streams.split(x).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
  for p in (plan, streams):
    np.testing.assert_array_equal(p.join(p.split(x)), x)


@pytest.mark.parametrize(
  'fields, error, message',
  [
    ({'num_microbatches': 3}, AssertionError, '3 microbatches do not divide'),
    ({'microbatch_size': 2}, AssertionError, 'not both'),
    ({'single_stage_body': None}, AssertionError, 'single_stage_body is required'),
    ({'num_stages': 3, 'stream_io': True}, AssertionError, '3 stages divide, found 4'),
    (
      {'single_stage_body': pax_fiddle.Config(
        linears.Linear, input_dims=4, output_dims=3)},
      TypeError,
      'must return arrays like its input',
    ),
  ],
)
def test_errors(fields, error, message):
  with pytest.raises(error, match=message):
    harness.init(build(**fields), X)


def test_a_circular_pipeline_cannot_collect_intermediate_outputs():
  with pytest.raises(AssertionError, match='cannot collect intermediate outputs'):
    harness.init(build(Circular, collect_intermediate_outputs=True), X)


def test_summaries_of_shared_rounds_are_averaged_by_stage_and_added_up_if_packed():
  class Summing(base_layer.BaseLayer):
    def __call__(self, x):
      self.add_summary('mean', jax.numpy.mean(x))
      return x + 1

  def mean(**fields):
    layer = build(
      Circular, single_stage_body=pax_fiddle.Config(Summing), share_weights=True,
      circular_repeat=2, **fields)
    _, updated = layer.apply({}, np.zeros([4, 3]), mutable=['summaries'])
    return updated['summaries']['body']

  # Zeros pass stage 0 as 0 and 2, stage 1 as 1 and 3.
  assert mean()['mean.stage0_scalar'] == 1 and mean()['mean.stage1_scalar'] == 2
  assert mean(unpack_summaries=False)['mean_scalar'].tolist() == [2, 4]


def test_bubbles_of_integers_are_not_polluted():
  class Doubling(base_layer.BaseLayer):
    def __call__(self, x):
      return 2 * x

  layer = build(single_stage_body=pax_fiddle.Config(Doubling),
                polluting_bubbles_with_nan=True)
  assert layer.apply({}, np.arange(4, dtype=np.int32)).tolist() == [0, 4, 8, 12]


def test_intermediate_outputs_of_any_rank_are_collected_by_stage():
  class Sowing(base_layer.BaseLayer):
    def __call__(self, x):
      self.sow('intermediates', 'seen', x[np.newaxis])
      return x + 1

  layer = build(single_stage_body=pax_fiddle.Config(Sowing), num_microbatches=2,
                collect_intermediate_outputs=True)
  x = np.arange(8.0).reshape(4, 2)
  _, updated = layer.apply({}, x, mutable=['intermediates'])
  seen, = updated['intermediates']['body']['seen']
  # By stage and microbatch: what each of them read, which are examples 0, 2 and 1, 3.
  np.testing.assert_array_equal(seen, [[x[::2], x[1::2]], [x[::2] + 1, x[1::2] + 1]])


def test_broadcast_inputs_need_the_whole_batch():
  with pytest.raises(ValueError, match=r'whole batch of 4 .* found shape \(1, 3\)'):
    harness.init(build(), X, np.zeros([1, 3]))
