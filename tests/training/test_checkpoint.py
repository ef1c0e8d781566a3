"""pax_haiku.training.checkpoint: exact return, and clear words about a mismatch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.training.checkpoint import Checkpointer, MismatchError
from pax_haiku.training.cli import UserError


@pytest.fixture
def checkpoints(tmp_path):
  with Checkpointer(tmp_path / 'checkpoints', keep=2) as checkpoints:
    yield checkpoints


def same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def trained(toy, steps):
  state = toy.init()
  for step in range(steps):
    state, _ = toy.train_step(state, toy.batch_at(step))
  return state


@pytest.mark.parametrize('abstract', [False, True])
def test_restores_bit_for_bit(toy, checkpoints, abstract):
  state = trained(toy, 3)
  params = {**state.params, 'half': {'w': jnp.array([1.5, jnp.nan], jnp.bfloat16)}}
  state = state._replace(params=params)
  checkpoints.save(state)
  like = jax.eval_shape(lambda: state) if abstract else state
  with Checkpointer(checkpoints.directory) as later:
    restored = later.restore(like)
    assert later.latest_step() == int(restored.step) == 3
  for part in ('params', 'opt_state', 'rng'):
    same_bits(getattr(restored, part), getattr(state, part))
  same_bits(restored.state['~']['mean'], state.state['~']['mean'])


def test_summaries_are_not_stored_but_have_their_place(toy, checkpoints):
  state = trained(toy, 1)
  checkpoints.save(state)
  restored = checkpoints.restore(state)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert not restored.state['~']['summaries']['x_histogram'].any()
  other = jax.tree.map(lambda x: x, state)
  other.state['~']['summaries'] = {'y_scalar': jnp.zeros(7)}
  assert checkpoints.restore(other).state['~']['summaries']['y_scalar'].shape == (7,)


def test_keeps_the_newest(toy, checkpoints):
  for step in (1, 2, 3):
    checkpoints.save(toy.init()._replace(step=jnp.int32(step)))
  checkpoints.save(toy.init()._replace(step=jnp.int32(3)))
  found = sorted(path.name for path in checkpoints.directory.iterdir())
  assert found == ['2', '3']
  assert int(checkpoints.restore(toy.init(), 2).step) == 2
  with pytest.raises(UserError, match=r'no checkpoint of step 1, only of \[2, 3\]'):
    checkpoints.restore(toy.init(), 1)


def test_all_mismatches_are_listed(toy, checkpoints):
  state = toy.init()
  checkpoints.save(state)
  w, b = state.params['linear']['w'], state.params['linear']['b']
  other = state._replace(
    params={'linear': {'w': jnp.zeros((3, 2))}, 'new': {'b': b}},
    state={'~': {'mean': jnp.zeros(3, jnp.int32)}},
  )
  with pytest.raises(MismatchError) as info:
    checkpoints.restore(other)
  message = str(info.value)
  assert w.shape == (3, 1)
  for part in (
    'checkpoints/0 is of another model; give the flags it was made with',
    'params/new/b is missing in the checkpoint (the model has float32[1])',
    'params/linear/b is in the checkpoint (float32[1]) and not in the model',
    'params/linear/w is float32[3,1] in the checkpoint and float32[3,2] in the model',
    'state/~/mean is float32[3] in the checkpoint and int32[3] in the model',
  ):
    assert part in message
  assert '\n' not in message


def test_many_mismatches_are_counted(toy, checkpoints):
  checkpoints.save(toy.init())
  surplus = {f'new_{i}': {'b': jnp.zeros(1)} for i in range(9)}
  with pytest.raises(MismatchError) as info:
    checkpoints.restore(toy.init()._replace(params=surplus))
  named = str(info.value).split('; ')[1:]
  assert len(named) == 7 and named[-1] == 'and 5 more'


def test_another_optimizer_is_a_mismatch_of_its_state(toy, checkpoints):
  state = toy.init()
  checkpoints.save(state)
  with pytest.raises(MismatchError, match='opt_state/0/mu/linear/w is in the checkp'):
    checkpoints.restore(state._replace(opt_state=()))


def test_no_checkpoint(toy, checkpoints):
  assert checkpoints.latest_step() is None
  with pytest.raises(UserError, match='holds no checkpoint$'):
    checkpoints.restore(toy.init())


def test_damaged_checkpoint_names_the_way_out(toy, checkpoints):
  checkpoints.save(toy.init())
  for path in checkpoints.directory.glob('0/default/_METADATA'):
    path.write_text('{"broken')
  with pytest.raises(UserError, match='cannot be read .* remove that directory'):
    checkpoints.restore(toy.init())
