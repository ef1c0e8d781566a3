"""pax_haiku.training.summaries: each type of summary, and variables, by their tags."""

import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.training import summaries
from pax_haiku.training.tensorboard import Writer


@pytest.fixture
def write(tmp_path, read_values):
  def write(state):
    with Writer(tmp_path) as writer:
      summaries.write_state(writer, state, 3)
    return {tag: values[0][1] for tag, values in read_values(tmp_path).items()}

  return write


def bucket(**entries):
  return {'net/layer': {'summaries': entries}}


def test_scalars(write):
  values = write(
    bucket(
      a_scalar=jnp.float32(2.0),
      b_scalar=jnp.array([1.0, 2.0]),
      c_scalar=jnp.ones((1,), jnp.bfloat16),
      d_aggregate_scalar=jnp.array([1.0, 4.0]),
    )
  )
  found = {tag: value.simple_value for tag, value in values.items()}
  assert found == {
    'net/layer/a': 2.0,
    'net/layer/b_0': 1.0,
    'net/layer/b_1': 2.0,
    'net/layer/c': 1.0,
    'net/layer/d': 2.5,
  }


def test_images(write):
  values = write(
    bucket(
      a_image=jnp.zeros((1, 4, 5, 3)),
      b_aggregate_image=jnp.zeros((2, 1, 4, 5, 1)),
      many_image=jnp.zeros((9, 2, 2, 1)),
    )
  )
  assert sorted(values) == [
    'net/layer/a',
    'net/layer/b_0',
    'net/layer/b_1',
    *(f'net/layer/many_{i}' for i in range(4)),
  ]
  assert values['net/layer/b_1'].image.width == 5


def test_sound_film_text_and_histogram(write):
  text = np.zeros((2, 8), np.uint8)
  for row, word in zip(text, ['naïve', 'b'], strict=True):
    row[: len(word.encode())] = list(word.encode())
  values = write(
    bucket(
      a_audio=jnp.zeros((2, 16, 1)),
      b_video=jnp.zeros((1, 3, 4, 5, 1)),
      c_text=text,
      d_histogram=jnp.arange(6.0).reshape(2, 3),
    )
  )
  assert sorted(values) == [
    'net/layer/a_0',
    'net/layer/a_1',
    'net/layer/b',
    'net/layer/c_0/text_summary',
    'net/layer/c_1/text_summary',
    'net/layer/d',
  ]
  assert values['net/layer/a_1'].audio.sample_rate == 16000
  assert values['net/layer/b'].image.encoded_image_string.startswith(b'GIF')
  assert values['net/layer/c_0/text_summary'].tensor.string_val[0].decode() == 'naïve'
  assert values['net/layer/d'].histo.num == 6


def test_variables_are_numbers_or_histograms_and_buckets_are_left_out(write):
  values = write(
    {
      'net/bn': {'moving_mean': jnp.arange(3.0), 'count': jnp.int32(4)},
      'net': {'aux_loss': {'z': jnp.ones(())}, 'decoder_cache': {'k': jnp.ones(3)}},
    }
  )
  assert sorted(values) == [
    'non_trainable/net/bn/count',
    'non_trainable/net/bn/moving_mean',
  ]
  assert values['non_trainable/net/bn/count'].simple_value == 4
  assert values['non_trainable/net/bn/moving_mean'].histo.num == 3


@pytest.mark.parametrize(
  'key, shape, message',
  [
    ('a_video', (4, 5, 1), 'VIDEO summary .*/a. needs at least 4 axes'),
    ('a_text', (), 'TEXT summary .* needs at least 1 axes'),
    ('a_curve', (), 'no known suffix'),
  ],
)
def test_what_cannot_be_written(write, key, shape, message):
  with pytest.raises(ValueError, match=message):
    write(bucket(**{key: jnp.zeros(shape)}))


class Reporter(base_layer.BaseLayer):
  """Leaves one summary of every type."""

  def __call__(self, inputs):
    types = base_layer.SummaryType
    self.add_summary('inputs_mean', jnp.mean(inputs))
    self.add_summary('mean', jnp.mean(inputs), types.AGGREGATE_SCALAR)
    self.add_summary('picture', inputs[:, :, None], types.IMAGE)
    self.add_summary('pictures', inputs[None, :, :, None], types.AGGREGATE_IMAGE)
    self.add_summary('words', jnp.array([104, 105], jnp.uint8), types.TEXT)
    self.add_summary('sound', inputs[:, :1], types.AUDIO)
    self.add_summary('film', inputs[None, :, :, None], types.VIDEO)
    self.add_summary('spread', inputs, types.HISTOGRAM)
    return inputs


def test_every_summary_of_a_pax_layer_arrives(write):
  model = hk.transform_with_state(
    lambda x: base_layer.instantiate(pax_fiddle.Config(Reporter, name='net'))(x)
  )
  inputs = jnp.linspace(0.0, 1.0, 12).reshape(3, 4)
  params, state = model.init(None, inputs)
  _, state = model.apply(params, state, None, inputs)
  values = write(state)
  assert {tag: value.WhichOneof('value') for tag, value in values.items()} == {
    'net/inputs_mean': 'simple_value',
    'net/mean': 'simple_value',
    'net/picture': 'image',
    'net/pictures': 'image',
    'net/words/text_summary': 'tensor',
    'net/sound': 'audio',
    'net/film': 'image',
    'net/spread': 'histo',
  }
  assert values['net/inputs_mean'].simple_value == pytest.approx(0.5)
  assert values['net/words/text_summary'].tensor.string_val[0] == b'hi'
