"""compare: runs two models side by side and shows the first module where they part."""

import dataclasses
import re
from typing import Any

import numpy as np

from pax_haiku.interop import capture as capture_lib
from pax_haiku.interop import (
  capture_loops,
  compare_html,
  compare_links,
  compare_text,
  match_model,
)
from pax_haiku.interop import mapping as mapping_lib
from pax_haiku.interop.compare_rows import Row, align, make_row
from pax_haiku.interop.match_model import Model

PARTS = ('variables', 'forward', 'outputs', 'state', 'gradients')


@dataclasses.dataclass
class Comparison:
  """The result, part by part from input to output; gradients from output to input.

  Attributes:
    rows: all comparisons.
    tolerance: largest difference that counts as equal, as a fraction of the largest
      value of the source's array.
    remarks: what could not be compared.
  """

  rows: list[Row]
  tolerance: float
  remarks: list[str] = dataclasses.field(default_factory=list)

  def __post_init__(self):
    for part in PARTS:
      first = True
      for row in self.rows:
        if row.part == part:
          row.past = not (row.excused or row.max_rel <= self.tolerance)
          row.first, first = row.past and first, first and not row.past

  @property
  def ok(self) -> bool:
    """Whether everything is within the tolerance."""
    return not any(row.past for row in self.rows)

  @property
  def first(self) -> Row | None:
    """The first row past the tolerance: what to look at. None if there is none."""
    return next((row for row in self.rows if row.first), None)

  @property
  def worst(self) -> float:
    """The largest `max_rel` of the outputs."""
    return max((r.max_rel for r in self.rows if r.part == 'outputs'), default=0.0)

  def __str__(self):
    return compare_text.text(self)

  def to_json(self) -> dict[str, Any]:
    """The same as plain data."""
    return {
      'ok': self.ok,
      'tolerance': self.tolerance,
      'first': None if self.first is None else self.first.target,
      'remarks': self.remarks,
      'rows': [dataclasses.asdict(row) for row in self.rows],
    }

  def to_html(self, title: str = 'Two models, side by side') -> str:
    """One page that needs no other file."""
    return compare_html.page(self, title)


def compare(
  source: Any,
  target: Any,
  mapping: mapping_lib.Mapping,
  *args,
  source_variables: Any = None,
  target_variables: Any = None,
  do_eval: bool | None = None,
  tolerance: float = 1e-4,
  gradients: bool = True,
  seed: int = 0,
  iterations: bool = False,
  **kwargs,
) -> Comparison:
  """Compares two models module by module on the same inputs.

  Args:
    source, target: what `match` takes.
    mapping: says which variables of the two are the same.
    *args, **kwargs: inputs that both take.
    source_variables: variables of the source; None: random ones, since many faults do
      not show with the zeros and ones of `init`.
    target_variables: variables of the target; None: the source's by the mapping.
    do_eval: runs Pax layers in this context; None: in the surrounding one.
    tolerance: largest difference that counts as equal, as a fraction of the largest
      value of an array.
    gradients: compare gradients as well, of the outputs weighted by random numbers.
    seed: of the random variables and weights.
    iterations: show what modules return inside of loops (`hk.scan`, `hk.layer_stack`,
      `hk.dynamic_unroll`, `Repeat`, `FRnn`, ...), iteration by iteration. False: a loop
      is one module.

  Raises:
    ValueError: a model is not deterministic.
    MappingError: the mapping does not fit the variables.
  """
  models = [
    match_model.as_model(
      fn, variables, args=args, kwargs=kwargs, do_eval=do_eval, name=f'the {name} model'
    )
    for fn, variables, name in (
      (source, source_variables, 'source'),
      (target, target_variables, 'target'),
    )
  ]
  entries = models[0].entries
  if source_variables is None:
    entries = match_model.randomized(entries, seed)
  given = None if target_variables is None else models[1].entries
  return compare_models(
    *models,
    mapping,
    entries,
    given,
    args,
    kwargs,
    tolerance,
    gradients,
    seed,
    iterations,
  )


def compare_models(
  source: Model,
  target: Model,
  mapping: mapping_lib.Mapping,
  entries,
  given,
  args=(),
  kwargs=None,
  tolerance: float = 1e-4,
  gradients: bool = True,
  seed: int = 0,
  iterations: bool = False,
) -> Comparison:
  """As `compare`, on two `Model`s.

  Args:
    source, target, mapping: as there.
    entries: the source's variables, `{entry name: array}`.
    given: the target's; None: by the mapping.
    args, kwargs, tolerance, gradients, seed, iterations: as there.
  """
  kwargs = kwargs or {}
  made = mapping.forward(entries)
  unknown = sorted(set(made) - set(target.entries))
  if unknown:
    raise mapping_lib.MappingError('not in the target: ' + ', '.join(unknown))
  misfits = [
    f'{n} has shape {x.shape} by the mapping, {np.shape(target.entries[n])} in the port'
    for n, x in made.items()
    if x.shape != np.shape(target.entries[n])
  ]
  if misfits:
    raise mapping_lib.MappingError('; '.join(misfits))
  remarks = _uncovered(mapping, source, target)
  rows = []
  if given is not None:
    rows = [
      make_row('variables', r.name, made_of(r), given[r.name], made[r.name])
      for r in mapping.rules
      if r.way != 'back'
    ]
  ours = {**target.entries, **made, **(given or {})}
  theirs = {**entries, **_settled(mapping, made)}
  capture = capture_loops.capture if iterations else capture_lib.capture
  runs = [
    capture(m, e, args, kwargs, gradients=gradients, seed=seed)
    for m, e in ((source, theirs), (target, ours))
  ]
  pairs = _pairs(mapping, (theirs, ours), *runs)
  outputs = _outputs(*runs)
  forward = _forward(pairs, *runs)
  _excuse(forward, pairs, runs[1], outputs, tolerance)
  rows += forward + outputs + _state(mapping, *runs)
  if gradients:
    kept = [pair for pair, row in zip(pairs, forward, strict=True) if not row.excused]
    rows += _gradients(mapping, kept, *runs)
  result = Comparison(rows, tolerance, remarks)
  if not result.ok and any(map(_ends_at_a_loop, runs, _first_names(forward))):
    remarks.append(
      'loops that modules run in are one row each; with iterations (--iterations) '
      'there is a row for each iteration'
    )
  remarks.extend(
    f'a loop of {length} iterations is too long to be shown one by one'
    for run in runs
    for length in run.long
  )
  return result


def _first_names(forward) -> tuple[str | None, str | None]:
  """Labels of the first rows that differ, of the source and of the target."""
  row = next((r for r in forward if r.first), None)
  return (None, None) if row is None else (row.source, row.target)


def _ends_at_a_loop(run, label: str | None) -> bool:
  """Whether the first difference is a module with a loop, or hidden in one."""
  if label is None:
    return bool(run.inside)
  names = (re.escape(m) + r'([.#[].*)?' for m in run.inside if m)
  return any(re.fullmatch(name, label) for name in names)


def _uncovered(mapping, source, target) -> list[str]:
  covered = {r.name for r in mapping.rules if r.way != 'back'}
  used = {
    n for r in mapping.rules for n in ([r.name] if r.way == 'back' else r.expr.names())
  }
  return [
    f'no rule gives {n} of the target' for n in target.entries if n not in covered
  ] + [f'no rule uses {n} of the source' for n in source.entries if n not in used]


def _settled(mapping, made) -> dict[str, np.ndarray]:
  """What the mapping says of the source's entries that the target does not have."""
  return {
    r.name: np.asarray(r.expr.forward(lambda n: made[n]))
    for r in mapping.rules
    if r.way == 'back'
  }


def _pairs(mapping, entries, source, target) -> list[tuple[int, int]]:
  """Indices of the captured points that belong together, (target, source).

  What the outermost layer returns is compared as the output; it counts as a point only
  where no other depends on the same variables.
  """
  sides, numbers = [], []
  tables = compare_links.links(
    mapping, (source.pieces, entries[0]), (target.pieces, entries[1])
  )
  for run, table in zip((target, source), reversed(tables), strict=True):
    points = [
      (i, p, v, frozenset(x for n in p.entries for x in table.get(n, ())))
      for i, (p, v) in enumerate(zip(run.points, run.values, strict=True))
    ]
    inner = {rules for _, p, _, rules in points if not p.root}
    points = [x for x in points if not x[1].root or x[3] not in inner]
    numbers.append([x[0] for x in points])
    sides.append([x[1:] for x in points])
  by_kind = target.pieces is not None
  return [(numbers[0][i], numbers[1][j]) for i, j in align(*sides, by_kind)]


def _forward(pairs, source, target) -> list[Row]:
  rows, seen = [], set()
  for i, j in pairs:
    ours, theirs = target.points[i], source.points[j]
    new = sorted(ours.entries - seen, key=lambda n: target.order.get(n, 0))
    seen |= ours.entries
    rows.append(
      make_row(
        'forward',
        ours.label,
        theirs.label,
        target.values[i],
        source.values[j],
        entries=new,
      )
    )
  return rows


def _excuse(rows, pairs, target, outputs, tolerance) -> None:
  """Excuses rows whose difference does not matter: what follows from them agrees.

  They are no counterparts, such as a layer with and one without its activation.
  """

  def agree(row):
    return row.max_rel <= tolerance

  entries = [target.points[i].entries for i, _ in pairs]
  all_agree = bool(outputs) and all(map(agree, outputs))
  for k, row in enumerate(rows):
    if agree(row):
      continue
    after = [
      later
      for later, behind in zip(rows[k + 1 :], entries[k + 1 :], strict=True)
      if behind > entries[k]
    ]
    if all_agree or any(map(agree, after)):
      row.excused, row.note = True, 'what follows agrees: not the same point'


def _outputs(source, target) -> list[Row]:
  rows = [
    make_row('outputs', f'output {i}', f'output {i}', a, b)
    for i, (a, b) in enumerate(zip(target.outputs, source.outputs, strict=False))
  ]
  if len(target.outputs) != len(source.outputs):
    counts = f'{len(target.outputs)} and {len(source.outputs)} arrays'
    rows.append(
      Row(
        'outputs',
        'outputs',
        'outputs',
        (),
        (),
        '',
        '',
        np.inf,
        np.inf,
        [],
        note=f'the models return {counts}',
      )
    )
  return rows


def _state(mapping, source, target) -> list[Row]:
  rows = []
  for rule in mapping.rules:
    names = rule.expr.names()
    if (
      rule.way == '='
      and rule.name in target.state
      and all(n in source.state for n in names)
    ):
      there = rule.expr.forward(lambda n: source.state[n])
      rows.append(
        make_row('state', rule.name, made_of(rule), target.state[rule.name], there)
      )
  return sorted(rows, key=lambda r: target.order.get(r.target, 0))


def _gradients(mapping, pairs, source, target) -> list[Row]:
  """Of intermediate values and of variables, from the output to the input."""
  found: list[tuple[float, Row]] = []
  when = target.order
  floors: dict[str, float] = {}
  for i, j in pairs:
    ours, theirs = target.points[i], source.points[j].label
    if ours.root:
      continue  # its gradient is that of the output alone
    there = source.point_gradients[theirs]
    size = float(np.abs(there).max(initial=0.0))
    for name in ours.entries:
      whole = name if target.pieces is None else target.pieces[name].name
      floors.setdefault(whole, size)
    at = max((when.get(n, 0) for n in ours.entries), default=0) + 0.5
    row = make_row(
      'gradients',
      f'd {ours.label}',
      f'd {theirs}',
      target.point_gradients[ours.label],
      there,
    )
    found.append((at + i * 1e-6, row))
  for rule in mapping.rules:
    names = rule.expr.names()
    if (
      rule.way == 'back'
      or not rule.name.startswith('params:')
      or not names
      or not all(n in source.gradients for n in names)
    ):
      continue
    there = rule.expr.forward(lambda n: source.gradients[n], True)
    row = make_row(
      'gradients',
      f'd {rule.name}',
      f'd {made_of(rule)}',
      target.gradients[rule.name],
      there,
      floors.get(rule.name, 0.0),
    )
    found.append((when.get(rule.name, 0), row))
  return [row for _, row in sorted(found, key=lambda f: -f[0])]


def made_of(rule) -> str:
  """The entries behind a rule, without their layout."""
  return ', '.join(dict.fromkeys(rule.expr.names())) or str(rule.expr)
