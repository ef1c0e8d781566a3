"""The porting tool: each command on small models, and every kind of bad input."""

import importlib
import json
import pathlib
import re
import subprocess
import sys
import types

import haiku as hk
import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / 'tools'
if str(TOOLS) not in sys.path:
  sys.path.insert(0, str(TOOLS))

from haiku_port import commands, scaffold, scaffold_wrap, specs  # noqa: E402

from pax_haiku import interop  # noqa: E402
from pax_haiku.interop import mapping_checkpoint, match_model  # noqa: E402

MODELS = '''"""Models of test_port_haiku."""
import haiku as hk
import jax
import jax.numpy as jnp


def dense(x):
  x = hk.nets.MLP([8, 8], activation=jax.nn.silu)(x)
  y = hk.LayerNorm(-1, True, True)(x)
  init = hk.initializers.VarianceScaling(0.5)
  y = hk.MultiHeadAttention(2, 4, w_init=init, model_size=8)(y, y, y)
  x = hk.BatchNorm(True, True, 0.9, eps=1e-3)(x + y, True)
  return {'h': x, 'logits': hk.Linear(3, with_bias=False)(x.mean(1))}


def images(x, is_training=True):
  x = hk.Conv2D(4, 3, stride=2, with_bias=False)(x)
  x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training))
  x = hk.DepthwiseConv2D(2, 3)(hk.max_pool(x, 2, 2, 'SAME'))
  gain = hk.get_parameter('gain', [8], init=hk.initializers.Constant(2.0))
  return hk.Linear(3)(jnp.reshape(x * gain, [x.shape[0], -1]))


def tokens(ids):
  x = hk.Embed(7, 4)(ids)
  return jnp.where(ids[..., None] > 3, hk.RMSNorm(-1)(x), x)


def loop(x, layers=2):
  return hk.experimental.layer_stack(layers)(lambda x: jnp.tanh(hk.Linear(4)(x)))(x)


def noisy(x):
  return hk.Linear(2)(x) + jax.random.normal(hk.next_rng_key(), [2])


number = 3
'''
DENSE, IMAGES = 'f32[2,5,6]', 'f32[2,8,8,3]'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A directory with the models, and ports of them made by `scaffold`."""
  folder = tmp_path_factory.mktemp('port')
  (folder / 'port_haiku_models.py').write_text(MODELS)
  before = list(sys.path)
  yield folder
  sys.path[:] = before


def options(**given):
  defaults = dict(
    model=None,
    port=None,
    inputs=None,
    kwargs='',
    init_kwargs=None,
    eval=False,
    mapping=None,
    checkpoint=None,
    port_checkpoint=None,
    allow_pickle=False,
    back=False,
    base=None,
    out=None,
    report=None,
    tolerance=1e-4,
    gradients=False,
    iterations=False,
    class_name='Net',
    seed=0,
  )
  assert set(given) <= set(defaults)
  return types.SimpleNamespace(**{**defaults, **given})


def run(command, folder, name, inputs, **given):
  """Runs a command for the model `name` with the usual file names."""
  return commands.run(
    command,
    options(
      model=f'{folder}/port_haiku_models.py:{name}',
      inputs=inputs,
      port=f'{folder}/port_of_{name}.py:config',
      mapping=str(folder / f'{name}.map'),
      **given,
    ),
  )


def make_port(folder, name, inputs, **given):
  out = folder / f'port_of_{name}.py'
  status = run('scaffold', folder, name, inputs, out=str(out), **given)
  assert status == 0
  return out.read_text()


def test_inspect_shows_the_tree(folder, capsys):
  assert run('inspect', folder, 'dense', DENSE) == 0
  lines = capsys.readouterr().out.splitlines()
  rows = {line.split()[0]: line for line in lines}
  assert 'MLP' in rows['mlp'] and '128' in rows['mlp']
  assert rows['linear_1'].startswith('  linear_1') and '72' in rows['linear_1']
  assert 'counter (state) int32[]' in rows['mean_ema']
  assert lines[-1] == '472 parameters, 34 numbers of state'


@pytest.mark.parametrize(
  'name, inputs, made',
  [
    ('images', IMAGES, '3 Pax layers, 1 hosted'),
    ('tokens', 'i32[2,5]<7', '2 Pax layers, 0 hosted'),
    (
      'loop',
      'f32[2,4]',
      '0 Pax layers, 1 hosted; hosted as a whole: linear runs inside',
    ),
  ],
)
def test_scaffolds_run_and_match(folder, capsys, name, inputs, made):
  code = make_port(folder, name, inputs)
  assert made in capsys.readouterr().out
  compile(code, 'port.py', 'exec')
  assert max(map(len, code.splitlines())) <= 88
  assert run('match', folder, name, inputs) == 0
  assert run('verify', folder, name, inputs, report=str(folder / f'{name}.json')) == 0
  report = json.loads((folder / f'{name}.json').read_text())
  assert report['ok'] and report['rows']
  if name == 'loop':
    capsys.readouterr()
    assert run('verify', folder, name, inputs, iterations=True) == 0
    words = capsys.readouterr().out.split()
    assert {f'__layer_stack_no_per_layer/linear[{i}]' for i in range(2)} < set(words)


def test_scaffolds_of_evaluation(folder):
  """The init of `images` needs `is_training=True`; its port keeps `False`."""
  given = dict(kwargs='{"is_training": false}', init_kwargs='{}', eval=True)
  code = make_port(folder, 'images', IMAGES, **given)
  assert 'self.batch_norm(self.conv2_d(x), False)' in code


def test_scaffolds_that_host_keep_arguments(folder):
  code = make_port(folder, 'loop', 'f32[2,4]', kwargs='{"layers": 3}')
  assert 'import port_haiku_models' in code
  assert 'function=lambda *args: port_haiku_models.loop(*args' in code
  compile(code, 'port.py', 'exec')


@pytest.fixture(scope='module')
def dense_port(folder):
  """The code of the port of `dense`; its mapping is dense.map."""
  code = make_port(folder, 'dense', DENSE)
  assert run('match', folder, 'dense', DENSE) == 0
  return code


def test_scaffold_takes_any_batch_size(folder):
  make_port(folder, 'images', IMAGES)
  module = importlib.import_module('port_of_images')
  layer = module.config().Instantiate()
  x = np.ones([2, 8, 8, 3], np.float32)
  variables = layer.init(jax.random.PRNGKey(0), x)
  assert layer.apply(variables, np.ones([5, 8, 8, 3], np.float32)).shape == (5, 3)
  assert 'batch = x.shape[0]' in pathlib.Path(module.__file__).read_text()


def test_scaffold_is_readable(folder):
  code = make_port(folder, 'tokens', 'i32[2,5]<7', class_name='Tokens')
  assert code.startswith(
    '"""First Pax version of port_haiku_models:tokens, by port_haiku. Edit it freely.'
  )
  assert 'class Tokens(base_layer.BaseLayer):' in code
  assert 'layers.Embedding, num_classes=7, input_dims=4' in ' '.join(code.split())
  assert 'y1 = self.embed(ids)' in code and 'return jax.lax.select_n(' in code


def test_converts_checkpoints_and_moments(folder, dense_port, capsys):
  mapping = interop.Mapping.load(folder / 'dense.map')
  module = importlib.import_module('port_haiku_models')
  x = np.ones([2, 5, 6], np.float32)
  source = match_model.as_model(module.dense, args=(x,))
  entries = match_model.randomized(source.entries, 1)
  moments = {
    n.replace('params:', 'opt_state:0/mu/'): 2 * v
    for n, v in entries.items()
    if n.startswith('params:')
  }
  interop.save_checkpoint(
    folder / 'old.npz', {**entries, **moments, 'opt_state:0/count': np.int32(3)}
  )
  files = dict(checkpoint=str(folder / 'old.npz'), out=str(folder / 'new.safetensors'))
  assert run('convert', folder, 'dense', DENSE, **files) == 0
  new = interop.load_checkpoint(folder / 'new.safetensors')
  assert new['opt_state:0/count'] == 3
  scale = entries['params:batch_norm/scale'].ravel()
  np.testing.assert_allclose(new['params:batch_norm/gamma'], scale - 1)
  np.testing.assert_array_equal(new['opt_state:0/mu/batch_norm/gamma'], 2 * scale)
  files = dict(checkpoint=files['out'], out=str(folder / 'again.npz'), back=True)
  assert run('convert', folder, 'dense', DENSE, **files) == 0
  again = interop.load_checkpoint(folder / 'again.npz')
  assert set(again) == {*entries, *moments, 'opt_state:0/count'}
  for name, value in {**entries, **moments}.items():
    if 'ema' not in name:  # averages come back as old ones
      # `scale - 1 + 1` rounds once.
      np.testing.assert_allclose(again[name], value, rtol=2e-7, err_msg=name)
  capsys.readouterr()
  files.update(out=str(folder / 'same.npz'), base=str(folder / 'old.npz'))
  assert run('convert', folder, 'dense', DENSE, **files) == 0
  count = len(entries) + len(moments) + 1
  assert f'{count} of them as in {folder}/old.npz' in capsys.readouterr().out
  same = interop.load_checkpoint(folder / 'same.npz')
  for name, value in interop.load_checkpoint(folder / 'old.npz').items():
    assert same[name].tobytes() == value.tobytes(), name
  with pytest.raises(interop.MappingError, match='base is of another model: missing'):
    run('convert', folder, 'dense', DENSE, **{**files, 'base': files['checkpoint']})
  assert (
    run(
      'verify',
      folder,
      'dense',
      DENSE,
      checkpoint=str(folder / 'old.npz'),
      report=str(folder / 'r.html'),
    )
    == 0
  )
  assert '</html>' in (folder / 'r.html').read_text()
  new['params:linear/w'] = new['params:linear/w'][::-1]
  interop.save_checkpoint(folder / 'damaged.npz', new)
  capsys.readouterr()
  files = dict(checkpoint=str(folder / 'old.npz'))
  files['port_checkpoint'] = str(folder / 'damaged.npz')
  assert run('verify', folder, 'dense', DENSE, **files) == 1
  assert 'first in variables: params:linear/w <- params' in capsys.readouterr().out
  with pytest.raises(interop.MappingError, match='no rule uses params:extra'):
    mapping_checkpoint.convert_entries(mapping, {**entries, 'params:extra': scale})


def test_verify_finds_a_fault(folder, dense_port, capsys):
  (folder / 'faulty_dense.py').write_text(
    dense_port.replace('epsilon=1e-05', 'epsilon=1e-2')
  )
  given = options(
    model=f'{folder}/port_haiku_models.py:dense',
    inputs=DENSE,
    port=f'{folder}/faulty_dense.py:config',
    mapping=str(folder / 'dense.map'),
  )
  capsys.readouterr()
  assert commands.run('verify', given) == 1
  assert 'first in forward: layer_norm <- layer_norm' in capsys.readouterr().out


def test_the_guide_shows_real_output(folder, capsys):
  """Names, counts and verdicts of docs/porting.md; its differences are rounding."""
  text = (ROOT / 'docs' / 'porting.md').read_text()
  blocks = re.findall(r'```(?:python)?\n(.*?)```', text, re.DOTALL)
  net, port = (
    next(b for b in blocks if b.startswith(start))
    for start in ('"""A classifier of 8 x 8', '"""The same classifier')
  )
  (folder / 'guide_net.py').write_text(net)
  (folder / 'guide_port.py').write_text(port)
  given = dict(
    model=f'{folder}/guide_net.py:classify',
    inputs='f32[4,8,8,1]',
    mapping=str(folder / 'guide.map'),
  )

  def call(command, **more):
    status = commands.run(command, options(**given, **more))
    return status, capsys.readouterr().out

  shown = next(b for b in blocks if 'port_haiku.py inspect' in b)
  assert call('inspect') == (0, shown.partition('\n')[2])
  assert call('match', port=f'{folder}/guide_port.py:config')[0] == 0
  assert (folder / 'guide.map').read_text() in blocks
  status, out = call('verify', port=f'{folder}/guide_port.py:wrong')
  shown = next(b for b in blocks if 'port.py:wrong' in b)
  assert status == 1 and out.splitlines()[-1] == shown.splitlines()[-1]


# -- Bad input -------------------------------------------------------------------------


def bad(command, message, folder=None, **given):
  with pytest.raises(ValueError, match=message):
    commands.run(command, options(**given))


def test_names_of_models(folder):
  file = f'{folder}/port_haiku_models.py'
  bad(
    'inspect',
    "--model='x': expected package.module:attribute",
    model='x',
    inputs='f32[1]',
  )
  bad('inspect', 'there is no file none.py', model='none.py:f', inputs='f32[1]')
  bad('inspect', 'No module named', model='no.such.module:f', inputs='f32[1]')
  bad('inspect', "no attribute 'nothing'", model=f'{file}:nothing', inputs='f32[1]')
  bad('inspect', 'found int', model=f'{file}:number', inputs='f32[1]')
  bad('inspect', 'inspect needs --model and --inputs')
  bad('convert', 'convert needs --mapping and --checkpoint and --out')


@pytest.mark.parametrize('text', ['f32', 'f33[2]', 'f32[2];i32[1]', 'f32[a]', ''])
def test_descriptions_of_inputs(text):
  with pytest.raises(ValueError, match='--inputs='):
    specs.load_inputs(text, 0)


def test_inputs_are_made(tmp_path):
  a, b, c = specs.load_inputs('f32[2,3], i32[4]<9,bf16[]', 0)
  assert (a.shape, b.shape, c.shape) == ((2, 3), (4,), ())
  assert (str(a.dtype), str(b.dtype), str(c.dtype)) == ('float32', 'int32', 'bfloat16')
  assert b.max() < 9
  np.savez(tmp_path / 'x.npz', x=a, ids=b)
  loaded = specs.load_inputs(str(tmp_path / 'x.npz'), 0)
  np.testing.assert_array_equal(loaded[0], a)
  assert specs.load_kwargs('{"is_training": false}') == {'is_training': False}
  for text in ('{', '[1]'):
    with pytest.raises(ValueError, match='--kwargs='):
      specs.load_kwargs(text)


def test_inputs_that_a_model_does_not_take(folder):
  model = f'{folder}/port_haiku_models.py:images'
  bad(
    'inspect',
    r'--model does not run on such inputs \(ValueError\)',
    model=model,
    inputs='f32[2]',
  )


def test_models_that_are_not_deterministic(folder):
  model = f'{folder}/port_haiku_models.py:noisy'
  bad(
    'match', '--model is not deterministic', model=model, port=model, inputs='f32[2,3]'
  )


def test_files_that_do_not_fit(folder, tmp_path):
  model = f'{folder}/port_haiku_models.py:tokens'
  make_port(folder, 'tokens', 'i32[2,5]<7')
  mapping = str(tmp_path / 'm.map')
  given = dict(
    model=model,
    port=f'{folder}/port_of_tokens.py:config',
    inputs='i32[2,5]<7',
    mapping=mapping,
  )
  bad('verify', 'm.map cannot be read', **given)
  assert commands.run('match', options(**given)) == 0
  text = (
    (tmp_path / 'm.map')
    .read_text()
    .replace('rms_norm/scale = params:', 'rms_norm/scale = reshape(params:')
    .replace('rms_norm/scale  ', 'rms_norm/scale, [4], [2,2])  ')
  )
  (tmp_path / 'bent.map').write_text(text)
  bad(
    'verify',
    r'rms_norm/scale has shape \(2, 2\) by the mapping, \(4,\) in',
    **{**given, 'mapping': str(tmp_path / 'bent.map')},
  )
  interop.save_checkpoint(tmp_path / 'c.npz', {'params:other/w': np.ones(2)})
  checkpoint = str(tmp_path / 'c.npz')
  bad(
    'verify',
    r'c.npz does not fit: missing params:embed/embeddings \(7, 4\); .*'
    r'surplus params:other/w',
    **given,
    checkpoint=checkpoint,
  )
  entries = match_model.as_model(
    importlib.import_module('port_haiku_models').tokens, args=(np.ones([2, 5], int),)
  ).entries
  scale = {'params:rms_norm/scale': np.ones(5)}
  interop.save_checkpoint(tmp_path / 'shape.npz', {**entries, **scale})
  bad(
    'convert',
    r'shape.npz does not fit: params:rms_norm/scale has shape \(5,\), the model \(4,\)',
    **given,
    checkpoint=str(tmp_path / 'shape.npz'),
    out=str(tmp_path / 'd.npz'),
  )
  bad(
    'convert',
    'missing in the source: params:embed/embeddings',
    mapping=mapping,
    checkpoint=checkpoint,
    out=str(tmp_path / 'd.npz'),
  )
  assert not (tmp_path / 'd.npz').exists()
  bad('verify', 'must end in .html or .json', **given, report='x.pdf')
  bad(
    'scaffold',
    "'1x' is no name of a class",
    model=model,
    inputs='i32[2,5]',
    out='x.py',
    class_name='1x',
  )


def test_the_command_line(folder):
  """One line and exit status 2 for a user's error, without a traceback."""

  def call(*args):
    return subprocess.run(
      [sys.executable, TOOLS / 'port_haiku.py', *args],
      capture_output=True,
      text=True,
      cwd=folder,
    )

  done = call('inspect', '--model=port_haiku_models.py:tokens', '--inputs=f32[2')
  assert done.returncode == 2 and done.stdout == ''
  assert done.stderr.startswith("port_haiku.py: --inputs='f32[2': expected dtypes")
  assert done.stderr.count('\n') == 1
  done = call('inspect', '--model=port_haiku_models.py:tokens', '--inputs=i32[2,3]<7')
  assert done.returncode == 0 and '32 parameters' in done.stdout


# -- Parts -----------------------------------------------------------------------------


def test_long_lines_are_broken():
  code = (
    'self.create_child("a", Config(layers.X, first=(1, 2), second="b, c"'
    + (', third=3' * 5)
    + '))'
  )
  lines = scaffold_wrap.wrap(code, 2).splitlines()
  assert lines[0] == '  self.create_child(' and lines[-1] == '  )'
  assert '      second="b, c",' in lines and '      first=(1, 2),' in lines
  assert scaffold_wrap.wrap('f(x)', 2) == '  f(x)'


def test_modules_with_methods_are_hosted_as_a_whole():
  """A module used by other methods than `__call__` has no place in the code."""

  class Two(hk.Module):
    def encode(self, x):
      return hk.Linear(2)(x)

  made = scaffold.scaffold(
    lambda x: Two().encode(x), 'm:f', 'm.f', (np.ones([2, 3], np.float32),)
  )
  assert made.layers == 1 and not made.whole
