"""The comparison as one self-contained HTML file, failures first."""

import html
import pathlib
from collections.abc import Sequence

from praxis_compare import cases, report_text, spec, table

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 78em;
  padding: 0 1em; color: #1c2128; }
h1 { font-size: 1.4em; } code, .n { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; margin: .4em 0 1em; }
th, td { text-align: left; padding: .15em .6em; border-bottom: 1px solid #e3e6ea;
  vertical-align: top; } .n { text-align: right; white-space: nowrap; }
summary { cursor: pointer; padding: .15em 0; } .config { color: #59636e; }
.v { display: inline-block; min-width: 9em; font-weight: 600; }
.equal { color: #1a7f37; } .close { color: #1a7f37; } .known { color: #9a6700; }
.FAILED { color: #cf222e; } .error { color: #57606a; }
input { font: inherit; padding: .2em .5em; width: 24em; margin: .6em 0; }
"""
SCRIPT = """
document.getElementById('filter').addEventListener('input', function () {
  var want = this.value.toLowerCase();
  document.querySelectorAll('details').forEach(function (d) {
    d.hidden = d.dataset.name.toLowerCase().indexOf(want) < 0;
  });
});
"""
HEAD = ('<tr><th>dtype</th><th>mode</th><th>what</th><th>arrays</th><th>result</th>'
        '<th>max abs</th><th>max rel</th><th>allowed</th><th>used</th><th>worst at</th>'
        '<th>note</th></tr>')


def cell(text: object, css: str = '') -> str:
  return f'<td class="{css}">{html.escape(str(text))}</td>'


def badge(status: str) -> str:
  shown = 'bit-equal' if status == 'equal' else status
  return f'<span class="v {status.split()[0]}">{shown}</span>'


def row_html(row: table.Row) -> str:
  used = f'{row.load:.0%}' if row.load < 1e6 else 'inf'
  return ''.join(['<tr>', cell(row.dtype), cell(row.mode), cell(row.section),
                  cell(row.arrays, 'n'), f'<td>{badge(row.status)}</td>',
                  cell(report_text.number(row.max_abs), 'n'),
                  cell(report_text.number(row.max_rel), 'n'),
                  cell(row.tolerance, 'n'), cell(used, 'n'),
                  cell(row.worst), cell(row.note), '</tr>'])


def case_html(name: str, rows: Sequence[table.Row]) -> str:
  verdict = report_text.verdict(rows)
  worst = max(rows, key=lambda r: r.load)
  try:
    case = cases.by_name(name)
    config = f'{spec.describe(case.config)} called with {spec.describe(case.args)}'
    if case.kwargs:
      config += f' {spec.describe(case.kwargs)}'
  except KeyError:
    config = ''
  opened = ' open' if verdict == 'FAILED' else ''
  body = ''.join(row_html(r) for r in table.sort_rows(list(rows)))
  used = (f' <span class="config">{worst.load:.0%} of the tolerance used</span>'
          if 0 < worst.load < 1e6 else '')
  return (f'<details data-name="{html.escape(name)}"{opened}><summary>'
          f'{badge(verdict)} <code>{html.escape(name)}</code>{used}</summary>'
          f'<div class="config">{html.escape(config)}</div>'
          f'<table>{HEAD}{body}</table></details>')


def write(path: str | pathlib.Path, rows: Sequence[table.Row],
          versions: dict[str, dict[str, str]]) -> None:
  """Cases with a failure are open and on top, then by share of the tolerance used."""
  def rank(group: tuple[str, list[table.Row]]) -> tuple[int, float]:
    order = ('FAILED', 'known', 'close', 'equal', 'error as declared')
    return (order.index(report_text.verdict(group[1])),
            -max(r.load for r in group[1]))

  groups = sorted(report_text.by_case(rows), key=rank)
  about = ''.join(
      f'<tr><td>{html.escape(side)}</td>'
      f'<td>{html.escape(", ".join(f"{k} {v}" for k, v in have.items()))}</td></tr>'
      for side, have in versions.items())
  pathlib.Path(path).write_text(
      '<!doctype html><html lang="en"><head><meta charset="utf-8">'
      f'<title>pax_haiku and Praxis, side by side</title><style>{STYLE}</style></head>'
      '<body><h1>pax_haiku and Praxis, side by side</h1>'
      f'<p>{html.escape(report_text.summary(rows))}.</p><table>{about}</table>'
      '<p>Both sides ran in their own process from the same seed. The tolerance is '
      '|a - b| &le; atol + rtol &middot; max|b| over one array, where b is Praxis; '
      '&ldquo;max rel&rdquo; is max|a - b| / max|b|.</p>'
      '<input id="filter" placeholder="filter by name" aria-label="filter by name">'
      + ''.join(case_html(n, g) for n, g in groups)
      + f'<script>{SCRIPT}</script></body></html>\n')
