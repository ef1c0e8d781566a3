"""pax_haiku.training.trainer: a run from start to end, stopped and resumed."""

import dataclasses
import os
import signal

import jax
import numpy as np
import optax
import pytest

from pax_haiku.training import data, trainer
from pax_haiku.training.checkpoint import Checkpointer, MismatchError
from pax_haiku.training.cli import UserError
from pax_haiku.training.history import History


@pytest.fixture
def task(toy):
  return trainer.Task(
    toy.forward,
    toy.optimizer,
    toy.batch_at,
    {'all': lambda: data.epoch(toy.examples, 8)},
    learning_rate=lambda step: 0.05,
  )


@pytest.fixture
def options(tmp_path):
  return trainer.Options(
    log_dir=str(tmp_path / 'run'),
    steps=8,
    batch_size=4,
    log_interval=1,
    eval_interval=4,
    checkpoint_interval=4,
  )


def replace(options, **changes):
  return dataclasses.replace(options, **changes)


def end_of(options, toy):
  """Returns the numbers of a run and its last state, as arrays."""
  history = History(f'{options.log_dir}/history.jsonl')
  history.load(1000)
  with Checkpointer(f'{options.log_dir}/checkpoints') as checkpoints:
    state = checkpoints.restore(toy.init())
  return history.records, jax.tree.map(np.asarray, state)


def test_run_leaves_its_files(task, options, read_values, capsys, tmp_path):
  result = trainer.train(task, options)
  assert (result.step, result.exit_code) == (8, 0)
  assert list(result.metrics) == ['all']
  run = tmp_path / 'run'
  assert sorted(p.name for p in run.iterdir()) == [
    'checkpoints', 'curves.png', 'history.jsonl', 'settings.json', 'tensorboard',
  ]  # fmt: skip
  assert sorted(p.name for p in (run / 'checkpoints').iterdir()) == ['4', '8']
  values = read_values(run / 'tensorboard' / 'batch')
  assert [step for step, _ in values['loss']] == list(range(1, 9))
  assert {'grad_norm', 'learning_rate', 'examples_per_second', '_/x'} <= set(values)
  assert [s for s, _ in values['non_trainable/_/mean']] == [4, 8]
  assert [s for s, _ in values['params/linear/w']] == [4, 8]
  evaluated = read_values(run / 'tensorboard' / 'all')['loss']
  assert evaluated[-1][1].simple_value == pytest.approx(result.metrics['all']['loss'])
  lines = capsys.readouterr().out.splitlines()
  assert [line[:12] for line in lines] == ['step     4 |', 'step     8 |']


def test_resumed_run_equals_an_uninterrupted_one(task, options, toy, tmp_path):
  trainer.train(task, options)
  halves = replace(options, log_dir=str(tmp_path / 'halves'))
  trainer.train(task, replace(halves, steps=3))
  trainer.train(task, replace(halves, resume=True))
  records, state = end_of(options, toy)
  found_records, found_state = end_of(halves, toy)
  jax.tree.map(np.testing.assert_array_equal, found_state, state)
  # The shorter run was evaluated at its end as well.
  assert [r for r in found_records if (r['step'], r['set']) != (3, 'all')] == records


@pytest.mark.parametrize('signum, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_and_the_run_can_go_on(
  task, options, toy, tmp_path, signum, code, capsys
):
  trainer.train(task, options)
  stopped = replace(options, log_dir=str(tmp_path / 'stopped'))

  def batch_at(step):
    if step == 5:
      os.kill(os.getpid(), signum)
    return toy.batch_at(step)

  result = trainer.train(dataclasses.replace(task, batch_at=batch_at), stopped)
  assert result == (6, {}, code)
  assert 'interrupted after step 6 and saved' in capsys.readouterr().out
  trainer.train(task, replace(stopped, resume=True))
  expected, found = end_of(options, toy), end_of(stopped, toy)
  assert found[0] == expected[0]
  jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_resume_without_a_run_starts_one(task, options):
  assert trainer.train(task, replace(options, resume=True, steps=1)).step == 1


def test_resume_of_a_finished_run_only_evaluates(task, options, tmp_path):
  first = trainer.train(task, options)
  history = (tmp_path / 'run' / 'history.jsonl').read_text()
  events = sorted((tmp_path / 'run' / 'tensorboard').rglob('events.*'))
  again = trainer.train(task, replace(options, resume=True))
  assert again == first
  assert (tmp_path / 'run' / 'history.jsonl').read_text() == history
  assert sorted((tmp_path / 'run' / 'tensorboard').rglob('events.*')) == events


def test_used_log_dir_is_kept(task, options):
  trainer.train(task, replace(options, steps=1))
  with pytest.raises(UserError, match='already holds a run'):
    trainer.train(task, options)
  assert trainer.train(task, replace(options, steps=2, overwrite=True)).step == 2


def test_checkpoint_of_another_model(task, options, toy):
  trainer.train(task, replace(options, steps=1))
  other = dataclasses.replace(task, optimizer=optax.sgd(0.1))
  with pytest.raises(MismatchError, match='another model.*: opt_state/0/count is in'):
    trainer.train(other, replace(options, resume=True))


def test_divergence_is_explained(task, options):
  other = dataclasses.replace(task, optimizer=optax.sgd(1e30))
  with pytest.raises(UserError, match='after step .: the run diverged; .*learning_ra'):
    trainer.train(other, options)


def test_check_finds_what_is_wrong_before_anything_is_computed(task):
  trainer.check(task)
  with pytest.raises(TypeError):
    trainer.check(dataclasses.replace(task, optimizer=optax.sgd('fast')))
  with pytest.raises(ValueError, match="no 'xent' to minimise"):
    trainer.check(dataclasses.replace(task, loss_name='xent'))


def test_without_intervals_there_is_one_evaluation_at_the_end(task, options, capsys):
  options = replace(options, eval_interval=0, checkpoint_interval=0, steps=2)
  assert trainer.train(task, options).metrics['all']['loss'] > 0
  assert capsys.readouterr().out.startswith('step     2 | all: loss ')


def test_accuracies_come_first_as_percentages():
  text = trainer.describe({'loss': 0.12341, 'accuracy': 0.9812})
  assert text == 'accuracy 98.1 %, loss 0.1234'
