"""A small model with dropout, a moving mean and a summary, in plain Haiku."""

import types

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pax_haiku.training import data, learner, train_state


def toy_forward(batch):
  """Linear regression with dropout in training: weighted mean square error."""
  x = batch['x']
  mean = hk.get_state('mean', [3], init=jnp.zeros)
  hk.set_state('mean', 0.9 * mean + 0.1 * x.mean(0))
  hk.set_state('summaries', {'x_scalar': x.mean(), 'x_histogram': x})
  x = hk.dropout(hk.next_rng_key(), 0.5, x)
  error = jnp.square(hk.Linear(1)(x)[:, 0] - batch['y'])
  weight = batch['weights'].sum()
  return {'loss': ((error * batch['weights']).sum() / weight, weight)}


@pytest.fixture(scope='session')
def toy():
  """Namespace: forward, optimizer, examples, batch_at, train_step, init."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(20, 3)).astype(np.float32)
  examples = {'x': x, 'y': (x @ [1.0, -2.0, 0.5]).astype(np.float32)}
  forward = hk.transform_with_state(toy_forward)
  optimizer = optax.adam(0.05)
  init = jax.jit(
    lambda seed, batch: train_state.init(forward, optimizer, seed, batch),
    static_argnums=0,
  )

  def batch_at(step):
    return data.batch_at(examples, 4, 0, step)

  return types.SimpleNamespace(
    forward=forward,
    optimizer=optimizer,
    examples=examples,
    batch_at=batch_at,
    train_step=learner.make_train_step(forward, optimizer),
    init=lambda seed=0: init(seed, batch_at(0)),
  )


@pytest.fixture
def read_events():
  """Returns a function from a directory to its events, from all files in order."""

  def read(directory):
    from tensorboardX.proto import event_pb2

    events = []
    for path in sorted(directory.glob('events.*')):
      raw = path.read_bytes()
      while raw:  # TFRecord: uint64 length, crc, data, crc
        size = int.from_bytes(raw[:8], 'little')
        events.append(event_pb2.Event.FromString(raw[12 : 12 + size]))
        raw = raw[16 + size :]
    return events

  return read


@pytest.fixture
def read_values(read_events):
  """Returns a function from a directory to `{tag: [(step, value)]}`."""

  def read(directory):
    values = {}
    for event in read_events(directory):
      for value in event.summary.value:
        values.setdefault(value.tag, []).append((event.step, value))
    return values

  return read
