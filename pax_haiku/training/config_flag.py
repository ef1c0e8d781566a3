"""`--config=model.hidden_dims=256`: changes to a Fiddle config from the command line.

The flag takes what fiddle's own config flag takes (`config:`, `config_file:`,
`fiddler:`, `set:`, applied in order), a base config is implied, and so is `set:`.
"""

import ast
import contextlib
import difflib
import re
import types
from collections.abc import Iterator, Sequence

import fiddle as fdl
from absl import flags
from fiddle import absl_flags, printing

from pax_haiku.training.cli import UserError, one_line

flags.disclaim_key_flags()  # so that --help lists the flags with those of the trainer

_BASE = ('config:', 'config_file:', 'config_str:')
_COMMANDS = (*_BASE, 'set:', 'fiddler:')
_PATH = re.compile(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[[^]]+\])*')
_WORD = re.compile(r'[A-Za-z_][\w./-]*')

HELP = (
  'Changes to the config, applied in order; may be repeated. PATH=VALUE, or what '
  "fiddle's config flags take: set:PATH=VALUE, fiddler:FUNCTION, config:FUNCTION, "
  'config_file:FILE. --show_config lists all paths.'
)


def define(name: str = 'config') -> flags.FlagHolder:
  """Defines the flag, and `--show_config`."""
  flags.DEFINE_bool(f'show_{name}', False, f'Print the {name} and exit.')
  return flags.DEFINE_multi_string(name, [], HELP)


def build(
  overrides: Sequence[str], module: types.ModuleType, base: str = 'base'
) -> fdl.Buildable:
  """Returns the config that the flag's values describe.

  Args:
    overrides: Values of the flag.
    module: Where functions that make configs, and fiddlers that change them, are.
    base: The function that makes the config to start from, unless the first override
      names another.

  Raises:
    UserError: An override cannot be applied; names the path nearest to a wrong one.
  """
  flag = absl_flags.FiddleFlag(
    name='config',
    default_module=module,
    default=None,
    parser=flags.ArgumentParser(),
    serializer=None,
    help_string=HELP,
  )
  overrides = list(overrides)
  if not overrides or not overrides[0].startswith(_BASE):
    overrides.insert(0, f'config:{base}')
  for override in overrides:
    command, path = _command(override)
    config = flag.value
    try:
      before = _get(config, path)
      flag.parse([command])
      config = flag.value
    except Exception as error:
      raise UserError(_explain(override, path, config, error)) from error
    _check_type(override, before, _get(config, path))
  return config


@contextlib.contextmanager
def blaming(overrides: Sequence[str], name: str = 'config') -> Iterator[None]:
  """Context around what first uses the config: its errors are the overrides' fault.

  Without overrides an error is a bug, and passes as it is.
  """
  try:
    yield
  except Exception as error:
    if not overrides or isinstance(error, UserError):
      raise
    given = ' '.join(f'--{name}={o}' for o in overrides)
    raise UserError(
      f'the model cannot be built with {given}: {type(error).__name__}: {error}'
    ) from error


def show(config: fdl.Buildable) -> str:
  """Returns all paths of a config with their types and values, a line each."""
  return printing.as_str_flattened(config)


def _command(override: str) -> tuple[str, str | None]:
  """Returns what fiddle should be given, and the path that is set if one is."""
  if override.startswith(_COMMANDS) and not override.startswith('set:'):
    return override, None
  path, equals, value = override.removeprefix('set:').partition('=')
  if not equals or not _PATH.fullmatch(path):
    raise UserError(
      f'--config={override}: expected PATH=VALUE, such as model.hidden_dims=256'
    )
  try:
    ast.literal_eval(value)
  except (ValueError, SyntaxError):
    # A bare word is a string; true and false, in any case, are fiddle's to read.
    if _WORD.fullmatch(value) and value.lower() not in ('true', 'false'):
      value = repr(value)
  return f'set:{path}={value}', path


def _get(config, path):
  """Returns the value at a dotted path, None where there is none or it has keys."""
  if path is None or '[' in path:
    return None
  for name in path.split('.'):
    config = getattr(config, name, None)
  return config


def _check_type(override, before, after):
  kind = type(before)
  if kind not in (bool, int, float, str) or after is None or type(after) is kind:
    return
  if not (kind is float and type(after) is int):
    raise UserError(
      f'--config={override}: expected {kind.__name__} (as {before!r}), '
      f'found {type(after).__name__}'
    )


def _explain(override, path, config, error) -> str:
  if isinstance(error, UserError):
    return str(error)
  cause = error.__cause__
  if path is None or not isinstance(cause, AttributeError):
    detail = f'{error}' + (f' {cause}' if cause else '')
    return f'--config={override}: {one_line(detail)}'
  lines = printing.as_str_flattened(config, include_types=False).splitlines()
  near = difflib.get_close_matches(path, [line.split(' = ')[0] for line in lines], 1)
  hint = f'; did you mean {near[0]}?' if near else ''
  return f'--config={override}: there is no {path}{hint} (--show_config lists all)'
