"""TensorBoard event files: one method for each kind of value.

Built on tensorboardX. Sound and film are encoded here (WAV by the standard library, GIF
by Pillow), because tensorboardX needs soundfile and moviepy for them.
"""

import io
import os
import wave
from typing import Any

import numpy as np


def to_numpy(value: Any) -> np.ndarray:
  """Returns `value` as a numpy array, bfloat16 and other small floats as float32."""
  array = np.asarray(value)
  return array if array.dtype.kind in 'biufU' else array.astype(np.float32)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
  """Maps floats from [0, 1] to [0, 255], clipped; leaves uint8 as it is."""
  if pixels.dtype == np.uint8:
    return pixels
  pixels = np.nan_to_num(pixels.astype(np.float32))
  return (np.clip(pixels, 0.0, 1.0) * 255).round().astype(np.uint8)


def _check(tag: str, array: np.ndarray, axes: str, channels: tuple[int, ...]) -> None:
  rank = len(axes.split(', '))
  if array.ndim != rank or (array.shape[-1] not in channels):
    raise ValueError(
      f'The summary {tag!r} needs shape [{axes}] with channels one of {channels}, '
      f'but has {list(array.shape)}.'
    )


def _pillow(pixels: np.ndarray):
  from PIL import Image

  return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


class Writer:
  """Writes one event file, in a directory that TensorBoard shows as one run.

  The file is made when the first value comes.

  Args:
    directory: Made if need be. An event file of a former process stays beside the new.
    purge_step: Where a resumed run goes on: TensorBoard forgets what the former process
      wrote for this step and later ones.
  """

  def __init__(self, directory: str | os.PathLike, purge_step: int | None = None):
    self._directory = str(directory)
    self._purge_step = purge_step
    self._opened = None

  @property
  def _writer(self):
    if self._opened is None:
      import tensorboardX
      from tensorboardX.proto import event_pb2

      self._opened = tensorboardX.FileWriter(self._directory)
      if self._purge_step is not None:
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        event = event_pb2.Event(session_log=start)
        self._opened.add_event(event, step=self._purge_step)
    return self._opened

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *_):
    self.close()

  def flush(self) -> None:
    """Writes out what was added so far."""
    if self._opened is not None:
      self._opened.flush()

  def close(self) -> None:
    """Flushes and closes the file."""
    if self._opened is not None:
      self._opened.close()

  def scalar(self, tag: str, value: Any, step: int) -> None:
    """Adds one number."""
    from tensorboardX import summary

    self._writer.add_summary(summary.scalar(tag, float(to_numpy(value))), step)

  def histogram(self, tag: str, values: Any, step: int) -> None:
    """Adds the distribution of all finite values; nothing if there are none."""
    from tensorboardX import summary

    values = to_numpy(values).astype(np.float64).ravel()
    values = values[np.isfinite(values)]
    if values.size:
      self._writer.add_summary(summary.histogram(tag, values, bins=30), step)

  def text(self, tag: str, text: str, step: int) -> None:
    """Adds text; TensorBoard renders it as Markdown."""
    from tensorboardX import summary

    self._writer.add_summary(summary.text(tag, text), step)

  def image(self, tag: str, pixels: Any, step: int) -> None:
    """Adds one image: [height, width, channels], uint8 or floats in [0, 1].

    Channels: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
    """
    from tensorboardX.proto import summary_pb2

    pixels = _to_uint8(to_numpy(pixels))
    _check(tag, pixels, 'height, width, channels', (1, 3, 4))
    data = io.BytesIO()
    _pillow(pixels).save(data, format='PNG')
    height, width, channels = pixels.shape
    self._add(
      tag,
      step,
      image=summary_pb2.Summary.Image(
        height=height,
        width=width,
        colorspace=channels,
        encoded_image_string=data.getvalue(),
      ),
    )

  def video(self, tag: str, frames: Any, step: int, fps: float = 4.0) -> None:
    """Adds a film: [time, height, width, channels], uint8 or floats in [0, 1].

    Channels: 1 (grey) or 3 (RGB). Shown at `fps` frames per second, in a loop.
    """
    from tensorboardX.proto import summary_pb2

    frames = _to_uint8(to_numpy(frames))
    _check(tag, frames, 'time, height, width, channels', (1, 3))
    first, *others = (_pillow(frame) for frame in frames)
    data = io.BytesIO()
    first.save(
      data,
      format='GIF',
      save_all=True,
      append_images=others,
      duration=round(1000 / fps),
      loop=0,
    )
    _, height, width, channels = frames.shape
    self._add(
      tag,
      step,
      image=summary_pb2.Summary.Image(
        height=height,
        width=width,
        colorspace=channels,
        encoded_image_string=data.getvalue(),
      ),
    )

  def audio(self, tag: str, samples: Any, step: int, sample_rate: int = 16000) -> None:
    """Adds sound: [time, channels] of floats in [-1, 1], clipped; 16 bit WAV.

    Channels: 1 or 2. `sample_rate` in Hz.
    """
    from tensorboardX.proto import summary_pb2

    samples = to_numpy(samples).astype(np.float32)
    _check(tag, samples, 'time, channels', (1, 2))
    samples = np.clip(np.nan_to_num(samples), -1.0, 1.0)
    data = io.BytesIO()
    with wave.open(data, 'wb') as file:
      file.setnchannels(samples.shape[1])
      file.setsampwidth(2)
      file.setframerate(sample_rate)
      file.writeframes((samples * 32767).round().astype('<i2').tobytes())
    self._add(
      tag,
      step,
      audio=summary_pb2.Summary.Audio(
        sample_rate=sample_rate,
        num_channels=samples.shape[1],
        length_frames=samples.shape[0],
        encoded_audio_string=data.getvalue(),
        content_type='audio/wav',
      ),
    )

  def _add(self, tag: str, step: int, **value) -> None:
    from tensorboardX.proto import summary_pb2

    value = summary_pb2.Summary.Value(tag=tag, **value)
    self._writer.add_summary(summary_pb2.Summary(value=[value]), step)
