"""The curves of a run as a PNG."""

import os

from pax_haiku.training import files
from pax_haiku.training.history import History


def save_curves(
  path: str | os.PathLike, history: History, names: tuple[str, ...], title: str = ''
) -> None:
  """Draws one panel for each of `names` with a line for each set of the history.

  Args:
    path: The PNG; replaced as a whole.
    history: Where the numbers come from; sets without a number are left out.
    names: Numbers to draw over the step. A name that contains 'loss' gets a logarithmic
      axis when all its values are positive.
    title: Above all panels.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.5 * len(names), 4.0), layout='constrained')
  FigureCanvasAgg(figure)
  figure.suptitle(title)
  for i, name in enumerate(names):
    axes = figure.add_subplot(1, len(names), i + 1)
    values_seen = []
    for which in history.sets():
      steps, values = history.series(which, name)
      if not steps:
        continue
      values_seen += values
      if which == 'batch':
        axes.plot(steps, values, label='each batch', color='0.75', linewidth=0.8)
      else:
        axes.plot(steps, values, label=which.replace('_', ' '), marker='.')
    if 'loss' in name and values_seen and min(values_seen) > 0:
      axes.set_yscale('log')
    axes.set_xlabel('step')
    axes.set_title(name.replace('_', ' '))
    axes.grid(alpha=0.3)
    if values_seen:
      axes.legend()
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=120)
