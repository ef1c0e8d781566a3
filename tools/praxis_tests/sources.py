"""Finds the tests that Praxis brings along, in an environment or in a wheel."""

import ast
import dataclasses
import pathlib
import subprocess
import zipfile
from collections.abc import Iterator

import pax_haiku

CORE = ('base_layer', 'pax_fiddle', 'base_hyperparams', 'py_utils', 'asserts',
        'pytypes', 'trees')


@dataclasses.dataclass(frozen=True)
class TestFile:
  """A test file of Praxis: `module` is the name, inside praxis, of what it tests."""

  module: str
  path: pathlib.Path


def in_environment(python: str) -> pathlib.Path:
  """Directory of the package in the environment of `python`; ValueError if none."""
  code = 'import praxis; print(praxis.__path__[0])'
  done = subprocess.run([python, '-I', '-c', code], capture_output=True, text=True)
  if done.returncode:
    raise ValueError(f'{python} has no Praxis: {done.stderr.strip()[-200:]}')
  return pathlib.Path(done.stdout.strip())


def in_wheel(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Unpacks a wheel of Praxis into `folder`; returns the directory of the package."""
  try:
    with zipfile.ZipFile(wheel) as file:
      file.extractall(folder)
  except (OSError, zipfile.BadZipFile) as error:
    raise ValueError(f'--wheel={wheel}: {error}') from None
  if not (folder / 'praxis').is_dir():
    raise ValueError(f'--wheel={wheel} holds no praxis')
  return folder / 'praxis'


def find(package: pathlib.Path) -> tuple[list[TestFile], list[str]]:
  """Test files of what pax_haiku has, and the modules of the others.

  A test file without a module of its name is about several modules; pax_haiku has to
  have each that it imports.
  """
  ours = pathlib.Path(pax_haiku.__file__).parent
  chosen, others = [], []
  for path in package.rglob('*_test.py'):
    inner = path.relative_to(package).with_suffix('')
    inner = inner.with_name(inner.name.removesuffix('_test'))
    about = {inner} if _is_module(package / inner) else {
        m for m in _imports(path) if m.name != 'test_utils' and _is_module(package / m)}
    module = '.'.join(inner.parts)
    if all(_is_module(ours / m) for m in about):
      chosen.append(TestFile(module, path))
    else:
      others.append(module)
  chosen.sort(key=lambda t: (CORE.index(t.module) if t.module in CORE else len(CORE),
                             t.module))
  return chosen, sorted(others)


def _is_module(path: pathlib.Path) -> bool:
  return path.with_suffix('.py').is_file()


def _imports(path: pathlib.Path) -> Iterator[pathlib.PurePath]:
  """What a file may import from praxis: `from praxis.layers import x` is layers/x."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom):
      root, *inner = (node.module or '').split('.')
      if root == 'praxis':
        yield from (pathlib.PurePath(*inner, alias.name) for alias in node.names)
