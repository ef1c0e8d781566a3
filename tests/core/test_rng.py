"""Keys by path, against keys and values that Praxis on Flax was seen to use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku.core import errors, rng
from pax_haiku.core.init_var import init_var
from pax_haiku.core.weights import WeightHParams, WeightInit

PARAMS, RANDOM = jax.random.PRNGKey(0), jax.random.PRNGKey(1)

# Root key, path, count -> key data. A net with a variable `g`, a child `ffn` that is
# called twice, and children `blk_0` and `blk_1`.
KEYS = [
  (PARAMS, (), 1, 0xBF8B4530, (1428664606, 3351135085)),
  (PARAMS, (), 2, None, (3456700291, 3873160899)),
  (PARAMS, ('ffn',), 1, 0x9CA3B60D, (163319793, 2509889077)),
  (PARAMS, ('ffn',), 2, 0xA189133E, (1393945446, 3316265606)),
  (PARAMS, ('ffn',), 3, 0x52FA9E10, (3657007822, 2799714503)),
  (PARAMS, ('blk_0',), 1, 0x8307FDDE, (3946461597, 4059945996)),
  (PARAMS, ('blk_1',), 1, 0xE1DEEF84, (1901050679, 2024170146)),
  (PARAMS, ('blk_1',), 2, 0x10F23B0E, (2557127440, 1625883607)),
  (PARAMS, ('blk_1',), 3, 0x21BAFBB4, (4015056174, 1742219906)),
  (RANDOM, (), 1, 0xBF8B4530, (3077990774, 2166202870)),
  (RANDOM, ('ffn',), 1, 0x9CA3B60D, (1357824895, 1938638923)),
  (RANDOM, ('ffn',), 3, 0x52FA9E10, (4143776551, 3065287143)),
  (RANDOM, ('ffn',), 4, None, (1316352794, 189270443)),
  (RANDOM, ('blk_0',), 1, 0x8307FDDE, (1649170522, 3700715403)),
  (RANDOM, ('blk_1',), 2, 0x10F23B0E, (3615981991, 3127141904)),
]
# Inside a scan of 3 iterations, iteration i has the root key split(root, 3)[i].
SCANNED = [
  (PARAMS, 0, 4, (1488896479, 4151767893)),
  (PARAMS, 1, 4, (784318937, 3153560420)),
  (PARAMS, 2, 4, (447225906, 3036899719)),
  (RANDOM, 0, 3, (3911257914, 2382371472)),
  (RANDOM, 0, 4, (854877843, 3436555032)),
  (RANDOM, 2, 4, (560416650, 4116908014)),
]


def test_keys_are_those_of_praxis():
  for root, path, count, h, data in KEYS:
    key = rng.fold_in_path(root, path, count)
    np.testing.assert_array_equal(key, np.array(data, np.uint32), err_msg=str(path))
    assert h is None or rng.path_hash(path, count) == h


def test_keys_inside_a_scan_are_those_of_praxis():
  for root, i, count, data in SCANNED:
    key = rng.fold_in_path(jax.random.split(root, 3)[i], ('sub',), count)
    np.testing.assert_array_equal(key, np.array(data, np.uint32))


@pytest.mark.parametrize(
  'path, count, value',
  [
    ((), 1, (0.076142, -1.615746)),
    (('ffn',), 1, (-0.775000, 1.367742)),
    (('ffn',), 3, (-1.218227, -0.181455)),
    (('blk_0',), 1, (-1.827319, 1.826499)),
  ],
)
def test_values_are_those_of_praxis(path, count, value):
  var_p = WeightHParams([2], WeightInit.Gaussian(1.0), jnp.float32)
  found = init_var(var_p, rng.fold_in_path(PARAMS, path, count), 'w')
  # They were written down with six decimals.
  np.testing.assert_allclose(found, value, atol=6e-7)


def test_typed_keys_give_the_same_bits():
  typed = rng.fold_in_path(jax.random.key(0), ('ffn',), 1)
  assert jax.dtypes.issubdtype(typed.dtype, jax.dtypes.prng_key)
  untyped = rng.fold_in_path(PARAMS, ('ffn',), 1)
  np.testing.assert_array_equal(jax.random.key_data(typed), untyped)


def test_draws_under_jit_are_the_same():
  jitted = jax.jit(lambda key: rng.fold_in_path(key, ('ffn',), 1))(PARAMS)
  np.testing.assert_array_equal(jitted, rng.fold_in_path(PARAMS, ('ffn',), 1))


def test_count_takes_as_few_bytes_as_it_needs():
  # One byte up to 255, then two: 256 is the bytes 1, 0 and so equals name '\x01' + ...
  assert rng.path_hash((), 0x6162) == rng.path_hash(('a',), 0x62)
  assert rng.path_hash((), 255) != rng.path_hash((), 256)
  assert rng.path_hash(('ab', 'c'), 1) == rng.path_hash(('a', 'bc'), 1)
  assert rng.path_hash(('ä',), 1) == rng.path_hash((), 0xC3A401)
  with pytest.raises(ValueError, match='counted from 1'):
    rng.path_hash((), 0)


@pytest.mark.parametrize('make', [jax.random.PRNGKey, jax.random.key])
def test_one_key_or_a_dict_of_keys(make):
  key, other = make(0), make(1)
  assert rng.check_rngs(key) == {'params': key}
  given = {'params': key, 'random': other}
  found = rng.check_rngs(given)
  assert found == given and found is not given
  assert rng.check_rngs({}) == {}


def test_numpy_keys_and_tracers_are_keys():
  assert list(rng.check_rngs(np.zeros(2, np.uint32))) == ['params']
  jax.jit(rng.check_rngs)(PARAMS)
  jax.jit(rng.check_rngs)({'random': jax.random.key(0)})


@pytest.mark.parametrize(
  'rngs, text',
  [
    (None, 'found NoneType'),
    (0, 'found int 0'),
    (jnp.zeros(3, jnp.uint32), r'uint32 and shape \(3,\)'),
    (jnp.zeros(2, jnp.int32), r'int32 and shape \(2,\)'),
    (jax.random.split(jax.random.key(0), 4), r'shape \(4,\)'),
    ([PARAMS], 'found list'),
    ({'params': 0}, "'params': int 0"),
    ({'params': PARAMS, 'random': None, 'x': 'y'}, "'random': NoneType.*'x': str"),
    ({0: PARAMS}, 'stream 0'),
  ],
)
def test_anything_else_is_an_error(rngs, text):
  with pytest.raises(errors.InvalidRngError, match=f'{text}.*PRNGKey'):
    rng.check_rngs(rngs)
