"""Checkpoints that are written while training goes on."""

import dataclasses

import jax
import numpy as np

from pax_haiku.training import data, trainer
from pax_haiku.training.checkpoint import Checkpointer


def test_a_checkpoint_is_what_was_saved_though_training_went_on(toy, tmp_path):
  state, expected = toy.init(), {}
  with Checkpointer(tmp_path, keep=None, in_background=True) as checkpoints:
    for step in range(6):
      state, _ = toy.train_step(state, toy.batch_at(step))
      expected[step + 1] = jax.tree.map(np.array, (state.params, state.opt_state))
      checkpoints.save(state)  # the next update reuses the state's memory
  with Checkpointer(tmp_path) as checkpoints:
    for step, value in expected.items():
      found = checkpoints.restore(toy.init(), step)
      jax.tree.map(
        np.testing.assert_array_equal, (found.params, found.opt_state), value
      )


def test_run_is_complete_when_it_ends(toy, tmp_path):
  task = trainer.Task(
    toy.forward,
    toy.optimizer,
    toy.batch_at,
    {'all': lambda: data.epoch(toy.examples, 8)},
    unit='tokens',
  )
  options = trainer.Options(
    log_dir=str(tmp_path / 'run'),
    steps=3,
    batch_size=4,
    checkpoint_interval=2,
    checkpoints_in_background=True,
  )
  trainer.train(task, options)
  names = [path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()]
  assert sorted(names) == ['2', '3']
  again = dataclasses.replace(options, resume=True, steps=5)
  assert trainer.train(task, again).step == 5
