"""examples/train_lm.py as a user runs it: results, files, resuming, samples, errors."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENV = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
SMALL = (
  '--num_layers=1', '--model_dims=16', '--num_heads=2', '--hidden_dims=32',
  '--length=16', '--batch_size=4', '--sample_tokens=8',
)  # fmt: skip
RUN = (
  *SMALL, '--steps=40', '--eval_interval=10', '--log_interval=5', '--eval_batches=2',
  '--accumulate=2', '--ema_decay=0.5', '--learning_rate=0.03', '--warm_up=5',
  '--top_k=999',  # more than there are tokens: all
)  # fmt: skip


def command(log_dir, *flags):
  program = ROOT / 'examples' / 'train_lm.py'
  return [sys.executable, str(program), f'--log_dir={log_dir}', *flags]


def run(log_dir, *flags):
  """Returns exit code, stdout and stderr."""
  done = subprocess.run(
    command(log_dir, *flags), env=ENV, capture_output=True, text=True, timeout=300
  )
  return done.returncode, done.stdout, done.stderr


def history(log_dir):
  lines = (log_dir / 'history.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def last_checkpoint(log_dir):
  import orbax.checkpoint as ocp

  step = max(int(path.name) for path in (log_dir / 'checkpoints').iterdir())
  with ocp.CheckpointManager(
    log_dir / 'checkpoints', item_handlers=ocp.StandardCheckpointHandler()
  ) as manager:
    return manager.restore(step)


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  """A flag that names three files of text."""
  directory = tmp_path_factory.mktemp('text')
  for name in 'abc':
    (directory / f'{name}.txt').write_text('the cat and the dog, ' * 40)
  return f'--data={directory}/*.txt'


@pytest.fixture(scope='module')
def whole(tmp_path_factory, text):
  """A run of 40 updates: its directory and output."""
  log_dir = tmp_path_factory.mktemp('whole') / 'run'
  code, out, err = run(log_dir, text, *RUN)
  assert (code, err) == (0, '')
  return log_dir, out


def test_learns_and_says_so(whole):
  log_dir, out = whole
  lines = out.splitlines()
  assert lines[0].startswith('text: 0.00 MB in 2 documents to train on, 0.00 MB in 1')
  for line, step in zip(lines[1:], (10, 20, 30, 40), strict=False):
    assert line.startswith(f'step    {step} | held out: accuracy ')
    assert line.endswith(' tokens/s')
  results = [r for r in history(log_dir) if r['set'] == 'held_out']
  # By chance it would be 8 bits; the held-out text is like that which was learnt.
  assert results[-1]['bits_per_byte'] < 1.5 < results[0]['bits_per_byte'] < 8
  assert f'bits_per_byte {results[-1]["bits_per_byte"]:.4f}' in lines[-4]
  assert (log_dir / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_tensorboard_has_numbers_layers_histograms_and_a_sample(whole):
  from tensorboardX.proto import event_pb2

  kinds, texts = {}, {}
  (path,) = (whole[0] / 'tensorboard' / 'batch').glob('events.*')
  raw = path.read_bytes()
  while raw:  # TFRecord: uint64 length, crc, data, crc
    size = int.from_bytes(raw[:8], 'little')
    for value in event_pb2.Event.FromString(raw[12 : 12 + size]).summary.value:
      kinds[value.tag] = value.WhichOneof('value')
      texts[value.tag] = value.tensor.string_val
    raw = raw[16 + size :]
  block = 'lm/lm/transformer/x_layers_0'
  expected = {
    'loss': 'simple_value',
    'accuracy': 'simple_value',
    'bits_per_byte': 'simple_value',
    'learning_rate': 'simple_value',
    'grad_norm': 'simple_value',
    'tokens_per_second': 'simple_value',
    f'{block}/xformer_input_std': 'simple_value',
    f'params/{block}/ff_layer/ffn_layer1/linear/w': 'histo',
    'sample/text_summary': 'tensor',
  }
  assert {tag: kinds.get(tag) for tag in expected} == expected
  assert 'mfu' not in kinds  # the peak of a CPU is not known
  assert texts['sample/text_summary'][0].startswith(b'    the cat and the dog')


def test_interrupted_and_resumed_run_equals_an_uninterrupted_one(
  whole, text, tmp_path
):
  import jax

  log_dir = tmp_path / 'run'
  with subprocess.Popen(
    command(log_dir, text, *RUN),
    env=ENV,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    process.stdout.readline()
    assert process.stdout.readline().startswith('step    10')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
  assert (process.returncode, err) == (130, '')
  assert out.splitlines()[-1].endswith(' and saved; --resume goes on from there')
  code, out, err = run(log_dir, text, '--resume', *RUN)
  assert (code, err) == (0, '')
  assert history(log_dir) == history(whole[0])
  jax.tree.map(
    np.testing.assert_array_equal, last_checkpoint(log_dir), last_checkpoint(whole[0])
  )


def test_sample_continues_a_text(whole):
  flags = (*SMALL, '--ema_decay=0.5', '--temperature=0', '--sample=the a and')
  code, out, err = run(whole[0], *flags)
  assert (code, err) == (0, '')
  assert out.startswith('the a and') and len(out) > len('the a and\n')


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--data=/dev/null/*.txt'], "--data '/dev/null/*.txt' matches no file"),
    (['--num_heads=3'], '3 heads do not divide 16 dims'),
    (['--sample=x', '--hidden_dims=8'], 'the checkpoint '),
  ],
)
def test_errors_are_one_line_and_exit_code_2(whole, flags, message):
  code, out, err = run(whole[0], *SMALL, *flags)
  assert (code, out) == (2, '')
  assert err.startswith('train_lm.py: ') and message in err
  assert err.count('\n') == 1
