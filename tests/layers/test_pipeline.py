"""Pipelines against the stages one after the other; batches, errors."""

import jax
import numpy as np
import pytest

from pax_haiku import pax_fiddle
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


def test_broadcast_inputs_need_the_whole_batch():
  with pytest.raises(ValueError, match=r'whole batch of 4 .* found shape \(1, 3\)'):
    harness.init(build(), X, np.zeros([1, 3]))
