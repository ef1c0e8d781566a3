"""pax_haiku.training.loop: which steps are done and which hooks called."""

import types

import jax.numpy as jnp
import pytest

from pax_haiku.training import loop


def counting_step(state, batch):
  return types.SimpleNamespace(step=state.step + 1, seen=[*state.seen, batch]), {}


def start(step=0):
  return types.SimpleNamespace(step=jnp.int32(step), seen=[])


@pytest.mark.parametrize('first, last, batches', [(0, 3, [0, 10, 20]), (2, 3, [20])])
def test_goes_on_to_the_last_step(first, last, batches):
  state = loop.run(start(first), counting_step, lambda s: 10 * s, num_steps=last)
  assert (int(state.step), state.seen) == (last, batches)


@pytest.mark.parametrize('last', [0, 3])
def test_nothing_to_do(last):
  state = loop.run(start(3), counting_step, lambda s: s, num_steps=last)
  assert (int(state.step), state.seen) == (3, [])


def test_hooks_in_order_and_by_interval():
  calls = []
  loop.run(
    start(),
    counting_step,
    lambda s: s,
    num_steps=7,
    hooks=(
      loop.every(1, lambda r: calls.append(('a', r.step, int(r.state.step)))),
      loop.every(3, lambda r: calls.append(('b', r.step, int(r.state.step)))),
      loop.every(0, lambda r: calls.append('never')),
    ),
  )
  assert calls == [
    ('a', 1, 1), ('a', 2, 2), ('a', 3, 3), ('b', 3, 3),
    ('a', 4, 4), ('a', 5, 5), ('a', 6, 6), ('b', 6, 6), ('a', 7, 7),
  ]  # fmt: skip


def test_stops_between_steps():
  done = []
  state = loop.run(
    start(),
    counting_step,
    lambda s: s,
    num_steps=9,
    hooks=[lambda r: done.append(r.step)],
    should_stop=lambda: len(done) == 4,
  )
  assert int(state.step) == 4
