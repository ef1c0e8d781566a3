"""pax_haiku.training.plots: a PNG with a panel for each number."""

import os

import numpy as np
import PIL.Image
import pytest

from pax_haiku.training import plots
from pax_haiku.training.history import History


@pytest.mark.parametrize('losses', [[], [1.0], [3.0, 2.0, 0.0], [1.0, float('nan')]])
def test_png_of_any_history(tmp_path, losses):
  history = History(tmp_path / 'h')
  for step, loss in enumerate(losses):
    history.add(step, 'batch', {'loss': loss})
  plots.save_curves(tmp_path / 'c.png', history, ('loss', 'accuracy'))
  with PIL.Image.open(tmp_path / 'c.png') as image:
    assert image.format == 'PNG' and image.size == (1320, 480)
  assert os.listdir(tmp_path) == ['c.png']


def test_curves_are_drawn(tmp_path):
  """More ink with data than without, in the panel that has them."""
  inks = []
  for count in (0, 50):
    history = History(tmp_path / 'h')
    for step in range(count):
      history.add(step, 'batch', {'loss': 2.0 + np.sin(step)})
    plots.save_curves(tmp_path / 'c.png', history, ('loss', 'accuracy'))
    with PIL.Image.open(tmp_path / 'c.png') as image:
      pixels = np.asarray(image.convert('L'))
    inks.append([(half < 250).sum() for half in np.split(pixels, 2, axis=1)])
  assert inks[1][0] > 1.1 * inks[0][0]
  assert inks[1][1] < 1.1 * inks[0][1]
