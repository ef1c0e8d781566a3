"""A comparison on a terminal: a line for each pair of arrays."""

from pax_haiku.interop.compare_rows import Row

_BLOCKS = ' ▁▂▃▄▅▆▇█'
TITLES = {
  'variables': 'variables, against the mapping',
  'forward': 'outputs of modules, from input to output',
  'outputs': 'outputs of the model',
  'state': 'updated state',
  'gradients': 'gradients, from output to input',
}


def number(value: float) -> str:
  return '0' if value == 0 else f'{value:.1e}'


def blocks(histogram: list[int]) -> str:
  """A histogram as one character a bin, of the share of the elements."""
  total = sum(histogram)
  if not total:
    return ''
  return ''.join(
    _BLOCKS[0] if not n else _BLOCKS[max(1, round(8 * n / total))] for n in histogram
  )


def shape(row: Row) -> str:
  """Dtype and shape, of both sides where they differ."""
  ours, theirs = (
    f'{dtype}[{",".join(map(str, dims))}]'
    for dtype, dims in (
      (row.target_dtype, row.target_shape),
      (row.source_dtype, row.source_shape),
    )
  )
  return ours if ours == theirs else f'{ours} / {theirs}'


def _shorten(name: str, width: int) -> str:
  return name if len(name) <= width else '…' + name[1 - width :]


def verdict(comparison) -> str:
  """The result in one line or two."""
  row = comparison.first
  compared = f'{len(comparison.rows)} pairs of arrays'
  if row is None:
    return f'equal: {compared} within {comparison.tolerance:g}'
  past = sum(r.past for r in comparison.rows)
  text = (
    f'DIFFERENT: {past} of {compared} past {comparison.tolerance:g}; first in '
    f'{row.part}: {row.target} <- {row.source}'
  )
  return text + (f', which uses {", ".join(row.entries)}' if row.entries else '')


def text(comparison) -> str:
  """The whole table."""
  lines = []
  width = min(44, max((len(r.target) for r in comparison.rows), default=0))
  other = min(44, max((len(r.source) for r in comparison.rows), default=0))
  for part, title in TITLES.items():
    rows = [r for r in comparison.rows if r.part == part]
    if not rows:
      continue
    lines.append(f'{title}')
    lines.append(
      f'    {"target":{width}}  {"source":{other}}  max abs  max rel  1e-8 ... 1'
    )
    for row in rows:
      mark = '>>>' if row.first else '  !' if row.past else '   '
      lines.append(
        f'{mark} {_shorten(row.target, width):{width}}  '
        f'{_shorten(row.source, other):{other}}  {number(row.max_abs):7}  '
        f'{number(row.max_rel):7}  {blocks(row.histogram):10}  {shape(row)}'
        + (f'  {row.note}' if row.note else '')
      )
  lines += [f'note: {remark}' for remark in comparison.remarks]
  return '\n'.join([*lines, verdict(comparison)]) + '\n'
