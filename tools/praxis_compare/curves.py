"""Two training runs side by side: their differences, and the report that plots them."""

import dataclasses
import html
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from praxis_compare import report_html, store

WIDTH, HEIGHT, MARGIN = 720, 260, 60


@dataclasses.dataclass
class Curves:
  """Losses [steps] of both sides and where they part.

  `relative[i]` is |ours - theirs| / |theirs| at step i + 1. `final` is, per variable,
  the largest difference after the last step over the largest magnitude.
  """

  ours: np.ndarray
  theirs: np.ndarray
  relative: np.ndarray
  eval_relative: float
  unequal_init: list[str]
  final: dict[str, float]

  def problems(self, first: float, anywhere: float) -> list[str]:
    """What is past its limit; empty when the runs agree."""
    out = []
    if self.unequal_init:
      out.append('initial values are not bit-equal: ' + ', '.join(self.unequal_init))
    if not self.relative[0] <= first:
      out.append(f'step 1 differs by {self.relative[0]:.1e}, allowed {first:.0e}')
    worst = int(np.argmax(np.nan_to_num(self.relative, nan=np.inf)))
    if not self.relative.max() <= anywhere:
      out.append(f'step {worst + 1} differs by {self.relative[worst]:.1e}, '
                 f'allowed {anywhere:.0e}')
    return out


def compare(a: store.Results, b: store.Results) -> Curves:
  """`a` is the side under test, `b` the judge; both written by `training.py`."""
  def pairs(prefix: str) -> list[tuple[str, Any, Any]]:
    names = sorted(n for n in {*a.cases, *b.cases} if n.startswith(prefix))
    return [(n.removeprefix(prefix), *(
        r.array(r.cases[n]) if n in r.cases else None for r in (a, b))) for n in names]

  unequal = [n for n, x, y in pairs('init/')
             if x is None or y is None or x.shape != y.shape
             or x.tobytes() != y.tobytes()]
  final = {n: float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30))
           for n, x, y in pairs('final/')
           if x is not None and y is not None and x.shape == y.shape}
  (_, ours, theirs), = pairs('loss')
  (_, eval_ours, eval_theirs), = pairs('eval_loss')
  relative = np.abs(ours.astype(np.float64) - theirs) / np.abs(theirs)
  return Curves(ours, theirs, relative,
                float(abs(eval_ours - eval_theirs) / abs(eval_theirs)), unequal, final)


def svg(lines: Sequence[tuple[str, str, np.ndarray]], label: str,
        log: bool = False) -> str:
  """A plot of (name, colour, values) over steps 1, 2, ...; a log axis is in decades."""
  values = [np.log10(np.maximum(v, 1e-12)) if log else v for _, _, v in lines]
  low = min(float(v.min()) for v in values)
  high = max(float(v.max()) for v in values)
  if log:
    low, high = np.floor(low), np.ceil(high)
  high = high if high > low else low + 1
  steps = len(values[0])

  def x(step: float) -> float:
    return MARGIN + (WIDTH - 1.3 * MARGIN) * (step - 1) / max(steps - 1, 1)

  def y(value: float) -> float:
    return HEIGHT - MARGIN / 2 - (HEIGHT - MARGIN) * (value - low) / (high - low)

  parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
  ticks = (np.arange(low, high + 1) if log else np.linspace(low, high, 5))
  for tick in ticks:
    text = f'1e{int(tick)}' if log else f'{tick:.2f}'
    parts.append(f'<line x1="{MARGIN}" x2="{x(steps):.1f}" y1="{y(tick):.1f}" '
                 f'y2="{y(tick):.1f}" stroke="#e3e6ea"/><text x="{MARGIN - 6}" '
                 f'y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>')
  for step in np.unique(np.linspace(1, steps, 5).astype(int)):
    parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 8}" '
                 f'text-anchor="middle">{step}</text>')
  for i, ((name, colour, _), line) in enumerate(zip(lines, values, strict=True)):
    points = ' '.join(f'{x(s + 1):.1f},{y(v):.1f}' for s, v in enumerate(line))
    dash = ' stroke-dasharray="5 4"' if i else ''
    parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" '
                 f'stroke-width="2"{dash}/><text x="{WIDTH - 150}" '
                 f'y="{24 + 18 * i}" fill="{colour}">{html.escape(name)}</text>')
  return ''.join(parts) + '</svg>'


def shown_steps(steps: int) -> list[int]:
  """1, 2, 5, 10, 20, 50, ... and the last."""
  marks = [m * 10 ** e for e in range(9) for m in (1, 2, 5)]
  return sorted({s for s in marks if s < steps} | {steps})


def row(curves: Curves, step: int) -> str:
  i = step - 1
  return (f'{step:6d}  {curves.ours[i]:.8f}  {curves.theirs[i]:.8f}  '
          f'{curves.relative[i]:.1e}')


def text_lines(curves: Curves) -> list[str]:
  lines = ['  step   pax_haiku      praxis  relative difference']
  lines += [row(curves, s) for s in shown_steps(len(curves.ours))]
  worst = max(curves.final, key=curves.final.get)
  init = 'differ' if curves.unequal_init else 'bit-equal'
  lines.append(f'initial values: {init}; '
               f'eval loss after training differs by {curves.eval_relative:.1e}; '
               f'trained variables by at most {curves.final[worst]:.1e} ({worst})')
  return lines


def write_json(path: pathlib.Path, curves: Curves, about: dict[str, Any]) -> None:
  path.write_text(json.dumps({
      **about, 'unequal_init': curves.unequal_init,
      'eval_relative_difference': curves.eval_relative,
      'final_relative_difference': curves.final,
      'pax_haiku': curves.ours.tolist(), 'praxis': curves.theirs.tolist(),
      'relative_difference': curves.relative.tolist()}, indent=1) + '\n')


def write_html(path: pathlib.Path, curves: Curves, about: dict[str, Any]) -> None:
  problems = about['problems']
  verdict = ('<p class="FAILED">' + html.escape('; '.join(problems)) + '</p>'
             if problems else '<p class="equal">The runs agree.</p>')
  head = '<tr><th>step</th><th>pax_haiku</th><th>Praxis</th><th>difference</th></tr>'

  def table(steps: Sequence[int]) -> str:
    return f'<table>{head}' + ''.join(
        '<tr>' + ''.join(f'<td class="n">{t}</td>' for t in row(curves, s).split())
        + '</tr>' for s in steps) + '</table>'

  sides = ''.join(
      f'<p>{side}: {html.escape(", ".join(f"{k} {v}" for k, v in have.items()))}</p>'
      for side, have in about['versions'].items())
  path.write_text(
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      '<title>Same seed, same training run</title><style>'
      f'{report_html.STYLE} svg {{ max-width: 720px; font-size: 12px; }}'
      'table { width: auto; }</style></head><body><h1>Same seed, same training run</h1>'
      f'<p>{html.escape(about["what"])}</p>{verdict}'
      '<h2>Loss</h2>' + svg([('pax_haiku', '#0969da', curves.ours),
                             ('Praxis', '#cf222e', curves.theirs)], 'loss by step')
      + '<h2>Relative difference of the loss</h2>'
      + svg([('|a - b| / |b|', '#6639ba', curves.relative)],
            'relative difference by step', log=True)
      + table(shown_steps(len(curves.ours)))
      + '<details><summary>every step</summary>'
      + table(range(1, len(curves.ours) + 1)) + f'</details>{sides}</body></html>\n')
