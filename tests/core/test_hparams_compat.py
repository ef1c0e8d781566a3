"""Layers written in the older HParams convention, as Pax code of 2022 has them."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pax_haiku import base_hyperparams, base_layer, pax_fiddle

WeightHParams = base_layer.WeightHParams
WeightInit = base_layer.WeightInit
BaseHParams = base_layer.BaseLayer.HParams
BaseWtShardingHParams = base_layer.BaseLayer.WeightShardingHParams
sub_config_field = base_hyperparams.sub_config_field


class Bias(base_layer.BaseLayer):

  class HParams(BaseHParams):
    _attribute_overrides: tuple[str, ...] = ('params_init',)
    dim: int = 0
    params_init: WeightInit = dataclasses.field(
        default_factory=lambda: WeightInit.Gaussian(0.5)
    )

  class WeightShardingHParams(BaseWtShardingHParams):
    _attribute_overrides: tuple[str, ...] = ('wt',)
    wt: Any = ('data',)
    extra: Any = None

  def setup(self):
    p = self.hparams
    wp = p.weight_split_dims_mapping
    self.create_variable(
        'b',
        WeightHParams(
            shape=[p.dim], mesh_shape=p.mesh_shape, tensor_split_dims_mapping=wp.wt
        ),
    )

  def __call__(self, x):
    return x + self.theta.b


class Scale(base_layer.BaseLayer):

  class HParams(BaseHParams):
    dim: int = 0
    sub_tpl: BaseHParams = sub_config_field(Bias.HParams)
    subs: typing.Sequence[BaseHParams] | None = None
    other: typing.Optional[BaseHParams] = None  # noqa: UP045
    items: list = dataclasses.field(default_factory=list)

  def setup(self):
    p = self.hparams
    self.create_variable(
        'w', WeightHParams(shape=[p.dim], init=WeightInit.Gaussian(1.0))
    )
    sub_p = p.sub_tpl.clone().set(dim=p.dim)
    self.create_child('sub', sub_p)
    self.create_children('more', [s.clone().set(dim=p.dim) for s in p.subs or ()])

  def __call__(self, x):
    x = self.sub(x) * self.theta.w
    for layer in self.more:
      x = layer(x)
    return x


class NewBias(base_layer.BaseLayer):
  dim: int = 0
  params_init: WeightInit = pax_fiddle.instance_field(lambda: WeightInit.Gaussian(0.5))

  def setup(self):
    self.create_variable('b', WeightHParams(shape=[self.dim]))

  def __call__(self, x):
    return x + self.theta.b


class NewScale(base_layer.BaseLayer):
  dim: int = 0
  sub_tpl: pax_fiddle.Config = pax_fiddle.template_field(NewBias)
  subs: Any = None

  def setup(self):
    self.create_variable(
        'w', WeightHParams(shape=[self.dim], init=WeightInit.Gaussian(1.0))
    )
    self.create_child('sub', self.sub_tpl.clone().set(dim=self.dim))
    self.create_children('more', [self.sub_tpl.clone().set(dim=self.dim)])

  def __call__(self, x):
    return self.more[0](self.sub(x) * self.theta.w)


def test_same_numbers_as_in_the_present_convention():
  x = np.ones((2, 4), np.float32)
  old = Scale.HParams(name='s', dim=4, subs=[Bias.HParams()])
  new = pax_fiddle.Config(NewScale, name='s', dim=4)
  results = []
  for p in (old, new):
    layer = base_layer.instantiate(p)
    variables = layer.init(jax.random.PRNGKey(0), x)
    results.append((variables, layer.apply(variables, x)))
  (old_vars, old_out), (new_vars, new_out) = results
  assert set(old_vars['params']) == {'w', 'sub', 'more_0'}
  jax.tree.map(np.testing.assert_array_equal, old_vars, new_vars)
  np.testing.assert_array_equal(old_out, new_out)


def test_fields_of_hparams_are_fields_of_the_layer():
  layer = Scale.HParams(name='s', dim=4).Instantiate()
  assert (layer.name, layer.dim, layer.items) == ('s', 4, [])
  names = [f.name for f in dataclasses.fields(Scale)]
  assert names.index('dim') > names.index('dtype')
  assert 'HParams' not in names and '_attribute_overrides' not in names


def test_hparams_stand_for_configs():
  assert Scale.HParams(name='n', dim=3) == pax_fiddle.Config(Scale, name='n', dim=3)
  assert Scale.HParams.config(dim=3) == pax_fiddle.Config(Scale, dim=3)
  assert Scale.HParams().cls is Scale.HParams.cls is Scale
  with pytest.raises(TypeError):
    Scale.HParams(zz=1)
  with pytest.raises(AttributeError):
    Scale.HParams().zz = 1
  p = Scale.HParams()
  p.items.append(1)
  assert p.items == [1] and Scale.HParams().items == []
  assert p.params_init.method == 'xavier'
  assert Bias.HParams().params_init == WeightInit.Gaussian(0.5)


def test_isinstance():
  p = Scale.HParams()
  assert isinstance(p, Scale.HParams) and isinstance(p, BaseHParams)
  assert isinstance(p.sub_tpl, Bias.HParams)
  assert not isinstance(p, Bias.HParams)
  assert not isinstance(3, BaseHParams) and not isinstance(Scale, Scale.HParams)
  assert issubclass(Scale.HParams, BaseHParams)
  assert not issubclass(BaseHParams, Scale.HParams)
  assert isinstance(p, (int, Scale.HParams))


def test_annotations_with_hparams_mean_templates():
  p = Scale.HParams(subs=[Bias.HParams()], other=Bias.HParams())
  layer = p.Instantiate()
  assert layer.sub_tpl is p.sub_tpl
  assert layer.subs is p.subs and layer.other is p.other
  assert BaseHParams | None == typing.Optional[BaseHParams]  # noqa: UP045
  assert None | BaseHParams == BaseHParams | None

  def fn(x: 'BaseHParams', y: Any = None):
    return x, y

  built = pax_fiddle.build(pax_fiddle.Config(fn, x=p, y=Bias.HParams()))
  assert built[0] is p and isinstance(built[1], Bias)


def test_annotations_with_other_hparams_classes():

  class Settings(base_hyperparams.BaseHyperParams):
    k: int = 1

  class Layer(base_layer.BaseLayer):

    class HParams(BaseHParams):
      settings: Settings = sub_config_field(Settings)
      tpl: base_hyperparams.BaseHyperParams = None

  p = Layer.HParams(tpl=Bias.HParams())
  p.settings.k = 5
  layer = p.Instantiate()
  assert layer.settings == Settings(k=5) and layer.tpl is p.tpl


def test_subclassing():

  class Wider(Scale):

    class HParams(Scale.HParams):
      _attribute_overrides = ('dim',)
      dim: int = 7
      k: int = 2

  p = Wider.HParams()
  assert (p.dim, p.k, p.cls) == (7, 2, Wider)
  assert isinstance(p, Scale.HParams) and isinstance(p.sub_tpl, Bias.HParams)

  class Same(Wider):
    pass

  assert Same.HParams().cls is Same and Same.HParams().dim == 7


def test_redeclaring_needs_permission():
  with pytest.raises(AttributeError, match='dim was overridden'):

    class Bad(Scale):

      class HParams(Scale.HParams):
        dim: int = 7

  with pytest.raises(AttributeError, match='fprop_dtype was overridden'):

    class Bad2(base_layer.BaseLayer):

      class HParams(BaseHParams):
        fprop_dtype: Any = jnp.bfloat16


def test_cls_and_name_are_not_redeclared():

  class Named(base_layer.BaseLayer):

    class HParams(BaseHParams):
      cls: Any = None
      name: str = 'fixed'
      k: int = 1

  assert Named.HParams() == pax_fiddle.Config(Named)
  assert Named.HParams().name is None


def test_several_bases():

  @dataclasses.dataclass
  class Mixin:
    q: int = 3
    r: list = dataclasses.field(default_factory=list)

  class Both(Scale, Bias):

    class HParams(Scale.HParams, Bias.HParams, Mixin):
      z: Any = Mixin(q=5)

  p = Both.HParams()
  assert (p.q, p.r, p.dim) == (3, [], 0)
  assert p.z == Mixin(q=5) and p.z is not Both.HParams().z
  assert isinstance(p, Scale.HParams) and isinstance(p, Bias.HParams)


def test_hparams_of_an_ordinary_dataclass_style():

  class Plain(base_layer.BaseLayer):

    class HParams(base_hyperparams.BaseHyperParams):
      k: int = 4
      tpl: BaseHParams = sub_config_field(lazy_ref=lambda: Bias.HParams)

  p = Plain.HParams()
  assert p.k == 4 and isinstance(p.tpl, Bias.HParams)


def test_name_clash_with_a_method():
  with pytest.raises(AttributeError, match="attribute 'dim'"):

    class Bad(base_layer.BaseLayer):

      class HParams(BaseHParams):
        dim: int = 3

      def dim(self):
        return 3


def test_sharding_classes_have_both_names():
  assert Bias.WeightShardingHParams is Bias.WeightSharding
  assert Scale.ActivationShardingHParams is base_layer.BaseLayer.ActivationSharding
  p = Bias.HParams()
  assert p.weight_split_dims_mapping.wt == ('data',)
  p.weight_split_dims_mapping.extra = ('model',)
  assert p.Instantiate().weight_split_dims_mapping.extra == ('model',)
  assert Scale.HParams().weight_split_dims_mapping.wt is None


def test_hparams_of_a_layer():
  layer = Scale.HParams(name='s', dim=4).Instantiate()
  p = layer.hparams
  assert (p.dim, p.cls, p.mesh_shape) == (4, Scale, None)
  assert p.clone().set(dim=5).dim == 5 and layer.dim == 4
  assert 'dim : 4\n' in p.to_text()


def test_present_style_layers_have_hparams_too():
  assert NewScale.HParams(dim=3) == pax_fiddle.Config(NewScale, dim=3)

  class Mixed(base_layer.BaseLayer):
    tpl: NewScale.HParams = sub_config_field(NewScale.HParams)

  p = Mixed.HParams()
  assert isinstance(p.tpl, NewScale.HParams)
  assert p.Instantiate().tpl is p.tpl
