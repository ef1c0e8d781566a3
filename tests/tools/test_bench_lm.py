"""tools/bench_lm.py and bench_depth.py: what they measure, at the smallest size."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENV = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
SMALL = ('--num_layers=1', '--length=8', '--batch_size=2', '--steps=1', '--rounds=1')


def run(tool, *flags):
  """Returns the lines of JSON that a tool prints."""
  done = subprocess.run(
    [sys.executable, str(ROOT / 'tools' / tool), *flags],
    env=ENV, capture_output=True, text=True, timeout=300, check=True,
  )  # fmt: skip
  return [json.loads(line) for line in done.stdout.splitlines()]


def test_training_beside_plain_jax():
  (line,) = run('bench_lm.py', *SMALL, '--plain')
  assert (line['config'], line['mode'], line['batch_size']) == ('tiny', 'train', 2)
  for numbers in (line, line['plain']):
    for name in ('trace_s', 'lower_s', 'compile_s', 'step_ms', 'temp_bytes'):
      assert numbers[name] > 0
    speed = 2 * 8 / numbers['step_ms'] * 1e3
    assert numbers['tokens_per_s'] == pytest.approx(speed)
    assert numbers['mfu'] is None  # the peak of a CPU is not known
  assert line['speed_over_plain'] == pytest.approx(
    line['tokens_per_s'] / line['plain']['tokens_per_s']
  )


def test_decoding():
  flags = ('--mode=decode', '--tokens=4', '--prompt=3', '--cache_block=2', *SMALL)
  (line,) = run('bench_lm.py', *flags)
  assert (line['mode'], line['length']) == ('decode', 7)
  assert line['tokens_per_s'] == pytest.approx(2 / line['step_ms'] * 1e3)


def test_program_of_a_repeat_does_not_grow_with_depth():
  lines = run('bench_depth.py', '--depths=2,6', '--json', '--nocompile')
  repeated, unrolled = lines[:2], lines[2:]
  assert [line['layers'] for line in lines] == [2, 6, 2, 6]
  assert {line['kind'] for line in repeated} == {'repeated'}
  # What grows is the list of summaries, by layer.
  assert repeated[1]['equations'] < 1.1 * repeated[0]['equations']
  assert unrolled[1]['equations'] > 2 * unrolled[0]['equations']


@pytest.fixture(scope='module')
def plain_lm():
  sys.path.insert(0, str(ROOT / 'tools'))
  import plain_lm

  sys.path.remove(str(ROOT / 'tools'))
  return plain_lm


@pytest.mark.parametrize(
  'changes', [{'rotary': False}, {'rotary': True, 'loss_chunk': 12}]
)
def test_plain_model_is_the_pax_model(plain_lm, changes):
  """The same loss with the same weights: what is compared does the same work."""
  import haiku as hk

  from pax_haiku import py_utils
  from pax_haiku.training import learner, lm, lm_shapes

  shape = lm_shapes.shape(
    'tiny', num_layers=2, model_dims=16, num_heads=2, hidden_dims=32, vocab_size=11,
    length=8, **changes,
  )  # fmt: skip
  weights = plain_lm.init(shape, jax.random.PRNGKey(0))
  tokens = np.random.default_rng(0).integers(0, 11, (3, 9)).astype(np.int32)
  batch = {'ids': tokens[:, :-1], 'labels': tokens[:, 1:]}
  expected = jax.jit(functools.partial(plain_lm.loss, shape, False))(weights, batch)

  params = {
    'lm/lm/softmax/logits_ffn/linear': {'w': weights['embed'].T},
    'lm/lm/softmax/logits_ffn/bias': {'b': jnp.zeros([11])},
    'lm/lm/final_ln': weights['ln'],
  }
  for i in range(2):
    p = jax.tree.map(lambda w, i=i: w[i], weights['blocks'])
    at = f'lm/lm/transformer/x_layers_{i}'
    params |= {
      f'{at}/layer_norm': p['ln1'],
      f'{at}/self_attention/combined_qkv': {
        'w': p['qkv']['w'].reshape(16, 3, 2, 8).swapaxes(0, 1),
        'b': p['qkv']['b'].reshape(3, 2, 8),
      },
      f'{at}/self_attention/per_dim_scale': {'per_dim_scale': jnp.zeros([8])},
      f'{at}/self_attention/post': {
        'w': p['out']['w'].reshape(2, 8, 16).transpose(2, 0, 1), 'b': p['out']['b'],
      },
      f'{at}/ff_layer/layer_norm': p['ln2'],
      f'{at}/ff_layer/ffn_layer1/linear': {'w': p['up']['w']},
      f'{at}/ff_layer/ffn_layer1/bias': {'b': p['up']['b']},
      f'{at}/ff_layer/ffn_layer2/linear': {'w': p['down']['w']},
      f'{at}/ff_layer/ffn_layer2/bias': {'b': p['down']['b']},
    }  # fmt: skip
  model = lm.language_model(shape, packed=False)
  forward = hk.transform_with_state(lm.weighted_scalars(model))
  full = py_utils.NestedMap(**batch, weights=np.ones([3, 8], np.float32))
  with learner.pax_context(do_eval=True):
    metrics, _ = jax.jit(forward.apply)(params, {}, None, full)
  # float32, sums in another order
  np.testing.assert_allclose(metrics['loss'][0], expected, rtol=1e-5)
