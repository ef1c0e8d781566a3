"""pax_haiku.training.config_flag: changes to a config, and words about wrong ones."""

import json
import sys

import fiddle as fdl
import pytest
from fiddle.experimental import serialization

from pax_haiku import base_layer, pax_fiddle
from pax_haiku.training import config_flag
from pax_haiku.training.cli import UserError


class Inner(base_layer.BaseLayer):
  width: int = 3
  rate: float = 0.5
  kind: str = 'relu'
  on: bool = True
  sizes: list[int] | None = None


class Outer(base_layer.BaseLayer):
  hidden_dims: int = 8
  inner_tpl: pax_fiddle.Config[base_layer.BaseLayer] = pax_fiddle.template_field(Inner)


def run(model, steps):
  return model, steps


def base():
  model = pax_fiddle.Config(Outer)
  model.inner_tpl.sizes = [1, 2]
  return fdl.Config(run, model=model, steps=10)


def wide(dims=512):
  config = base()
  config.model.hidden_dims = dims
  return config


def double(config):
  config.model.hidden_dims *= 2


def build(*overrides):
  return config_flag.build(overrides, sys.modules[__name__])


def test_base_is_implied():
  assert build() == base()


@pytest.mark.parametrize('prefix', ['', 'set:'])
def test_values(prefix):
  config = build(
    f'{prefix}steps=20',
    f'{prefix}model.hidden_dims=256',
    f'{prefix}model.inner_tpl.kind=gelu',
    f'{prefix}model.inner_tpl.on=false',
    f'{prefix}model.inner_tpl.rate=1',
    f'{prefix}model.inner_tpl.sizes[1]=7',
  )
  inner = config.model.inner_tpl
  assert (config.steps, config.model.hidden_dims) == (20, 256)
  assert (inner.kind, inner.on, inner.rate, inner.sizes) == ('gelu', False, 1, [1, 7])


def test_order_matters_and_fiddlers_apply():
  config = build('config:wide(dims=100)', 'fiddler:double', 'model.inner_tpl.width=9')
  assert (config.model.hidden_dims, config.model.inner_tpl.width) == (200, 9)
  assert build('fiddler:double', 'model.hidden_dims=1').model.hidden_dims == 1
  assert build('model.hidden_dims=1', 'fiddler:double').model.hidden_dims == 2


def test_config_file(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(serialization.dump_json(wide()))
  assert json.loads(path.read_text())
  assert build(f'config_file:{path}', 'steps=3').model.hidden_dims == 512


@pytest.mark.parametrize(
  'override, message',
  [
    ('model.hiden_dims=1', 'there is no .*dims; did you mean model.hidden_dim'),
    ('model.inner_tpl.widht=1', 'did you mean model.inner_tpl.width'),
    ('steps', 'expected PATH=VALUE'),
    ('=3', 'expected PATH=VALUE'),
    ('model.hidden_dims=wide', "expected int .as 8., found str"),
    ('model.hidden_dims=1.5', "expected int .as 8., found float"),
    ('model.inner_tpl.on=1', "expected bool .as True., found int"),
    ('model.inner_tpl.kind=3', "expected str .as 'relu'., found int"),
    ('steps=1 2', 'Could not parse literal value "1 2"'),
    ('model.inner_tpl.sizes[9]=7', 'Could not set "model.inner_tpl.sizes.9."'),
    ('fiddler:nothing', 'nothing'),
    ('config:nothing', 'nothing'),
    ('config_file:/nonexistent', 'No such file'),
  ],
)
def test_wrong_override_is_explained_in_one_line(override, message):
  with pytest.raises(UserError, match=message) as info:
    build(override)
  assert str(info.value).startswith(f'--config={override}: ')
  assert '\n' not in str(info.value)


def test_blame():
  with pytest.raises(ZeroDivisionError), config_flag.blaming([]):
    _ = 1 / 0
  with pytest.raises(UserError, match='built with --config=a=0: ZeroDivisionError:'):
    with config_flag.blaming(['a=0']):
      _ = 1 / 0


def test_all_paths_are_shown():
  text = config_flag.show(base())
  for line in ('steps = 10', 'model.hidden_dims: int', 'model.inner_tpl.rate: float'):
    assert f'\n{line}' in f'\n{text}'
