"""pax_haiku.training.tensorboard: what is written can be read back."""

import io
import wave

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from pax_haiku.training.tensorboard import Writer


@pytest.fixture
def written(tmp_path, read_values):
  """Returns a function that calls a method of a writer and reads the one value."""

  def write(method, value, **kwargs):
    with Writer(tmp_path) as writer:
      getattr(writer, method)('a/b', value, 7, **kwargs)
    ((tag, ((step, found),)),) = read_values(tmp_path).items()
    # tensorboardX gives texts a suffix of their own
    assert (tag.removesuffix('/text_summary'), step) == ('a/b', 7)
    return found

  return write


@pytest.mark.parametrize('value', [1.5, np.float64(1.5), jnp.bfloat16(1.5)])
def test_scalar(written, value):
  assert written('scalar', value).simple_value == 1.5


def test_histogram(written):
  histogram = written('histogram', np.array([[-1.0, 0.0], [3.0, np.nan]])).histo
  assert (histogram.min, histogram.max, histogram.num, histogram.sum) == (-1, 3, 3, 2)
  assert histogram.sum_squares == 10
  assert sum(histogram.bucket) == 3


@pytest.mark.parametrize('values', [[], [np.nan]])
def test_histogram_of_nothing_is_left_out(tmp_path, values):
  with Writer(tmp_path) as writer:
    writer.histogram('a', np.array(values), 1)
  assert list(tmp_path.iterdir()) == []


def test_text(written):
  assert written('text', '**é**').tensor.string_val[0].decode() == '**é**'


@pytest.mark.parametrize('channels, mode', [(1, 'L'), (3, 'RGB'), (4, 'RGBA')])
def test_image(written, channels, mode):
  pixels = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)
  image = written('image', pixels).image
  assert (image.height, image.width, image.colorspace) == (4, 5, channels)
  read = PIL.Image.open(io.BytesIO(image.encoded_image_string))
  assert (read.format, read.mode) == ('PNG', mode)
  np.testing.assert_array_equal(np.asarray(read).reshape(pixels.shape), pixels)


def test_image_of_floats_is_clipped(written):
  pixels = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, np.nan]).reshape(1, 6, 1)
  data = written('image', pixels).image.encoded_image_string
  read = np.asarray(PIL.Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(read, [[0, 0, 128, 255, 255, 0]])


def test_audio(written):
  samples = np.array([[0.0, 1.0], [-1.0, 0.5], [2.0, -2.0]], np.float32)
  audio = written('audio', samples, sample_rate=8000).audio
  assert (audio.num_channels, audio.length_frames) == (2, 3)
  assert (audio.sample_rate, audio.content_type) == (8000, 'audio/wav')
  with wave.open(io.BytesIO(audio.encoded_audio_string)) as file:
    assert (file.getframerate(), file.getnchannels()) == (8000, 2)
    read = np.frombuffer(file.readframes(9), '<i2').reshape(3, 2)
  expected = [[0, 32767], [-32767, 16384], [32767, -32767]]
  np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize('channels', [1, 3])
def test_video(written, channels):
  frames = np.zeros((3, 4, 5, channels))
  frames[1] = 1.0
  image = written('video', frames, fps=10).image
  read = PIL.Image.open(io.BytesIO(image.encoded_image_string))
  assert (read.format, read.n_frames, read.size) == ('GIF', 3, (5, 4))
  means = []
  for i in range(3):
    read.seek(i)
    means.append(np.asarray(read.convert('L')).mean())
  assert means == [0, 255, 0]
  assert read.info['duration'] == 100


@pytest.mark.parametrize(
  'method, shape',
  [
    ('image', (4, 5)),
    ('image', (4, 5, 2)),
    ('audio', (9,)),
    ('audio', (9, 3)),
    ('video', (3, 4, 5)),
    ('video', (3, 4, 5, 4)),
  ],
)
def test_wrong_shape_is_named(tmp_path, method, shape):
  with Writer(tmp_path) as writer:
    with pytest.raises(ValueError, match=r"summary 'a/b' needs shape .* but has \["):
      getattr(writer, method)('a/b', np.zeros(shape), 0)


def test_resumed_run_purges_what_comes_again(tmp_path, read_events):
  with Writer(tmp_path, purge_step=5) as writer:
    writer.scalar('a', 1.0, 5)
  starts = [e.step for e in read_events(tmp_path) if e.session_log.status == 1]
  assert starts == [5]
