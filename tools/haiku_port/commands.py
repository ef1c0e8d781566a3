"""The commands of tools/port_haiku.py, each a function of the options.

The options have the names of the flags. A command returns the exit status; what a user
can put right is a ValueError.
"""

import json
import pathlib
from typing import Any

import numpy as np

from haiku_port import inspect_model, scaffold, specs
from pax_haiku import interop
from pax_haiku.interop import (
  checkpoint,
  compare_models,
  mapping_checkpoint,
  match_model,
  matching,
)
from pax_haiku.training import files


def need(o: Any, command: str, *names: str) -> None:
  """Refuses missing flags."""
  missing = [f'--{name}' for name in names if not getattr(o, name)]
  if missing:
    raise ValueError(f'{command} needs ' + ' and '.join(missing))


def inputs(o) -> tuple[np.ndarray, ...]:
  return specs.load_inputs(o.inputs, o.seed)


def original(o, args) -> match_model.Model:
  """The Haiku model."""
  fn = specs.load_model(o.model, '--model', specs.load_kwargs(o.kwargs))
  variables = None
  if o.init_kwargs is not None:
    other = specs.load_kwargs(o.init_kwargs)
    first = specs.load_model(o.model, '--model', other)
    variables = as_model(o, first, None, args, 'model').tree
    variables = (variables['params'], variables['state'])
  return as_model(o, fn, variables, args, 'model')


def port(o, args) -> match_model.Model:
  return as_model(o, specs.load_model(o.port, '--port', {}), None, args, 'port')


def as_model(o, fn, variables, args, flag: str) -> match_model.Model:
  do_eval = True if o.eval else None
  try:
    return match_model.as_model(
      fn, variables, args=args, do_eval=do_eval, name=f'--{flag}'
    )
  except Exception as error:  # whatever a user's model raises on these inputs
    raise ValueError(
      f'--{flag} does not run on such inputs ({type(error).__name__}): {error}'
    ) from error


def do_inspect(o: Any) -> int:
  need(o, 'inspect', 'model', 'inputs')
  args = inputs(o)
  print(inspect_model.table(original(o, args), args, {}))
  return 0


def do_scaffold(o: Any) -> int:
  need(o, 'scaffold', 'model', 'inputs', 'out')
  if not o.class_name.isidentifier():
    raise ValueError(f'--class_name={o.class_name!r} is no name of a class')
  kwargs = specs.load_kwargs(o.kwargs)
  function = specs.load_model(o.model, '--model', kwargs)
  if specs.is_model(function):
    raise ValueError(
      'scaffold needs a function that uses Haiku modules, not a '
      f'{type(function).__name__}'
    )
  args = inputs(o)
  tree = original(o, args).tree  # refuses inputs that it does not take
  found = specs.load_object(o.model, '--model')
  reference = f'{found.__module__}.{found.__qualname__}'
  if kwargs:
    reference = f'lambda *args: {reference}(*args, **{kwargs!r})'
  origin = f'{found.__module__}:{found.__qualname__}'
  made = scaffold.scaffold(
    function, origin, reference, args, o.class_name, (tree['params'], tree['state'])
  )
  files.write_text(o.out, made.code)
  print(
    f'{o.out}: {made.layers} Pax layers, {made.hosted} hosted'
    + (f'; hosted as a whole: {made.whole}' if made.whole else '')
  )
  return 0


def do_match(o: Any) -> int:
  need(o, 'match', 'model', 'port', 'inputs')
  args = inputs(o)
  mapping = matching.match_models(
    original(o, args), port(o, args), args, {}, o.tolerance, seed=o.seed
  )
  if o.mapping:
    mapping.save(o.mapping)
    print(f'{o.mapping}: {mapping.summary()}')
    for remark in mapping.remarks:
      print(f'note: {remark}')
    for open_ in mapping.ambiguous:
      print(f'undecided: {open_}')
  else:
    print(mapping, end='')
  return 1 if mapping.ambiguous or mapping.remarks else 0


def do_convert(o: Any) -> int:
  need(o, 'convert', 'mapping', 'checkpoint', 'out')
  mapping = interop.Mapping.load(o.mapping)
  entries = load(o, o.checkpoint)
  base = load(o, o.base) if o.base else None
  _check_model(o, o.back, entries, o.checkpoint)
  made = mapping_checkpoint.convert_entries(mapping, entries, back=o.back, base=base)
  _check_model(o, not o.back, made, 'what the mapping makes of it')
  form = mapping.source_form if o.back else mapping.target_form
  interop.save_checkpoint(o.out, made, form=form)
  same = '' if base is None else f', {_unchanged(made, base)} of them as in {o.base}'
  print(f'{o.out}: {len(made)} entries from {len(entries)}{same}')
  count = sum(n.startswith('params:') for n in entries)
  for prefix, params in mapping_checkpoint.moments(entries).items():
    if len(params) < count:
      print(f'note: only {len(params)} of {count} parameters have an entry in {prefix}')
  return 0


def _check_model(o, of_port: bool, entries, where: str) -> None:
  """Refuses entries that do not fit the model, if the flags name it."""
  if o.inputs and (o.port if of_port else o.model):
    args = inputs(o)
    model = port(o, args) if of_port else original(o, args)
    found = {n: x for n, x in entries.items() if mapping_checkpoint.is_variable(n)}
    checkpoint.check_entries(found, model.entries, where)


def _unchanged(made, base) -> int:
  """How many entries are those of the base, bit for bit."""
  return sum(
    n in base and x.dtype == base[n].dtype and x.tobytes() == base[n].tobytes()
    for n, x in made.items()
  )


def load(o, path: str) -> dict[str, np.ndarray]:
  return interop.load_checkpoint(path, allow_pickle=o.allow_pickle)


def load_variables(o, path: str, model: match_model.Model) -> dict[str, np.ndarray]:
  """A checkpoint's parameters and state, which must be those of the model."""
  found = {n: x for n, x in load(o, path).items() if mapping_checkpoint.is_variable(n)}
  checkpoint.check_entries(found, model.entries, path)
  return {n: found[n] for n in model.entries}


def do_verify(o: Any) -> int:
  need(o, 'verify', 'model', 'port', 'inputs', 'mapping')
  report = pathlib.Path(o.report) if o.report else None
  if report and report.suffix not in ('.html', '.json'):
    raise ValueError(f'--report={report} must end in .html or .json')
  args, mapping = inputs(o), interop.Mapping.load(o.mapping)
  source, target = original(o, args), port(o, args)
  if o.checkpoint:
    entries = load_variables(o, o.checkpoint, source)
  else:
    entries = match_model.randomized(source.entries, o.seed)
  given = None
  if o.port_checkpoint:
    given = load_variables(o, o.port_checkpoint, target)
  result = compare_models.compare_models(
    source,
    target,
    mapping,
    entries,
    given,
    args,
    {},
    o.tolerance,
    o.gradients,
    o.seed,
    o.iterations,
  )
  print(result, end='')
  if report:
    text = (
      result.to_html(f'{o.model} and {o.port}')
      if report.suffix == '.html'
      else json.dumps(result.to_json(), indent=1)
    )
    files.write_text(report, text)
    print(f'report: {report}')
  return 0 if result.ok else 1


COMMANDS = {
  'inspect': do_inspect,
  'scaffold': do_scaffold,
  'match': do_match,
  'convert': do_convert,
  'verify': do_verify,
}


def run(command: str, o: Any) -> int:
  """Runs a command; errors of files are the user's too."""
  try:
    return COMMANDS[command](o)
  except OSError as error:
    where = f'{error.filename}: ' if error.filename else ''
    raise ValueError(f'{where}{error.strerror or error}') from error
