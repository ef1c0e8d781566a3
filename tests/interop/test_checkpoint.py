"""Checkpoint files: round trips, damage, pickles that would run code, misfits."""

import os
import pickle
import struct

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.interop import CheckpointError, load_checkpoint, save_checkpoint
from pax_haiku.interop import checkpoint as checkpoint_lib

ENTRIES = {
  'params:mlp/~/linear_0/w': np.arange(6, dtype=np.float32).reshape(2, 3).T,
  'params:mlp/~/linear_0/b': np.zeros(0, np.float32),
  'params:low/w': np.asarray(jnp.arange(4, dtype=jnp.bfloat16).reshape(2, 2) / 3),
  'state:bn/~/mean_ema/counter': np.int32(7),
  'state:mask/on': np.array([True, False]),
}
SUFFIXES = ['.npz', '.safetensors', '']


def same(found, wanted):
  assert set(found) == set(wanted)
  for name, value in wanted.items():
    assert found[name].dtype == value.dtype and found[name].shape == value.shape
    np.testing.assert_array_equal(
      found[name].astype(np.float64), value.astype(np.float64)
    )


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_round_trip_is_exact(tmp_path, suffix):
  entries = dict(ENTRIES)
  if not suffix:
    del entries['params:mlp/~/linear_0/b']  # orbax stores no empty arrays
  path = tmp_path / f'model{suffix}'
  save_checkpoint(path, entries)
  same(load_checkpoint(path), entries)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_safetensors_layout(tmp_path):
  """Byte by byte, as another program writes it."""
  header = b'{"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}'
  path = tmp_path / 'm.safetensors'
  path.write_bytes(
    struct.pack('<Q', len(header)) + header + struct.pack('<2e', 1.0, 2.0)
  )
  same(load_checkpoint(path), {'params:a': np.float16([[1, 2]])})


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_truncated_files_are_refused(tmp_path, suffix):
  path = tmp_path / f'model{suffix}'
  save_checkpoint(path, ENTRIES)
  whole = path.read_bytes()
  for length in (0, 4, 20, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(CheckpointError, match=f'model{suffix} is no complete'):
      load_checkpoint(path)


def test_damaged_orbax_is_refused(tmp_path):
  path = tmp_path / 'model'
  save_checkpoint(path, {'params:l/w': np.ones(3)})
  with pytest.raises(CheckpointError, match='is there already'):
    save_checkpoint(path, {'params:l/w': np.ones(3)})
  (path / '_METADATA').unlink()
  for file in path.rglob('*'):
    if file.is_file():
      file.write_bytes(b'')
  with pytest.raises(CheckpointError, match='no complete checkpoint of orbax'):
    load_checkpoint(path)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda h: h.replace(b'"F32"', b'"F99"'), 'unknown dtype'),
    (lambda h: h.replace(b'[0, 8]', b'[0, 9]'), 'tells of 9 bytes of data, found 8'),
    (lambda h: h.replace(b'[0, 8]', b'[4, 8]'), 'hole or overlap'),
    (lambda h: h.replace(b'[2]', b'[3]'), '8 bytes for float32 of shape'),
  ],
)
def test_wrong_headers_of_safetensors_are_refused(tmp_path, change, message):
  path = tmp_path / 'm.safetensors'
  save_checkpoint(path, {'params:w': np.float32([1, 2])})
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(CheckpointError, match=message):
    load_checkpoint(path)


def test_failed_writes_leave_the_former_file(tmp_path):
  path = tmp_path / 'm.safetensors'
  save_checkpoint(path, ENTRIES)
  with pytest.raises(CheckpointError, match='params:c: safetensors has no dtype'):
    save_checkpoint(path, {'params:c': np.complex64([1])})
  same(load_checkpoint(path), ENTRIES)
  assert [p.name for p in tmp_path.iterdir()] == ['m.safetensors']
  with pytest.raises(CheckpointError, match='cannot be written: No such file'):
    save_checkpoint(tmp_path / 'none' / 'm.npz', ENTRIES)
  with pytest.raises(CheckpointError, match='can write .npz, .safetensors'):
    save_checkpoint(tmp_path / 'm.ckpt', ENTRIES)


def test_unknown_and_missing_checkpoints(tmp_path):
  with pytest.raises(CheckpointError, match='no such checkpoint'):
    load_checkpoint(tmp_path / 'none.npz')
  (tmp_path / 'm.ckpt').write_bytes(b'')
  with pytest.raises(CheckpointError, match='unknown kind of checkpoint'):
    load_checkpoint(tmp_path / 'm.ckpt')
  np.savez(tmp_path / 'm.npz', a=np.array([{}], object))
  with pytest.raises(CheckpointError, match='is no complete .npz file of arrays'):
    load_checkpoint(tmp_path / 'm.npz')


@pytest.mark.parametrize(
  'key, name',
  [
    ('params:a/b/w', 'params:a/b/w'),
    ('params/a/b/w', 'params:a/b/w'),
    ('a/b//w', 'params:a/b/w'),
    ('a/b/w', 'params:a/b/w'),
    ('state/bn/mean', 'state:bn/mean'),
    ('w', 'params:w'),
  ],
)
def test_keys_of_other_programs(key, name):
  assert checkpoint_lib.entry_name(key) == name


def test_names_that_become_one_are_refused(tmp_path):
  np.savez(tmp_path / 'm.npz', **{'a//w': np.ones(1), 'a/w': np.ones(1)})
  with pytest.raises(CheckpointError, match='two entries are called params:a/w'):
    load_checkpoint(tmp_path / 'm.npz')


# -- Pickles ---------------------------------------------------------------------------


def test_pickles_need_permission(tmp_path):
  path = tmp_path / 'm.pkl'
  path.write_bytes(pickle.dumps({}))
  with pytest.raises(CheckpointError, match='pickles can run code'):
    load_checkpoint(path)


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays_are_read(tmp_path, protocol):
  params, state = hk.transform_with_state(
    lambda x: hk.BatchNorm(True, True, 0.9)(hk.Linear(3)(x), True)
  ).init(jax.random.PRNGKey(0), jnp.ones([2, 2]))
  params['low'] = {
    'w': jnp.ones(2, jnp.bfloat16),
    'n': np.asfortranarray(np.eye(3)[:2]),
  }
  params['low']['s'] = np.float64(2.5)
  path = tmp_path / 'm.pkl'
  path.write_bytes(pickle.dumps((params, state), protocol))
  found = load_checkpoint(path, allow_pickle=True)
  wanted = checkpoint_lib.entries_of((params, state))
  assert len(wanted) == 13
  same(found, wanted)


class Evil:
  """Pickles into a call."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize(
  'value',
  [
    Evil(os.system, 'touch owned'),
    Evil(eval, '1'),
    Evil(getattr, 'a', 'b'),
    Evil(np.load, 'owned', None, True),
    np.array([Evil(os.system, 'touch owned')], object),
    {'a': [1, Evil(exec, 'open("owned", "w")')]},
  ],
)
def test_pickles_cannot_run_code(tmp_path, monkeypatch, value):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'm.pkl'
  path.write_bytes(pickle.dumps({'w': value}))
  with pytest.raises(CheckpointError, match=r'm.pkl is not read: it asks for'):
    load_checkpoint(path, allow_pickle=True)
  assert not (tmp_path / 'owned').exists()


def test_pickles_of_anything_else_are_refused(tmp_path):
  path = tmp_path / 'm.pkl'
  for data in (b'', b'garbage', pickle.dumps({'w': np.ones(100)})[:-200]):
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match='is no complete pickle'):
      load_checkpoint(path, allow_pickle=True)
  path.write_bytes(pickle.dumps({'w': np.array([None, 'a'], object)}))
  with pytest.raises(CheckpointError, match='array of Python objects'):
    load_checkpoint(path, allow_pickle=True)
  path.write_bytes(pickle.dumps(3))
  with pytest.raises(CheckpointError, match='expected a tree of variables, found int'):
    load_checkpoint(path, allow_pickle=True)


# -- Misfits ---------------------------------------------------------------------------


def test_misfits_are_all_listed():
  found = {'params:a': np.ones(2), 'params:b': np.ones(3), 'params:x': np.ones(1)}
  wanted = {'params:a': np.ones(2), 'params:b': np.ones(4), 'params:c': np.ones(5)}
  with pytest.raises(CheckpointError) as error:
    checkpoint_lib.check_entries(found, wanted, 'm.npz')
  assert str(error.value) == (
    'm.npz does not fit: missing params:c (5,); surplus params:x (1,); '
    'params:b has shape (3,), the model (4,)'
  )
  checkpoint_lib.check_entries(wanted, wanted, 'm.npz')
