"""The drop-in: `praxis` is pax_haiku, entirely or not at all."""

import importlib
import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest

import pax_haiku
from pax_haiku import base_layer, drop_in, layers, pax_fiddle
from pax_haiku.drop_in import __main__ as command
from pax_haiku.layers import linears, normalizations

drop_in.remove()  # the import has installed it; here each test does that on its own

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def praxis():
  """The drop-in, installed for one test; nothing of it stays."""
  before = list(sys.meta_path)
  drop_in.install()
  yield
  drop_in.remove()
  assert sys.meta_path == before
  assert not [name for name in sys.modules if name.split('.')[0] == 'praxis']


@pytest.fixture
def real(tmp_path, monkeypatch):
  """A package on sys.path that says it is Praxis."""
  folder = tmp_path / 'praxis'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  (folder / 'base_layer.py').write_text('REAL = True\n')
  monkeypatch.syspath_prepend(tmp_path)
  yield folder
  for name in [name for name in sys.modules if name.split('.')[0] == 'praxis']:
    del sys.modules[name]


def run(code):
  """Runs code in a namespace of its own, which it returns."""
  names = {}
  exec(textwrap.dedent(code), names)
  return names


# --- names ---


def test_modules_and_classes_are_the_same_objects(praxis):
  names = run("""
    import praxis
    from praxis import asserts, base_hyperparams, base_layer, base_model, layers
    from praxis import pax_fiddle, py_utils, pytypes, trees
    from praxis.layers import linears
    from praxis.base_layer import BaseLayer
    import praxis.layers.normalizations as n
    import praxis.layers.embedding_softmax
    """)
  assert names['praxis'] is pax_haiku
  assert names['BaseLayer'] is base_layer.BaseLayer
  assert names['n'] is normalizations
  assert names['linears'] is linears and names['layers'] is layers
  for name in ('asserts', 'base_hyperparams', 'base_layer', 'base_model', 'pax_fiddle',
               'py_utils', 'pytypes', 'trees'):
    assert names[name] is importlib.import_module(f'pax_haiku.{name}')


def test_modules_keep_their_own_names_and_specs(praxis):
  run('import praxis.layers.normalizations, praxis.base_layer')
  for module in (pax_haiku, layers, normalizations, base_layer):
    assert module.__name__.startswith('pax_haiku')
    assert module.__spec__.name == module.__name__
    assert not module.__spec__._initializing


def test_every_module_of_the_package_is_reachable(praxis):
  for path in sorted((ROOT / 'pax_haiku' / 'layers').glob('[a-z]*.py')):
    ours = importlib.import_module(f'pax_haiku.layers.{path.stem}')
    assert importlib.import_module(f'praxis.layers.{path.stem}') is ours


def test_pickles_carry_over(praxis):
  text = b'cpraxis.layers.linears\nLinear\n.'  # how a pickle of Praxis names the class
  assert pickle.loads(text) is linears.Linear
  assert b'praxis.' not in pickle.dumps(linears.Linear)


def test_a_model_runs(praxis):
  names = run("""
    import jax
    from praxis import base_layer, pax_fiddle
    from praxis.layers import linears

    class Twice(base_layer.BaseLayer):
      dims: int = 0
      linear_tpl: pax_fiddle.Config = pax_fiddle.template_field(linears.Linear)

      def setup(self):
        tpl = self.linear_tpl.clone().set(input_dims=self.dims, output_dims=self.dims)
        self.create_child('linear', tpl)

      def __call__(self, x):
        return self.linear(self.linear(x))

    layer = pax_fiddle.Config(Twice, name='twice', dims=3).Instantiate()
    x = jax.numpy.ones((2, 3))
    variables = layer.init(jax.random.PRNGKey(0), x)
    out = layer.apply(variables, x)
    """)
  w = names['variables']['params']['linear']['w']
  assert abs(names['out'] - names['x'] @ w @ w).max() < 1e-5


def test_threads_import_at_the_same_time(praxis):
  modules = ['base_layer', 'layers', 'layers.linears', 'layers.normalizations', 'trees']
  found, start = [], threading.Barrier(8)

  def work(shift):
    start.wait()
    for i in range(len(modules)):
      name = modules[(i + shift) % len(modules)]
      found.append((name, importlib.import_module(f'praxis.{name}')))

  threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 8 * len(modules)
  for name, module in found:
    assert module is sys.modules[f'pax_haiku.{name}']
    assert module.__spec__.name == module.__name__


def test_install_and_remove_repeat():
  for _ in range(2):
    drop_in.install()
    drop_in.install()
    assert drop_in.is_installed()
    run('from praxis.layers import linears')
    drop_in.remove()
    drop_in.remove()
    assert not drop_in.is_installed()
    assert type(layers) is type(sys) and not hasattr(layers, '__getattr__')
    with pytest.raises(ImportError):
      run('import praxis')


# --- what isn't there ---


def test_a_missing_module_is_named_with_those_that_are_there(praxis):
  with pytest.raises(ModuleNotFoundError) as info:
    run('import praxis.layers.normalization')
  assert info.value.name == 'praxis.layers.normalization'
  text = str(info.value)
  assert text.startswith("No module named 'praxis.layers.normalization'")
  assert 'Closest: normalizations' in text
  assert ' activations, ' in text and 'Linear' not in text


@pytest.mark.parametrize('code, first, others', [
    ('from praxis import base_inputs', "'base_inputs' from 'praxis'", 'asserts, '),
    ('from praxis.layers import Liner', "'Liner' from 'praxis.layers'", 'BatchNorm, '),
    ('from praxis.layers.linears import Liner', "'praxis.layers.linears'", 'Bias, '),
    ('from praxis.base_layer import Baselayer', "'praxis.base_layer'", 'PARAMS, '),
])
def test_a_name_that_cannot_be_imported(praxis, code, first, others):
  with pytest.raises(ImportError) as info:
    run(code)
  text = str(info.value)
  assert text.startswith('cannot import name ') and first in text
  assert others in text
  assert info.value.name.startswith('praxis')


@pytest.mark.parametrize('code', [
    'import praxis.layers.linears as m', 'from praxis.layers import linears as m',
    'import praxis.layers; m = praxis.layers.linears',
])
def test_a_missing_attribute(praxis, code):
  with pytest.raises(AttributeError, match="has no 'Liner'. Closest: Linear.* Bias, "):
    run(f'{code}\nm.Liner')
  assert not run(f'{code}\nthere = hasattr(m, "Liner")')['there']
  assert run(f'{code}\nthere = getattr(m, "Liner", 3)')['there'] == 3


def test_modules_imported_later_tell_too(praxis, tmp_path, monkeypatch):
  (tmp_path / 'later.py').write_text('here = 1\n')
  monkeypatch.setattr(pax_haiku, '__path__', [*pax_haiku.__path__, str(tmp_path)])
  try:
    with pytest.raises(AttributeError, match='Closest: here'):
      run('from praxis import later\nlater.hero')
  finally:
    sys.modules.pop('pax_haiku.later', None)
    vars(pax_haiku).pop('later', None)


def test_a_lazy_module_keeps_its_own_way(monkeypatch):
  def lazy(name):
    if name == 'late':
      return 5
    raise AttributeError(name)

  monkeypatch.setattr(linears, '__getattr__', lazy, raising=False)
  drop_in.install()
  try:
    assert run('from praxis.layers.linears import late')['late'] == 5
    with pytest.raises(ImportError, match='Closest: Linear'):
      run('from praxis.layers.linears import Liner')
  finally:
    drop_in.remove()
  assert vars(linears)['__getattr__'] is lazy


def test_an_error_inside_a_module_is_not_taken_for_its_absence(
    praxis, tmp_path, monkeypatch):
  (tmp_path / 'broken.py').write_text('import no_such_dependency\n')
  monkeypatch.setattr(pax_haiku, '__path__', [*pax_haiku.__path__, str(tmp_path)])
  with pytest.raises(ModuleNotFoundError, match='no_such_dependency') as info:
    run('import praxis.broken')
  assert info.value.name == 'no_such_dependency'


def test_asking_whether_a_module_exists_raises_nothing(praxis):
  assert importlib.util.find_spec('praxis.nope') is None
  assert importlib.util.find_spec('praxis.trees') is not None
  assert importlib.util.find_spec('flax') is None


@pytest.mark.skipif(importlib.util.find_spec('flax') is not None, reason='has Flax')
def test_flax_is_not_imitated(praxis):
  with pytest.raises(ModuleNotFoundError, match='not for Flax.*base_layer.nowrap') as e:
    run('from flax import linen as nn')
  assert e.value.name == 'flax'


# --- no mixture ---


def test_real_praxis_that_is_imported_is_refused(real):
  run('from praxis import base_layer')
  before = list(sys.meta_path)
  with pytest.raises(drop_in.MixtureError, match='as are 1 of its modules') as info:
    drop_in.install()
  assert str(real / '__init__.py') in str(info.value)
  assert sys.meta_path == before and not drop_in.is_installed()
  assert type(pax_haiku) is type(sys)


def test_real_praxis_that_comes_later_is_refused(praxis, real):
  run('from praxis import layers')
  spec = importlib.util.spec_from_file_location(
      'praxis.other', real / 'base_layer.py')
  sys.modules['praxis.other'] = importlib.util.module_from_spec(spec)
  try:
    with pytest.raises(drop_in.MixtureError, match='praxis.other'):
      run('import praxis.trees')
  finally:
    del sys.modules['praxis.other']
  run('import praxis.trees')


def test_real_praxis_that_is_only_installed_stays_out(real, monkeypatch):
  said = []
  monkeypatch.setattr('absl.logging.warning', lambda text, *a: said.append(text % a))
  drop_in.install()
  try:
    drop_in.install()
    names = run('from praxis import base_layer')
    assert names['base_layer'] is base_layer
  finally:
    drop_in.remove()
  line, = said
  assert 'stays out' in line and str(real) in line


def test_nothing_is_said_without_praxis(monkeypatch):
  if importlib.util.find_spec('praxis') is not None:
    pytest.skip('Praxis is installed')
  monkeypatch.setattr('absl.logging.warning', lambda *a: pytest.fail(str(a)))
  drop_in.install()
  drop_in.remove()


# --- python -m pax_haiku.drop_in ---


def python(*arguments, cwd, **options):
  """stdout, stderr and exit status of a Python process."""
  done = subprocess.run(
      [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONSAFEPATH': ''}, **options)
  return done.stdout, done.stderr, done.returncode


PROGRAMS = {
    'arguments': """
        import sys, helper
        print(sys.argv, __name__, __file__, __package__, __spec__, __doc__)
        print(sys.path[0], sys.modules['__main__'].helper is helper, helper.__file__)
        print(sorted(name for name in vars() if name != '__annotations__'))
        """,
    'exit': """
        import atexit, sys
        atexit.register(lambda: print('last'))
        print('first')
        sys.exit(3)
        """,
    'exit-text': "raise SystemExit('a reason')",
    'error': """
        import atexit, helper
        atexit.register(lambda: print('last'))

        def f(x):
          return helper.fail(x)

        try:
          f(1)
        except KeyError as e:
          raise ValueError('at last') from e
        """,
    'hook': """
        import sys
        sys.excepthook = lambda kind, value, tb: print(kind, value, tb.tb_frame)
        1 / 0
        """,
    'syntax': 'x = (\n',
    'interrupt': 'raise KeyboardInterrupt',
}


@pytest.mark.parametrize('name', PROGRAMS)
def test_a_script_runs_as_by_python_itself(tmp_path, name):
  folder = tmp_path / 'there'
  folder.mkdir()
  (folder / 'helper.py').write_text('def fail(x):\n  raise KeyError(x)\n')
  (folder / 'script.py').write_text(textwrap.dedent(PROGRAMS[name]))
  call = [os.path.join('there', 'script.py'), '--flag', '-m', 'x y']
  plain = python(*call, cwd=tmp_path)
  ours = python('-m', 'pax_haiku.drop_in', *call, cwd=tmp_path)
  if name == 'hook':  # prints an address
    plain, ours = [(out.split(' at 0x')[0], *rest) for out, *rest in (plain, ours)]
  assert ours == plain


def test_a_script_gets_pax_haiku(tmp_path):
  (tmp_path / 'script.py').write_text(textwrap.dedent("""
      from praxis import base_layer
      print(base_layer.__name__)
      from praxis.layers import Liner
      """))
  out, err, code = python('-m', 'pax_haiku.drop_in', 'script.py', cwd=tmp_path)
  assert out == 'pax_haiku.base_layer\n' and code == 1
  assert 'Closest: Linear' in err
  assert 'drop_in' not in err and err.count('File "') == 1


def test_drop_in_refuses_a_process_with_praxis(real, tmp_path):
  code = 'import praxis.base_layer, pax_haiku.drop_in'
  _, err, status = python('-c', f'import sys; sys.path.append("."); {code}',
                          cwd=tmp_path)
  assert status == 1 and 'MixtureError: praxis (' in err


@pytest.mark.parametrize('arguments, text', [
    ([], 'usage: python -m pax_haiku.drop_in script.py'),
    (['--nope'], "no option '--nope'"),
    (['nope.py'], "can't open 'nope.py': No such file"),
])
def test_wrong_use_is_one_line_and_status_2(arguments, text, capsys):
  with pytest.raises(SystemExit) as info:
    command.main(arguments)
  out, err = capsys.readouterr()
  assert (out, info.value.code) == ('', 2)
  assert err.count('\n') == 1 and text in err


def test_help(capsys):
  command.main(['--help'])
  out, err = capsys.readouterr()
  assert out.startswith('usage: ') and err == ''


def test_config_text_names_the_same_classes(praxis):
  config = run("""
    from praxis import pax_fiddle
    from praxis.layers import linears
    config = pax_fiddle.Config(linears.Linear, name='x')
    """)['config']
  assert type(config) is pax_fiddle.Config
  assert config.cls is linears.Linear


def test_texts_name_praxis_where_users_import_it(praxis):
  out = run("""
    from praxis import base_hyperparams, base_layer, pax_fiddle
    from praxis.layers import linears
    text = base_hyperparams.nested_struct_to_text(pax_fiddle.Config(linears.Linear))
    """)['text'].split('\n')
  assert 'cls : type/praxis.layers.linears/Linear' in out
  assert 'params_init.cls : type/praxis.base_layer/WeightInit' in out
  drop_in.remove()
  assert 'type/pax_haiku.layers.linears/Linear' in pax_fiddle.Config(
      linears.Linear).to_text()
  drop_in.install()
