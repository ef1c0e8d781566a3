"""examples/train_digits.py as a user runs it: results, files, resuming, errors."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENV = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
SMALL = ('--hidden_dims=16', '--eval_interval=10', '--log_interval=5')


def command(log_dir, *flags):
  program = ROOT / 'examples' / 'train_digits.py'
  return [sys.executable, str(program), f'--log_dir={log_dir}', *flags]


def train(log_dir, *flags):
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
def whole(tmp_path_factory):
  """A run of 300 steps with all defaults: its directory and output."""
  log_dir = tmp_path_factory.mktemp('whole') / 'run'
  code, out, err = train(log_dir, '--steps=300')
  assert (code, err) == (0, '')
  return log_dir, out


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """A run of 20 steps of a small model."""
  log_dir = tmp_path_factory.mktemp('small') / 'run'
  assert train(log_dir, '--steps=20', *SMALL)[0] == 0
  return log_dir


def test_reads_97_percent_of_the_held_out_digits(whole):
  log_dir, out = whole
  results = [r for r in history(log_dir) if r['set'] == 'held_out']
  assert [r['step'] for r in results] == [100, 200, 300]
  assert results[-1]['accuracy'] >= 0.97
  assert f'accuracy {100 * results[-1]["accuracy"]:.1f} %' in out


def test_says_what_it_did_and_where_to_look(whole):
  log_dir, out = whole
  lines = out.splitlines()
  for line, step in zip(lines, (100, 200, 300), strict=False):
    assert line.startswith(f'step   {step} | train: accuracy ')
    assert ' | held out: accuracy ' in line and line.endswith(' examples/s')
  for text in (f'{log_dir}/curves.png', f'tensorboard --logdir={log_dir}', '--resume'):
    assert text in out
  assert (log_dir / 'curves.png').read_bytes().startswith(b'\x89PNG')


def test_tensorboard_has_all_summaries_and_the_moving_statistics(whole):
  from tensorboardX.proto import event_pb2

  kinds = {}
  (path,) = (whole[0] / 'tensorboard' / 'batch').glob('events.*')
  raw = path.read_bytes()
  while raw:  # TFRecord: uint64 length, crc, data, crc
    size = int.from_bytes(raw[:8], 'little')
    for value in event_pb2.Event.FromString(raw[12 : 12 + size]).summary.value:
      kinds[value.tag] = value.WhichOneof('value')
    raw = raw[16 + size :]
  expected = {
    'loss': 'simple_value',
    'accuracy': 'simple_value',
    'learning_rate': 'simple_value',
    'examples_per_second': 'simple_value',
    'classifier/confidence': 'simple_value',
    'classifier/active_1': 'simple_value',
    'classifier/activations_0': 'histo',
    'classifier/images_3': 'image',
    'classifier/confusion': 'image',
    'non_trainable/classifier/norm_0/moving_mean': 'histo',
    'non_trainable/classifier/norm_1/moving_variance': 'histo',
    'params/classifier/softmax/logits_ffn/linear/w': 'histo',
  }
  assert {tag: kinds.get(tag) for tag in expected} == expected


def test_resumed_run_equals_an_uninterrupted_one(small, tmp_path):
  import jax
  import numpy as np

  log_dir = tmp_path / 'halves'
  assert train(log_dir, '--steps=10', *SMALL)[0] == 0
  code, out, err = train(log_dir, '--steps=20', '--resume', *SMALL)
  assert (code, err) == (0, '')
  assert out.startswith(f'resumed {log_dir} after step 10\n')
  assert history(log_dir) == history(small)
  jax.tree.map(
    np.testing.assert_array_equal, last_checkpoint(log_dir), last_checkpoint(small)
  )


@pytest.mark.parametrize('signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_saves_and_ends_cleanly(tmp_path, signum, code):
  with subprocess.Popen(
    command(tmp_path / 'run', '--steps=1000000', *SMALL),
    env=ENV,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline().startswith('step ')
    process.send_signal(signum)
    out, err = process.communicate(timeout=100)
  assert (process.returncode, err) == (code, '')
  last = out.splitlines()[-1]
  assert last.endswith(' and saved; --resume goes on from there')
  step = int(last.removeprefix('interrupted after step ').split()[0])
  assert int(last_checkpoint(tmp_path / 'run')['step']) == step
  assert (tmp_path / 'run' / 'curves.png').exists()


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--stpes=3'], 'Did you mean: steps ?'),
    (['--config=model.hiden_dims=3'], 'did you mean model.hidden_dims?'),
    (['--config=model.hidden_dims=-3'], 'the model cannot be built with'),
    (['--log_dir=/dev/null/run'], "--log_dir '/dev/null/run' cannot be written"),
    ([], 'already holds a run; add --resume'),
    (['--resume', *SMALL, '--hidden_dims=8'], 'linear/w is float32[64,16] in'),
  ],
)
def test_errors_are_one_line_and_exit_code_2(small, flags, message):
  code, out, err = train(small, *flags)
  assert (code, out) == (2, '')
  assert err.startswith('train_digits.py: ') and message in err
  assert err.count('\n') == 1


def test_config_overrides(small, tmp_path):
  code, out, _ = train(
    tmp_path, '--show_config', '--config=model.norm_tpl.decay=0.5', '--dropout=0.25'
  )
  assert code == 0
  assert "model.norm_tpl.decay: float = 0.5\n" in out
  assert "model.dropout_tpl.keep_prob: float = 0.75\n" in out
  code, _, err = train(small, '--resume', '--steps=20', '--seed=1', *SMALL)
  assert code == 0
  assert err.startswith('note: resumed with another seed (was 0, is 1): ')
