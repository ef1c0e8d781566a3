"""The project as a whole: metadata, house rules, set-up commands, cheap imports."""

import ast
import configparser
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tomllib

import pytest

import pax_haiku

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / 'pax_haiku').rglob('*.py'))
OTHERS = ('examples', 'tests', 'tools')
PYTHON = SOURCES + sorted(p for name in OTHERS for p in (ROOT / name).rglob('*.py'))


def setup_cfg():
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  return config


def test_version_is_the_one_of_the_metadata():
  attribute = setup_cfg()['metadata']['version'].removeprefix('attr: ')
  assert attribute == 'pax_haiku.version.__version__'
  assert re.fullmatch(r'\d+\.\d+\.\d+', pax_haiku.__version__)
  assert f'## {pax_haiku.__version__}' in (ROOT / 'CHANGELOG.md').read_text()


def test_every_directory_of_the_package_is_a_package():
  for path in SOURCES:
    assert (path.parent / '__init__.py').exists(), f'{path.parent} has no __init__.py'


def test_license_is_apache_2():
  text = (ROOT / 'LICENSE').read_text()
  assert 'Apache License' in text and 'Version 2.0, January 2004' in text
  assert setup_cfg()['metadata']['license'] == 'Apache-2.0'


def test_extras_of_the_tests_contain_those_of_the_examples():
  extras = setup_cfg()['options.extras_require']
  assert set(extras['examples'].split()) <= set(extras['test'].split())


def test_warnings_are_errors():
  config = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert config['tool']['pytest']['ini_options']['filterwarnings'][0] == 'error'


def test_files_say_what_they_are():
  texts = {path: path.read_text() for path in PYTHON}
  silent = [p for p, t in texts.items() if t and not ast.get_docstring(ast.parse(t))]
  assert not silent, f'without a docstring: {silent}'


def test_files_are_small():
  code = [p for p in PYTHON if (ROOT / 'tests') not in p.parents]
  lengths = {path: path.read_text().count('\n') for path in code}
  long = {path: length for path, length in lengths.items() if length > 500}
  assert not long, f'one idea a file: {long}'


def imports(path):
  """Yields the names of all modules that a file imports, wherever it does."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module or ''


def test_only_public_api_is_used():
  private = {p: m for p in SOURCES for m in imports(p) if '_src' in m.split('.')}
  assert not private


def test_flax_and_praxis_are_not_needed():
  foreign = {'flax', 'praxis', 'paxml', 'lingvo', 'tensorflow'}
  found = {p: m for p in SOURCES for m in imports(p) if m.split('.')[0] in foreign}
  assert not found


def test_import_brings_no_more_than_jax_haiku_and_fiddle():
  heavy = 'optax orbax tensorboardX tqdm matplotlib sklearn flax tensorflow'.split()
  code = (
    'import sys, importlib, pax_haiku, pax_haiku.training\n'
    f'print([name for name in {heavy} if name in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
  'name', ['.ci/run', 'tools/demo.sh', 'tools/test.sh', 'tools/setup_env.sh']
)
def test_scripts_are_valid_and_executable(name):
  subprocess.run(['bash', '-n', ROOT / name], check=True)
  assert (ROOT / name).stat().st_mode & stat.S_IXUSR


# The set-up command, in a copy of the project with a Python that only pretends.

PRETEND = """#!/usr/bin/env bash
case "$*" in
  --version) echo Python {version} ;;
  *version_info*) {suitable} ;;
  *ensurepip*) {has_venv} ;;
  '-m venv .venv') mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *'pip install'*) echo pip >> calls; {pip} ;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
  """Returns `set_up(extras, **what the pretended Python does) -> exit code, stderr`."""
  (tmp_path / 'tools').mkdir()
  for name in ('tools/setup_env.sh', 'setup.cfg', 'pyproject.toml'):
    shutil.copy(ROOT / name, tmp_path / name)
  python = tmp_path / 'python'

  def set_up(extras='test', version='3.12.1', **behaviour):
    parts = {'suitable': 'true', 'has_venv': 'true', 'pip': 'true', **behaviour}
    python.write_text(PRETEND.format(version=version, **parts))
    python.chmod(0o755)
    done = subprocess.run(
      ['bash', 'tools/setup_env.sh', extras],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      env={**os.environ, 'PYTHON': behaviour.get('python', str(python))},
    )
    return done.returncode, done.stderr

  set_up.calls = lambda: (tmp_path / 'calls').read_text().count('pip')
  set_up.root = tmp_path
  return set_up


def test_set_up_installs_once(set_up):
  for _ in range(2):
    assert set_up() == (0, '')
    assert set_up.calls() == 1
  assert set_up('examples') == (0, '')
  assert set_up.calls() == 1, 'the extras of the tests contain those of the examples'


def test_set_up_follows_changed_requirements(set_up):
  set_up('examples')
  with (set_up.root / 'setup.cfg').open('a') as file:
    file.write('\n')
  assert set_up('examples') == (0, '')
  assert set_up.calls() == 2
  assert set_up('test') == (0, '')
  assert set_up.calls() == 3


@pytest.mark.parametrize(
  'behaviour, message',
  [
    ({'python': '/nonexistent/python'}, 'this machine has no\n/nonexistent/python'),
    ({'suitable': 'false', 'version': '3.9.2'}, 'needs Python >= 3.11, and on this'),
    ({'suitable': 'false', 'version': '3.9.2'}, '(Python 3.9.2)'),
    ({'has_venv': 'false'}, 'apt install python3-venv'),
    ({'pip': 'echo "Max retries exceeded"; exit 1'}, 'could not reach the package'),
    ({'pip': 'echo "No matching distribution"; exit 1'}, 'its own\nwords are above'),
  ],
)
def test_set_up_explains_what_is_missing(set_up, behaviour, message):
  code, err = set_up(**behaviour)
  assert code == 2
  assert message in err
  assert set_up() == (0, ''), 'a failed set-up must not spoil the next one'


def test_set_up_leaves_a_broken_environment_to_its_owner(set_up):
  (set_up.root / '.venv').mkdir()
  code, err = set_up()
  assert code == 2 and "'rm -rf .venv'" in err
