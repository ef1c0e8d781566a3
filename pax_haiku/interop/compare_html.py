"""A comparison as one self-contained HTML page with inline plots."""

import html
import math

from pax_haiku.interop import compare_text
from pax_haiku.interop.compare_rows import BINS, Row

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 84em;
  padding: 0 1em; color: #1c2128; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin: 1.6em 0 .3em; }
table { border-collapse: collapse; width: 100%; min-width: 54em; table-layout: fixed; }
th, td { text-align: left; padding: .15em .6em; border-bottom: 1px solid #e3e6ea;
  vertical-align: middle; overflow-wrap: anywhere; }
td { font-family: ui-monospace, monospace; font-size: 12px; }
th { white-space: nowrap; } .array { width: 15em; } .number { width: 5em; }
.bins { width: 7em; }
th.n, td.n { text-align: right; white-space: nowrap; } .past td { color: #cf222e; }
.first td { background: #ffebe9; font-weight: 600; }
.note { font: 12px/1.4 system-ui, sans-serif; color: #59636e; }
.ok { color: #1a7f37; } .bad { color: #cf222e; }
svg { display: block; }
.plot { margin: .4em 0 .6em; border: 1px solid #e3e6ea; }
"""
_FLOOR, _TOP = -9.0, 1.0  # decades of the plot
_WIDTH, _HEIGHT, _LEFT = 900, 160, 44
_WIDEST = 40  # of a bar and the gap after it


def _level(value: float) -> float:
  """log10, within the plot."""
  if value <= 0:
    return _FLOOR
  return _TOP if math.isinf(value) else min(_TOP, max(_FLOOR, math.log10(value)))


def _plot(rows: list[Row], tolerance: float) -> str:
  """Difference against position, in decades, with the tolerance as a line."""

  def y(level: float) -> float:
    return 8 + (_HEIGHT - 24) * (_TOP - level) / (_TOP - _FLOOR)

  step = min(_WIDEST, (_WIDTH - _LEFT - 10) / max(1, len(rows)))
  parts = [
    f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
    f'height="{_HEIGHT}" role="img" aria-label="difference by position">'
  ]
  for decade in range(int(_FLOOR) + 1, int(_TOP) + 1, 2):
    parts.append(
      f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y(decade):.1f}" '
      f'y2="{y(decade):.1f}" stroke="#eceff2"/><text x="4" '
      f'y="{y(decade) + 4:.1f}" font-size="10" fill="#59636e">1e{decade}'
      '</text>'
    )
  for i, row in enumerate(rows):
    x, top = _LEFT + step * i, y(_level(row.max_rel))
    color = '#cf222e' if row.past else '#2da44e'
    title = html.escape(f'{row.target}: {compare_text.number(row.max_rel)}')
    parts.append(
      f'<rect x="{x:.1f}" y="{top - 1:.1f}" width="{max(1.5, step - 2):.1f}" '
      f'height="{y(_FLOOR) - top + 1:.1f}" fill="{color}"><title>{title}</title></rect>'
    )
  line = y(_level(tolerance))
  parts.append(
    f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{line:.1f}" y2="{line:.1f}" '
    'stroke="#bf8700" stroke-dasharray="5 4"/>'
    f'<text x="{_WIDTH - 4}" y="{line - 4:.1f}" font-size="10" fill="#9a6700" '
    f'text-anchor="end">tolerance {tolerance:g}</text>'
  )
  return ''.join(parts) + '</svg>'


def _histogram(counts: list[int]) -> str:
  """Shares of the elements by size of the difference."""
  total = max(1, sum(counts))
  bars = []
  for i, n in enumerate(counts):
    height = 0 if not n else max(1.5, 18 * n / total)
    below = f'below {BINS[i]:g}' if i < len(BINS) else '1 and more'
    bars.append(
      f'<rect x="{8 * i}" y="{20 - height:.1f}" width="7" '
      f'height="{height:.1f}" fill="#0969da"><title>{below}: {n}</title></rect>'
    )
  width = 8 * len(counts)
  return (
    f'<svg width="{width}" height="20" viewBox="0 0 {width} 20">'
    f'<line x1="0" x2="{width}" y1="20" y2="20" stroke="#d0d7de"/>'
    + ''.join(bars)
    + '</svg>'
  )


def _row(row: Row) -> str:
  css = ' class="past first"' if row.first else ' class="past"' if row.past else ''
  note = row.note or (
    'uses ' + ', '.join(row.entries) if row.first and row.entries else ''
  )
  target = html.escape(row.target)
  if note:
    target += f'<div class="note">{html.escape(note)}</div>'
  cells = [target, html.escape(row.source), html.escape(compare_text.shape(row))]
  numbers = [compare_text.number(row.max_abs), compare_text.number(row.max_rel)]
  return (
    f'<tr{css}>'
    + ''.join(f'<td>{c}</td>' for c in cells)
    + ''.join(f'<td class="n">{n}</td>' for n in numbers)
    + f'<td>{_histogram(row.histogram)}</td></tr>'
  )


_HEAD = (
  '<tr><th>target</th><th>source</th>'
  '<th class="array">array</th><th class="n number">max abs</th>'
  '<th class="n number">max rel</th><th class="bins">1e-8 to 1</th></tr>'
)


def page(comparison, title: str) -> str:
  """The page's text."""
  css = 'ok' if comparison.ok else 'bad'
  body = [
    f'<h1>{html.escape(title)}</h1>',
    f'<p class="{css}">{html.escape(compare_text.verdict(comparison))}</p>',
  ]
  for part, heading in compare_text.TITLES.items():
    rows = [r for r in comparison.rows if r.part == part]
    if rows:
      body.append(
        f'<h2>{html.escape(heading)}</h2>{_plot(rows, comparison.tolerance)}'
        f'<table>{_HEAD}{"".join(map(_row, rows))}</table>'
      )
  body += [f'<p>{html.escape(remark)}</p>' for remark in comparison.remarks]
  body.append(
    '<p>&ldquo;max rel&rdquo; is max |a - b| / max |b|, where b is the '
    'source. Bars show it on a logarithmic scale; the small histograms show how many '
    'elements differ by how much, in the same measure.</p>'
  )
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>'
    + ''.join(body)
    + '</body></html>\n'
  )
